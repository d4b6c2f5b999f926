package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

var background = context.Background()

func TestCreateThenStart(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	var out bytes.Buffer
	s := newSpec(t, root, "view")
	c, err := r.Create(background, s, CreateOptions{ID: "some-id", ProcessOptions: ProcessOptions{Stdout: &out}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Delete(background)
	if c.ID() != "some-id" || c.Pid() == 0 || !strings.HasPrefix(c.CgroupPath(), testParent+"/") {
		t.Errorf("%s, pid %d, %s", c.ID(), c.Pid(), c.CgroupPath())
	}
	// The command's process is there, in its namespaces, and has not executed it.
	if exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", c.Pid())); strings.Contains(exe, "/test") {
		t.Error("executed before Start:", exe)
	}
	if _, err := c.Exec(background, fileSpec(t, root, "/bin/true").Process, ProcessOptions{}); !errdefs.IsFailedPrecondition(err) {
		t.Error("exec before Start:", err)
	}
	ctx, cancel := context.WithCancel(background)
	cancel()
	if _, err := c.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Error("wait before Start:", err)
	}
	s.Process.Args[0] = "/changed/afterwards" // the spec is not kept
	if err := c.Start(background); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(background); !errdefs.IsFailedPrecondition(err) {
		t.Error("second Start:", err)
	}
	if st := wait(t, c); st != (Status{Known: true}) {
		t.Errorf("%v: %s", st, &out)
	}
	v := parseView(t, out.String())
	checkFiles(t, v)
	if v.Status["Seccomp"] != "2" || v.Hostname != "inside" {
		t.Errorf("%+v", v)
	}
	if err := c.Start(background); !errdefs.IsFailedPrecondition(err) {
		t.Error("Start after the end:", err)
	}
	if _, err := c.Exec(background, fileSpec(t, root, "/bin/true").Process, ProcessOptions{}); !errdefs.IsFailedPrecondition(err) {
		t.Error("exec after the end:", err)
	}
}

func TestCreateThenDelete(t *testing.T) {
	r := openTest(t)
	c, err := r.Create(background, fileSpec(t, newRootfs(t), "/bin/true"), CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.ID()) != 64 {
		t.Error("id", c.ID())
	}
	for range 2 {
		if err := c.Delete(background); err != nil {
			t.Error(err)
		}
	}
	if st, err := c.Wait(background); err != nil || st != (Status{Code: 137, Signal: unix.SIGKILL, Known: true}) {
		t.Error(st, err)
	}
	if err := c.Start(background); !errdefs.IsFailedPrecondition(err) {
		t.Error("start after Delete:", err)
	}
	if _, err := c.Exec(background, fileSpec(t, "/", "/bin/true").Process, ProcessOptions{}); !errdefs.IsFailedPrecondition(err) {
		t.Error("exec after Delete:", err)
	}
	if err := c.Signal(background, unix.SIGKILL); !errdefs.IsNotFound(err) || c.Pid() != 0 {
		t.Error("signal after Delete:", err)
	}
}

