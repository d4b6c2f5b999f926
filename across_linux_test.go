package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

func init() { helpers["exec"] = helperExec }

// helperExec is another program that runs a process in a container of any: ROOT
// NAME ARG... It says its PID, and lives until it is killed.
func helperExec(args []string) error {
	ctx := context.Background()
	e, err := Open(WithRoot(args[0]), WithCgroupParent(os.Getenv("INBOARD_TEST_CGROUP")))
	if err != nil {
		return err
	}
	c, err := e.Lookup(ctx, args[1])
	if err != nil {
		return err
	}
	out := make(chan string, 1)
	x, err := c.Exec(ctx, ExecConfig{Args: append([]string{"/prog", programFlag}, args[2:]...), Stdout: firstWrite(out)})
	if err != nil {
		return err
	}
	<-out
	fmt.Println(x.PID())
	select {}
}

// firstWrite hands on what is written first.
type firstWrite chan string

func (w firstWrite) Write(p []byte) (int, error) {
	select {
	case w <- string(p):
	default:
	}
	return len(p), nil
}

func awaitProcess(t *testing.T, process *os.File) {
	t.Helper()
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(process.Fd()), Events: unix.POLLIN}}, -1)
		if err == nil {
			return
		} else if !errors.Is(err, unix.EINTR) {
			t.Fatal(err)
		}
	}
}

// execHere runs a program in a container of any program, and gives its output.
func execHere(t *testing.T, c *Container, x ExecConfig, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	x.Args, x.Stdout, x.Stderr = append([]string{"/prog", programFlag}, args...), &out, &out
	p, err := c.Exec(t.Context(), x)
	if err != nil {
		t.Fatal(err)
	}
	if status, err := p.Wait(t.Context()); err != nil || status != (Status{Known: true}) {
		t.Fatalf("%v, %v: %s", status, err, out.String())
	}
	return out.String()
}

