package layer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/inboard/engine/internal/lockwait"
	"golang.org/x/sys/unix"
)

// childLock has the lock of a directory until it is killed.
func childLock() {
	f, err := os.Open(os.Args[1])
	if err != nil {
		panic(err)
	}
	defer f.Close()
	if ok, err := tryLock(f); err != nil || !ok {
		panic(fmt.Sprint("no lock: ", err))
	}
	fmt.Println("locked")
	time.Sleep(time.Hour)
}

// TestConvertStopped: a program that is stopped while it makes a directory of a
// layer keeps nobody from giving up.
func TestConvertStopped(t *testing.T) {
	needRoot(t)
	s := openStore(t, FormIndex)
	l := mustAdd(t, s, someTar())
	dir, err := s.path(l.DiffID())
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(os.Args[0])
	c.Args = []string{os.Args[0], dir}
	c.Env = append(os.Environ(), childEnv+"=lock")
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	end := sync.OnceFunc(func() { c.Process.Kill(); c.Wait() })
	defer end()
	if said := bufio.NewScanner(out); !said.Scan() {
		t.Fatal("the child has no lock")
	}
	if err := c.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var status unix.WaitStatus
	for !status.Stopped() {
		if _, err := unix.Wait4(c.Process.Pid, &status, unix.WUNTRACED, nil); err != nil && err != unix.EINTR {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := s.convert(ctx, dir, l.rec); !errors.Is(err, lockwait.ErrHeld) || !errors.Is(err, context.DeadlineExceeded) || ctx.Err() == nil {
		t.Errorf("%v", err)
	}
	if now, err := s.Get(l.DiffID()); err != nil || now.Form() != FormIndex {
		t.Errorf("%+v, %v", now, err)
	}
	end()
	if err := s.convert(t.Context(), dir, l.rec); err != nil {
		t.Error(err)
	}
	noLeaks(t, s)
}

// TestMountWaits: of calls that want one layer, one mounts it. The others give up
// with their own contexts, and if it gives up, one of them goes on.
func TestMountWaits(t *testing.T) {
	needRoot(t)
	s := openStore(t, FormIndex)
	l := mustAdd(t, s, someTar())
	// As if another call mounted it.
	first := &mounted{ready: make(chan struct{}), refs: 1}
	s.mu.Lock()
	s.mounts[l.DiffID()] = first
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := l.Mount(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	got := make(chan error)
	go func() {
		m, err := l.Mount(t.Context())
		if err == nil {
			err = m.Close()
		}
		got <- err
	}()
	for waits := false; !waits; time.Sleep(time.Millisecond) {
		s.mu.Lock()
		waits = first.refs == 2
		s.mu.Unlock()
	}
	s.mu.Lock()
	first.err, first.refs = fmt.Errorf("%w: %w", lockwait.ErrHeld, context.Canceled), 1
	delete(s.mounts, l.DiffID())
	s.mu.Unlock()
	close(first.ready)
	if err := <-got; err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	noLeaks(t, s)
}
