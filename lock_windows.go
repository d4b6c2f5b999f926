package engine

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// The locked byte lies far behind the content, which stays readable: locks of
// Windows are mandatory.
const lockedByte = 0x7fffffff

func lockFileEx(f *os.File, flags uint32) error {
	return windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|flags, 0, 1, 0,
		&windows.Overlapped{Offset: lockedByte})
}

func tryLock(f *os.File) (bool, error) {
	err := lockFileEx(f, windows.LOCKFILE_FAIL_IMMEDIATELY)
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return false, nil
	}
	return err == nil, err
}

func isLocked(f *os.File) (bool, error) {
	ok, err := tryLock(f)
	return !ok, err
}
