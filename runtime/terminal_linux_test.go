package runtime

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A ttyView is what a process finds about its terminal.
type ttyView struct {
	Names      [3]string // of standard streams that are terminals
	Session    bool      // the process leads it, and the terminal is its own
	Foreground bool
	Tty        string // what opening /dev/tty gave
	Rows, Cols uint16
	UID, GID   uint32
	Mode       uint32
	Console    bool // /dev/console is the same
	Files      []string
	Pts        []string // names in /dev/pts
}

func init() {
	programs["tty"] = func([]string) int {
		var v ttyView
		for i := range v.Names {
			if _, err := unix.IoctlGetTermios(i, unix.TCGETS); err == nil {
				v.Names[i], _ = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", i))
			}
		}
		session, _ := unix.IoctlGetInt(0, unix.TIOCGSID)
		v.Session = session == os.Getpid() && must(unix.Getsid(0)) == session
		group, _ := unix.IoctlGetInt(0, unix.TIOCGPGRP)
		v.Foreground = group == unix.Getpgrp()
		if f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0); err != nil {
			v.Tty = err.Error()
		} else {
			f.Close()
		}
		if size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ); err == nil {
			v.Rows, v.Cols = size.Row, size.Col
		}
		var st, console unix.Stat_t
		unix.Fstat(0, &st)
		v.UID, v.GID, v.Mode = st.Uid, st.Gid, st.Mode&0o7777
		v.Console = unix.Stat("/dev/console", &console) == nil && console.Rdev == st.Rdev && console.Dev == st.Dev
		for fd := range 64 {
			if to, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err == nil && !strings.Contains(to, "[event") {
				v.Files = append(v.Files, to)
			}
		}
		names, _ := os.ReadDir("/dev/pts")
		for _, e := range names {
			v.Pts = append(v.Pts, e.Name())
		}
		return exitCode(json.NewEncoder(os.Stdout).Encode(v))
	}
	programs["job"] = job
	// react tells of signals until it is interrupted.
	programs["react"] = func([]string) int {
		got := make(chan os.Signal, 8)
		signal.Notify(got, unix.SIGINT, unix.SIGWINCH, unix.SIGCONT)
		fmt.Println("job began")
		for s := range got {
			size, _ := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
			fmt.Printf("job got %v, size %dx%d\n", s, size.Row, size.Col)
			if s == unix.SIGINT {
				return 3
			}
		}
		return 0
	}
	// linger ends and leaves a process that has its terminal open, and writes
	// to a FIFO when it is hung up.
	programs["linger"] = func(args []string) int {
		r, w, _ := os.Pipe()
		_, err := os.StartProcess("/test", []string{"/test", args[0]}, &os.ProcAttr{
			Env: []string{programEnv + "=hold"}, Files: []*os.File{os.Stdin, os.Stdout, os.Stderr, w}})
		w.Close()
		r.Read(make([]byte, 1))
		fmt.Println("left")
		return exitCode(err)
	}
	programs["hold"] = func(args []string) int {
		signal.Ignore(unix.SIGHUP)
		unix.Write(3, []byte("x"))
		fds := []unix.PollFd{{Fd: 0}}
		for fds[0].Revents&unix.POLLHUP == 0 {
			unix.Poll(fds, -1)
		}
		return exitCode(os.WriteFile(args[0], []byte("hung up"), 0))
	}
	programs["numbers"] = func(args []string) int {
		n, _ := strconv.Atoi(args[0])
		w := bufio.NewWriter(os.Stdout)
		for i := range n {
			fmt.Fprintln(w, i)
		}
		return exitCode(w.Flush())
	}
	programs["steal"] = steal
}

