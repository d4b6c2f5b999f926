package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// screen shows what was written to it, and is a keyboard.
type screen struct {
	keys *io.PipeWriter
	in   *io.PipeReader

	mu      sync.Mutex
	shown   []byte
	changed chan struct{}
}

func newScreen(t testing.TB) *screen {
	s := &screen{changed: make(chan struct{})}
	s.in, s.keys = io.Pipe()
	t.Cleanup(func() { s.keys.Close() })
	return s
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shown = append(s.shown, b...)
	close(s.changed)
	s.changed = make(chan struct{})
	return len(b), nil
}

// await waits for a text, and takes what was shown up to its end.
func (s *screen) await(t testing.TB, text string) {
	t.Helper()
	patience := time.After(2 * time.Minute)
	for {
		s.mu.Lock()
		if i := bytes.Index(s.shown, []byte(text)); i >= 0 {
			s.shown = s.shown[i+len(text):]
			s.mu.Unlock()
			return
		}
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-patience:
			t.Fatalf("no %q, but %q", text, s.shown)
		}
	}
}

// rest is what was shown and not awaited.
func (s *screen) rest() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.shown)
}

func (s *screen) enter(t testing.TB, keys string) {
	t.Helper()
	if _, err := io.WriteString(s.keys, keys); err != nil {
		t.Fatal(err)
	}
}

// attach attaches in the background; the result comes from the channel.
func attach(ctx context.Context, c *Container, o AttachOptions) <-chan error {
	result := make(chan error, 1)
	go func() { result <- c.Attach(ctx, o) }()
	return result
}

func exits(t *testing.T, c *Container, want Status) {
	t.Helper()
	if status, err := c.Wait(t.Context()); err != nil || status != want {
		t.Errorf("%v, %v, want %v", status, err, want)
	}
}

// A container's terminal is what its Config says.
func TestTTY(t *testing.T) {
	e, img := plainImage(t)
	nothing, feed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer nothing.Close()
	defer feed.Close()
	for _, file := range []bool{false, true} {
		var out, errs bytes.Buffer
		config := Config{Args: []string{"tty"}, TTY: true, WindowSize: WindowSize{Rows: 31, Columns: 101}, User: "app", Stdout: &out, Stderr: &errs}
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		if file {
			config.Stdin, config.Stdout = nothing, w
		}
		c := started(t, e, img, config)
		exits(t, c, Status{Known: true})
		w.Close()
		if file {
			io.Copy(&out, r)
		}
		r.Close()
		const want = "terminal 31x101 of user 1000, TERM xterm\r\nto stderr\r\n"
		if out.String() != want || errs.Len() > 0 || string(streamOf(t, c, Stdout)) != want || len(streamOf(t, c, Stderr)) > 0 {
			t.Errorf("%q, %q, log %q", &out, &errs, streamOf(t, c, Stdout))
		}
		if info, err := c.Inspect(t.Context()); err != nil || !info.TTY || info.OpenStdin {
			t.Errorf("%+v, %v", info, err)
		}
		if err := c.Resize(t.Context(), WindowSize{1, 1}); !errors.Is(err, ErrFailedPrecondition) {
			t.Error("resize of what has exited:", err)
		}
	}
	if out, _ := runs(t, Config{Env: []string{"TERM=dumb"}, TTY: true}, "tty"); !strings.Contains(out, "terminal 0x0 of user 0, TERM dumb") {
		t.Errorf("%q", out)
	}
	if out, _ := runs(t, Config{}, "tty"); out != "no terminal, TERM \nto stderr\n" {
		t.Errorf("%q", out)
	}
}

