package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func freeze(t *testing.T, c *Cgroup) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := c.Freeze(ctx); err != nil {
		t.Fatal(err)
	}
}

// frozen tells what the kernel says.
func frozen(t *testing.T, c *Cgroup) bool {
	t.Helper()
	dir, v2, err := c.freezer()
	if err != nil {
		t.Fatal(err)
	}
	defer c.parent.Close()
	file, want := "freezer.state", "FROZEN\n"
	if v2 {
		file, want = "cgroup.events", "frozen 1\n"
	}
	text, err := readAt(dir, c.name+"/"+file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(text, want)
}

// ran is the processor time that a process has had.
func ran(t *testing.T, pid int) time.Duration {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
	if err != nil {
		t.Fatal(err)
	}
	used, _, _ := strings.Cut(string(data), " ")
	ns, err := strconv.ParseInt(used, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(ns)
}

// needsFreezer skips a test on a kernel without one for h.
func needsFreezer(t *testing.T, h *Host) {
	t.Helper()
	if _, ok := h.hierarchyOf("cgroup"); !ok {
		needs(t, h, "freezer")
	}
}

func TestFreeze(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		needsFreezer(t, h)
		c := newCgroup(t, h, "n")
		freeze(t, c) // nobody
		if err := c.Thaw(); err != nil {
			t.Fatal(err)
		}
		a, b := start(t, c, "echo"), start(t, c, "spin")
		a.line(t)
		b.line(t)
		for range 3 {
			freeze(t, c)
			if !frozen(t, c) {
				t.Fatal("not frozen")
			}
			before := ran(t, b.cmd.Process.Pid)
			fmt.Fprintln(a.in, "hello")
			for spent := time.Now(); time.Since(spent) < 20*time.Millisecond; { // it could run meanwhile
			}
			// The kernel says frozen an instant before it takes the processor away.
			if now := ran(t, b.cmd.Process.Pid); now > before+5*time.Millisecond {
				t.Errorf("it ran for %v", now-before)
			}
			if err := c.Thaw(); err != nil {
				t.Fatal(err)
			}
			if got := a.line(t); got != "hello" {
				t.Error(got)
			}
			if frozen(t, c) {
				t.Error("still frozen")
			}
		}
		freeze(t, c)
		kill(t, c)
		remove(t, c)
		if err := c.Freeze(context.Background()); !errors.Is(err, os.ErrClosed) {
			t.Error("freeze after removal:", err)
		}
	})
}

// On a hybrid host processes are brought to the freezer, however fast they
// fork; and they may fork again afterwards.
func TestFreezeForkStorm(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		needsFreezer(t, h)
		c := newCgroup(t, h, "n")
		startStorm(t, c, h.Mode() != Hybrid)
		limit := ""
		if h.version("pids") != 0 {
			limit = content(t, c, "pids", "pids.max")
		}
		for range 3 {
			freeze(t, c)
			before, err := c.Pids()
			if err != nil || len(before) == 0 {
				t.Fatal(before, err)
			}
			if now, err := c.Pids(); err != nil || fmt.Sprint(now) != fmt.Sprint(before) {
				t.Errorf("they fork on: %v, then %v, %v", before, now, err)
			}
			if err := c.Thaw(); err != nil {
				t.Fatal(err)
			}
		}
		if limit != "" && content(t, c, "pids", "pids.max") != limit {
			t.Errorf("pids.max is %s, was %s", content(t, c, "pids", "pids.max"), limit)
		}
		freeze(t, c)
		kill(t, c)
		remove(t, c)
	})
}

// A Freeze that is given up leaves nothing frozen.
func TestFreezeEndsWithContext(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		if h.Mode() != Hybrid {
			t.Skip("needs a host on which processes are moved first")
		}
		c := newCgroup(t, h, "n")
		cmd, err := command(c, "sleep")
		if err != nil {
			t.Fatal(err)
		}
		cmd.SysProcAttr.UseCgroupFD = false // it stays outside of the v2 cgroup
		a := run(t, c, cmd)
		a.line(t)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := c.Freeze(ctx); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if text, err := c.readCore("cgroup.freeze"); err != nil || strings.TrimSpace(text) != "0" {
			t.Errorf("cgroup.freeze %q, %v", text, err)
		}
		a.in.Close()
		if err := a.cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
}

// readCore reads a file of v2's core.
func (c *Cgroup) readCore(file string) (string, error) {
	i, _ := c.parent.host.hierarchyOf("cgroup")
	dir, err := c.parent.dir(i)
	if err != nil {
		return "", err
	}
	return readAt(dir, c.name+"/"+file)
}

func TestFreezeWithoutFreezer(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		if h.Mode() != V1 {
			t.Skip("needs a v1 host")
		}
		delete(h.where, "freezer")
		c := newCgroup(t, h, "n")
		for _, err := range []error{c.Freeze(context.Background()), c.Thaw()} {
			if !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "freezer") {
				t.Error(err)
			}
		}
	})
}

// What cannot freeze holds Freeze up until its context ends: here a process
// whose freezing is made undone all the time.
func TestFreezeV1Retries(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		if h.Mode() != V1 {
			t.Skip("needs a v1 host")
		}
		needs(t, h, "freezer")
		c := newCgroup(t, h, "n")
		dir, _, err := c.freezer()
		if err != nil {
			t.Fatal(err)
		}
		defer c.parent.Close()
		for range 3 {
			a := start(t, c, "spin")
			a.line(t)
		}
		stop := make(chan struct{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				select {
				case <-stop:
					return
				default:
					writeAt(dir, c.name+"/freezer.state", "THAWED")
				}
			}
		}()
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		for ctx.Err() == nil { // it may win
			err = c.Freeze(ctx)
		}
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		close(stop)
		<-done
		freeze(t, c)
		kill(t, c)
	})
}
