//go:build unix

package image

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// tryLock is false when somebody else has the lock.
func tryLock(f *os.File, mode lockMode) (bool, error) {
	how := unix.LOCK_SH
	if mode == exclusive {
		how = unix.LOCK_EX
	}
	for {
		switch err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err {
		case unix.EINTR:
			continue
		case unix.EWOULDBLOCK:
			return false, nil
		case nil:
			return true, nil
		default:
			return false, fmt.Errorf("lock: %w", &os.PathError{Op: "flock", Path: f.Name(), Err: err})
		}
	}
}

func unlock(f *os.File) { unix.Flock(int(f.Fd()), unix.LOCK_UN) }
