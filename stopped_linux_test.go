package engine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

func init() {
	helpers["lock"] = helperLock
}

// helperLock takes the locks of files, of both kinds, says so, and has them until
// it is killed.
func helperLock(paths []string) error {
	for _, path := range paths {
		f, err := lockFile(context.Background(), path)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			return err
		}
	}
	fmt.Println("locked")
	time.Sleep(time.Hour)
	return nil
}

// stopped is a program that has locks, and is stopped by SIGSTOP. Its end is by
// the function.
func stopped(t *testing.T, paths ...string) (end func()) {
	t.Helper()
	cmd := helperCommand(t, "lock", paths...)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	t.Cleanup(end)
	if said := bufio.NewScanner(out); !said.Scan() || said.Text() != "locked" {
		t.Fatalf("the other program says %q", said.Text())
	}
	if err := cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(cmd.Process.Pid, &status, unix.WUNTRACED, nil)
		if err == nil && status.Stopped() {
			return end
		}
		if err != unix.EINTR {
			t.Fatalf("it is not stopped: %v, %v", status, err)
		}
	}
}

// endsWith checks that calls which wait for a stopped program end with their
// context, and not before.
func endsWith(t *testing.T, calls map[string]func(context.Context) error) {
	t.Helper()
	for what, call := range calls {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", what, err)
		} else if ctx.Err() == nil {
			t.Errorf("%s has not waited: %v", what, err)
		}
		cancel()
	}
}

// Whoever meets a program that is stopped while it opens or sweeps the root waits
// as long as his context lets him, and no longer.
func TestStoppedOpening(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	first := testEngine(t, root)
	end := stopped(t, filepath.Join(root, "lock"))
	later := new(Engine)
	later.options.root = root
	endsWith(t, map[string]func(context.Context) error{
		"open": func(ctx context.Context) error {
			e, err := OpenContext(ctx, WithRoot(root))
			if err == nil {
				err = e.Close()
			}
			return err
		},
		"the first call": func(ctx context.Context) error { _, err := later.List(ctx, ListOptions{}); return err },
		"a sweep":        first.sweepNow,
	})
	// Two calls that need it open, the second of which gives up.
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error)
	go func() {
		_, err := later.List(ctx, ListOptions{})
		result <- err
	}()
	for opening := false; !opening; time.Sleep(time.Millisecond) {
		later.opening.mu.Lock()
		opening = later.opening.busy != nil
		later.opening.mu.Unlock()
	}
	endsWith(t, map[string]func(context.Context) error{
		"the second call": func(ctx context.Context) error { _, err := later.Images(ctx); return err },
	})
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	// Close ends them, and for good.
	closed := new(Engine)
	closed.options.root = root
	go func() {
		_, err := closed.List(context.Background(), ListOptions{})
		result <- err
	}()
	for opening := false; !opening; time.Sleep(time.Millisecond) {
		closed.opening.mu.Lock()
		opening = closed.opening.busy != nil
		closed.opening.mu.Unlock()
	}
	if err := closed.Close(); err != nil {
		t.Error(err)
	}
	if err := <-result; !errors.Is(err, errClosed) {
		t.Errorf("%v", err)
	}
	end()
	// That one has given up means nothing to the next one.
	if _, err := later.List(t.Context(), ListOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := closed.List(t.Context(), ListOptions{}); !errors.Is(err, errClosed) {
		t.Errorf("%v", err)
	}
	if err := later.Close(); err != nil {
		t.Error(err)
	}
}

