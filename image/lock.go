package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
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

// lockFile waits for the lock of the file at path, which it creates.
func lockFile(path string, mode lockMode) (*fileLock, error) {
	l, err := openLock(path, mode, true)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	return l, nil
}

// lockFileUntil is lockFile for somebody who may not wait for long: a program that
// is stopped keeps its locks. What waits on goes when the lock is free.
func lockFileUntil(ctx context.Context, path string, mode lockMode) (*fileLock, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l, err := tryLockMode(path, mode)
	if l != nil || err != nil {
		return l, err
	}
	type locked struct {
		lock *fileLock
		err  error
	}
	got := make(chan locked)
	go func() {
		l, err := lockFile(path, mode)
		select {
		case got <- locked{l, err}:
		case <-ctx.Done():
			if l != nil {
				l.unlock()
			}
		}
	}()
	select {
	case g := <-got:
		return g.lock, g.err
	case <-ctx.Done():
		return nil, fmt.Errorf("lock %s, which another has: %w", path, ctx.Err())
	}
}

// tryLockFile is nil when somebody else has the lock.
func tryLockFile(path string) (*fileLock, error) { return tryLockMode(path, exclusive) }

// tryShareFile is nil when somebody else has the lock for itself.
func tryShareFile(path string) (*fileLock, error) { return tryLockMode(path, shared) }

func tryLockMode(path string, mode lockMode) (*fileLock, error) {
	l, err := openLock(path, mode, false)
	if errors.Is(err, errLocked) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	return l, nil
}

var errLocked = errors.New("locked by another")

func openLock(path string, mode lockMode, wait bool) (*fileLock, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if err := lock(f, mode, wait); err != nil {
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
			return nil, err
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
