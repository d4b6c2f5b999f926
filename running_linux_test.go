package engine

import (
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// names gives those of a list that a root has, of engines that all live.
func runningNames(t testing.TB, r *root) []string {
	t.Helper()
	names, err := r.running(func(string) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func runningRoot(t testing.TB, engine string) (*root, *running) {
	t.Helper()
	r := &root{run: t.TempDir()}
	if err := os.Mkdir(r.runningDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	return r, &running{path: r.runningOf(engine)}
}

func TestRunning(t *testing.T) {
	r, l := runningRoot(t, "ab")
	if names := runningNames(t, r); len(names) != 0 {
		t.Errorf("before: %v", names)
	}
	var ids, short []string
	for range 4 {
		id := newID()
		ids, short = append(ids, id), append(short, id[:shortID])
	}
	is := func(want ...string) {
		t.Helper()
		want = slices.Sorted(slices.Values(want))
		if names := runningNames(t, r); !slices.Equal(names, want) {
			t.Errorf("%v, want %v", names, want)
		}
	}
	do := func(f func(string) error, ids ...string) {
		t.Helper()
		for _, id := range ids {
			if err := f(id); err != nil {
				t.Fatal(err)
			}
		}
	}
	do(l.add, ids[:3]...)
	is(short[:3]...)
	do(l.remove, ids[1], ids[1], ids[0])
	is(short[2])
	do(l.add, ids[3], ids[0])
	is(short[0], short[2], short[3])
	// It is no longer than what ran at once.
	if st, err := os.Stat(l.path); err != nil || st.Size() != int64(3*len(blankLine)) {
		t.Errorf("%v, %v", st.Size(), err)
	}
	other := running{path: r.runningOf("cd")}
	do(other.add, ids[1])
	is(short...)
	if names, err := r.running(func(engine string) bool { return engine == "cd" }); err != nil || !slices.Equal(names, short[1:2]) {
		t.Errorf("of an engine that lives: %v, %v", names, err)
	}
	// What is not a name is none.
	for _, odd := range []string{"", "\n", "x", strings.Repeat("x", shortID) + "\n", ids[0] + "\n", "\x00\x00\n"} {
		if err := os.WriteFile(other.path, []byte(odd), 0o600); err != nil {
			t.Fatal(err)
		}
		is(short[0], short[2], short[3])
	}
	for _, l := range []*running{l, &other, {path: r.runningOf("ef")}} {
		if err := l.close(); err != nil {
			t.Error(err)
		}
	}
	if names, err := os.ReadDir(r.runningDir()); err != nil || len(names) != 0 {
		t.Errorf("left: %v, %v", names, err)
	}
}

// Who reads the list while others come and go finds all that stay.
func TestRunningRace(t *testing.T) {
	r, l := runningRoot(t, "ab")
	defer l.close()
	var stay []string
	var work, reader sync.WaitGroup
	stop := make(chan struct{})
	for range 50 {
		passing, id := newID(), newID()
		if err := errors.Join(l.add(passing), l.add(id), l.remove(passing)); err != nil {
			t.Fatal(err)
		}
		stay = append(stay, id[:shortID])
	}
	reader.Go(func() {
		for {
			names := runningNames(t, r)
			for _, name := range stay {
				if _, ok := slices.BinarySearch(names, name); !ok {
					t.Errorf("%s is missing", name)
					return
				}
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	for range 3 {
		work.Go(func() {
			for range 1000 {
				id := newID()
				if err := errors.Join(l.add(id), l.remove(id)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	work.Wait()
	close(stop)
	reader.Wait()
	if names := runningNames(t, r); len(names) != len(stay) {
		t.Errorf("%d are on the list", len(names))
	}
}

// Without All, List gives the containers that run, of all programs and in each
// state of theirs, and reads no other record.
func TestListRunning(t *testing.T) {
	e, root, ref := foreignRoot(t, nil)
	img, err := e.LookupImage(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	is := func(what string, want ...string) {
		t.Helper()
		list, err := e.List(t.Context(), ListOptions{})
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		var ids []string
		for _, info := range list {
			ids = append(ids, info.ID)
		}
		slices.Reverse(want) // the newest first
		if !slices.Equal(ids, want) {
			t.Errorf("%s: %v, want %v", what, ids, want)
		}
	}
	is("nothing")
	ours := create(t, e, img, Config{Args: []string{"pause"}})
	is("created")
	if err := ours.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	theirs := newOtherProgramOf(t, "run paused", root, ref, "theirs", "wait")
	last := newOtherProgram(t, root, ref, "last", "pause")
	is("running and paused", ours.ID(), theirs.id, last.id)
	last.kill()
	is("one's program was killed", ours.ID(), theirs.id)
	if err := ours.Stop(t.Context(), StopOptions{Grace: new(time.Duration)}); err != nil {
		t.Fatal(err)
	}
	is("stopped", theirs.id)
	if err := ours.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	is("started again", ours.ID(), theirs.id)
	broken := e.root.records().path(last.id)
	if err := os.WriteFile(broken, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	is("a damaged record of one that does not run", ours.ID(), theirs.id)
	if _, err := e.List(t.Context(), ListOptions{All: true}); !errors.Is(err, ErrDataLoss) || !strings.Contains(err.Error(), broken) {
		t.Errorf("all: %v", err)
	}
	// Started, but it cannot be written down: it does not run.
	lost := create(t, e, img, Config{Args: []string{"pause"}})
	if err := os.Remove(e.root.records().path(lost.ID())); err != nil {
		t.Fatal(err)
	}
	if err := lost.Start(t.Context()); !errors.Is(err, ErrNotFound) {
		t.Errorf("%v", err)
	}
	is("one without a record", ours.ID(), theirs.id)
	if names := runningNames(t, e.root); len(names) != 3 { // last is not swept
		t.Errorf("on the list: %v", names)
	}
	theirs.end()
	is("one's program has ended", ours.ID())
	testEngine(t, root) // sweeps
	if names, err := dirNames(e.root.runningDir()); err != nil || !slices.Equal(names, []string{e.root.engine}) {
		t.Errorf("lists after the sweep: %v, %v", names, err)
	}
}
