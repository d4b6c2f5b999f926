package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/inboard/engine/internal/lockwait"
)

// A lock file is held by an open file description, so the kernel lets go of it
// when its holder ends, in whatever way. It is never removed by one who does
// not hold it.

// lockPatience is how long who cannot be told to give up waits for a lock that
// others have for moments.
const lockPatience = 10 * time.Second

var errNoPatience = fmt.Errorf("for %v: its program may be stopped: %w", lockPatience, ErrUnavailable)

// patient is ctx for waits for locks: a program that is stopped keeps those that
// it has. Where ctx has no end they end after a while.
func patient(ctx context.Context) (context.Context, context.CancelFunc) {
	if ctx.Done() != nil {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, lockPatience, errNoPatience)
}

// waitLock waits for the lock of an open file, as long as ctx is patient.
func waitLock(ctx context.Context, f *os.File) error {
	ctx, cancel := patient(ctx)
	defer cancel()
	if err := lockwait.Until(ctx, func() (bool, error) { return tryLock(f) }); err != nil {
		return fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return nil
}

// lockFile opens path, making it if it is missing, and waits for its lock, until
// ctx ends. Closing the file lets go.
func lockFile(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := waitLock(ctx, f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// tryLockFile takes the lock of an existing file, or returns nil if another
// holds it.
func tryLockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	ok, err := tryLock(f)
	if ok {
		return f, nil
	}
	f.Close()
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return nil, nil
}

// lockHeld tells whether anyone holds the lock of path. A file that is not
// there is held by nobody.
func lockHeld(path string) (bool, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	return isLocked(f)
}
