package engine

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func init() { helpers["owner"] = helperOwner }

// helperOwner is another program, which does to a container of its own what the
// lines of its input say, and answers each with a line: ROOT IMAGE.
func helperOwner(args []string) error {
	ctx := context.Background()
	e, err := Open(WithRoot(args[0]), WithCgroupParent(os.Getenv("INBOARD_TEST_CGROUP")))
	if err != nil {
		return err
	}
	img, err := e.LookupImage(ctx, args[1])
	if err != nil {
		return err
	}
	var c *Container
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		answer := "ok"
		switch f := strings.Fields(in.Text()); f[0] {
		case "create": // FLAGS ARG...
			c, err = e.Create(ctx, img, Config{
				Name: "theirs", Args: f[2:], Network: NetworkNone,
				TTY: strings.Contains(f[1], "t"), OpenStdin: strings.Contains(f[1], "i"), StdinOnce: strings.Contains(f[1], "1"),
				WindowSize: WindowSize{Rows: 5, Columns: 50},
			})
		case "start":
			err = c.Start(ctx)
		case "pause":
			err = c.Pause(ctx)
		case "unpause":
			err = c.Unpause(ctx)
		case "wait":
			var status Status
			status, err = c.Wait(ctx)
			answer = fmt.Sprint(status.Code)
		case "attach": // with a line to type
			err = c.Attach(ctx, AttachOptions{Stdin: strings.NewReader(f[1] + "\n")})
		case "churn": // as often
			n, _ := strconv.Atoi(f[1])
			err = churn(ctx, c, n, true)
		}
		if err != nil {
			answer = err.Error()
		}
		fmt.Println(answer)
	}
	return e.Close()
}

// churn does all that may be done to a container at the same time. What is in
// its way is no error.
func churn(ctx context.Context, c *Container, n int, own bool) error {
	calls := []func(i int) error{
		func(int) error { return c.Pause(ctx) },
		func(int) error { return c.Unpause(ctx) },
		func(i int) error { return c.Update(ctx, UpdateOptions{Resources{CPUShares: uint64(100 + i)}}) },
		func(i int) error { return c.Resize(ctx, WindowSize{Rows: uint16(i), Columns: 80}) },
		func(int) error { _, err := c.Stats(ctx); return err },
	}
	if own {
		calls = append(calls, func(i int) error {
			if i%4 > 0 {
				return nil
			}
			if err := c.Kill(ctx, syscall.SIGKILL); err != nil {
				return err
			}
			if _, err := c.Wait(ctx); err != nil {
				return err
			}
			return c.Start(ctx)
		})
	}
	var work sync.WaitGroup
	errs := make([]error, len(calls))
	for k, call := range calls {
		work.Go(func() {
			for i := range n {
				if err := call(i); err != nil && !errors.Is(err, ErrFailedPrecondition) && !errors.Is(err, ErrUnsupported) {
					errs[k] = fmt.Errorf("call %d: %w", k, err)
				}
			}
		})
	}
	work.Wait()
	return errors.Join(errs...)
}

// owner is a helperOwner, and this program's handle of its container.
type owner struct {
	*Container
	t       *testing.T
	command *exec.Cmd
	stdin   io.WriteCloser
	stdout  *bufio.Scanner
	wait    func() error
}

func newOwner(t *testing.T, e *Engine, ref string) *owner {
	t.Helper()
	o := &owner{t: t, command: helperCommand(t, "owner", e.root.dir, ref)}
	o.command.Env = append(o.command.Env, "INBOARD_TEST_CGROUP="+cgroupParent)
	stdin, err1 := o.command.StdinPipe()
	stdout, err2 := o.command.StdoutPipe()
	if err := errors.Join(err1, err2, o.command.Start()); err != nil {
		t.Fatal(err)
	}
	o.stdin, o.stdout, o.wait = stdin, bufio.NewScanner(stdout), sync.OnceValue(o.command.Wait)
	t.Cleanup(o.kill)
	return o
}

// say has the program begin with something, and answer gives what it says then.
func (o *owner) say(line ...any) {
	o.t.Helper()
	if _, err := fmt.Fprintln(o.stdin, line...); err != nil {
		o.t.Fatal(err)
	}
}

func (o *owner) answer() string {
	o.stdout.Scan()
	return o.stdout.Text()
}