// A created container that is killed says so at Start.
func TestKilledBeforeStart(t *testing.T) {
	r := openTest(t)
	c, err := r.Create(background, fileSpec(t, newRootfs(t), "/bin/true"), CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Delete(background)
	c.Signal(background, unix.SIGKILL)
	if st := wait(t, c); st.Signal != unix.SIGKILL {
		t.Error(st)
	}
	if err := c.Start(background); !errors.Is(err, errNotReached) {
		t.Error(err)
	}
}

// Delete kills all that is in the container, and what calls it at the same time
// gets the same.
func TestDeleteKills(t *testing.T) {
	r := openTest(t)
	c := idle(t, r, nil)
	x, err := c.Exec(background, newProgramProcess(newSpec(t, "/", ""), "idle"), ProcessOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if err := c.Delete(background); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if st := wait(t, x); st.Signal != unix.SIGKILL {
		t.Error(st)
	}
	if st := wait(t, c); st.Signal != unix.SIGKILL {
		t.Error(st)
	}
}

// Execs that meet the end of their container fail or are killed, and do not end
// up in another container.
func TestExecWhileDeleted(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	for range few(30) {
		c := idle(t, r, func(s *specs.Spec) { s.Root.Path = root })
		var group sync.WaitGroup
		for range 4 {
			group.Go(func() {
				x, err := c.Exec(background, fileSpec(t, root, "/bin/true").Process, ProcessOptions{})
				if err == nil {
					x.Wait(background)
				}
			})
		}
		group.Go(func() { c.Delete(background) })
		next := idle(t, r, func(s *specs.Spec) { s.Root.Path = root })
		group.Wait()
		if n := nestedChildren(t, next); len(n) > 0 {
			t.Errorf("%v came into another container", n)
		}
		next.Delete(background)
	}
}

func TestClose(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	r, err := Open(Options{Dir: dir, CgroupParent: testParent})
	if err != nil {
		t.Fatal(err)
	}
	root := newRootfs(t)
	var running []*Container
	for range 3 {
		c, err := r.Start(background, newSpec(t, root, "idle"), CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		running = append(running, c)
	}
	created, err := r.Create(background, newSpec(t, root, "idle"), CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	paths := cgroupDirs(filepath.Dir(created.CgroupPath()))
	if len(paths) == 0 {
		t.Error("no cgroups")
	}
	for range 2 {
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range append(running, created) {
		if st, err := c.Wait(background); err != nil || st.Known && st.Signal != unix.SIGKILL {
			t.Error(st, err)
		}
		if err := c.Delete(background); err != nil {
			t.Error(err)
		}
	}
	for _, p := range paths {
		if _, err := os.Stat(p); err == nil {
			t.Error("left:", p)
		}
	}
	for _, f := range []func(context.Context, *specs.Spec, CreateOptions) (*Container, error){r.Start, r.Create} {
		if _, err := f(background, newSpec(t, root, "idle"), CreateOptions{}); !errdefs.IsFailedPrecondition(err) {
			t.Error("use after Close:", err)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Error("left:", left)
	}
}

// cgroupDirs lists the directories that a cgroup path has, in any hierarchy.
func cgroupDirs(path string) (dirs []string) {
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); strings.Contains(line, " - cgroup") {
			if _, err := os.Stat(filepath.Join(f[4], path)); err == nil {
				dirs = append(dirs, filepath.Join(f[4], path))
			}
		}
	}
	return dirs
}

// Close may come while containers start: each of them comes to be or not, and
// none is left.
func TestCloseWhileStarting(t *testing.T) {
	needRoot(t)
	root := newRootfs(t)
	for range few(10) {
		r, err := Open(Options{Dir: t.TempDir(), CgroupParent: testParent})
		if err != nil {
			t.Fatal(err)
		}
		var group sync.WaitGroup
		first := make(chan struct{}, 8)
		for range 4 {
			group.Go(func() {
				for {
					c, err := r.Start(background, fileSpec(t, root, "/bin/true"), CreateOptions{})
					first <- struct{}{}
					if err != nil {
						if !errdefs.IsFailedPrecondition(err) && !errdefs.IsUnavailable(err) {
							t.Error(err)
						}
						return
					}
					c.Wait(background)
					c.Delete(background)
					select {
					case <-first:
					default:
					}
				}
			})
		}
		<-first
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		group.Wait()
	}
}

// The keeper may be killed: its containers are gone then, nobody knows how they
// ended, and the next Start has a new one.
func TestKeeperKilled(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	for range 3 {
		c := idle(t, r, func(s *specs.Spec) { s.Root.Path = root })
		x, err := c.Exec(background, newProgramProcess(newSpec(t, root, ""), "idle"), ProcessOptions{})
		if err != nil {
			t.Fatal(err)
		}
		created, err := r.Create(background, newSpec(t, root, "idle"), CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		pids := []int{c.Pid(), x.Pid(), created.Pid()}
		if err := unix.Kill(c.process.keeper.pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		for _, p := range []interface {
			Wait(context.Context) (Status, error)
		}{c, x, created} {
			if st := wait(t, p); st.Known && st.Signal != unix.SIGKILL {
				t.Errorf("%+v", st)
			}
		}
		for _, pid := range pids {
			if state := processState(pid); state != "" && state != "Z" && state != "X" {
				t.Errorf("process %d is in state %s after Wait has returned", pid, state)
			}
		}
		if err := created.Start(background); !errdefs.IsUnavailable(err) {
			t.Error("start without keeper:", err)
		}
		if _, err := c.Exec(background, fileSpec(t, root, "/bin/true").Process, ProcessOptions{}); !errdefs.IsFailedPrecondition(err) {
			t.Error("exec without keeper:", err)
		}
		if err := errors.Join(c.Signal(background, unix.SIGKILL)); !errdefs.IsNotFound(err) {
			t.Error("signal without keeper:", err)
		}
		if text := output(t, r, newSpec(t, root, "exit", "0"), CreateOptions{}); text != "" {
			t.Error(text)
		}
		for _, c := range []*Container{c, created} {
			if err := c.Delete(background); err != nil {
				t.Error(err)
			}
		}
	}
	unix.Kill(r.nested.list[0].pid, unix.SIGKILL)
	<-r.nested.list[0].gone
	output(t, r, fileSpec(t, root, "/bin/true"), CreateOptions{})
}

// processState is the letter in /proc/PID/stat, or nothing if there is none.
func processState(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	return strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))[0]
}

// Two Runtimes in one directory know nothing of each other, and an Open sweeps
// only what has nobody.
func TestTwoRuntimes(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	o := Options{Dir: dir, CgroupParent: testParent}
	a, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	c := start(t, a, newSpec(t, newRootfs(t), "idle"), CreateOptions{})
	b, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if c.Pid() == 0 || len(cgroupDirs(c.CgroupPath())) == 0 {
		t.Error("the second Open has swept the first one's container")
	}
	output(t, b, fileSpec(t, newRootfs(t), "/bin/true"), CreateOptions{})
	b.Close()
	if c.Pid() == 0 {
		t.Error("Close has killed another Runtime's container")
	}
}