func TestExecTTY(t *testing.T) {
	e, img := plainImage(t)
	c := started(t, e, img, Config{Args: []string{"pause"}})
	if err := c.Resize(t.Context(), WindowSize{1, 1}); !errors.Is(err, ErrFailedPrecondition) {
		t.Error("resize without a terminal:", err)
	}
	s := newScreen(t)
	x, err := c.Exec(t.Context(), ExecConfig{
		Args: []string{"/prog", programFlag, "sizes"}, TTY: true, WindowSize: WindowSize{5, 50}, Stdin: s.in, Stdout: s})
	if err != nil {
		t.Fatal(err)
	}
	s.await(t, "5x50\r\n")
	if err := x.Resize(t.Context(), WindowSize{6, 60}); err != nil {
		t.Fatal(err)
	}
	s.await(t, "6x60\r\n")
	s.enter(t, "\x03")
	if status, err := x.Wait(t.Context()); err != nil || status.Code != 2 {
		t.Errorf("%v, %v", status, err)
	}
	if err := x.Resize(t.Context(), WindowSize{6, 60}); !errors.Is(err, ErrFailedPrecondition) {
		t.Error("resize after the end:", err)
	}
}

// A terminal is the process's own, also under an init, in a user namespace, and
// where others' processes are.
func TestTTYInOtherNamespaces(t *testing.T) {
	e, img := plainImage(t)
	other := started(t, e, img, Config{Args: []string{"pause"}})
	for name, config := range map[string]Config{
		"init":              {Init: true},
		"user namespace":    {Security: Security{UserNamespace: UserNamespacePrivate}},
		"init and user":     {Init: true, Security: Security{UserNamespace: UserNamespacePrivate}},
		"another's pids":    {PID: Namespace("container:" + other.ID())},
		"the host's pids":   {PID: NamespaceHost},
		"init beside hosts": {PID: NamespaceHost, Init: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScreen(t)
			config.Args, config.User, config.TTY, config.WindowSize = []string{"tty"}, "app", true, WindowSize{5, 50}
			config.Stdin, config.Stdout = s.in, s
			exits(t, started(t, e, img, config), Status{Known: true})
			s.await(t, "terminal 5x50 of user 1000, TERM xterm\r\n")

			s = newScreen(t)
			config.Args, config.Stdin, config.Stdout = []string{"sizes"}, s.in, s
			c := started(t, e, img, config)
			s.await(t, "5x50\r\n")
			inside := newScreen(t)
			x, err := c.Exec(t.Context(), ExecConfig{
				Args: []string{"/prog", programFlag, "tty"}, TTY: true, WindowSize: WindowSize{6, 60}, Stdin: inside.in, Stdout: inside})
			if err != nil {
				t.Fatal(err)
			}
			if status, err := x.Wait(t.Context()); err != nil || status.Code != 0 {
				t.Errorf("exec: %v, %v", status, err)
			}
			inside.await(t, "terminal 6x60 of user 1000, TERM xterm\r\n")
			if err := c.Resize(t.Context(), WindowSize{7, 70}); err != nil {
				t.Fatal(err)
			}
			s.await(t, "7x70\r\n")
			s.enter(t, "\x03") // to the foreground
			exits(t, c, Status{Code: 2, Known: true})
		})
	}
}

