package runtime

import (
	"fmt"
	"os"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// CloneMount makes another detached mount of what a detached mount shows, as
// one from Overlay.Mount: of the same superblock, so that nothing is mounted
// anew and what is cached stays, with attributes of its own. Closing it is all
// that it needs; a superblock ends with its last mount. The caller needs
// CAP_SYS_ADMIN. The error is errdefs.ErrNotImplemented before Linux 6.15.
func CloneMount(mount *os.File) (*os.File, error) {
	if !clonesDetached() {
		return nil, fmt.Errorf("clone of a detached mount needs Linux 6.15: %w", errdefs.ErrNotImplemented)
	}
	f, err := cloneDetached(mount)
	if err != nil {
		return nil, fmt.Errorf("clone mount %s: %w", mount.Name(), needsRoot(err))
	}
	return f, nil
}

func cloneDetached(mount *os.File) (*os.File, error) {
	fd, err := unix.OpenTree(int(mount.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, os.NewSyscallError("open_tree", err)
	}
	return os.NewFile(uintptr(fd), mount.Name()), nil
}

// clonesDetached probes once whether open_tree clones a mount that is in no
// mount namespace: Linux 6.15, commit c5c12f871a30. Before that only those of
// the caller's own, or the error is EINVAL.
var clonesDetached = sync.OnceValue(func() bool {
	m, err := newMount("tmpfs", 0)
	if err != nil {
		return false
	}
	defer m.Close()
	clone, err := cloneDetached(m)
	if err != nil {
		return false
	}
	clone.Close()
	return true
})
