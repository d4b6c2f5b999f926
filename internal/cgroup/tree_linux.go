package cgroup

import (
	"fmt"
	"os"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// A Bind is one v1 or v2 hierarchy as a container on a v1 or hybrid host sees
// it below /sys/fs/cgroup.
type Bind struct {
	// Name of the directory: "memory", "cpu,cpuacct", "unified".
	Name string
	// Links are names that programs look for and that lead to Name: "cpu" and
	// "cpuacct" for "cpu,cpuacct".
	Links []string
	// Dir is the Cgroup's directory in the hierarchy, O_PATH; maybe one that it
	// shares (see Parent.ShareCpusets).
	Dir *os.File
}

// Binds returns what a container is to see below /sys/fs/cgroup, for those
// who mount it step by step; none on a v2 host, where a container mounts
// cgroup2 in its own cgroup namespace. The files stay the Cgroup's and are
// open until Release. To be called after Set.
func (c *Cgroup) Binds() ([]Bind, error) {
	c.mu.Lock()
	binds := c.binds
	c.mu.Unlock()
	if binds != nil || c.parent.host.mode == Unified {
		return binds, nil
	}
	err := c.places(func(p place) error {
		f, err := p.open("", unix.O_PATH|unix.O_DIRECTORY)
		if err == nil {
			binds = append(binds, Bind{Name: p.hierarchy.name, Links: p.hierarchy.links(), Dir: f})
		}
		return err
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil || c.closed || c.binds != nil {
		for _, b := range binds {
			b.Dir.Close()
		}
		return c.binds, err
	}
	c.binds = binds
	return binds, nil
}

// links returns the names of controllers under which h is not mounted itself.
func (h *hierarchy) links() []string {
	var links []string
	if h.v2 {
		return nil
	}
	for _, c := range h.controllers {
		if c != h.name {
			links = append(links, c)
		}
	}
	return links
}

// noTree is set once the kernel has refused to mount on a detached mount.
var noTree atomic.Bool

// Tree returns what a container on a v1 or hybrid host is to see at
// /sys/fs/cgroup, as a detached mount: a tmpfs with a directory for each
// hierarchy, on which c's own directory of it is bound, everything read-only,
// nosuid, nodev and noexec. Nothing is attached to the caller's mounts. It is
// nil on a v2 host (see Binds), and errdefs.ErrNotImplemented before Linux
// 6.15, which began to mount on detached mounts. The file stays the Cgroup's
// and is open until Release, unless it has been mounted by then, which leaves
// the mount. To be called after Set.
func (c *Cgroup) Tree() (*os.File, error) {
	c.mu.Lock()
	tree := c.tree
	c.mu.Unlock()
	if tree != nil || c.parent.host.mode == Unified {
		return tree, nil
	}
	if noTree.Load() {
		return nil, errNoTree()
	}
	fd, err := newTmpfs()
	if err != nil {
		return nil, fmt.Errorf("view of cgroup %s: %w", c.path, classify(err))
	}
	err = c.places(func(p place) error { return c.bind(fd, p) })
	if err == nil {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC}
		err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr)
		if err != nil {
			err = fmt.Errorf("view of cgroup %s: mount_setattr: %w", c.path, classify(err))
		}
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	tree = os.NewFile(uintptr(fd), "cgroup view of "+c.path)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.tree != nil {
		tree.Close()
		return c.tree, nil
	}
	c.tree = tree
	return tree, nil
}

func errNoTree() error {
	return kindf(errdefs.ErrNotImplemented, "mounting on a detached mount needs Linux 6.15")
}

// bind mounts c's directory in a hierarchy on a new directory of the detached
// tmpfs.
func (c *Cgroup) bind(tmpfs int, p place) error {
	y := p.hierarchy
	step := func(name string, err error) error {
		if err == nil {
			return nil
		}
		return fmt.Errorf("view of cgroup %s: %s of %s: %w", c.path, name, y.name, classify(err))
	}
	if err := unix.Mkdirat(tmpfs, y.name, 0o755); err != nil {
		return step("mkdir", err)
	}
	for _, l := range y.links() {
		if err := unix.Symlinkat(y.name, tmpfs, l); err != nil {
			return step("link", err)
		}
	}
	clone, err := unix.OpenTree(p.parent, p.name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return step("open_tree", err)
	}
	defer unix.Close(clone)
	err = unix.MoveMount(clone, "", tmpfs, y.name, unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err == unix.EINVAL {
		noTree.Store(true)
		return errNoTree()
	}
	return step("move_mount", err)
}

// newTmpfs returns a detached tmpfs.
func newTmpfs() (int, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen tmpfs: %w", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "mode", "755"); err != nil {
		return -1, fmt.Errorf("fsconfig mode of tmpfs: %w", err)
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("fsconfig create tmpfs: %w", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("fsmount tmpfs: %w", err)
	}
	return fd, nil
}
