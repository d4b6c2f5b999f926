package runtime

import (
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// newMount makes a filesystem and returns a detached mount of it. options are
// keys and values; a key with an empty value is a flag.
func newMount(fstype string, attrs int, options ...string) (*os.File, error) {
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsopen %s: %w", fstype, err)
	}
	defer unix.Close(fs)
	for i := 0; i < len(options); i += 2 {
		key, value := options[i], options[i+1]
		if value == "" {
			err = unix.FsconfigSetFlag(fs, key)
		} else {
			err = unix.FsconfigSetString(fs, key, value)
		}
		if err != nil {
			return nil, fsError(fs, fmt.Sprintf("%s option %s=%s", fstype, key, value), err)
		}
	}
	return finishMount(fs, fstype, attrs)
}

// finishMount creates the filesystem that a context describes and mounts it.
func finishMount(fs int, fstype string, attrs int) (*os.File, error) {
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fsError(fs, "create "+fstype, err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return nil, fsError(fs, "mount "+fstype, err)
	}
	return os.NewFile(uintptr(fd), fstype), nil
}

// fsError adds what the kernel has to say about a filesystem context: fsopen(2)
// lets messages be read from it, each after a letter and a space.
func fsError(fs int, what string, err error) error {
	b := make([]byte, 512)
	n, _ := unix.Read(fs, b)
	if n <= 2 {
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w (%s)", what, err, strings.TrimSpace(string(b[2:n])))
}

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
