package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"

	"github.com/inboard/engine/internal/lockwait"
)

// fileLock is a lock on a file that the kernel frees when its holder dies. Two
// of them exclude each other also inside one process.
type fileLock struct {
	file *os.File
}

type lockMode int

const (
	shared lockMode = iota
	exclusive
)

// lockFile waits for the lock of the file at path, which it creates, until ctx
// ends: a program that is stopped keeps its locks.
func lockFile(ctx context.Context, path string, mode lockMode) (l *fileLock, err error) {
	err = lockwait.Until(ctx, func() (bool, error) {
		l, err = tryLockMode(path, mode)
		return l != nil, err
	})
	if errors.Is(err, lockwait.ErrHeld) {
		err = fmt.Errorf("lock %s: %w", path, err)
	}
	return l, err
}

// tryLockFile is nil when somebody else has the lock.
func tryLockFile(path string) (*fileLock, error) { return tryLockMode(path, exclusive) }

// tryShareFile is nil when somebody else has the lock for itself.
func tryShareFile(path string) (*fileLock, error) { return tryLockMode(path, shared) }

func tryLockMode(path string, mode lockMode) (*fileLock, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("lock: %w", err)
		}
		if ok, err := tryLock(f, mode); err != nil || !ok {
			f.Close()
			return nil, err
		}
		// The holder before may have removed the name: then this locks nothing.
		ours, err1 := f.Stat()
		named, err2 := os.Stat(path)
		if err1 == nil && err2 == nil && os.SameFile(ours, named) {
			return &fileLock{f}, nil
		}
		f.Close()
		if err := errors.Join(err1, err2); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("lock: %w", err)
		}
	}
}

// unlock frees the lock at once, whatever descriptors a child that is just being
// started may have inherited.
func (l *fileLock) unlock() {
	unlock(l.file)
	l.file.Close()
}

// remove unlocks and takes the file away. Where a file that is open cannot be
// removed, one that another opened in between stays.
func (l *fileLock) remove() {
	if runtime.GOOS == "windows" {
		l.unlock()
		os.Remove(l.file.Name())
		return
	}
	os.Remove(l.file.Name())
	l.unlock()
}