// does has the program do something.
func (o *owner) does(line ...any) {
	o.t.Helper()
	if o.say(line...); o.answer() != "ok" {
		o.t.Fatalf("%v: %s", line, o.stdout.Text())
	}
}

// ownerOf starts a program with a container; flags are t for a terminal, i for an
// open input, and 1 for one that ends with the first.
func newOwnerOf(t *testing.T, e *Engine, ref, flags string, args ...string) *owner {
	t.Helper()
	o := newOwner(t, e, ref)
	o.does("create", flags, strings.Join(args, " "))
	c, err := e.Lookup(t.Context(), "theirs")
	if err != nil {
		t.Fatal(err)
	}
	o.Container = c
	return o
}

func (o *owner) end() {
	o.t.Helper()
	o.stdin.Close()
	if err := o.wait(); err != nil {
		o.t.Errorf("the other program: %v", err)
	}
}

func (o *owner) kill() {
	o.command.Process.Kill()
	o.wait()
}

// A container of another program is paused and goes on as an own one, whoever of
// both asks for it.
func TestPauseOtherPrograms(t *testing.T) {
	e, _, ref := foreignRoot(t, nil)
	o := newOwnerOf(t, e, ref, "-", "wait", "stubborn")
	fails := func(what string, err, class error, text string) {
		t.Helper()
		if !errors.Is(err, class) || !strings.Contains(err.Error(), text) || strings.Count(err.Error(), "pause container") > 1 {
			t.Errorf("%s: %v", what, err)
		}
	}
	fails("before the start", o.Pause(t.Context()), ErrFailedPrecondition, "not running, but created")
	o.does("start")
	awaitLog(t, o.Container, "ready\n")
	fails("unpause of one that runs", o.Unpause(t.Context()), ErrFailedPrecondition, "not paused")
	began := time.Now()
	// The stop signal lets it go on, whether that ends it or not.
	pause(t, o.Container)
	if err := o.Kill(t.Context(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := execHere(t, o.Container, ExecConfig{}, "echo", "running"); got != "running\n" || stateOf(t, o.Container) != StateRunning {
		t.Errorf("%q, %s", got, stateOf(t, o.Container))
	}
	pause(t, o.Container)
	fails("again", o.Pause(t.Context()), ErrFailedPrecondition, "is paused")
	if s := stateOf(t, o.Container); s != StatePaused {
		t.Error(s)
	}
	if o.say("pause"); !strings.Contains(o.answer(), "is paused") {
		t.Errorf("their pause: %s", o.stdout.Text())
	}
	_, err := o.Exec(t.Context(), ExecConfig{Args: []string{"/prog"}})
	fails("exec", err, ErrFailedPrecondition, "is paused")
	o.does("unpause")
	o.does("pause")
	if err := o.Kill(t.Context(), syscall.SIGUSR1); err != nil { // waits
		t.Fatal(err)
	}
	if s, err := o.Stats(t.Context()); err != nil || s.CPU.Usage == 0 || stateOf(t, o.Container) != StatePaused {
		t.Errorf("%+v, %v", s, err)
	}
	if err := o.Unpause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if o.say("wait"); o.answer() != "10" {
		t.Errorf("they saw %s", o.stdout.Text())
	}
	fails("after the end", o.Pause(t.Context()), ErrFailedPrecondition, "exited")
	var actions []EventAction
	for ev, err := range e.Events(t.Context(), EventOptions{Since: began, Until: time.Now(), Containers: []string{"theirs"}, Actions: []EventAction{EventPause, EventUnpause}}) {
		if err != nil {
			t.Error(err)
		}
		actions = append(actions, ev.Action)
	}
	if want := []EventAction{EventPause, EventPause, EventUnpause, EventPause, EventUnpause}; !slices.Equal(actions, want) {
		t.Errorf("%v, want %v", actions, want)
	}
	if err := o.Remove(t.Context(), RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	fails("after removal", o.Unpause(t.Context()), ErrNotFound, "")
	o.end()
	fails("after their end", o.Unpause(t.Context()), ErrNotFound, "")
}

// Limits of another program's container are changed for its runs, that which goes
// on and those to come, or for none.
func TestUpdateOtherPrograms(t *testing.T) {
	needController(t, "memory")
	e, _, ref := foreignRoot(t, nil)
	o := newOwnerOf(t, e, ref, "-", "wait")
	update := func(r Resources) error { return o.Update(t.Context(), UpdateOptions{Resources: r}) }
	want := Resources{Memory: 96 << 20}
	if err := update(want); err != nil { // before the first start
		t.Fatal(err)
	}
	for range 2 {
		o.does("start")
		want.Memory += 32 << 20
		if err := update(Resources{Memory: want.Memory}); err != nil {
			t.Fatal(err)
		}
		for _, wrong := range []struct {
			Resources
			text string
		}{
			{Resources{Memory: 6 << 20, MemorySwap: 1 << 20}, "swap"},
			{Resources{ShmSize: 1 << 20}, "/dev/shm"},
			{Resources{CpusetCPUs: strings.Repeat("0,", maxMessage)}, "bytes to tell"},
		} {
			if err := update(wrong.Resources); !errors.Is(err, ErrInvalidArgument) || !strings.Contains(err.Error(), wrong.text) {
				t.Error(err)
			}
		}
		info, err := o.Inspect(t.Context())
		if err != nil || !reflect.DeepEqual(info.Resources, want) {
			t.Errorf("%+v, %v", info.Resources, err)
		}
		if s, err := o.Stats(t.Context()); err != nil || s.Memory.Limit != uint64(want.Memory) {
			t.Errorf("%d, %v", s.Memory.Limit, err)
		}
		if err := o.Kill(t.Context(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		o.say("wait")
		o.answer()
	}
	o.end()
}

// What is typed in one program comes to the terminal in another, with its size.
func TestTerminalOfOtherPrograms(t *testing.T) {
	e, _, ref := foreignRoot(t, nil)
	o := newOwnerOf(t, e, ref, "ti", "sizes")
	if err := o.Resize(t.Context(), WindowSize{6, 60}); !errors.Is(err, ErrFailedPrecondition) {
		t.Error("before the start:", err)
	}
	s := newScreen(t)
	attached := make(chan struct{})
	result := attach(t.Context(), o.Container, AttachOptions{Stdin: s.in, Stdout: s, Attached: func() { close(attached) }})
	<-attached
	o.does("start")
	s.await(t, "5x50\r\n")
	if err := o.Resize(t.Context(), WindowSize{6, 60}); err != nil {
		t.Fatal(err)
	}
	s.await(t, "6x60\r\n")
	s.enter(t, "typed")
	s.await(t, "typed")
	s.enter(t, "\x10\x11")
	if err := <-result; !errors.Is(err, ErrDetached) {
		t.Error(err)
	}
	again := newScreen(t)
	result = attach(t.Context(), o.Container, AttachOptions{Stdin: again.in, Stdout: again, Replay: true})
	again.await(t, "typed")

	inside := newScreen(t)
	x, err := o.Exec(t.Context(), ExecConfig{Args: []string{"/prog", programFlag, "sizes"}, TTY: true, WindowSize: WindowSize{7, 70}, Stdin: inside.in, Stdout: inside})
	if err != nil {
		t.Fatal(err)
	}
	inside.await(t, "7x70\r\n")
	if err := x.Resize(t.Context(), WindowSize{8, 80}); err != nil {
		t.Fatal(err)
	}
	inside.await(t, "8x80\r\n")
	inside.enter(t, "\x03")
	if status, err := x.Wait(t.Context()); err != nil || status.Code != 2 {
		t.Errorf("%v, %v", status, err)
	}

	again.enter(t, "\x03")
	if err := <-result; err != nil {
		t.Error("at the end:", err)
	}
	exits(t, o.Container, Status{Code: 2, Known: true})
	if err := o.Resize(t.Context(), WindowSize{6, 60}); !errors.Is(err, ErrFailedPrecondition) {
		t.Error("after the end:", err)
	}
	o.end()
}

// Several programs write to one process, until it, or the input, ends.
func TestInputOfOtherPrograms(t *testing.T) {
	for _, flags := range []string{"i", "i1"} {
		e, _, ref := foreignRoot(t, nil)
		o := newOwnerOf(t, e, ref, flags, "cat")
		o.does("start")
		s := newScreen(t)
		typed := attach(t.Context(), o.Container, AttachOptions{Stdin: s.in, Stdout: s})
		s.enter(t, "first ")
		s.await(t, "first ")
		if flags == "i" {
			// The end of one input is not the end of all.
			once := attach(t.Context(), o.Container, AttachOptions{Stdin: strings.NewReader("second "), Stdout: io.Discard})
			s.await(t, "second ")
			o.say("attach", "theirs")
			s.await(t, "theirs\n")
			s.enter(t, "third")
			s.await(t, "third")
			if err := o.Kill(t.Context(), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(<-once, <-typed); err != nil || o.answer() != "ok" {
				t.Errorf("%v; %s", err, o.stdout.Text())
			}
		} else {
			// It is, also of those who do not type.
			large := bytes.Repeat([]byte("second "), 1<<20)
			if err := o.Attach(t.Context(), AttachOptions{Stdin: bytes.NewReader(large)}); err != nil {
				t.Error(err)
			}
			if err := <-typed; err != nil || s.rest() != string(large) {
				t.Errorf("%v, %d bytes", err, len(s.rest()))
			}
			exits(t, o.Container, Status{Known: true})
		}
		o.end()
	}
	e, _, ref := foreignRoot(t, nil)
	o := newOwnerOf(t, e, ref, "t", "cat")
	o.does("start")
	if err := o.Attach(t.Context(), AttachOptions{Stdin: strings.NewReader("x")}); !errors.Is(err, ErrFailedPrecondition) {
		t.Error("one that is not open:", err)
	}
	// Not even for who asks all the same.
	if _, err := o.openInput(t.Context(), 1); !errors.Is(err, ErrFailedPrecondition) {
		t.Error("one that is not open:", err)
	}
	o.end()
}

// What is meant for one run never comes to the next.
func TestInputOfOneRun(t *testing.T) {
	e, _, ref := foreignRoot(t, nil)
	o := newOwnerOf(t, e, ref, "i", "cat")
	o.does("start")
	in, err := o.openInput(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer in.leave()
	restart := func() {
		t.Helper()
		if err := o.Kill(t.Context(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		o.say("wait")
		o.answer()
		o.does("start")
	}
	restart()
	for err = error(nil); err == nil; { // it learns of the end soon
		_, err = in.Write([]byte("for the first"))
	}
	if err := in.end(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := o.openInput(t.Context(), 1); !errors.Is(err, ErrFailedPrecondition) {
		t.Error("of the first run:", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	late := make(chan error, 1)
	go func() {
		_, err := o.openInput(ctx, 4)
		late <- err
	}()
	second, err := o.openInput(t.Context(), 2)
	if err != nil {
		t.Fatal(err)
	}
	defer second.leave()
	if _, err := second.Write([]byte("for the second")); err != nil {
		t.Fatal(err)
	}
	s := newScreen(t)
	result := attach(t.Context(), o.Container, AttachOptions{Stdout: s, Replay: true})
	s.await(t, "for the second")
	restart()
	if err := <-result; err != nil || s.rest() != "" {
		t.Errorf("%v, %q", err, s.rest())
	}
	cancel()
	if err := <-late; !errors.Is(err, context.Canceled) {
		t.Error("of a run that is to come:", err)
	}
	o.end()
}

// All that programs do to one container, each as if it were alone: in the end it
// is what its record says.
func TestOtherProgramsRace(t *testing.T) {
	e, root, ref := foreignRoot(t, nil)
	second := testEngine(t, root)
	o := newOwnerOf(t, e, ref, "ti", "cat")
	o.does("start")
	n := 24
	if testing.Short() {
		n = 8
	}
	o.say("churn", n)
	var work sync.WaitGroup
	for _, from := range []*Engine{e, second} {
		c, err := from.Lookup(t.Context(), "theirs")
		if err != nil {
			t.Fatal(err)
		}
		work.Go(func() {
			if err := churn(t.Context(), c, n, false); err != nil {
				t.Error(err)
			}
		})
		work.Go(func() { // who types into what is restarted
			for range n {
				err := c.Attach(t.Context(), AttachOptions{Stdin: strings.NewReader("x\x10\x11")})
				if err != nil && !errors.Is(err, ErrDetached) && !errors.Is(err, ErrFailedPrecondition) {
					t.Error(err)
				}
			}
		})
	}
	work.Wait()
	if o.answer() != "ok" {
		t.Error(o.stdout.Text())
	}
	switch s := stateOf(t, o.Container); s {
	case StatePaused:
		if err := o.Unpause(t.Context()); err != nil {
			t.Error(err)
		}
	case StateExited:
		o.does("start")
	}
	if err := o.Pause(t.Context()); err != nil && !errors.Is(err, ErrUnsupported) {
		t.Error(err)
	} else if err == nil {
		o.does("unpause")
	}
	s := newScreen(t)
	result := attach(t.Context(), o.Container, AttachOptions{Stdin: s.in, Stdout: s})
	s.enter(t, "in the end\n")
	s.await(t, "in the end\r\nin the end\r\n")
	s.enter(t, "\x04")
	if err := <-result; err != nil {
		t.Error(err)
	}
	exits(t, o.Container, Status{Known: true})
	o.end()
}

// What is being executed in another program's container when that is paused goes
// on with it.
func TestExecMeetsPause(t *testing.T) {
	e, _, ref := foreignRoot(t, nil)
	o := newOwnerOf(t, e, ref, "-", "stubborn")
	o.does("start")
	n := 20
	if testing.Short() {
		n = 5
	}
	met := 0
	for range n {
		result := make(chan error, 1)
		go func() {
			x, err := o.Exec(t.Context(), ExecConfig{Args: []string{"/prog", programFlag, "exit", "3"}})
			if err == nil {
				var status Status
				if status, err = x.Wait(t.Context()); status.Code != 3 {
					err = fmt.Errorf("%v, %w", status, err)
				}
			}
			result <- err
		}()
		pause(t, o.Container)
		select {
		case err := <-result:
			result <- err
		default:
			met++
		}
		if err := o.Unpause(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-result; err != nil && !errors.Is(err, ErrFailedPrecondition) {
			t.Error(err)
		}
	}
	t.Logf("%d of %d were at work when all had stopped", met, n)
	o.end()
}

// A program may die whenever it is asked for something: who asks learns of it,
// and the next Open finds the rest.
func TestOwnerDiesRace(t *testing.T) {
	e, root, ref := foreignRoot(t, nil)
	rounds := 8
	if testing.Short() {
		rounds = 3
	}
	for round := range rounds {
		o := newOwnerOf(t, e, ref, "ti", "cat")
		o.does("start")
		var work sync.WaitGroup
		busy := make(chan struct{}, 100)
		for what, call := range map[string]func() error{
			"pause":   func() error { return o.Pause(t.Context()) },
			"unpause": func() error { return o.Unpause(t.Context()) },
			"update":  func() error { return o.Update(t.Context(), UpdateOptions{Resources{CPUShares: 200}}) },
			"resize":  func() error { return o.Resize(t.Context(), WindowSize{3, 30}) },
			"attach":  func() error { return o.Attach(t.Context(), AttachOptions{Stdin: strings.NewReader("x\x10\x11")}) },
		} {
			work.Go(func() {
				for {
					err := call()
					select {
					case busy <- struct{}{}:
					default:
					}
					if err != nil && !errors.Is(err, ErrDetached) && !errors.Is(err, ErrFailedPrecondition) && !errors.Is(err, ErrUnsupported) {
						t.Errorf("%s: %v", what, err)
					}
					info, err := o.Inspect(t.Context())
					if err != nil || !info.Owner.Alive {
						return
					}
				}
			})
		}
		for range 10 * round {
			<-busy
		}
		o.kill()
		work.Wait()
		if err := o.Pause(t.Context()); !errors.Is(err, ErrFailedPrecondition) {
			t.Error("after their end:", err)
		}
		testEngine(t, root)
		if left := ownedBy(t, root, o.owner.Engine); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
		if err := o.Pause(t.Context()); !errors.Is(err, ErrNotFound) {
			t.Error("after the sweep:", err)
		}
	}
}

// A program that is stopped does not do later what it was asked for then.
func TestOwnerStopped(t *testing.T) {
	e, _, ref := foreignRoot(t, nil)
	o := newOwnerOf(t, e, ref, "ti", "sizes")
	o.does("start")
	if err := o.command.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for what, call := range map[string]func(context.Context) error{
		"pause":  o.Pause,
		"update": func(ctx context.Context) error { return o.Update(ctx, UpdateOptions{Resources{CPUShares: 200}}) },
		"resize": func(ctx context.Context) error { return o.Resize(ctx, WindowSize{3, 30}) },
		"attach": func(ctx context.Context) error {
			return o.Attach(ctx, AttachOptions{Stdin: strings.NewReader("\x03")})
		},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", what, err)
		}
		cancel()
	}
	// What needs no program of the container's works.
	if _, err := o.Stats(t.Context()); err != nil {
		t.Error(err)
	}
	if got := execHere(t, o.Container, ExecConfig{}, "echo", "inside"); got != "inside\n" {
		t.Errorf("%q", got)
	}
	if err := o.command.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := o.Resize(t.Context(), WindowSize{4, 40}); err != nil { // comes after the others
		t.Error(err)
	}
	awaitOutput(t, o.Container, "5x50\r\n4x40\r\n")
	if info, err := o.Inspect(t.Context()); err != nil || info.State != StateRunning || info.Resources.CPUShares != 0 {
		t.Errorf("%+v, %v", info, err)
	}
	o.end()
}

// Whatever comes to the socket is answered, and holds nothing up.
func TestControl(t *testing.T) {
	needRoot(t)
	e := testEngine(t)
	at := func(f func(*net.UnixAddr) error) error { return e.root.atControl(e.root.engine, f) }
	dial := func() (conn *net.UnixConn) {
		t.Helper()
		err := at(func(a *net.UnixAddr) (err error) { conn, err = net.DialUnix(packets, nil, a); return err })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	err := at(func(a *net.UnixAddr) error { _, err := net.DialUnix(packets, nil, a); return err })
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("before the first container: %v", err)
	}
	c := create(t, e, pulled(t, e, nil), Config{Args: []string{"pause"}})
	message := func(q request) string {
		data, err := json.Marshal(q)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	for _, test := range []struct {
		message string
		class   error
	}{
		{"nothing of the kind", ErrInvalidArgument},
		{`{"id":1}`, ErrInvalidArgument},
		{`{"id":"` + strings.Repeat("x", maxMessage), ErrInvalidArgument},
		{"{}", ErrNotFound},
		{message(request{ID: newID(), Verb: verbPause}), ErrNotFound},
		{message(request{ID: newID(), Verb: verbInput}), ErrNotFound},
		{message(request{ID: c.ID(), Verb: "dance"}), ErrNotImplemented},
		{message(request{ID: c.ID(), Verb: verbUpdate}), ErrNotImplemented},
		{message(request{ID: c.ID(), Verb: verb(strings.Repeat("\x00", maxMessage/7))}), ErrNotImplemented},
		{message(request{ID: c.ID(), Verb: verbPause}), ErrFailedPrecondition},
	} {
		conn := dial()
		var r reply
		_, err := conn.Write([]byte(test.message))
		if err == nil {
			_, err = receive(conn, &r)
		}
		if err != nil || !errors.Is(r.err(), test.class) {
			t.Errorf("%.80q: %+v, %v", test.message, r, err)
		}
	}
	if r := replyWith(nil); r.err() != nil {
		t.Error(r)
	}
	silent, waiting := dial(), dial()
	if _, err := waiting.Write([]byte(message(request{ID: c.ID(), Verb: verbInput, Run: 1}))); err != nil {
		t.Fatal(err)
	}
	foreign := &Container{engine: testEngine(t, e.root.dir), id: c.ID(), owner: c.owner}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	for what, conn := range map[string]*net.UnixConn{"who says nothing": silent, "who waits": waiting} {
		if n, err := conn.Read(make([]byte, maxMessage)); err == nil && what == "who says nothing" {
			t.Errorf("%s is told %d bytes", what, n)
		}
	}
	if err := foreign.Pause(t.Context()); !errors.Is(err, ErrNotFound) {
		t.Errorf("after Close: %v", err)
	}
}

// The container of a program that takes no requests says so.
func TestNoControl(t *testing.T) {
	e, _, ref := foreignRoot(t, nil)
	o := newOwnerOf(t, e, ref, "ti", "cat")
	o.does("start")
	if err := e.root.removeSocket(o.owner.Engine); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"start":  o.Start(t.Context()),
		"pause":  o.Pause(t.Context()),
		"attach": o.Attach(t.Context(), AttachOptions{Stdin: strings.NewReader("x")}),
	} {
		if !errors.Is(err, ErrNotImplemented) || !strings.Contains(err.Error(), fmt.Sprint("process ", o.command.Process.Pid)) {
			t.Errorf("%s: %v", what, err)
		}
	}
	o.end()
}
