package runtime

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	goruntime "runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func init() {
	// answer says what it hears.
	programs["answer"] = func([]string) int {
		fmt.Println("ready")
		_, err := io.Copy(os.Stdout, os.Stdin)
		return exitCode(err)
	}
	programs["host-paused"] = hostPaused
}

// answering starts a container that says what it hears.
func answering(t *testing.T, r *Runtime) (c *Container, say func(string), hear func() string) {
	t.Helper()
	in, out := newPipes(t), newPipes(t)
	c = start(t, r, newSpec(t, newRootfs(t), "answer"), CreateOptions{ProcessOptions: ProcessOptions{Stdin: in[0], Stdout: out[1]}})
	out[1].Close()
	lines := bufio.NewReader(out[0])
	hear = func() string {
		s, err := lines.ReadString('\n')
		if err != nil {
			t.Error("hear:", err)
		}
		return strings.TrimSpace(s)
	}
	if got := hear(); got != "ready" {
		t.Fatal(got)
	}
	return c, func(s string) { fmt.Fprintln(in[1], s) }, hear
}

func newPipes(t *testing.T) (ends [2]*os.File) {
	t.Helper()
	var err error
	if ends[0], ends[1], err = os.Pipe(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ends[0].Close(); ends[1].Close() })
	return ends
}

func pauseTest(t *testing.T, c *Container) {
	t.Helper()
	ctx, cancel := context.WithTimeout(background, 30*time.Second)
	defer cancel()
	err := c.Pause(ctx)
	if errdefs.IsNotImplemented(err) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestPause(t *testing.T) {
	r := openTest(t)
	c, say, hear := answering(t, r)
	if err := c.Resume(background); !errdefs.IsFailedPrecondition(err) {
		t.Error("resume of one that runs:", err)
	}
	root := newRootfs(t)
	command := fileSpec(t, root, "/bin/true").Process
	for i := range 3 {
		pauseTest(t, c)
		say("one")
		if err := c.Pause(background); !errdefs.IsFailedPrecondition(err) {
			t.Error("a second pause:", err)
		}
		if _, err := c.Exec(background, command, ProcessOptions{}); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "paused") {
			t.Error("exec:", err)
		}
		if s, err := c.Stats(background); err != nil || s.Time.IsZero() {
			t.Error(s, err)
		}
		if err := c.Signal(background, unix.SIGCONT); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(background)
		cancel()
		if err := c.Resume(ctx); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if err := c.Resume(background); err != nil {
			t.Fatal(err)
		}
		if got := hear(); got != "one" {
			t.Error(got)
		}
		execOutput(t, c, command, ProcessOptions{})
		if i == 1 { // with processes that have come since
			x, err := c.Exec(background, fileSpec(t, root, "/bin/sleep").Process, ProcessOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer x.Signal(background, unix.SIGKILL)
		}
	}
}

// A paused container ends by SIGKILL, by Delete, and with its Runtime.
func TestPausedEnds(t *testing.T) {
	for name, end := range map[string]func(*Runtime, *Container) error{
		"kill":   func(_ *Runtime, c *Container) error { return c.Signal(background, unix.SIGKILL) },
		"delete": func(_ *Runtime, c *Container) error { return c.Delete(background) },
		"close":  func(r *Runtime, _ *Container) error { return r.Close() },
		"killed, then paused": func(_ *Runtime, c *Container) error {
			c.Resume(background)
			c.Signal(background, unix.SIGKILL)
			if err := c.Pause(background); err != nil && !errdefs.IsFailedPrecondition(err) {
				return err
			}
			return c.Delete(background)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := openTest(t)
			c, _, _ := answering(t, r)
			for range 3 { // more than the first process
				if _, err := c.Exec(background, fileSpec(t, "/", "/bin/sleep").Process, ProcessOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			pauseTest(t, c)
			if err := end(r, c); err != nil {
				t.Error(err)
			}
			if st := wait(t, c); st.Signal != unix.SIGKILL && (st.Known || name != "close") {
				t.Error(st)
			}
			for what, err := range map[string]error{"pause": c.Pause(background), "resume": c.Resume(background)} {
				if !errdefs.IsFailedPrecondition(err) {
					t.Errorf("%s after the end: %v", what, err)
				}
			}
			if _, err := c.Stats(background); !errdefs.IsFailedPrecondition(err) {
				t.Error("statistics after the end:", err)
			}
		})
	}
}

// Execs and pauses that race hang nothing: an exec is done, or refused.
func TestPauseAndExec(t *testing.T) {
	r := openTest(t)
	c := idle(t, r, nil)
	pauseTest(t, c)
	if err := c.Resume(background); err != nil {
		t.Fatal(err)
	}
	command := fileSpec(t, "/", "/bin/true").Process
	var work sync.WaitGroup
	stop := make(chan struct{})
	for range 3 {
		work.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				x, err := c.Exec(background, command, ProcessOptions{})
				if err == nil {
					x.Wait(background)
				} else if !errors.Is(err, errPaused) {
					t.Error(err)
					return
				}
			}
		})
	}
	for range few(20) {
		pauseTest(t, c)
		if err := c.Resume(background); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	work.Wait()
}

