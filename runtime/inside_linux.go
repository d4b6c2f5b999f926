package runtime

import (
	"errors"
	"fmt"
	"os"
	goruntime "runtime"
	"strconv"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// CloneRoot clones what the container's first process sees below its root
// directory, with all that is mounted there, as a detached tree of mounts of the
// same filesystems. Closing it is all that it needs. Before the caller opens
// anything in it, by openat2(2) with RESOLVE_IN_ROOT, it is to be given to
// Quieten. If the process has ended, the error is errdefs.ErrNotFound.
func (c *Container) CloneRoot() (*os.File, error) {
	pidfd, err := c.process.pidfdCopy()
	if err != nil {
		return nil, err
	}
	defer pidfd.Close()
	return CloneRoot(pidfd)
}

// CloneRoot is Container.CloneRoot for a process, by its pidfd. The caller needs
// CAP_SYS_ADMIN and CAP_SYS_CHROOT.
func CloneRoot(pidfd *os.File) (root *os.File, err error) {
	onThread(func() {
		// A mount is cloned only by who is in its mount namespace. No other
		// thread of this process goes there, and no process of the container
		// can see this one.
		if err = unix.Unshare(unix.CLONE_FS); err != nil {
			err = os.NewSyscallError("unshare", err)
			return
		}
		if err = unix.Setns(int(pidfd.Fd()), unix.CLONE_NEWNS); err != nil {
			if errors.Is(err, unix.ESRCH) {
				err = errProcessGone
			}
			err = fmt.Errorf("enter the container's mount namespace: %w", err)
			return
		}
		root, err = cloneTree("/", unix.AT_RECURSIVE)
	})
	if err != nil {
		return nil, needsRoot(err)
	}
	return root, nil
}

// Quieten keeps devices in a detached tree of mounts from being opened, files
// from being executed, and mounts from spreading into it. It is for trees in
// which the host works on behalf of somebody.
func Quieten(tree *os.File) error {
	attr := unix.MountAttr{
		Attr_set:    unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC,
		Propagation: unix.MS_PRIVATE,
	}
	err := unix.MountSetattr(int(tree.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr)
	return os.NewSyscallError("mount_setattr", err)
}

func cloneTree(path string, flags uint) (*os.File, error) {
	return cloneFrom(unix.AT_FDCWD, path, flags)
}

func cloneFrom(dir int, path string, flags uint) (*os.File, error) {
	fd, err := unix.OpenTree(dir, path, flags|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("clone mounts: %w", os.NewSyscallError("open_tree", err))
	}
	return os.NewFile(uintptr(fd), "container root"), nil
}

// onThread calls f on a thread that ends with it, so that it may change what a
// thread cannot change back. The process's first thread would not end, and
// /proc/PID shows its namespaces: it is not taken. A mount namespace that f has
// gone to is left when onThread returns: the thread may take its time to end, and
// would keep mounted what others take for unmounted.
func onThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		goruntime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			onThread(f)
			goruntime.UnlockOSThread()
			return
		}
		home, err := unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			defer unix.Close(home)
			// It fails where f has gone nowhere, with its directories shared still.
			defer func() { _ = unix.Setns(home, unix.CLONE_NEWNS) }()
		}
		f()
	}()
	<-done
}

// Open mounts the overlay as Mount does, or where that is not possible in
// another way, which costs a thread and a mount namespace. The mount is detached.
func (o *Overlay) Open() (*os.File, error) {
	m, err := o.Mount()
	if errdefs.IsNotImplemented(err) {
		return o.openAlone(nil)
	}
	return m, err
}

// OpenIn is to MountIn as Open is to Mount. The error is
// errdefs.ErrNotImplemented where the file system of a layer does not allow it.
func (o *Overlay) OpenIn(u *UserNamespace) (*os.File, error) {
	if overlayByDetached() {
		return o.MountIn(u)
	}
	return o.openAlone(u)
}

// openAlone mounts an overlay in a mount namespace that nobody else has.
func (o *Overlay) openAlone(u *UserNamespace) (m *os.File, err error) {
	inOwnMounts(func(failed error) {
		if err = failed; err == nil {
			m, err = o.mountHere(u)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("mount overlay: %w", needsRoot(err))
	}
	return m, nil
}

// inOwnMounts calls f on a thread with a mount namespace of its own, a copy of
// the process's, that ends with it; or with what went wrong.
func inOwnMounts(f func(failed error)) {
	onThread(func() {
		err := os.NewSyscallError("unshare", unix.Unshare(unix.CLONE_NEWNS))
		if err == nil {
			err = os.NewSyscallError("mount", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		}
		f(err)
	})
}

// mountHere mounts an overlay with mount(2) in a mount namespace that nobody
// else has, see mountOverlayByProgram, and gives a detached clone.
func (o *Overlay) mountHere(u *UserNamespace) (m *os.File, err error) {
	var layers []int
	defer func() {
		for _, fd := range layers {
			unix.Close(fd)
		}
	}()
	open := func(path string) (name string, err error) {
		fd, err := openLayerHere(path, u)
		if err != nil {
			return "", fmt.Errorf("open layer %s: %w", path, err)
		}
		layers = append(layers, fd)
		return strconv.Itoa(fd), nil
	}
	var names []string
	for _, l := range o.Lower {
		path := l.Path
		if path == "" {
			path = l.File.Name()
		}
		name, err := open(path)
		if err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	upper, work := o.Upper, o.Work
	if u != nil && upper != "" {
		dir, upperName, workName, err := o.top()
		if err == nil {
			dir, err = open(dir)
		}
		if err != nil {
			return nil, err
		}
		upper, work = dir+"/"+upperName, dir+"/"+workName
	}
	if err := unix.Chdir("/proc/thread-self/fd"); err != nil {
		return nil, os.NewSyscallError("chdir", err)
	}
	data, at := o.mountOptions(names, upper, work)
	mount := func() error { return os.NewSyscallError("mount", unix.Mount("overlay", at, "overlay", 0, data)) }
	if u != nil {
		err = u.asRoot(mount)
	} else {
		err = mount()
	}
	if err != nil {
		return nil, err
	}
	return cloneTree(at, 0)
}

// openLayerHere opens a directory, or with a user namespace an id-mapped clone
// of it. That is attached over the directory, because overlayfs takes no
// detached mount.
func openLayerHere(path string, u *UserNamespace) (int, error) {
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
	below, err := unix.Open(path, flags, 0)
	if err != nil || u == nil {
		return below, os.NewSyscallError("open", err)
	}
	defer unix.Close(below)
	fd, err := unix.OpenTree(below, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return -1, os.NewSyscallError("open_tree", err)
	}
	layer := os.NewFile(uintptr(fd), path)
	defer layer.Close()
	if err := idMapMount(layer, u, 0); err != nil {
		return -1, err
	}
	if err := moveOnto(layer, below); err != nil {
		return -1, err
	}
	fd, err = unix.FcntlInt(layer.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	return fd, os.NewSyscallError("fcntl", err)
}

// moveOnto attaches a detached mount on what is open.
func moveOnto(mount *os.File, target int) error {
	err := unix.MoveMount(int(mount.Fd()), "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	return os.NewSyscallError("move_mount", err)
}
