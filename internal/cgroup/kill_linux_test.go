package cgroup

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestKill(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		c := newCgroup(t, h, "n")
		kill(t, c) // of nobody
		a := start(t, c, "sleep")
		b := start(t, c, "sleep")
		a.line(t)
		b.line(t)
		kill(t, c)
		if pids, err := c.Pids(); err != nil || len(pids) > 0 {
			t.Errorf("left: %v, %v", pids, err)
		}
		for _, x := range []*actor{a, b} {
			x.cmd.Wait()
			if ws := x.cmd.ProcessState.Sys().(syscall.WaitStatus); !ws.Signaled() || ws.Signal() != syscall.SIGKILL {
				t.Errorf("%v, want killed", x.cmd.ProcessState)
			}
		}
		remove(t, c)
	})
}

// Chains of processes that fork and end at once are never where a list of
// processes says.
func TestKillForkStorm(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		c := newCgroup(t, h, "n")
		startStorm(t, c, true)
		if pids, err := c.Pids(); err != nil || len(pids) == 0 {
			t.Fatalf("no storm: %v, %v", pids, err)
		}
		kill(t, c)
		if pids, err := c.Pids(); err != nil || len(pids) > 0 {
			t.Errorf("left: %v, %v", pids, err)
		}
		remove(t, c)
	})
}

// startStorm starts a storm in c; in its v2 cgroup too if unified says so.
func startStorm(t *testing.T, c *Cgroup, unified bool) {
	t.Helper()
	if c.parent.host.version("pids") != 0 {
		set(t, c, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr[int64](400)}})
	}
	join, err := c.Join()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := c.Dir()
	if err != nil {
		t.Fatal(err)
	}
	kind := "nodir"
	files := slices.Clone(join)
	if dir != nil && unified {
		kind, files = "dir", append(files, dir)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{"storm", strconv.Itoa(len(join)), kind}
	cmd.Env = []string{roleEnv + "=storm"}
	cmd.ExtraFiles = files
	cmd.Stderr = os.Stderr
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	if s, err := bufio.NewReader(out).ReadString('\n'); s != "ready\n" {
		t.Fatal(s, err)
	}
}

func TestKillNotOneself(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		c := newCgroup(t, h, "n")
		a := start(t, c, "self", c.Path())
		for _, what := range []string{"kill", "remove"} {
			if got := a.line(t); got != what+" true" {
				t.Errorf("%s: is it refused?", got)
			}
		}
		if err := a.cmd.Wait(); err != nil {
			t.Error(err)
		}
		remove(t, c)
	})
}

func TestRemoveWaits(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		c := newCgroup(t, h, "n")
		a := start(t, c, "sleep")
		a.line(t)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		err := c.Remove(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), strconv.Itoa(a.cmd.Process.Pid)) {
			t.Errorf("remove of what is in use: %v", err)
		}
		done := make(chan error)
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			done <- c.Remove(ctx)
		}()
		a.in.Close() // it ends, at some time while Remove waits
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// What a container that may write its cgroups has nested goes with it.
func TestRemoveNested(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		c := newCgroup(t, h, "n")
		for i, y := range h.hierarchies {
			if !c.madeIn(i) {
				continue
			}
			path := c.path
			for d := range 40 {
				path += "/" + fmt.Sprint(d)
				for _, p := range []string{path, path + "x"} {
					if err := unix.Mkdirat(y.root, p, 0o755); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		remove(t, c)
		if names := below(t, h, testPath); len(names) > 0 {
			t.Errorf("left: %v", names)
		}
	})
}

func TestRemoveAll(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		var actors []*actor
		for _, name := range []string{"r/a", "r/b", "r/b/c", "s"} {
			c, err := h.New(testPath + "/" + name)
			if err != nil {
				t.Fatal(err)
			}
			// v2 has no processes in a cgroup whose children have controllers.
			if name != "r/b" {
				actors = append(actors, start(t, c, "sleep"))
			}
			c.Close()
		}
		for _, a := range actors {
			a.line(t)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := h.RemoveAll(ctx, testPath+"/r"); err != nil {
			t.Fatal(err)
		}
		if err := h.RemoveAll(ctx, testPath+"/r"); err != nil {
			t.Error("again:", err)
		}
		names := below(t, h, testPath)
		if names = slices.Compact(names); len(names) == 0 || names[0] != "s" {
			t.Errorf("below: %v, want s", names)
		}
		if err := actors[2].cmd.Process.Signal(syscall.Signal(0)); err != nil {
			t.Error("process outside was killed:", err)
		}
		if err := h.RemoveAll(ctx, testPath); err != nil {
			t.Error(err)
		}
	})
}

func TestPrune(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		c := newCgroup(t, h, "r/n")
		if err := h.Prune(testPath); err != nil {
			t.Error(err)
		}
		if names := below(t, h, testPath+"/r"); len(names) == 0 {
			t.Error("a parent in use was removed")
		}
		remove(t, c)
		for _, p := range []string{testPath + "/r", testPath, testPath} {
			if err := h.Prune(p); err != nil {
				t.Error(err)
			}
		}
		if left := leftBehind(); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})
}
