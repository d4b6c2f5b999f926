package engine

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// pause pauses a container, or skips the test where the kernel cannot.
func pause(t *testing.T, c *Container) {
	t.Helper()
	err := c.Pause(t.Context())
	if errors.Is(err, ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func stateOf(t *testing.T, c *Container) State {
	t.Helper()
	info, err := c.Inspect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return info.State
}

func TestPause(t *testing.T) {
	e, img := plainImage(t)
	c := create(t, e, img, Config{Args: []string{"wait"}})
	for what, call := range map[string]func(context.Context) error{"pause": c.Pause, "unpause": c.Unpause} {
		if err := call(t.Context()); !errors.Is(err, ErrFailedPrecondition) || !strings.Contains(err.Error(), "not running, but created") {
			t.Errorf("%s before the start: %v", what, err)
		}
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitLog(t, c, "ready\n")
	if err := c.Unpause(t.Context()); !errors.Is(err, ErrFailedPrecondition) || !strings.Contains(err.Error(), "not paused") {
		t.Errorf("unpause of one that runs: %v", err)
	}
	for range 2 {
		pause(t, c)
		info, err := c.Inspect(t.Context())
		if err != nil || info.State != StatePaused || info.PID == 0 || info.Cgroup == "" {
			t.Errorf("%+v, %v", info, err)
		}
		for what, err := range map[string]error{
			"pause":  c.Pause(t.Context()),
			"start":  c.Start(t.Context()),
			"remove": c.Remove(t.Context(), RemoveOptions{}),
			"exec":   func() error { _, err := c.Exec(t.Context(), ExecConfig{Args: []string{"/prog"}}); return err }(),
		} {
			if !errors.Is(err, ErrFailedPrecondition) {
				t.Errorf("%s while it is paused: %v", what, err)
			}
		}
		if list, err := e.List(t.Context(), ListOptions{}); err != nil || len(list) == 0 {
			t.Errorf("%v, %v", list, err)
		}
		if s, err := c.Stats(t.Context()); err != nil || s.Time.IsZero() {
			t.Errorf("%+v, %v", s, err)
		}
		if err := c.Unpause(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := stateOf(t, c); s != StateRunning {
			t.Error(s)
		}
	}
	// A signal waits.
	pause(t, c)
	if err := c.Kill(t.Context(), syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if s := stateOf(t, c); s != StatePaused {
		t.Error(s)
	}
	if err := c.Unpause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if status, err := c.Wait(t.Context()); err != nil || status.Code != int(syscall.SIGUSR1) {
		t.Errorf("%v, %v", status, err)
	}
	for what, err := range map[string]error{
		"pause":   c.Pause(t.Context()),
		"unpause": c.Unpause(t.Context()),
		"stats":   func() error { _, err := c.Stats(t.Context()); return err }(),
	} {
		if !errors.Is(err, ErrFailedPrecondition) || !strings.Contains(err.Error(), "exited") {
			t.Errorf("%s after the end: %v", what, err)
		}
	}
}

// A container that ends as soon as it goes on has gone on.
func TestUnpauseToTheEnd(t *testing.T) {
	e, img := plainImage(t)
	c := started(t, e, img, Config{Args: []string{"wait"}})
	awaitLog(t, c, "ready\n")
	pause(t, c)
	if err := c.Kill(t.Context(), syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	err := c.settlePause(t.Context(), c.own.run, StateRunning, func(ctx context.Context, r *run) error {
		err := r.container.Resume(ctx)
		<-r.done
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// A paused container is ended as a running one is.
func TestPausedEnds(t *testing.T) {
	grace := time.Duration(0)
	for name, test := range map[string]struct {
		end  func(context.Context, *Container) error
		code int
	}{
		"stop":        {func(ctx context.Context, c *Container) error { return c.Stop(ctx, StopOptions{}) }, int(syscall.SIGTERM)},
		"stop now":    {func(ctx context.Context, c *Container) error { return c.Stop(ctx, StopOptions{Grace: &grace}) }, 137},
		"kill":        {func(ctx context.Context, c *Container) error { return c.Kill(ctx, syscall.SIGKILL) }, 137},
		"stop signal": {func(ctx context.Context, c *Container) error { return c.Kill(ctx, syscall.SIGTERM) }, int(syscall.SIGTERM)},
		"remove":      {func(ctx context.Context, c *Container) error { return c.Remove(ctx, RemoveOptions{Force: true}) }, 137},
	} {
		t.Run(name, func(t *testing.T) {
			e, img := plainImage(t)
			c := started(t, e, img, Config{Args: []string{"wait"}})
			awaitLog(t, c, "ready\n")
			wait := waitFor(t, c)
			pause(t, c)
			if err := test.end(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if status, err := wait(); err != nil || status.Code != test.code {
				t.Errorf("%v, %v", status, err)
			}
			if name == "remove" {
				return
			}
			info, err := c.Inspect(t.Context())
			if err != nil || info.State != StateExited || info.Cgroup != "" {
				t.Errorf("%+v, %v", info, err)
			}
			if err := c.Start(t.Context()); err != nil { // and runs again, unpaused
				t.Error(err)
			}
			if s := stateOf(t, c); s != StateRunning {
				t.Error(s)
			}
		})
	}
}

// Calls that change the state race: each is done, or says what is in its way,
// and the record is right in the end.
func TestPauseRaces(t *testing.T) {
	e, img := plainImage(t)
	c := started(t, e, img, Config{Args: []string{"stubborn"}})
	awaitLog(t, c, "ready\n")
	pause(t, c)
	if err := c.Unpause(t.Context()); err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	for _, call := range []func() error{
		func() error { return c.Pause(t.Context()) },
		func() error { return c.Unpause(t.Context()) },
		func() error { _, err := c.Stats(t.Context()); return err },
		func() error { return c.Kill(t.Context(), syscall.SIGTERM) },
		func() error { return c.Update(t.Context(), UpdateOptions{Resources: Resources{CPUShares: 512}}) },
	} {
		work.Go(func() {
			for range 20 {
				if err := call(); err != nil && !errors.Is(err, ErrFailedPrecondition) && !errors.Is(err, ErrUnsupported) {
					t.Error(err)
				}
			}
		})
	}
	work.Wait()
	if s := stateOf(t, c); !s.live() {
		t.Error(s)
	}
	if err := c.Kill(t.Context(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if status, err := c.Wait(t.Context()); err != nil || status.Signal != syscall.SIGKILL {
		t.Errorf("%v, %v", status, err)
	}
	if s := stateOf(t, c); s != StateExited {
		t.Error(s)
	}
}

// Of another program's container, paused there.
func TestPausedOfOtherProgram(t *testing.T) {
	e, root, ref := foreignRoot(t, nil)
	grace := time.Duration(0)
	for name, end := range map[string]struct {
		end  func(*Container) error
		code string
	}{
		"stop":     {func(c *Container) error { return c.Stop(t.Context(), StopOptions{}) }, "15"},
		"stop now": {func(c *Container) error { return c.Stop(t.Context(), StopOptions{Grace: &grace}) }, "137"},
		"remove":   {func(c *Container) error { return c.Remove(t.Context(), RemoveOptions{Force: true}) }, "137"},
	} {
		other := newOtherProgramOf(t, "run paused", root, ref, "theirs", "wait")
		c, err := e.Lookup(t.Context(), other.id)
		if err != nil {
			t.Fatal(err)
		}
		if s := stateOf(t, c); s != StatePaused {
			t.Fatal(s)
		}
		if s, err := c.Stats(t.Context()); err != nil || s.CPU.Usage == 0 {
			t.Errorf("%+v, %v", s, err)
		}
		if err := end.end(c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if line := other.line(); line != end.code {
			t.Errorf("%s: they saw %q", name, line)
		}
		if _, err := c.Stats(t.Context()); !errors.Is(err, ErrFailedPrecondition) && !errors.Is(err, ErrNotFound) {
			t.Errorf("statistics after the end: %v", err)
		}
		other.end()
	}
}

// A program that dies with a paused container leaves nothing.
func TestKillNinePaused(t *testing.T) {
	e, root, ref := foreignRoot(t, nil)
	other := newOtherProgramOf(t, "run paused", root, ref, "theirs", "wait")
	c, err := e.Lookup(t.Context(), other.id)
	if err != nil {
		t.Fatal(err)
	}
	info, err := c.Inspect(t.Context())
	if err != nil || info.State != StatePaused {
		t.Fatalf("%+v, %v", info, err)
	}
	there := func() (dirs []string) {
		for _, pattern := range []string{"/sys/fs/cgroup/" + info.Cgroup, "/sys/fs/cgroup/*/" + info.Cgroup} {
			found, _ := filepath.Glob(pattern)
			dirs = append(dirs, found...)
		}
		return dirs
	}
	if len(there()) == 0 {
		t.Fatal("no cgroup: the test sees nothing")
	}
	wait := waitFor(t, c)
	watches.watching(2)
	other.kill()
	if status, err := wait(); err != nil || status.Known {
		t.Errorf("%v, %v", status, err)
	}
	if s := stateOf(t, c); s != StateExited {
		t.Error(s)
	}
	testEngine(t, root)
	if left := there(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if left := ownedBy(t, root, info.Owner.Engine); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}