// Several are attached to a terminal, type, and detach.
func TestAttachTerminal(t *testing.T) {
	e, img := plainImage(t)
	before := newScreen(t)
	c := create(t, e, img, Config{Args: []string{"cat"}, TTY: true, OpenStdin: true})
	first := attach(t.Context(), c, AttachOptions{Stdin: before.in, Stdout: before})
	watches.watching(2)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	before.enter(t, "one\n")
	before.await(t, "one\r\none\r\n")
	all, late := newScreen(t), newScreen(t)
	second := attach(t.Context(), c, AttachOptions{Stdin: all.in, Stdout: all, Replay: true, DetachKeys: "x,ctrl-],DEL"})
	all.await(t, "one\r\none\r\n")
	attached := make(chan struct{})
	third := attach(t.Context(), c, AttachOptions{Stdout: late, Attached: func() { close(attached) }})
	<-attached
	all.enter(t, "two\n")
	for _, s := range []*screen{before, all, late} {
		s.await(t, "two\r\ntwo\r\n")
	}
	before.enter(t, "\x10x\x10") // not all of the keys, and a beginning
	before.enter(t, "\x10\x11")
	if err := <-first; !errors.Is(err, ErrDetached) {
		t.Error("detached:", err)
	}
	all.await(t, "^Px^P")
	all.enter(t, "x\x1dx\x1d\x7f")
	if err := <-second; !errors.Is(err, ErrDetached) {
		t.Error("detached:", err)
	}
	late.await(t, "^Px^Px^]") // of the second the keys that were no end
	again := newScreen(t)
	fourth := attach(t.Context(), c, AttachOptions{Stdin: again.in, Stdout: again, NoDetachKeys: true})
	again.enter(t, "\n\x10\x11\n\x04")
	for _, result := range []<-chan error{third, fourth} {
		if err := <-result; err != nil {
			t.Error("at the end:", err)
		}
	}
	exits(t, c, Status{Known: true})
	if got, want := late.rest(), "\x10x\x10x\x1d\r\n"; !strings.Contains(got, want) || !strings.Contains(got, "^P") {
		t.Errorf("%q, want %q and ^P", got, want)
	}
	if err := c.Attach(t.Context(), AttachOptions{}); !errors.Is(err, ErrFailedPrecondition) {
		t.Error("attach to what has exited:", err)
	}
	watches.watching(0)
}

// Without a terminal there are two streams, and an input that is open as long as
// somebody wants it.
func TestAttachPipes(t *testing.T) {
	e, img := plainImage(t)
	for _, once := range []bool{false, true} {
		c := started(t, e, img, Config{Args: []string{"cat"}, OpenStdin: true, StdinOnce: once})
		s := newScreen(t)
		other := attach(t.Context(), c, AttachOptions{Stdin: s.in})
		s.enter(t, "zero ")
		awaitOutput(t, c, "zero ")
		var out bytes.Buffer
		one := attach(t.Context(), c, AttachOptions{Stdin: strings.NewReader("one \x10\x11"), Stdout: &out, Replay: true})
		if once {
			for _, result := range []<-chan error{one, other} {
				if err := <-result; err != nil {
					t.Error(err)
				}
			}
			exits(t, c, Status{Known: true})
		} else {
			awaitOutput(t, c, "zero one \x10\x11")
			s.enter(t, "two")
			awaitOutput(t, c, "zero one \x10\x11two")
			if err := c.Kill(t.Context(), 9); err != nil {
				t.Fatal(err)
			}
			for _, result := range []<-chan error{one, other} {
				if err := <-result; err != nil {
					t.Error(err)
				}
			}
		}
		if got, want := out.String(), map[bool]string{false: "zero one \x10\x11two", true: "zero one \x10\x11"}[once]; got != want {
			t.Errorf("once %v: %q", once, got)
		}
	}
	var out, errs bytes.Buffer
	c := create(t, e, img, Config{Args: []string{"count", "1000"}, OpenStdin: true})
	both := attach(t.Context(), c, AttachOptions{Stdout: &out, Stderr: &errs})
	watches.watching(2)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-both; err != nil {
		t.Error(err)
	}
	if !bytes.Equal(out.Bytes(), streamOf(t, c, Stdout)) || !bytes.Equal(errs.Bytes(), streamOf(t, c, Stderr)) || bytes.Count(out.Bytes(), []byte("\n")) != 1000 {
		t.Errorf("%d bytes and %d", out.Len(), errs.Len())
	}
}

