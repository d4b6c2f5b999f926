package layer

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A diskTree is a layer's directory on disk while it is filled. All of it is
// reached from the descriptors of its roots and below, and no symlink is
// followed: there is no path that a hostile archive could bend.
type diskTree struct {
	// roots are the layer's own, and that of what is in the way; see lose.
	roots map[*inode]*os.File
	// own says that a new file is owned by root:root without a chown.
	own bool

	mu   sync.Mutex // guards roots, and
	made map[*inode]bool
}

// addRoot makes the directory at path, which is to hold what n holds.
func (t *diskTree) addRoot(n *inode, path string) error {
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	root, err := os.OpenFile(path, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	t.mu.Lock()
	t.roots[n] = root
	t.mu.Unlock()
	// Files would inherit a default ACL that somebody gave the store.
	for _, name := range []string{xattrACLDefault, xattrACLAccess} {
		if err := unix.Fremovexattr(int(root.Fd()), name); err != nil && err != unix.ENODATA && err != unix.EOPNOTSUPP {
			return os.NewSyscallError("fremovexattr", err)
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	t.own = st.Uid == 0 && st.Gid == 0 && st.Mode&unix.S_ISGID == 0 && os.Geteuid() == 0 && os.Getegid() == 0
	return nil
}

func (t *diskTree) close() {
	for _, f := range t.roots {
		f.Close()
	}
}

// open returns a descriptor of a directory of the tree, which it makes where
// it is missing; until the end, directories are closed to everybody else.
func (t *diskTree) open(d *inode) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.make(d); err != nil {
		return -1, err
	}
	return t.walk(diskPath(d))
}

// ensure makes a directory where it is missing.
func (t *diskTree) ensure(d *inode) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.make(d)
}

// has says whether a directory is on disk already.
func (t *diskTree) has(d *inode) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.made[d]
}

// make is called with the lock held. It does not recurse: a path has up to two
// thousand names.
func (t *diskTree) make(d *inode) error {
	var missing []*inode
	for ; !t.made[d] && d.dir.parent != d; d = d.dir.parent {
		missing = append(missing, d)
	}
	if len(missing) == 0 {
		return nil
	}
	at, err := t.walk(diskPath(d))
	if err != nil {
		return err
	}
	defer func() { unix.Close(at) }()
	for i := len(missing) - 1; i >= 0; i-- {
		d := missing[i]
		if err := unix.Mkdirat(at, d.dir.name, 0o700); err != nil {
			return fmt.Errorf("%s: mkdir: %w", d.path(""), err)
		}
		t.made[d] = true
		if i == 0 {
			return nil
		}
		next, err := openBeneath(at, d.dir.name)
		if err != nil {
			return err
		}
		unix.Close(at)
		at = next
	}
	return nil
}

// diskPath returns a directory's root and the names from there.
func diskPath(d *inode) (root *inode, names []string) {
	n := 0
	for at := d; at.dir.parent != at; at = at.dir.parent {
		n++
	}
	names = make([]string, n)
	for root = d; root.dir.parent != root; root = root.dir.parent {
		n--
		names[n] = root.dir.name
	}
	return root, names
}

// path is a name in a directory, for an error message.
func (n *inode) path(name string) string {
	_, names := diskPath(n)
	return quote(strings.Join(append(names, name), "/"))
}

// walk opens a directory by its names from a root, in pieces that are shorter
// than PATH_MAX.
func (t *diskTree) walk(root *inode, names []string) (int, error) {
	at := int(t.roots[root].Fd())
	if len(names) == 0 {
		return unix.FcntlInt(uintptr(at), unix.F_DUPFD_CLOEXEC, 0)
	}
	for first := true; len(names) > 0; first = false {
		n, length := 0, 0
		for n < len(names) && length+len(names[n]) < 3000 {
			length += len(names[n]) + 1
			n++
		}
		next, err := openBeneath(at, strings.Join(names[:n], "/"))
		if !first {
			unix.Close(at)
		}
		if err != nil {
			return -1, err
		}
		at, names = next, names[n:]
	}
	return at, nil
}

func openBeneath(at int, path string) (int, error) {
	fd, err := unix.Openat2(at, path, &unix.OpenHow{
		Flags:   unix.O_DIRECTORY | unix.O_RDONLY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return -1, fmt.Errorf("%s: open: %w", quote(path), err)
	}
	return fd, nil
}

// times sets both times of a name to the inode's.
func (n *inode) setTimes(at int, name string) error {
	t, err := unix.TimeToTimespec(time.Unix(n.sec, int64(n.nsec)))
	if err == nil {
		err = unix.UtimesNanoAt(at, name, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}

// setXattrs sets the attributes of an open file or directory.
func (n *inode) setXattrs(fd int) error {
	for _, x := range n.xattrs() {
		if err := unix.Fsetxattr(fd, x.name, []byte(x.value), 0); err != nil {
			return fmt.Errorf("set xattr %s: %w", quote(x.name), err)
		}
	}
	return nil
}