// job runs react as a shell would, in the foreground. Of what stops it, it tells
// and has it go on after a line of input.
func job([]string) int {
	signal.Ignore(unix.SIGTTOU)
	got := make(chan os.Signal, 8)
	signal.Notify(got, unix.SIGINT, unix.SIGWINCH, unix.SIGTSTP)
	go func() {
		for s := range got {
			fmt.Println("shell got", s)
		}
	}()
	p, err := os.StartProcess("/test", []string{"/test"}, &os.ProcAttr{
		Env: []string{programEnv + "=react"}, Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Sys: &syscall.SysProcAttr{Foreground: true, Ctty: 0}})
	if err != nil {
		return exitCode(err)
	}
	in := bufio.NewReader(os.Stdin)
	for {
		var ws unix.WaitStatus
		if _, err := unix.Wait4(p.Pid, &ws, unix.WUNTRACED, nil); err == unix.EINTR {
			continue
		}
		unix.IoctlSetPointerInt(0, unix.TIOCSPGRP, unix.Getpgrp())
		if !ws.Stopped() {
			fmt.Println("job ended with", ws.ExitStatus())
			return 0
		}
		fmt.Println("job stopped by", ws.StopSignal())
		in.ReadString('\n')
		unix.IoctlSetPointerInt(0, unix.TIOCSPGRP, p.Pid)
		unix.Kill(-p.Pid, unix.SIGCONT)
	}
}

// steal makes every terminal that comes up the controlling one of a session of
// its own, until it is killed.
func steal([]string) int {
	unix.Setsid()
	fmt.Println("ready")
	for {
		names, _ := os.ReadDir("/dev/pts")
		for _, e := range names {
			fd, err := unix.Open("/dev/pts/"+e.Name(), unix.O_RDWR, 0)
			if err == nil {
				unix.IoctlSetInt(fd, unix.TIOCSCTTY, 1)
				unix.IoctlSetInt(fd, unix.TIOCNOTTY, 0)
				unix.Close(fd)
			}
		}
	}
}

// A screen is what a test sees of a terminal, and its keyboard.
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

func (s *screen) options() ProcessOptions { return ProcessOptions{Stdin: s.in, Stdout: s} }

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

func (s *screen) enter(t testing.TB, keys string) {
	t.Helper()
	if _, err := io.WriteString(s.keys, keys); err != nil {
		t.Fatal(err)
	}
}

// withTerminal makes a process one with a terminal.
func withTerminal(p *specs.Process, rows, columns uint) *specs.Process {
	p.Terminal, p.ConsoleSize = true, &specs.Box{Height: rows, Width: columns}
	return p
}

func parseTTY(t testing.TB, text string) (v ttyView) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v: %q", err, text)
	}
	return v
}

