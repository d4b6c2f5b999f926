package runtime

import (
	"fmt"
	"os"
	"strconv"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/inboard/engine/internal/fsids"
)

// idMapMount has a detached mount show files with the ids that theirs are
// outside of a user namespace: MOUNT_ATTR_IDMAP, Linux 5.12, commit
// 9caccd41541a. Each file system has to allow it: ext4 and xfs from 5.12 on,
// btrfs from 5.15, erofs from 5.19, tmpfs from 6.3, overlayfs on none.
func idMapMount(mount *os.File, u *UserNamespace, flags uint) error {
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(u.user.Fd())}
	err := unix.MountSetattr(int(mount.Fd()), "", unix.AT_EMPTY_PATH|flags, &attr)
	if err == unix.EINVAL {
		return fmt.Errorf("its file system, or kernel, has no id-mapped mounts (mount_setattr: %w): %w", err, errdefs.ErrNotImplemented)
	}
	return os.NewSyscallError("mount_setattr", needsRoot(err))
}

// idMapped makes detached id-mapped clones of an overlay's layers, and gives the
// overlay of these. close closes them, when it is mounted or not to be.
func (o *Overlay) idMapped(u *UserNamespace) (mapped *Overlay, close func(), err error) {
	var clones []*os.File
	close = func() {
		for _, f := range clones {
			f.Close()
		}
	}
	clone := func(dir int, path string, flags uint) (*os.File, error) {
		fd, err := unix.OpenTree(dir, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|flags)
		if err != nil {
			return nil, os.NewSyscallError("open_tree", err)
		}
		f := os.NewFile(uintptr(fd), path)
		clones = append(clones, f)
		return f, idMapMount(f, u, 0)
	}
	mapped = &Overlay{Volatile: o.Volatile}
	for _, l := range o.Lower {
		var f *os.File
		name := l.Path
		if l.File != nil {
			name = l.File.Name()
			f, err = clone(int(l.File.Fd()), "", unix.AT_EMPTY_PATH)
		} else {
			f, err = clone(unix.AT_FDCWD, l.Path, 0)
		}
		if err != nil {
			close()
			return nil, nil, fmt.Errorf("overlay layer %s: %w", name, err)
		}
		mapped.Lower = append(mapped.Lower, Lower{File: f})
	}
	if o.Upper != "" {
		dir, upper, work, err := o.top()
		if err != nil {
			close()
			return nil, nil, err
		}
		f, err := clone(unix.AT_FDCWD, dir, 0)
		if err != nil {
			close()
			return nil, nil, fmt.Errorf("overlay upper layer in %s: %w", dir, err)
		}
		dir = "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) + "/"
		mapped.Upper, mapped.Work = dir+upper, dir+work
	}
	return mapped, close, nil
}

// asRoot calls f on a thread that makes files with the ids of the namespace's
// root, and has its capabilities still. overlayfs works on its layers, whenever
// it does, with the credentials that it was mounted with; and in an id-mapped
// one nobody can make a file who has no id there (EOVERFLOW).
func (u *UserNamespace) asRoot(f func() error) error {
	uid, gid := u.ids.root()
	return fsids.As(uid, gid, f)
}