// Who cannot be told to give up does so after a while.
func TestLockPatience(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	synctest.Test(t, func(t *testing.T) {
		f, err := lockFile(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		began := time.Now()
		_, err = lockFile(context.Background(), path)
		if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), path) || time.Since(began) != lockPatience {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*lockPatience)
		defer cancel()
		began = time.Now()
		if _, err = lockFile(ctx, path); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 10*lockPatience {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}

// A program that is stopped while it changes the record of a container keeps
// nobody, and what others wanted of the container they get when it goes on.
func TestStoppedChange(t *testing.T) {
	e, root, ref := foreignRoot(t, nil)
	other := testEngine(t, root)
	img, err := e.LookupImage(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	still := create(t, e, img, Config{Args: []string{"pause"}})
	runs := started(t, e, img, Config{Args: []string{"pause"}})
	theirs, err := other.Lookup(t.Context(), still.ID())
	if err != nil {
		t.Fatal(err)
	}
	d := e.root.records()
	end := stopped(t, d.path(still.ID()), d.path(runs.ID()))
	calls := map[string]func(context.Context) error{
		"pause": runs.Pause,
		"update": func(ctx context.Context) error {
			return still.Update(ctx, UpdateOptions{Resources: Resources{Pids: 100}})
		},
		"rename":            func(ctx context.Context) error { return still.Rename(ctx, "stopped-ours") },
		"rename of another": func(ctx context.Context) error { return theirs.Rename(ctx, "stopped-theirs") },
		"start":             still.Start,
		"remove of another": func(ctx context.Context) error { return theirs.Remove(ctx, RemoveOptions{}) },
		"remove":            func(ctx context.Context) error { return still.Remove(ctx, RemoveOptions{}) },
	}
	endsWith(t, calls)
	for name, want := range map[string]error{"stopped-ours": ErrNotFound, "stopped-theirs": ErrNotFound, still.ID(): nil} {
		if _, err := other.Lookup(t.Context(), name); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for c, want := range map[*Container]State{still: StateCreated, runs: StateRunning} {
		if info, err := c.Inspect(t.Context()); err != nil || info.State != want {
			t.Errorf("%s, not %s: %v", info.State, want, err)
		}
	}
	// The end of a container waits for no context.
	if err := runs.Kill(t.Context(), unix.SIGKILL); err != nil {
		t.Error(err)
	}
	end()
	if status, err := runs.Wait(t.Context()); err != nil || status.Signal != unix.SIGKILL {
		t.Errorf("%v, %v", status, err)
	}
	if info, err := runs.Inspect(t.Context()); err != nil || info.State != StateExited || !info.Status.Known {
		t.Errorf("%+v, %v", info, err)
	}
	for _, what := range []string{"update", "rename", "rename of another", "start"} {
		if err := calls[what](t.Context()); err != nil {
			t.Errorf("%s afterwards: %v", what, err)
		}
	}
}

// A program that is stopped while it changes the image store keeps nobody from
// giving up, and neither does one who waits for it.
func TestStoppedImages(t *testing.T) {
	e, root, ref := foreignRoot(t, nil)
	img, err := e.LookupImage(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	images := filepath.Join(root, "images")
	if err := os.Mkdir(filepath.Join(images, "claims", "x"), 0o700); err != nil { // to be swept
		t.Fatal(err)
	}
	end := stopped(t, filepath.Join(images, "lock"))
	calls := map[string]func(context.Context) error{
		"create": func(ctx context.Context) error {
			c, err := e.Create(ctx, img, Config{Args: []string{"exit", "0"}, Network: NetworkNone})
			if err == nil {
				err = c.Remove(t.Context(), RemoveOptions{})
			}
			return err
		},
		"hold": func(ctx context.Context) error {
			release, err := e.images.Hold(ctx, img.ID(), "test")
			if err == nil {
				err = release()
			}
			return err
		},
		"remove": func(ctx context.Context) error { _, err := img.Remove(ctx, RemoveImageOptions{}); return err },
		"open": func(ctx context.Context) error {
			e, err := OpenContext(ctx, WithRoot(root))
			if err == nil {
				err = e.Close()
			}
			return err
		},
	}
	endsWith(t, calls)
	// One has begun to hold the image, and the others wait for him.
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error)
	go func() { result <- calls["create"](ctx) }()
	for waiting := false; !waiting; time.Sleep(time.Millisecond) {
		e.holds.mu.Lock()
		waiting = e.holds.held[img.ID()] != nil && len(e.holds.held[img.ID()].turn) > 0
		e.holds.mu.Unlock()
	}
	endsWith(t, map[string]func(context.Context) error{"create, too": calls["create"]})
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if entries, err := os.ReadDir(filepath.Join(root, "engines")); err != nil || len(entries) != 1 {
		t.Errorf("left of an Engine that was not opened: %v, %v", entries, err)
	}
	end()
	for _, what := range []string{"create", "hold", "open", "remove"} {
		if err := calls[what](t.Context()); err != nil {
			t.Errorf("%s afterwards: %v", what, err)
		}
	}
}