// A process with a terminal, the first or another, has it as its streams and
// controls it; it is of the container's devpts and belongs to the user.
func TestTerminal(t *testing.T) {
	r := openTest(t)
	want := ttyView{Session: true, Foreground: true, Rows: 33, Cols: 121, UID: 1000, GID: 5, Mode: 0o620}
	check := func(what, text string, n int, console bool) {
		t.Helper()
		want := want
		name := fmt.Sprint("/dev/pts/", n)
		want.Names, want.Files, want.Console = [3]string{name, name, name}, []string{name, name, name}, console
		got := parseTTY(t, text)
		if !slices.Contains(got.Pts, strconv.Itoa(n)) || !slices.Contains(got.Pts, "ptmx") || len(got.Pts) != n+2 {
			t.Errorf("%s: /dev/pts has %v", what, got.Pts)
		}
		got.Pts = nil
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %+v\nwant %+v", what, got, want)
		}
	}
	s := newSpec(t, newRootfs(t), "tty")
	withTerminal(s.Process, 33, 121)
	check("start", output(t, r, s, CreateOptions{ProcessOptions: ProcessOptions{User: "user"}}), 0, true)

	c, err := r.Create(background, s, CreateOptions{ProcessOptions: ProcessOptions{User: "user", Stdin: os.Stdin}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(background); err != nil {
		t.Fatal(err)
	}
	wait(t, c)
	c.Delete(background)

	plain := idle(t, r, nil)
	terminal := idle(t, r, func(s *specs.Spec) { s.Process.Terminal = true })
	p := withTerminal(newProgramProcess(newSpec(t, "/", ""), "tty"), 33, 121)
	for range 3 { // each takes the number anew: nothing was left
		check("exec", execOutput(t, plain, p, ProcessOptions{User: "user"}), 0, false)
		check("exec beside a terminal", execOutput(t, terminal, p, ProcessOptions{User: "user"}), 1, false)
	}
	if m := prepare(t, plain, p, "user"); m == nil {
		t.Error("no standby")
	} else if check("exec by a standby", execOutput(t, plain, p, ProcessOptions{User: "user"}), 0, false); !m.forked {
		t.Error("the standby was not used")
	}
	p.Terminal = false
	if v := parseTTY(t, execOutput(t, plain, p, ProcessOptions{})); v.Names != [3]string{} || v.Tty == "" || slices.Contains(v.Pts, "0") {
		t.Errorf("without a terminal: %+v", v)
	}
}

// What is typed makes signals for the foreground, and so does another size.
func TestTerminalJobControl(t *testing.T) {
	r := openTest(t)
	run := func(resize func(rows, columns uint16) error, s *screen) {
		t.Helper()
		s.await(t, "job began")
		if err := resize(40, 90); err != nil {
			t.Fatal(err)
		}
		s.await(t, "job got window changed, size 40x90")
		s.enter(t, "\x1a")
		s.await(t, "job stopped by stopped")
		s.enter(t, "go on\n")
		s.await(t, "job got continued, size 40x90")
		s.enter(t, "\x03")
		s.await(t, "job got interrupt, size 40x90")
		s.await(t, "job ended with 3")
		if bytes.Contains(s.shown, []byte("shell got")) {
			t.Errorf("the shell got a signal too: %q", s.shown)
		}
	}
	spec := newSpec(t, newRootfs(t), "job")
	spec.Process.Terminal = true
	s := newScreen(t)
	c := start(t, r, spec, CreateOptions{ProcessOptions: s.options()})
	run(c.Resize, s)
	if st := wait(t, c); st != (Status{Known: true}) {
		t.Error(st)
	}
	if err := c.Resize(1, 1); !errdefs.IsNotFound(err) {
		t.Error("resize after the end:", err)
	}
	if _, err := c.Terminal(); !errdefs.IsNotFound(err) {
		t.Error("terminal after the end:", err)
	}

	c = start(t, r, newSpec(t, newRootfs(t), "init"), CreateOptions{})
	s = newScreen(t)
	x, err := c.Exec(background, spec.Process, s.options())
	if err != nil {
		t.Fatal(err)
	}
	run(x.Resize, s)
	wait(t, x)
	if err := c.Resize(1, 1); !errdefs.IsFailedPrecondition(err) {
		t.Error("resize without a terminal:", err)
	}
	if _, err := c.Terminal(); !errdefs.IsFailedPrecondition(err) {
		t.Error("no terminal:", err)
	}
}

// The end of the Reader is none for the process, ^D is.
func TestTerminalInput(t *testing.T) {
	r := openTest(t)
	spec := newSpec(t, newRootfs(t), "cat")
	spec.Process.Terminal = true
	s := newScreen(t)
	c := start(t, r, spec, CreateOptions{ProcessOptions: s.options()})
	s.enter(t, "a line\n")
	s.await(t, "a line\r\na line\r\n") // the echo, and what the process wrote
	f, err := c.Terminal()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s.keys.Close()
	if _, err := io.WriteString(f, "from elsewhere\n"); err != nil {
		t.Fatal(err)
	}
	s.await(t, "from elsewhere\r\nfrom elsewhere\r\n")
	if _, err := f.Write([]byte{4}); err != nil {
		t.Fatal(err)
	}
	if st := wait(t, c); st != (Status{Known: true}) {
		t.Error(st)
	}
}

// All that was written arrives, however fast the process ends.
func TestTerminalOutput(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	c := start(t, r, newSpec(t, root, "init"), CreateOptions{})
	for _, n := range []int{1, 500, few(100_000)} {
		var want strings.Builder
		for i := range n {
			fmt.Fprintf(&want, "%d\r\n", i)
		}
		spec := newSpec(t, root, "numbers", strconv.Itoa(n))
		spec.Process.Terminal = true
		if got := output(t, r, spec, CreateOptions{}); got != want.String() {
			t.Errorf("%d numbers: %d bytes, want %d", n, len(got), want.Len())
		}
		if got := execOutput(t, c, spec.Process, ProcessOptions{}); got != want.String() {
			t.Errorf("exec, %d numbers: %d bytes, want %d", n, len(got), want.Len())
		}
		// Nobody takes it, and nothing waits for that.
		wait(t, start(t, r, spec, CreateOptions{}))
	}
}

// A terminal ends with its process: who has it open still is hung up, and not
// waited for.
func TestTerminalHangUp(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	if err := unix.Mkfifo(root+"/tmp/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	c := start(t, r, newSpec(t, root, "init"), CreateOptions{})
	p := newProgramProcess(newSpec(t, root, ""), "linger", "/tmp/fifo")
	p.Terminal = true
	if text := execOutput(t, c, p, ProcessOptions{}); text != "left\r\n" {
		t.Errorf("%q", text)
	}
	if text, err := os.ReadFile(root + "/tmp/fifo"); err != nil || string(text) != "hung up" {
		t.Errorf("%q, %v", text, err)
	}
	text := execOutput(t, c, newProgramProcess(newSpec(t, root, ""), "tty"), ProcessOptions{})
	if v := parseTTY(t, text); !slices.Equal(v.Pts, []string{"ptmx"}) {
		t.Error("left in /dev/pts:", v.Pts)
	}
}

// Many terminals at once, of many containers and in one.
func TestTerminalMany(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	shared := start(t, r, newSpec(t, root, "init"), CreateOptions{})
	var work sync.WaitGroup
	for i := range few(24) {
		work.Go(func() {
			spec := newSpec(t, root, "cat")
			spec.Process.Terminal = true
			s := newScreen(t)
			var p interface {
				Wait(context.Context) (Status, error)
			}
			var err error
			if i%2 == 0 {
				c, startErr := r.Start(background, spec, CreateOptions{ProcessOptions: s.options()})
				if startErr == nil {
					defer c.Delete(background)
				}
				p, err = c, startErr
			} else {
				p, err = shared.Exec(background, spec.Process, s.options())
			}
			if err != nil {
				t.Error(err)
				return
			}
			line := fmt.Sprint("terminal ", i)
			io.WriteString(s.keys, line+"\n\x04")
			if st, err := p.Wait(background); err != nil || st != (Status{Known: true}) || string(s.shown) != line+"\r\n"+line+"\r\n" {
				t.Errorf("%v, %v, %q", st, err, s.shown)
			}
		})
	}
	work.Wait()
}

// A terminal of the host's that is given as a file stays as it is, and nothing is
// read from it after Wait.
func TestTerminalFromFile(t *testing.T) {
	r := openTest(t)
	pair, err := openTerminal(unix.AT_FDCWD, "/dev/ptmx")
	if err != nil {
		t.Skip("the test has no terminal:", err)
	}
	defer pair.close()
	before, err := unix.IoctlGetTermios(int(pair.slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	spec := newSpec(t, newRootfs(t), "cat")
	spec.Process.Terminal = true
	s := newScreen(t)
	c := start(t, r, spec, CreateOptions{ProcessOptions: ProcessOptions{Stdin: pair.slave, Stdout: s}})
	io.WriteString(pair.master, "typed\n")
	s.await(t, "typed\r\ntyped\r\n")
	if err := c.Signal(background, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wait(t, c)
	io.WriteString(pair.master, "for another\n")
	b := make([]byte, 100)
	if n, err := pair.slave.Read(b); err != nil || string(b[:n]) != "for another\n" {
		t.Errorf("%q, %v", b[:n], err)
	}
	if after, err := unix.IoctlGetTermios(int(pair.slave.Fd()), unix.TCGETS); err != nil || *after != *before {
		t.Errorf("mode %+v, was %+v", after, before)
	}
}

// The caller can take the output in place of a Writer.
func TestTakeTerminal(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	spec := newSpec(t, root, "numbers", "3")
	spec.Process.Terminal = true
	var taken *os.File
	o := ProcessOptions{TakeTerminal: func(f *os.File) error { taken = f; return nil }}
	wait(t, start(t, r, spec, CreateOptions{ProcessOptions: o}))
	text, err := io.ReadAll(taken)
	if string(text) != "0\r\n1\r\n2\r\n" || !errors.Is(err, unix.EIO) {
		t.Errorf("%q, %v", text, err)
	}
	taken.Close()
	no := errors.New("not taken")
	o.TakeTerminal = func(f *os.File) error { f.Close(); return no }
	if _, err := r.Start(background, spec, CreateOptions{ProcessOptions: o}); !errors.Is(err, no) {
		t.Error(err)
	}
	c := idle(t, r, nil)
	if _, err := c.Exec(background, spec.Process, o); !errors.Is(err, no) {
		t.Error(err)
	}
}

// A Writer that blocks does not hold up Wait for longer than it may.
func TestTerminalWriterThatBlocks(t *testing.T) {
	r := openTest(t)
	spec := newSpec(t, newRootfs(t), "numbers", "10")
	spec.Process.Terminal = true
	called, unblock := make(chan struct{}), make(chan struct{})
	defer close(unblock)
	out := writerFunc(func(b []byte) (int, error) { close(called); <-unblock; return len(b), nil })
	c := start(t, r, spec, CreateOptions{ProcessOptions: ProcessOptions{Stdout: out, WaitDelay: time.Millisecond}})
	<-called
	if st, err := c.Wait(background); st != (Status{Known: true}) || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v, %v", st, err)
	}
}

func TestTerminalErrors(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	for what, change := range map[string]func(*specs.Spec){
		"no devpts": func(s *specs.Spec) {
			s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Type == "devpts" })
		},
		"devpts elsewhere": func(s *specs.Spec) {
			s.Mounts[slices.IndexFunc(s.Mounts, func(m specs.Mount) bool { return m.Type == "devpts" })].Destination = "/dev/else"
		},
		"too large": func(s *specs.Spec) { s.Process.ConsoleSize = &specs.Box{Height: 24, Width: 1 << 16} },
	} {
		s := fileSpec(t, root, "/bin/true")
		s.Process.Terminal = true
		change(s)
		s2 := newScreen(t)
		if _, err := r.Start(background, s, CreateOptions{ProcessOptions: s2.options()}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	c := idle(t, r, func(s *specs.Spec) {
		s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Type == "devpts" })
	})
	p := fileSpec(t, root, "/bin/true").Process
	p.Terminal = true
	if _, err := c.Exec(background, p, ProcessOptions{}); !errors.Is(err, unix.ENOENT) {
		t.Error("exec without a devpts:", err)
	}
	c = idle(t, r, nil)
	p.Args = []string{"/missing"}
	var command *CommandError
	if _, err := c.Exec(background, p, newScreen(t).options()); !errors.As(err, &command) {
		t.Error("exec of what is missing:", err)
	}
	s := fileSpec(t, root, "/missing")
	s.Process.Terminal = true
	if _, err := r.Start(background, s, CreateOptions{ProcessOptions: newScreen(t).options()}); !errors.As(err, &command) {
		t.Error("start of what is missing:", err)
	}
}

// A container's root that may mount puts all kinds of things where its ptmx was.
// The host opens none of them (conmon's and runc's consoles were fooled so).
func TestHostileTerminal(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	for what, swap := range map[string]func(root string) error{
		"a device of ptmx's number": func(root string) error {
			return unix.Mknod(root+"/fake/ptmx", unix.S_IFCHR|0o666, int(unix.Mkdev(5, 2)))
		},
		"a FIFO":            func(root string) error { return unix.Mkfifo(root+"/fake/ptmx", 0o666) },
		"a file":            func(root string) error { return os.WriteFile(root+"/fake/ptmx", nil, 0o666) },
		"a link out":        func(root string) error { return os.Symlink("/dev/ptmx", root+"/fake/ptmx") },
		"a link to another": func(root string) error { return os.Symlink("/proc/1/root/dev/ptmx", root+"/fake/ptmx") },
		"nothing":           func(root string) error { return nil },
	} {
		os.RemoveAll(root + "/fake")
		if err := errors.Join(os.Mkdir(root+"/fake", 0o755), swap(root)); err != nil {
			t.Fatal(err)
		}
		c := idle(t, r, func(s *specs.Spec) {
			s.Root.Path = root
			s.Mounts = append(s.Mounts, bindMount(root+"/fake", "/dev/pts", "rw"))
		})
		p := fileSpec(t, root, "/bin/true").Process
		p.Terminal = true
		if _, err := c.Exec(background, p, ProcessOptions{}); err == nil {
			t.Errorf("%s: exec has a terminal", what)
		} else if !errdefs.IsFailedPrecondition(err) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ELOOP) {
			t.Errorf("%s: %v", what, err)
		}
		c.Delete(background)
	}
}

// A container that takes terminals away as they come up spoils no more than its
// own execs.
func TestStolenTerminal(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	c := start(t, r, newSpec(t, root, "init"), CreateOptions{})
	out := newLines()
	thief, err := c.Exec(background, newProgramProcess(newSpec(t, root, ""), "steal"), ProcessOptions{Stdout: out})
	if err != nil {
		t.Fatal(err)
	}
	out.want(t, "ready")
	p := newProgramProcess(newSpec(t, root, ""), "numbers", "2")
	p.Terminal = true
	worked := 0
	for range few(40) {
		var out bytes.Buffer
		x, err := c.Exec(background, p, ProcessOptions{Stdout: &out})
		var step *StepError
		if errors.As(err, &step) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		wait(t, x)
		worked++
	}
	t.Logf("%d execs got a terminal", worked)
	thief.Signal(background, unix.SIGKILL)
	wait(t, thief)
	if text := execOutput(t, c, p, ProcessOptions{}); text != "0\r\n1\r\n" {
		t.Errorf("afterwards: %q", text)
	}
}

// No terminal of a container becomes the controlling one of a host program that
// leads a session and has none.
func TestTerminalNotTheHosts(t *testing.T) {
	root := newRootfs(t)
	cmd := hostProgram(t, "host with terminals", t.TempDir(), root)
	cmd.SysProcAttr.Setsid = true
	out, err := cmd.Output()
	if err != nil || string(out) != "0\n0\r\n0\n0\r\n0\n" {
		t.Errorf("%q, %v", out, err)
	}
}

func init() {
	programs["host with terminals"] = func(args []string) int {
		r, err := openAsHost(args[0])
		if err != nil {
			return exitCode(err)
		}
		defer r.Close()
		controlling := func() {
			stat, _ := os.ReadFile("/proc/self/stat")
			fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')'):]))
			fmt.Println(fields[5]) // tty_nr
		}
		controlling()
		spec := DefaultSpec()
		spec.Root.Path = args[1]
		spec.Process = newProgramProcess(spec, "numbers", "1")
		spec.Process.Terminal = true
		c, err := r.Start(background, spec, CreateOptions{ProcessOptions: ProcessOptions{Stdout: os.Stdout}})
		if err != nil {
			return exitCode(err)
		}
		c.Wait(background)
		controlling()
		spec.Process = newProgramProcess(spec, "init")
		if c, err = r.Start(background, spec, CreateOptions{}); err != nil {
			return exitCode(err)
		}
		p := newProgramProcess(spec, "numbers", "1")
		p.Terminal = true
		x, err := c.Exec(background, p, ProcessOptions{Stdout: os.Stdout})
		if err != nil {
			return exitCode(err)
		}
		x.Wait(background)
		controlling()
		return 0
	}
}

