package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// A lock file is held by an open file description, so the kernel lets go of it
// when its holder ends, in whatever way. It is never removed by one who does
// not hold it.

// lockFile opens path, making it if it is missing, and waits for its lock.
// Closing the file lets go.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := waitLock(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
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
