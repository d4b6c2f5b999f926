package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func init() {
	programs["handle"] = handleSignals
}

func TestExitCodes(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	for _, code := range []int{0, 1, 42, 125, 127, 128, 137, 255} {
		writeFile(t, root+"/bin/code", string(exitProgram(byte(code))), 0o755)
		c := start(t, r, fileSpec(t, root, "/bin/code"), CreateOptions{})
		if st := wait(t, c); st != (Status{Code: code, Known: true}) {
			t.Errorf("exit code %d: %+v", code, st)
		}
		if err := os.Remove(root + "/bin/code"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSignals(t *testing.T) {
	r := openTest(t)
	ctx := context.Background()
	c := start(t, r, fileSpec(t, newRootfs(t), "/bin/sleep"), CreateOptions{})
	for _, sig := range []syscall.Signal{unix.SIGKILL, unix.SIGTERM, unix.SIGUSR1, unix.SIGXCPU} {
		x, err := c.Exec(ctx, &specs.Process{Args: []string{"/bin/sleep"}, Cwd: "/"}, ProcessOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := x.Signal(ctx, sig); err != nil {
			t.Fatal(err)
		}
		if st := wait(t, x); st != (Status{Code: 128 + int(sig), Signal: sig, Known: true}) {
			t.Errorf("%v: %+v", sig, st)
		}
		if err := x.Signal(ctx, sig); !errdefs.IsNotFound(err) || x.Pid() != 0 {
			t.Errorf("signal after the end: %v; pid %d", err, x.Pid())
		}
	}
	if err := c.Signal(ctx, unix.SIGTERM); err != nil { // ignored: it is pid 1 of its namespace
		t.Error(err)
	}
	if err := c.Signal(ctx, unix.SIGKILL); err != nil {
		t.Error(err)
	}
	if st := wait(t, c); st != (Status{Code: 137, Signal: unix.SIGKILL, Known: true}) {
		t.Errorf("%+v", st)
	}
	if err := c.Signal(ctx, unix.SIGKILL); !errdefs.IsNotFound(err) || c.Pid() != 0 {
		t.Errorf("signal after the end: %v; pid %d", err, c.Pid())
	}
	done, cancel := context.WithCancel(ctx)
	cancel()
	if err := idle(t, r, nil).Signal(done, unix.SIGKILL); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// handleSignals says when it is ready and which signal came.
func handleSignals(args []string) int {
	ch := make(chan os.Signal, 1)
	notify(ch)
	fmt.Println("ready")
	fmt.Println(<-ch)
	return 7
}

func TestSignalHandler(t *testing.T) {
	r := openTest(t)
	out := newLines()
	c := start(t, r, newSpec(t, newRootfs(t), "handle"), CreateOptions{ProcessOptions: ProcessOptions{Stdout: out}})
	out.want(t, "ready")
	if err := c.Signal(context.Background(), unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	out.want(t, "user defined signal 1")
	if st := wait(t, c); st != (Status{Code: 7, Known: true}) {
		t.Error(st)
	}
}

// Many callers, before and after the end, get the same answer.
func TestManyWaiters(t *testing.T) {
	r := openTest(t)
	c := idle(t, r, nil)
	var group sync.WaitGroup
	for range 50 {
		group.Go(func() {
			if st := wait(t, c); st.Signal != unix.SIGKILL {
				t.Error(st)
			}
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := c.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	c.Signal(context.Background(), unix.SIGKILL)
	group.Wait()
	if st, err := c.Wait(ctx); err != nil || st.Signal != unix.SIGKILL { // what is known needs no waiting
		t.Error(st, err)
	}
	c.Delete(context.Background())
	if st := wait(t, c); st.Signal != unix.SIGKILL {
		t.Error("after Delete:", st)
	}
}

// A context that ends after Start has returned never kills.
func TestContextAfterStart(t *testing.T) {
	r := openTest(t)
	ctx, cancel := context.WithCancel(context.Background())
	c, err := r.Start(ctx, newSpec(t, newRootfs(t), "idle"), CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Delete(context.Background())
	x, err := c.Exec(ctx, newProgramProcess(newSpec(t, "/", ""), "idle"), ProcessOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	p := newProgramProcess(newSpec(t, "/", ""), "exit", "3")
	y, err := c.Exec(context.Background(), p, ProcessOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if st := wait(t, y); st.Code != 3 {
		t.Error(st)
	}
	if c.Pid() == 0 || x.Pid() == 0 {
		t.Errorf("pids %d and %d after the context's end", c.Pid(), x.Pid())
	}
}

// Wherever the end of its context finds a start or an exec, it works or it
// fails with the context's error, and what fails leaves nothing behind.
func TestContextDuringStart(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	c := idle(t, r, nil)
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := r.Start(ended, fileSpec(t, root, "/bin/true"), CreateOptions{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := r.Create(ended, fileSpec(t, root, "/bin/true"), CreateOptions{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := c.Exec(ended, fileSpec(t, root, "/bin/true").Process, ProcessOptions{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	check := func(what string, err error) {
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Error(what, err)
		}
	}
	for range few(60) {
		ctx, cancel := context.WithCancel(context.Background())
		go cancel()
		n, err := r.Start(ctx, fileSpec(t, root, "/test"), CreateOptions{})
		check("start:", err)
		if err == nil {
			n.Delete(context.Background())
		}
		ctx, cancel = context.WithCancel(context.Background())
		n, err = r.Create(ctx, fileSpec(t, root, "/bin/true"), CreateOptions{})
		check("create:", err)
		if err == nil {
			go cancel()
			check("start of a created one:", n.Start(ctx))
			n.Delete(context.Background())
		}
		cancel()
		ctx, cancel = context.WithCancel(context.Background())
		go cancel()
		x, err := c.Exec(ctx, fileSpec(t, root, "/bin/true").Process, ProcessOptions{})
		check("exec:", err)
		if err == nil {
			wait(t, x)
		}
	}
	if children := nestedChildren(t, c); len(children) != 0 {
		t.Errorf("processes %v were left in the container", children)
	}
}

// nestedChildren lists the processes of a container's pid namespace but the first.
func nestedChildren(t *testing.T, c *Container) (list []string) {
	t.Helper()
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", c.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if other, _ := os.Readlink("/proc/" + e.Name() + "/ns/pid"); other == ns && e.Name() != strconv.Itoa(c.Pid()) {
			comm, _ := os.ReadFile("/proc/" + e.Name() + "/comm")
			list = append(list, e.Name()+" "+strings.TrimSpace(string(comm)))
		}
	}
	return list
}

// Statuses of exec'd processes arrive at their own callers, however many there
// are at once, and also those that end before their pid is known.
func TestParallelExec(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	c := idle(t, r, func(s *specs.Spec) { s.Root.Path = root })
	other := idle(t, r, func(s *specs.Spec) { s.Root.Path = root })
	for code := range 8 {
		writeFile(t, fmt.Sprintf("%s/bin/exit%d", root, code), string(exitProgram(byte(code))), 0o755)
	}
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for j := range few(100) {
				in := []*Container{c, other}[j%2]
				code := (i + j) % 8
				x, err := in.Exec(context.Background(), &specs.Process{Args: []string{fmt.Sprintf("/bin/exit%d", code)}, Cwd: "/"}, ProcessOptions{})
				if err != nil {
					t.Error(err)
					return
				}
				if st := wait(t, x); st != (Status{Code: code, Known: true}) {
					t.Errorf("code %d: %+v", code, st)
				}
			}
		})
	}
	group.Wait()
	for _, c := range []*Container{c, other} {
		c.standby.drop(true)
		c.entered.Wait()
	}
	k := c.process.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.forks != 0 || len(k.strays) != 0 || len(k.children) != 2 || len(k.asked) != 0 {
		t.Errorf("the keeper's books: %d forks, %d strays, %d children, %d asked", k.forks, len(k.strays), len(k.children), len(k.asked))
	}
}

// Many containers at once, as a test harness starts them.
func TestParallelStart(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			for i := range few(20) {
				name := []string{"/bin/true", "/bin/false"}[i%2]
				c, err := r.Start(context.Background(), fileSpec(t, root, name), CreateOptions{})
				if err != nil {
					t.Error(err)
					return
				}
				if st := wait(t, c); st != (Status{Code: i % 2, Known: true}) {
					t.Errorf("%s: %+v", name, st)
				}
				if err := c.Delete(context.Background()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
}

// The pid that a program reports is input: one that is somebody else's, or
// nobody's, is not adopted.
func TestAdopt(t *testing.T) {
	known := &child{pid: 5, ended: make(chan struct{})}
	k := &keeper{gone: make(chan struct{}), children: map[int]*child{5: known}, strays: map[int]unix.WaitStatus{}}
	k.expectFork()
	k.expectFork()
	k.expectFork()
	k.exited(9, 0x100)
	if c := k.adopt(5); c != nil || k.children[5] != known {
		t.Error("adopted a child that was somebody's")
	}
	if c := k.adopt(-1); c != nil {
		t.Error("adopted nobody")
	}
	if c := k.adopt(9); c == nil || !c.known || c.status.ExitStatus() != 1 {
		t.Errorf("a stray: %+v", c)
	}
	if k.forks != 0 || len(k.strays) != 0 {
		t.Errorf("%d forks, %d strays", k.forks, len(k.strays))
	}
	k.exited(11, 0)
	if len(k.strays) != 0 {
		t.Error("a stray was kept that nobody expects")
	}
}