// awaitOutput waits until the log has what is wanted, and no newline.
func awaitOutput(t *testing.T, c *Container, want string) {
	t.Helper()
	s := newScreen(t)
	ctx, cancel := context.WithCancel(t.Context())
	result := attach(ctx, c, AttachOptions{Stdout: s, Replay: true})
	s.await(t, want)
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// A run's output is replayed, and not that of the runs before.
func TestAttachReplay(t *testing.T) {
	e, img := plainImage(t)
	c := create(t, e, img, Config{Args: []string{"append", "/etc/group", "x"}, TTY: true})
	for range 3 {
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		exits(t, c, Status{Known: true})
	}
	l := newLoggedContainer(t, e, 0, 0)
	l.start(t)
	logs(t, l.log, 1, Stdout, []byte("of the first"))
	l.exit(t)
	l.start(t)
	logs(t, l.log, 2, Stdout, []byte("of the second"))
	s := newScreen(t)
	result := attach(t.Context(), l.Container, AttachOptions{Stdout: s, Replay: true})
	s.await(t, "of the second")
	logs(t, l.log, 2, Stdout, []byte(", more"))
	s.await(t, ", more")
	l.exit(t)
	if err := <-result; err != nil || s.rest() != "" {
		t.Errorf("%v, %q", err, s.rest())
	}
}

// A Writer that blocks holds up nothing but its own Attach, which fails when the
// log has dropped what it did not take.
func TestAttachWriterBlocks(t *testing.T) {
	e, _ := plainImage(t)
	l := newLoggedContainer(t, e, 64<<10, 0)
	l.start(t)
	called, unblock := make(chan struct{}), make(chan struct{})
	var once sync.Once
	slow := attach(t.Context(), l.Container, AttachOptions{Replay: true, Stdout: writerFunc(func(p []byte) (int, error) {
		once.Do(func() { close(called) })
		<-unblock
		return len(p), nil
	})})
	ctx, cancel := context.WithCancel(t.Context())
	blocked := newBlocking(t)
	given := attach(ctx, l.Container, AttachOptions{Replay: true, Stdout: blocked})
	logs(t, l.log, 1, Stdout, []byte("taken by both\n"))
	<-called
	<-blocked.called
	for range 20000 {
		logs(t, l.log, 1, Stdout, []byte("a line that nobody takes\n"))
	}
	l.exit(t)
	close(unblock)
	if err := <-slow; !errors.Is(err, ErrDataLoss) {
		t.Error("slow:", err)
	}
	cancel()
	if err := <-given; !errors.Is(err, context.Canceled) {
		t.Error("given up:", err)
	}
	if n := blocked.calls.Load(); n != 1 {
		t.Errorf("%d calls", n)
	}
}

// Streams of the caller's that fail end Attach, and nothing else.
func TestAttachStreamsFail(t *testing.T) {
	e, img := plainImage(t)
	c := started(t, e, img, Config{Args: []string{"cat"}, OpenStdin: true})
	broken := errors.New("broken")
	is := func(target error) func(error) bool {
		return func(err error) bool { return errors.Is(err, target) }
	}
	panics := func(err error) bool { var p *PanicError; return errors.As(err, &p) && p.Value == "boom" }
	exited := func(err error) bool {
		return err != nil && strings.Contains(err.Error(), "ended the goroutine")
	}
	input := func() io.Reader { return strings.NewReader("input\n") }
	for what, test := range map[string]struct {
		o     AttachOptions
		tells func(error) bool
	}{
		"writer":        {AttachOptions{Stdin: input(), Stdout: writerFunc(func([]byte) (int, error) { return 0, broken })}, is(broken)},
		"short":         {AttachOptions{Stdin: input(), Stdout: writerFunc(func([]byte) (int, error) { return 1, nil })}, is(io.ErrShortWrite)},
		"panic":         {AttachOptions{Stdin: input(), Stdout: writerFunc(func([]byte) (int, error) { panic("boom") })}, panics},
		"goexit":        {AttachOptions{Stdin: input(), Stdout: writerFunc(func([]byte) (int, error) { runtime.Goexit(); return 0, nil })}, exited},
		"reader":        {AttachOptions{Stdin: readerFunc(func([]byte) (int, error) { return 0, broken })}, is(broken)},
		"reader panic":  {AttachOptions{Stdin: readerFunc(func([]byte) (int, error) { panic("boom") })}, panics},
		"reader goexit": {AttachOptions{Stdin: readerFunc(func([]byte) (int, error) { runtime.Goexit(); return 0, nil })}, exited},
		"keys":          {AttachOptions{Stdin: strings.NewReader("anything, q"), DetachKeys: ",q"}, is(ErrInvalidArgument)},
		"detached":      {AttachOptions{Stdin: strings.NewReader("ab"), DetachKeys: "a,b"}, is(ErrDetached)},
	} {
		test.o.Replay = true
		if err := c.Attach(t.Context(), test.o); !test.tells(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	s := newScreen(t)
	result := attach(t.Context(), c, AttachOptions{Stdin: s.in, Stdout: s})
	s.enter(t, "still there\n")
	s.await(t, "still there\n")
	if err := c.Remove(t.Context(), RemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	if err := <-result; err != nil {
		t.Error("at removal:", err)
	}
	if err := c.Attach(t.Context(), AttachOptions{}); !errors.Is(err, ErrNotFound) {
		t.Error("attach to what is removed:", err)
	}
}

// Attach returns although the process takes no input; a file is not read any
// more then.
func TestAttachInputBlocks(t *testing.T) {
	e, img := plainImage(t)
	c := started(t, e, img, Config{Args: []string{"pause"}, OpenStdin: true})
	ctx, cancel := context.WithCancel(t.Context())
	var read atomic.Int64
	full := make(chan struct{})
	var once sync.Once
	result := attach(ctx, c, AttachOptions{Stdin: readerFunc(func(p []byte) (int, error) {
		if read.Add(int64(len(p))) > 64<<10 { // more than a pipe holds
			once.Do(func() { close(full) })
		}
		return len(p), nil
	})})
	<-full
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}

	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	c = started(t, e, img, Config{Args: []string{"cat"}, OpenStdin: true, TTY: true})
	for range 20 {
		s := newScreen(t)
		result := attach(t.Context(), c, AttachOptions{Stdin: r, Stdout: s})
		io.WriteString(w, "x\x10\x11")
		if err := <-result; !errors.Is(err, ErrDetached) {
			t.Fatal(err)
		}
		io.WriteString(w, "for another")
		b := make([]byte, 100)
		if n, err := r.Read(b); err != nil || string(b[:n]) != "for another" {
			t.Fatalf("%q, %v", b[:n], err)
		}
	}
}

func TestAttachArguments(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	needRoot(t)
	e := testEngine(t, root)
	img := pulled(t, e, nil)
	if _, err := e.Create(t.Context(), img, Config{Network: NetworkNone, OpenStdin: true, Stdin: strings.NewReader("")}); !errors.Is(err, ErrInvalidArgument) {
		t.Error("two inputs:", err)
	}
	for _, test := range []struct {
		config Config
		o      AttachOptions
		want   error
	}{
		{Config{}, AttachOptions{Stdin: strings.NewReader("")}, ErrFailedPrecondition},
		{Config{LogSize: -1}, AttachOptions{Stdout: io.Discard}, ErrFailedPrecondition},
		{Config{OpenStdin: true}, AttachOptions{Stdin: strings.NewReader(""), DetachKeys: "ctrl-1"}, ErrInvalidArgument},
		{Config{OpenStdin: true}, AttachOptions{Stdin: strings.NewReader(""), DetachKeys: "ctrl-"}, ErrInvalidArgument},
		{Config{OpenStdin: true}, AttachOptions{Stdin: strings.NewReader(""), DetachKeys: "ab"}, ErrInvalidArgument},
	} {
		test.config.Args = []string{"pause"}
		c := started(t, e, img, test.config)
		if err := c.Attach(t.Context(), test.o); !errors.Is(err, test.want) {
			t.Errorf("%+v, %+v: %v", test.config, test.o, err)
		}
	}
	// Without a log the end is awaited all the same.
	c := started(t, e, img, Config{Args: []string{"cat"}, LogSize: -1, OpenStdin: true, StdinOnce: true})
	if err := c.Attach(t.Context(), AttachOptions{Stdin: strings.NewReader("x")}); err != nil {
		t.Error(err)
	}

	// To another Engine's container, until that is closed.
	other := testEngine(t, root)
	c = started(t, e, img, Config{Args: []string{"cat"}, TTY: true, OpenStdin: true})
	theirs, err := other.Lookup(t.Context(), c.ID())
	if err != nil {
		t.Fatal(err)
	}
	s := newScreen(t)
	result := attach(t.Context(), theirs, AttachOptions{Stdout: s, Replay: true})
	mine := newScreen(t)
	closed := attach(t.Context(), c, AttachOptions{Stdin: mine.in, Stdout: mine, Replay: true})
	mine.enter(t, "hello\n")
	s.await(t, "hello\r\nhello\r\n")
	mine.await(t, "hello\r\nhello\r\n")
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if err := <-result; err != nil {
		t.Error("when its Engine is closed:", err)
	}
	if err := <-closed; err != nil && !errors.Is(err, ErrFailedPrecondition) {
		t.Error("when the Engine is closed:", err)
	}
}

// The keys are found wherever they come, in pieces of any size, and everything
// else is passed on: as by a search in the whole.
func TestDetacher(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	text := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = "ab"[random.IntN(2)]
		}
		return b
	}
	for range 20_000 {
		keys, in := text(1+random.IntN(6)), text(random.IntN(40))
		want, _, found := bytes.Cut(in, keys)
		d := detacher{keys: keys}
		var got []byte
		detached := false
		for rest := in; len(rest) > 0 && !detached; {
			n := 1 + random.IntN(len(rest))
			var out []byte
			out, detached = d.pass(rest[:n])
			got, rest = append(got, out...), rest[n:]
		}
		if !detached {
			got = append(got, d.rest()...)
		}
		if detached != found || !bytes.Equal(got, want) {
			t.Fatalf("keys %q in %q: %q, %v; want %q, %v", keys, in, got, detached, want, found)
		}
	}
	for names, want := range map[string]string{"": "", "ctrl-p,ctrl-q": "\x10\x11", "a": "a", "ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_": "\x00\x1b\x1c\x1d\x1e\x1f", "DEL,A,-": "\x7fA-"} {
		if got, err := (&AttachOptions{DetachKeys: names}).detachKeys(false); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v", names, got, err)
		}
	}
	if got, err := (&AttachOptions{}).detachKeys(true); err != nil || string(got) != "\x10\x11" {
		t.Errorf("default: %q, %v", got, err)
	}
}

// Terminals of many containers at once, each with two who are attached.
func TestAttachMany(t *testing.T) {
	e, img := plainImage(t)
	n := 16
	if testing.Short() {
		n = 4
	}
	var work sync.WaitGroup
	for i := range n {
		c := started(t, e, img, Config{Args: []string{"cat"}, TTY: true, OpenStdin: true})
		work.Go(func() {
			a, b := newScreen(t), newScreen(t)
			one := attach(t.Context(), c, AttachOptions{Stdin: a.in, Stdout: a, Replay: true})
			two := attach(t.Context(), c, AttachOptions{Stdin: b.in, Stdout: b, Replay: true})
			line := "line " + strconv.Itoa(i) + "\n"
			io.WriteString(a.keys, line)
			io.WriteString(b.keys, line)
			io.WriteString(a.keys, "\x04")
			if err := errors.Join(<-one, <-two); err != nil {
				t.Error(err)
			}
			if a.rest() != b.rest() || strings.Count(a.rest(), fmt.Sprint("line ", i, "\r\n")) < 2 {
				t.Errorf("%q, %q", a.rest(), b.rest())
			}
		})
	}
	work.Wait()
}
