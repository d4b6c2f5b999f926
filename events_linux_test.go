package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// said gives an event as one line.
func said(ev Event) string {
	s := string(ev.Action) + " " + ev.Attributes["name"]
	for _, key := range []string{"exitCode", "signal", "oldName", "execCommand"} {
		if v, ok := ev.Attributes[key]; ok {
			s += " " + v
		}
	}
	return s
}

// awaited reads events until one is said, and gives all lines up to it.
func awaited(t testing.TB, next func() (Event, error, bool), last string) []string {
	t.Helper()
	var lines []string
	for {
		ev, err, ok := next()
		if !ok || err != nil {
			t.Fatalf("%v after %q, waiting for %q", err, lines, last)
		}
		lines = append(lines, said(ev))
		if said(ev) == last {
			return lines
		}
	}
}

// watched begins to watch, for at most a minute.
func watched(t testing.TB, e *Engine, o EventOptions) func() (Event, error, bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	next, stop := iter.Pull2(e.Events(ctx, o))
	t.Cleanup(func() { stop(); cancel() })
	return next
}

func TestEvents(t *testing.T) {
	needRoot(t)
	e := testEngine(t)
	next := watched(t, e, EventOptions{})
	img := pulled(t, e, nil)
	began := time.Now()
	c := started(t, e, img, Config{Name: "web", Args: []string{"wait"}, Labels: map[string]string{"tier": "front"}})
	readyFor(t, c)
	x, err := c.Exec(t.Context(), ExecConfig{Args: []string{"/prog", programFlag, "exit", "7"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	exec := "/prog " + programFlag + " exit 7"
	got := awaited(t, next, "exec_die web 7 "+exec)
	if err := c.Stop(t.Context(), StopOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.Remove(t.Context(), RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	got = append(got, awaited(t, next, "destroy web")...)
	if _, err := img.Remove(t.Context(), RemoveImageOptions{}); err != nil {
		t.Fatal(err)
	}
	got = append(got, awaited(t, next, "delete ")...)
	want := []string{
		"pull " + img.Reference(), "create web", "start web", "exec_start web " + exec, "exec_die web 7 " + exec,
		"kill web 15", "die web 15", "stop web", "destroy web", "untag " + img.Reference(), "delete ",
	}
	// A signal is told of when it was sent, which may be after it was obeyed.
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%q,\nwant %q", got, want)
	}

	for what, c := range map[string]struct {
		o    EventOptions
		want []string
	}{
		"since":   {EventOptions{Since: began, Actions: []EventAction{EventCreate, EventStart}}, []string{"create web", "start web"}},
		"until":   {EventOptions{Since: began.Add(-time.Hour), Until: began}, []string{"pull " + img.Reference()}},
		"types":   {EventOptions{Types: []EventType{EventImage}}, []string{"pull " + img.Reference(), "untag " + img.Reference(), "delete "}},
		"name":    {EventOptions{Containers: []string{"web"}, Actions: []EventAction{EventDestroy}}, []string{"destroy web"}},
		"ID":      {EventOptions{Containers: []string{c.ID()[:10]}, Actions: []EventAction{EventDestroy}}, []string{"destroy web"}},
		"other":   {EventOptions{Containers: []string{"db"}}, nil},
		"image":   {EventOptions{Images: []string{img.Reference()}, Actions: []EventAction{EventStart}}, []string{"start web"}},
		"label":   {EventOptions{Labels: []string{"tier=front"}, Actions: []EventAction{EventStart}}, []string{"start web"}},
		"key":     {EventOptions{Labels: []string{"tier"}, Actions: []EventAction{EventStart}}, []string{"start web"}},
		"another": {EventOptions{Labels: []string{"tier", "tier=back"}}, nil},
	} {
		if c.o.Since.IsZero() {
			c.o.Since = began.Add(-time.Hour)
		}
		if c.o.Until.IsZero() {
			c.o.Until = time.Now()
		}
		var got []string
		for ev, err := range e.Events(t.Context(), c.o) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, said(ev))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", what, got, c.want)
		}
	}
}

// What other programs do is told too, and what they leave when they are killed,
// once it is swept.
func TestEventsOfOtherPrograms(t *testing.T) {
	e, root, ref := foreignRoot(t, nil)
	next := watched(t, e, EventOptions{Types: []EventType{EventContainer}})
	other := newOtherProgram(t, root, ref, "theirs", "exit", "3")
	if other.line() != "3" {
		t.Fatal("it did not exit")
	}
	other.end()
	got := awaited(t, next, "destroy theirs")
	if want := []string{"create theirs", "start theirs", "die theirs 3", "destroy theirs"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	other = newOtherProgram(t, root, ref, "killed", "wait")
	other.kill()
	if err := e.sweepNow(t.Context()); err != nil {
		t.Fatal(err)
	}
	got = awaited(t, next, "destroy killed")
	if want := []string{"create killed", "start killed", "die killed", "destroy killed"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// When all programs on a root have been killed, the next one tells how their
// containers ended, once, however many open the root at the same time.
func TestEventsAfterAllDied(t *testing.T) {
	e, root, ref := foreignRoot(t, nil)
	began := time.Now()
	programs := []*otherProgram{
		newOtherProgram(t, root, ref, "running", "wait"),
		newOtherProgramOf(t, "run paused", root, ref, "paused", "wait"),
		newOtherProgram(t, root, ref, "exited", "exit", "3"),
	}
	if programs[2].line() != "3" {
		t.Fatal("it did not exit")
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	for _, p := range programs {
		p.kill()
	}
	var openers sync.WaitGroup
	engines := make([]*Engine, 4)
	for i := range engines {
		openers.Go(func() {
			var err error
			if engines[i], err = Open(WithRoot(root), WithCgroupParent(cgroupParent)); err != nil {
				t.Error(err)
			}
		})
	}
	openers.Wait()
	if t.Failed() {
		return
	}
	var got []string
	for ev, err := range engines[0].Events(t.Context(), EventOptions{Since: began, Until: time.Now(), Types: []EventType{EventContainer}}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, said(ev))
	}
	for _, e := range engines {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"running", "paused", "exited"} {
		// An exit status that nobody saw is not there.
		want := []string{"create " + name, "start " + name, "die " + name, "destroy " + name}
		switch name {
		case "paused":
			want = slices.Insert(want, 2, "pause "+name)
		case "exited":
			want[2] += " 3"
		}
		told := slices.DeleteFunc(slices.Clone(got), func(s string) bool { return strings.Fields(s)[1] != name })
		if !slices.Equal(told, want) {
			t.Errorf("%q, want %q", told, want)
		}
	}
}

// What happens to a container that another program has renamed is told with the
// name that it has then, whether the renaming is all that the record was changed
// for, or not; and whoever tells it.
func TestEventsOfRenamed(t *testing.T) {
	e, root, ref := foreignRoot(t, nil)
	img, err := e.LookupImage(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	next := watched(t, e, EventOptions{Types: []EventType{EventContainer}})
	other := testEngine(t, root)
	c := create(t, e, img, Config{Name: "box-a", Args: []string{"wait"}})
	theirs, err := other.Lookup(t.Context(), c.ID())
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	rename := func(c *Container, to string) {
		t.Helper()
		info, err := c.Inspect(t.Context())
		if err == nil {
			err = c.Rename(t.Context(), to)
		}
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, "rename "+to+" "+info.Name)
	}
	do := func(err error, events ...string) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, events...)
		got = append(got, awaited(t, next, events[len(events)-1])...)
	}
	do(nil, "create box-a")
	rename(theirs, "box-b")
	do(c.Start(t.Context()), "start box-b")
	readyFor(t, c)
	rename(theirs, "box-c")
	x, err := c.Exec(t.Context(), ExecConfig{Args: []string{"/prog", programFlag, "exit", "0"}})
	if err == nil {
		_, err = x.Wait(t.Context())
	}
	do(err, "exec_start box-c /prog "+programFlag+" exit 0", "exec_die box-c 0 /prog "+programFlag+" exit 0")
	rename(c, "box-d")
	rename(theirs, "box-e")
	do(c.Pause(t.Context()), "pause box-e")
	rename(theirs, "box-f")
	do(c.Unpause(t.Context()), "unpause box-f")
	rename(theirs, "box-g")
	do(c.Kill(t.Context(), syscall.SIGUSR1), "kill box-g 10", "die box-g 10")
	rename(theirs, "box-h")
	do(c.Remove(t.Context(), RemoveOptions{}), "destroy box-h")
	// A signal is told of when it was sent, which may be after it was obeyed.
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%q,\nwant %q", got, want)
	}
}

// An Engine that changes a record sees what others have changed in it; after its
// own changes it need not read the record again.
func TestLearnName(t *testing.T) {
	e, root, ref := foreignRoot(t, nil)
	img, err := e.LookupImage(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	c := create(t, e, img, Config{Name: "box-a", Args: []string{"pause"}})
	theirs, err := testEngine(t, root).Lookup(t.Context(), "box-a")
	if err != nil {
		t.Fatal(err)
	}
	knows := func(name string) {
		t.Helper()
		st, err := os.Stat(e.root.records().path(c.ID()))
		if err != nil {
			t.Fatal(err)
		}
		c.own.mu.Lock()
		defer c.own.mu.Unlock()
		if c.own.name != name || c.own.recorded != st.Size() {
			t.Errorf("knows %s of %d bytes, not %s of %d", c.own.name, c.own.recorded, name, st.Size())
		}
	}
	change := func(pids int64) {
		t.Helper()
		if err := c.change(t.Context(), resourcesChange{Resources{Pids: pids}}); err != nil {
			t.Fatal(err)
		}
	}
	knows("box-a")
	change(100)
	knows("box-a")
	if err := theirs.Rename(t.Context(), "box-b"); err != nil {
		t.Fatal(err)
	}
	change(101)
	knows("box-b")
	change(102)
	knows("box-b")
}

func TestEventsEnd(t *testing.T) {
	needRoot(t)
	e := testEngine(t)
	ctx, cancel := context.WithCancel(t.Context())
	errs := 0
	cancel()
	for _, err := range e.Events(ctx, EventOptions{}) {
		if errs++; !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	}
	if errs != 1 {
		t.Errorf("%d errors", errs)
	}
	ends := time.Now().Add(50 * time.Millisecond)
	for ev, err := range e.Events(t.Context(), EventOptions{Until: ends}) {
		t.Errorf("%v, %v", ev, err)
	}
	if time.Now().Before(ends) {
		t.Error("ended before its time")
	}
	result := make(chan error, 1)
	events := e.Events(context.Background(), EventOptions{})
	go func() {
		for _, err := range events {
			result <- err
		}
	}()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-result; !errors.Is(err, ErrFailedPrecondition) {
		t.Errorf("%v", err)
	}
}

// eventLogIn is an event log of a directory, of an Engine with this name.
func eventLogIn(dir, engine string) *eventLog { return &eventLog{dir: dir, engine: engine} }

func init() { helpers["tell"] = helperTell }

// helperTell is a program that writes events: DIR ENGINE COUNT.
func helperTell(args []string) error {
	l := eventLogIn(args[0], args[1])
	defer l.close()
	var n int
	fmt.Sscan(args[2], &n)
	for i := range n {
		if err := l.add(Event{ID: args[1], Action: EventAction(fmt.Sprint(i)), Attributes: map[string]string{"room": strings.Repeat("x", 300)}}); err != nil {
			return err
		}
	}
	return nil
}

// Several programs write many generations of events, and some that read at the
// same time miss none, get none twice, and those of each program in order. In a
// round less is written than is kept, or a reader could be too slow.
func TestEventLog(t *testing.T) {
	dir := t.TempDir()
	const rounds, programs, each = 5, 3, 900 // a round is about a generation
	var work sync.WaitGroup
	var caughtUp []chan error
	for range 2 {
		r := newEventReader(eventLogIn(dir, ""), eventPosition{generation: 1})
		done := make(chan error, rounds)
		caughtUp = append(caughtUp, done)
		work.Go(func() {
			defer r.close()
			got := make(map[string]int)
			for n := 0; n < rounds*programs*each; {
				ev, err := r.next()
				if err == io.EOF {
					time.Sleep(time.Millisecond) // there is no event to wait for below the watcher
					continue
				}
				if err == nil && string(ev.Action) != fmt.Sprint(got[ev.ID]) {
					err = fmt.Errorf("%s: %s after %d", ev.ID, ev.Action, got[ev.ID])
				}
				if err != nil {
					done <- err
					return
				}
				got[ev.ID]++
				if n++; n%(programs*each) == 0 {
					done <- nil
				}
			}
			if ev, err := r.next(); err != io.EOF {
				t.Errorf("one too many: %v, %v", ev, err)
			}
		})
	}
	for round := range rounds {
		var writers sync.WaitGroup
		for i := range programs {
			cmd := helperCommand(t, "tell", dir, fmt.Sprintf("e%d%d", round, i), fmt.Sprint(each))
			writers.Go(func() {
				if err := cmd.Run(); err != nil {
					t.Error(err)
				}
			})
		}
		writers.Wait()
		for _, done := range caughtUp {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
	}
	work.Wait()
	all, err := eventLogIn(dir, "").generations()
	if err != nil || len(all) > 2 || all[len(all)-1] < 4 {
		t.Errorf("generations %v, %v", all, err)
	}
	for _, g := range all {
		if info, err := os.Stat(eventLogIn(dir, "").path(g)); err != nil || info.Size() > 2*maxEvents {
			t.Errorf("generation %d: %v, %v", g, info, err)
		}
	}
}

// Who reads too late is told so, and goes on with what there is; so is who meets
// a damaged line.
func TestEventsLost(t *testing.T) {
	dir := t.TempDir()
	l := eventLogIn(dir, "e")
	defer l.close()
	r := newEventReader(l, eventPosition{generation: 1})
	defer r.close()
	add := func(n int) {
		for range n {
			if err := l.add(Event{ID: "x", Attributes: map[string]string{"room": strings.Repeat("x", 1000)}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	add(10)
	if _, err := r.next(); err != nil {
		t.Fatal(err)
	}
	add(4000)
	lost, got := 0, 1
	for {
		_, err := r.next()
		if err == io.EOF {
			break
		}
		if errors.Is(err, ErrDataLoss) {
			lost++
		} else if err != nil {
			t.Fatal(err)
		} else {
			got++
		}
	}
	if lost != 1 || got < 1000 || got >= 4010 {
		t.Errorf("%d events, told %d times of loss", got, lost)
	}
	f, err := os.OpenFile(l.path(l.generation), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("{\"by\":\"e\n"); err != nil {
		t.Fatal(err)
	}
	add(1)
	if _, err := r.next(); !errors.Is(err, ErrDataLoss) {
		t.Errorf("damaged: %v", err)
	}
	if ev, err := r.next(); err != nil || ev.ID != "x" {
		t.Errorf("after it: %v, %v", ev, err)
	}
}

// An out-of-memory kill is told before the death.
func TestEventOOM(t *testing.T) {
	e, img := plainImage(t)
	next := watched(t, e, EventOptions{Types: []EventType{EventContainer}, Labels: []string{"oom-test"}})
	c := started(t, e, img, Config{Name: "hungry", Args: []string{"eat"}, Resources: Resources{Memory: 16 << 20, MemorySwap: 16 << 20}, Labels: map[string]string{"oom-test": ""}})
	status, err := c.Wait(t.Context())
	if err != nil || status.Signal != syscall.SIGKILL {
		t.Fatalf("%+v, %v", status, err)
	}
	if got, want := awaited(t, next, "die hungry 137"), []string{"create hungry", "start hungry", "oom hungry", "die hungry 137"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
