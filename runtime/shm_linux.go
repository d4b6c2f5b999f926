package runtime

import (
	"fmt"
	"os"
	goruntime "runtime"

	"golang.org/x/sys/unix"
)

// OpenShm makes a detached mount of what the process that a pidfd holds has on
// /dev/shm, for a container that joins its IPC namespace: POSIX shared memory is
// files there. No link is followed. The caller needs CAP_SYS_ADMIN.
func OpenShm(pidfd *os.File) (*os.File, error) {
	var shm *os.File
	var err error
	done := make(chan struct{})
	go elsewhere(done, func() { shm, err = cloneShm(int(pidfd.Fd())) })
	<-done
	if err == unix.ESRCH {
		return nil, errNotRunning
	}
	if err != nil {
		return nil, fmt.Errorf("/dev/shm of another container: %w", needsRoot(err))
	}
	return shm, nil
}

// elsewhere runs f on a thread that ends with it, as it may have left the
// caller's mount namespace. The process's first thread would not end, and
// /proc/self is about it.
func elsewhere(done chan<- struct{}, f func()) {
	goruntime.LockOSThread()
	if unix.Gettid() != os.Getpid() {
		defer close(done)
		f()
		return
	}
	other := make(chan struct{})
	go elsewhere(other, f)
	<-other
	goruntime.UnlockOSThread()
	close(done)
}

// cloneShm leaves the thread that it runs on in another mount namespace: only
// there can its mounts be copied.
func cloneShm(pidfd int) (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return nil, err
	}
	if err := unix.Setns(pidfd, unix.CLONE_NEWNS); err != nil {
		return nil, err
	}
	dir, err := unix.Openat2(unix.AT_FDCWD, "/dev/shm", &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	fd, err := unix.OpenTree(dir, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "/dev/shm"), nil
}
