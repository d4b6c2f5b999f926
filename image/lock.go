package image

import (
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

// tryLockFile is nil when somebody else has the lock.
func tryLockFile(path string) (*fileLock, error) {
	l, err := openLock(path, exclusive, false)
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