// A process that another program starts in a container has the container's
// limits and restrictions, and what its Config and image say.
func TestExecOtherPrograms(t *testing.T) {
	e, root, ref := foreignRoot(t, func(c *v1.ConfigFile) {
		c.Config.User, c.Config.WorkingDir, c.Config.Env = "app", "/data", []string{"FROM=image"}
	})
	other := newOtherProgram(t, root, ref, "restricted", "wait")
	c, err := e.Lookup(t.Context(), "restricted")
	if err != nil {
		t.Fatal(err)
	}
	awaitLog(t, c, "ready\n")
	info, err := c.Inspect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	inside := func(pid int, file string) string {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	out := make(chan string, 1)
	x, err := c.Exec(t.Context(), ExecConfig{Args: []string{"/prog", programFlag, "wait"}, Stdout: firstWrite(out)})
	if err != nil {
		t.Fatal(err)
	}
	<-out
	for _, file := range []string{"cgroup", "limits"} {
		if a, b := inside(info.PID, file), inside(x.PID(), file); a != b {
			t.Errorf("%s: %s\nof the container %s", file, b, a)
		}
	}
	for line := range strings.Lines(inside(info.PID, "status")) {
		key, _, _ := strings.Cut(line, ":")
		switch key {
		case "Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Umask":
			if !strings.Contains(inside(x.PID(), "status"), line) {
				t.Errorf("not %s of the container's, but %s", line, inside(x.PID(), "status"))
			}
		}
	}
	for _, ns := range []string{"mnt", "pid", "net", "uts", "ipc", "cgroup"} {
		a, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", info.PID, ns))
		b, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", x.PID(), ns))
		if a != b || a == "" {
			t.Errorf("%s namespace %s, of the container %s", ns, b, a)
		}
	}
	if err := x.Kill(t.Context(), syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if status, err := x.Wait(t.Context()); err != nil || status != (Status{Code: 10, Known: true}) {
		t.Error(status, err)
	}
	if got := execHere(t, c, ExecConfig{}, "id"); got != "1000 1000 [1000 2000] /data\n" {
		t.Errorf("%q", got)
	}
	if got := execHere(t, c, ExecConfig{User: "0", WorkingDir: "/tmp"}, "id"); got != "0 0 [0] /tmp\n" {
		t.Errorf("%q", got)
	}
	if got := execHere(t, c, ExecConfig{Env: []string{"MORE=exec"}}, "env"); !strings.Contains(got, "FROM=image\n") || !strings.Contains(got, "MORE=exec\n") || !strings.Contains(got, "HOSTNAME="+c.ID()[:12]+"\n") {
		t.Errorf("%q", got)
	}
	var command *CommandError
	if _, err := c.Exec(t.Context(), ExecConfig{Args: []string{"nothing"}}); !errors.As(err, &command) || command.Code != 127 {
		t.Error(err)
	}
	if _, err := c.Exec(t.Context(), ExecConfig{}); !errors.Is(err, ErrInvalidArgument) {
		t.Error(err)
	}
	if r, err := e.root.records().read(c.ID()); err != nil || !r.Exposed {
		t.Errorf("not exposed: %+v, %v", r, err)
	}
	// A number that has become another process's is not entered.
	pid := func(n int) {
		if err := e.root.records().change(t.Context(), c.ID(), map[string]int{"pid": n}); err != nil {
			t.Fatal(err)
		}
	}
	pid(os.Getpid())
	if _, err := c.Exec(t.Context(), ExecConfig{Args: []string{"x"}}); !errors.Is(err, ErrFailedPrecondition) {
		t.Errorf("exec by a number that is another's: %v", err)
	}
	img, err := e.LookupImage(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	joins := create(t, e, img, Config{Args: []string{"exit", "0"}, Network: Network("container:" + c.ID())})
	if err := joins.Start(t.Context()); !errors.Is(err, ErrFailedPrecondition) {
		t.Errorf("join by a number that is another's: %v", err)
	}
	pid(info.PID)
	if err := c.Kill(t.Context(), syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(t.Context(), ExecConfig{Args: []string{"x"}}); !errors.Is(err, ErrFailedPrecondition) {
		t.Errorf("after the end: %v", err)
	}
	if err := c.Remove(t.Context(), RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(t.Context(), ExecConfig{Args: []string{"x"}}); !errors.Is(err, ErrNotFound) {
		t.Errorf("after removal: %v", err)
	}
	other.end()
}

// A process in another program's container ends with the container's program,
// and with its own, which leaves the container alone.
func TestExecEndsWithPrograms(t *testing.T) {
	e, root, ref := foreignRoot(t, nil)
	owner := newOtherProgram(t, root, ref, "theirs", "stubborn")
	c, err := e.Lookup(t.Context(), "theirs")
	if err != nil {
		t.Fatal(err)
	}
	awaitLog(t, c, "ready\n")
	third := helperCommand(t, "exec", root, "theirs", "stubborn")
	third.Env = append(third.Env, "INBOARD_TEST_CGROUP="+cgroupParent)
	said, err := third.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := third.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	_, err = fmt.Fscan(said, &pid)
	if err != nil {
		third.Process.Kill()
		third.Wait()
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	process := os.NewFile(uintptr(fd), "exec'd process")
	third.Process.Kill()
	third.Wait()
	if err != nil {
		t.Fatal(err)
	}
	defer process.Close()
	awaitProcess(t, process)
	if info, err := c.Inspect(t.Context()); err != nil || info.State != StateRunning {
		t.Errorf("%v, %v", info.State, err)
	}
	out := make(chan string, 1)
	x, err := c.Exec(t.Context(), ExecConfig{Args: []string{"/prog", programFlag, "stubborn"}, Stdout: firstWrite(out)})
	if err != nil {
		t.Fatal(err)
	}
	<-out
	owner.kill()
	if status, err := x.Wait(t.Context()); err != nil || status.Signal != syscall.SIGKILL {
		t.Error(status, err)
	}
	if _, err := c.Exec(t.Context(), ExecConfig{Args: []string{"x"}}); !errors.Is(err, ErrFailedPrecondition) {
		t.Errorf("after its program's end: %v", err)
	}
	testEngine(t, root) // sweeps what both have left
}

// Programs that remove one container at the same time do it once; execs that
// meet that fail, or are killed.
func TestRemoveOtherProgramsRace(t *testing.T) {
	e, root, ref := foreignRoot(t, nil)
	second := testEngine(t, root)
	for range 5 {
		other := newOtherProgram(t, root, ref, "theirs", "pause")
		var group sync.WaitGroup
		var mu sync.Mutex
		removed := 0
		var handles []*Container
		for _, from := range []*Engine{e, second, e, second} {
			c, err := from.Lookup(t.Context(), "theirs")
			if err != nil {
				t.Fatal(err)
			}
			handles = append(handles, c)
		}
		for _, c := range handles {
			group.Go(func() {
				err := c.Remove(t.Context(), RemoveOptions{Force: true})
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					removed++
				} else if !errors.Is(err, ErrNotFound) {
					t.Errorf("remove: %v", err)
				}
			})
			group.Go(func() {
				x, err := c.Exec(t.Context(), ExecConfig{Args: []string{"/prog", programFlag, "pause"}})
				if err != nil {
					if !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrFailedPrecondition) {
						t.Errorf("exec: %v", err)
					}
					return
				}
				if status, err := x.Wait(t.Context()); err != nil || status.Signal != syscall.SIGKILL {
					t.Errorf("exec: %v, %v", status, err)
				}
			})
		}
		group.Wait()
		if removed != 1 {
			t.Errorf("removed %d times", removed)
		}
		if line := other.line(); line != "137" {
			t.Errorf("they saw %q", line)
		}
		other.end()
	}
}

// Three programs on one root: the death of each takes its own alone.
func TestEachItsOwn(t *testing.T) {
	e, root, ref := foreignRoot(t, nil)
	a := newOtherProgram(t, root, ref, "first", "stubborn")
	b := newOtherProgram(t, root, ref, "second", "stubborn")
	for _, name := range []string{"first", "second"} {
		c, err := e.Lookup(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		awaitLog(t, c, "ready\n")
	}
	a.kill()
	next := testEngine(t, root)
	if _, err := next.Lookup(t.Context(), "first"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	c, err := next.Lookup(t.Context(), "second")
	if err != nil {
		t.Fatal(err)
	}
	if got := execHere(t, c, ExecConfig{}, "echo", "alive"); got != "alive\n" {
		t.Errorf("%q", got)
	}
	grace := time.Duration(0)
	if err := c.Stop(t.Context(), StopOptions{Grace: &grace}); err != nil {
		t.Fatal(err)
	}
	if status, err := c.Wait(t.Context()); err != nil || status.Signal != syscall.SIGKILL {
		t.Error(status, err)
	}
	b.end()
}
