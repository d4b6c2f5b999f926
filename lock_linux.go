package engine

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Open file description locks (fcntl_locking(2), Linux 3.15) rather than
// flock: F_OFD_GETLK asks for a holder without becoming one, so that one who
// only looks never hides a dead engine from one who sweeps.

func ofd(f *os.File, cmd int, lock *unix.Flock_t) error {
	for {
		err := unix.FcntlFlock(f.Fd(), cmd, lock)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func tryLock(f *os.File) (bool, error) {
	err := ofd(f, unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return false, nil
	}
	return err == nil, err
}

func isLocked(f *os.File) (bool, error) {
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := ofd(f, unix.F_OFD_GETLK, &lock); err != nil {
		return false, err
	}
	return lock.Type != unix.F_UNLCK, nil
}

// openedOnce tells whether no other open file description has f's file: only
// then the kernel grants a write lease (F_SETLEASE in fcntl(2)).
func openedOnce(f *os.File) bool {
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		return false
	}
	_, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
	return err == nil
}

// tryLockByte locks one byte of a file, which need not be there. If another
// holds it, behind is the first byte after what he has locked there.
func tryLockByte(f *os.File, n int64) (behind int64, err error) {
	for {
		err := ofd(f, unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Start: n, Len: 1})
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
			return 0, err
		}
		lock := unix.Flock_t{Type: unix.F_WRLCK, Start: n, Len: 1}
		if err := ofd(f, unix.F_OFD_GETLK, &lock); err != nil {
			return 0, err
		}
		if lock.Type != unix.F_UNLCK { // else he has let go meanwhile
			return max(lock.Start+lock.Len, n+1), nil
		}
	}
}

// tryByte locks a byte for reading or for writing (F_RDLCK, F_WRLCK), also if the
// same open file description has it for the other. false: others do not allow it.
func tryByte(f *os.File, n int64, kind int16) (bool, error) {
	err := ofd(f, unix.F_OFD_SETLK, &unix.Flock_t{Type: kind, Start: n, Len: 1})
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return true, nil
}

// byteLocked tells whether another open file description has a byte locked for
// writing.
func byteLocked(f *os.File, n int64) (bool, error) {
	lock := unix.Flock_t{Type: unix.F_RDLCK, Start: n, Len: 1}
	if err := ofd(f, unix.F_OFD_GETLK, &lock); err != nil {
		return false, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return lock.Type != unix.F_UNLCK, nil
}

// waitByte is tryByte that waits.
func waitByte(f *os.File, n int64, kind int16) error {
	err := ofd(f, unix.F_OFD_SETLKW, &unix.Flock_t{Type: kind, Start: n, Len: 1})
	if err != nil {
		err = fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return err
}

func unlockByte(f *os.File, n int64) error {
	return ofd(f, unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_UNLCK, Start: n, Len: 1})
}
