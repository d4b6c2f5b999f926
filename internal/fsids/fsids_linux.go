// Package fsids makes files with other ids than the process has.
package fsids

import (
	"errors"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// NoSetuidFixup is SECBIT_NO_SETUID_FIXUP of linux/securebits.h: capabilities
// stay as they are when ids change (capabilities(7), "Effect of user ID changes").
const NoSetuidFixup = 1 << 2

// As calls f on a thread that makes files with the ids given, and has the
// process's capabilities still. f stays on its goroutine, to which the thread is
// locked meanwhile. It needs CAP_SETPCAP, CAP_SETUID and CAP_SETGID.
func As(uid, gid uint32, f func() error) error {
	runtime.LockOSThread()
	bits, err := unix.PrctlRetInt(unix.PR_GET_SECUREBITS, 0, 0, 0, 0)
	if err == nil {
		err = unix.Prctl(unix.PR_SET_SECUREBITS, uintptr(bits|NoSetuidFixup), 0, 0, 0)
	}
	if err != nil {
		runtime.UnlockOSThread()
		return os.NewSyscallError("set securebits", err)
	}
	oldGID, errGID := unix.SetfsgidRetGid(int(gid))
	oldUID, errUID := unix.SetfsuidRetUid(int(uid))
	defer func() {
		_, errUID := unix.SetfsuidRetUid(oldUID)
		_, errGID := unix.SetfsgidRetGid(oldGID)
		if errors.Join(errUID, errGID, unix.Prctl(unix.PR_SET_SECUREBITS, uintptr(bits), 0, 0, 0)) == nil {
			runtime.UnlockOSThread()
		} // else the thread is to serve nobody else, and ends with its goroutine
	}()
	if err := errors.Join(errUID, errGID); err != nil {
		return os.NewSyscallError("setfsuid", err)
	}
	return f()
}