// A container that is killed while it is being paused is not said to be given up
// by the caller.
func TestKilledWhilePaused(t *testing.T) {
	r := openTest(t)
	for range 10 {
		c, _, _ := answering(t, r)
		entered, err := c.entering() // holds the pause up
		if err != nil {
			t.Fatal(err)
		}
		result := make(chan error, 1)
		go func() { result <- c.Pause(t.Context()) }()
		for !c.paused() {
			goruntime.Gosched()
		}
		if err := c.Signal(t.Context(), unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := <-result; !errors.Is(err, errdefs.ErrFailedPrecondition) {
			t.Error(err)
		}
		entered()
		if status, err := c.Wait(t.Context()); err != nil || status.Signal != unix.SIGKILL {
			t.Errorf("%v, %v", status, err)
		}
	}
}

// Before Start there is nothing to pause.
func TestPauseBeforeStart(t *testing.T) {
	r := openTest(t)
	c, err := r.Create(background, fileSpec(t, newRootfs(t), "/bin/true"), CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Delete(background)
	if err := c.Pause(background); !errdefs.IsFailedPrecondition(err) {
		t.Error(err)
	}
	if _, err := c.Stats(background); err != nil {
		t.Error(err)
	}
	if err := c.Start(background); err != nil {
		t.Fatal(err)
	}
}

// hostPaused pauses a container, says so, and waits to be killed.
func hostPaused(args []string) int {
	r, err := openAsHost(args[0])
	if err != nil {
		return exitCode(err)
	}
	s := DefaultSpec()
	s.Root.Path = args[1]
	s.Process.Args = []string{"/bin/sleep"}
	c, err := r.Start(background, s, CreateOptions{CgroupParent: args[2]})
	if err == nil {
		err = c.Pause(background)
	}
	if err != nil {
		fmt.Println(err)
		return exitCode(err)
	}
	fmt.Println(c.CgroupPath())
	io.Copy(io.Discard, os.Stdin)
	return 0
}

// A program that is killed leaves nothing of what it had paused, once the next
// one has opened the directory.
func TestSweepPaused(t *testing.T) {
	for _, parent := range []string{"", testParent + "/other/deep"} {
		dir := t.TempDir()
		cmd := hostProgram(t, "host-paused", dir, newRootfs(t), parent)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, _ := bufio.NewReader(out).ReadString('\n')
		cmd.Process.Kill()
		cmd.Wait()
		if !strings.HasPrefix(line, testParent+"/") {
			t.Skip(line)
		}
		dirs := cgroupDirs(strings.TrimSpace(line))
		if len(dirs) == 0 {
			t.Fatal("no cgroup was there")
		}
		r, err := Open(Options{Dir: dir, CgroupParent: testParent})
		if err != nil {
			t.Fatal(err)
		}
		if left := cgroupDirs(strings.TrimSpace(line)); len(left) > 0 {
			t.Error("left:", left)
		}
		if left := cgroupDirs(testParent + "/other"); len(left) > 0 {
			t.Error("left:", left)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A container's cgroup stands below the parent that is asked for, which is made
// and removed again, unless it is somebody else's or something is in it.
func TestCgroupParent(t *testing.T) {
	r := openTest(t)
	s := fileSpec(t, newRootfs(t), "/bin/sleep")
	parent := testParent + "/made/for/it"
	a := start(t, r, s, CreateOptions{CgroupParent: "/" + parent + "/"})
	b := start(t, r, s, CreateOptions{CgroupParent: parent})
	for _, c := range []*Container{a, b} {
		if !strings.HasPrefix(c.CgroupPath(), parent+"/") {
			t.Error(c.CgroupPath())
		}
		cgroups, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.Pid()))
		if !strings.Contains(string(cgroups), ":/"+c.CgroupPath()+"\n") {
			t.Errorf("%s", cgroups)
		}
	}
	if a.CgroupPath() == b.CgroupPath() {
		t.Error(a.CgroupPath())
	}
	theirs := cgroupDirs(testParent + "/made")[0] + "/theirs"
	if err := os.Mkdir(theirs, 0o755); err != nil {
		t.Fatal(err)
	}
	a.Delete(background)
	b.Delete(background)
	r.cgroups.work.Wait()
	if left := cgroupDirs(testParent + "/made/for"); len(left) > 0 {
		t.Error("left:", left)
	}
	if _, err := os.Stat(theirs); err != nil {
		t.Error(err)
	}
	c := start(t, r, s, CreateOptions{CgroupParent: testParent + "/made"}) // again
	c.Delete(background)
	r.cgroups.work.Wait()
	if _, err := os.Stat(theirs); err != nil {
		t.Error(err)
	}
	os.Remove(theirs)
	for _, dir := range cgroupDirs(testParent + "/made") {
		os.Remove(dir)
	}
	for _, test := range []struct {
		parent string
		is     func(error) bool
		text   string
	}{
		{testParent + "/../x", errdefs.IsInvalidArgument, `".." is no name`},
		{"..", errdefs.IsInvalidArgument, `".."`},
		{"a\nb", errdefs.IsInvalidArgument, "no name"},
		{"my.slice", errdefs.IsNotImplemented, "systemd"},
		{"my.slice:inboard:x", errdefs.IsNotImplemented, "systemd"},
	} {
		if _, err := r.Start(background, s, CreateOptions{CgroupParent: test.parent}); err == nil || !test.is(err) || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%q: %v", test.parent, err)
		}
	}
}

func TestUpdate(t *testing.T) {
	needController(t, "memory")
	r := openTest(t)
	c := idle(t, r, func(s *specs.Spec) { limitMemory(s, 64<<20) })
	limits := func(n int64) *specs.LinuxResources {
		return &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &n, Swap: &n}, Pids: &specs.LinuxPids{Limit: ptr(int64(50))}}
	}
	if err := c.Update(background, limits(128<<20)); err != nil {
		t.Fatal(err)
	}
	if s, err := c.Stats(background); err != nil || s.Memory.Limit != 128<<20 || s.Pids.Limit != 50 || s.Pids.Current == 0 || s.Memory.Usage == 0 {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err := ReadStats(c.CgroupPath()); err != nil || s.Memory.Limit != 128<<20 {
		t.Errorf("%+v, %v", s, err)
	}
	if err := c.Update(background, limits(4096)); !errdefs.IsFailedPrecondition(err) {
		t.Error("below what is in use:", err)
	}
	if c.Pid() == 0 {
		t.Error("it was killed for that")
	}
	pauseTest(t, c)
	if err := c.Update(background, limits(-1)); err != nil {
		t.Error("paused:", err)
	}
	if s, err := c.Stats(background); err != nil || s.Memory.Limit != NoLimit {
		t.Errorf("%+v, %v", s, err)
	}
	c.Delete(background)
	if err := c.Update(background, limits(128<<20)); !errdefs.IsFailedPrecondition(err) {
		t.Error("after the end:", err)
	}
	r.cgroups.work.Wait()
	if _, err := ReadStats(c.CgroupPath()); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}

// The kernel may kill a child for want of memory and the container goes on: that
// is told by Stats, and at its end.
func TestOOMKillOfAnother(t *testing.T) {
	needController(t, "memory")
	r := openTest(t)
	c := idle(t, r, func(s *specs.Spec) { limitMemory(s, 64<<20) })
	s := newSpec(t, "/", "eat", "200")
	for n := uint64(1); n < 3; n++ {
		x, err := c.Exec(background, s.Process, ProcessOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if st := wait(t, x); !st.OOMKilled || st.Signal != unix.SIGKILL {
			t.Errorf("%+v", st)
		}
		if s, err := c.Stats(background); err != nil || s.Memory.OOMKills != n || c.Pid() == 0 {
			t.Errorf("%+v, %v", s.Memory, err)
		}
	}
}