// CVE-2025-52565: /dev/console is the container's terminal, whatever the image
// has there; a link in the image leads nowhere outside.
func TestCVE_2025_52565(t *testing.T) {
	r := openTest(t)
	outside := filepath.Join(t.TempDir(), "outside")
	for what, make := range map[string]func(root string) error{
		"nothing": func(root string) error { return nil },
		"a file":  func(root string) error { return os.WriteFile(root+"/dev/console", nil, 0o600) },
		"a link":  func(root string) error { return os.Symlink(outside, root+"/dev/console") },
		"a link up": func(root string) error {
			return os.Symlink("../../../../../.."+outside, root+"/dev/console")
		},
		"a directory": func(root string) error { return os.Mkdir(root+"/dev/console", 0o755) },
	} {
		for _, own := range []bool{false, true} { // a /dev of the image's own
			root := newRootfs(t)
			if err := errors.Join(os.MkdirAll(root+"/dev/pts", 0o755), make(root)); err != nil {
				t.Fatal(err)
			}
			s := newSpec(t, root, "tty")
			s.Process.Terminal = true
			if own {
				s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool {
					return strings.HasPrefix(m.Destination, "/dev") && m.Type != "devpts"
				})
			}
			text, err := tryOutput(t, r, s, CreateOptions{})
			var step *StepError
			switch {
			case err != nil && !errors.As(err, &step):
				t.Errorf("%s: %v", what, err)
			case err == nil && (!parseTTY(t, text).Console || parseTTY(t, text).Names[0] != "/dev/pts/0"):
				t.Errorf("%s: %s", what, text)
			case err != nil && !own:
				t.Errorf("%s below the runtime's own /dev: %v", what, err)
			}
			if _, err := os.Lstat(outside); err == nil {
				t.Errorf("%s: made outside", what)
			}
		}
	}
}
