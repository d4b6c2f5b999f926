package archive

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// maxLookups bounds how often a path is looked up while somebody renames what
// is above it: the kernel then cannot tell whether ".." led out (EAGAIN).
const maxLookups = 10_000

// open opens a path as a process does whose root directory root is.
func open(root int, path string, flags uint64) (int, error) {
	if strings.IndexByte(path, 0) >= 0 {
		return -1, unix.EINVAL
	}
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	for range maxLookups {
		fd, err := unix.Openat2(root, path, &how)
		if err != unix.EAGAIN && err != unix.EINTR {
			return fd, err
		}
	}
	return -1, fmt.Errorf("directories are being renamed all the time: %w", errdefs.ErrUnavailable)
}

// place is a name in an open directory.
type place struct {
	dir  int // O_PATH
	base string
}

func (p place) close() { unix.Close(p.dir) }

// find opens the directory that a path is in. The last name is not looked up;
// with "/", "." or ".." at the end there is none, and the directory that the
// path leads to is it.
func find(root int, name string) (place, error) {
	dir, base := path.Split(name)
	switch base {
	case "", ".", "..":
		dir, base = name, "."
	}
	fd, err := open(root, "/"+dir, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return place{}, lookupError(name, err)
	}
	return place{fd, base}, nil
}

// lookupError is of a path that the caller has named.
func lookupError(name string, err error) error {
	var class error = errdefs.ErrInvalidArgument
	switch {
	case errors.Is(err, unix.ENOENT):
		class = errdefs.ErrNotFound
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENAMETOOLONG), errors.Is(err, unix.EINVAL):
	default:
		return fmt.Errorf("%s: %w", quote(name), err)
	}
	return fmt.Errorf("%s: %w: %w", quote(name), err, class)
}

// Info is what Stat knows of a path.
type Info struct {
	Name    string // as the last name of the path
	Size    int64  // of a link, the length of its target
	Mode    fs.FileMode
	ModTime time.Time
	// Target is where a link leads to, or would, as a path from the root. Links
	// above its last name are left in it.
	Target string
}

// Stat looks at a path without following its last name.
func Stat(root *os.File, name string) (Info, error) {
	at, err := find(int(root.Fd()), name)
	if err != nil {
		return Info{}, err
	}
	defer at.close()
	var st unix.Stat_t
	if err := unix.Fstatat(at.dir, at.base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return Info{}, lookupError(name, err)
	}
	info := Info{
		Name:    path.Base("/" + name),
		Size:    st.Size,
		Mode:    fileMode(st.Mode),
		ModTime: time.Unix(st.Mtim.Unix()),
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		info.Target, err = follow(int(root.Fd()), name)
	}
	return info, err
}

// maxLinks is how many links a path may lead through, as in the kernel.
const maxLinks = 40

// follow gives the path that a link leads to: one whose last name is no link, or
// is not there.
func follow(root int, name string) (string, error) {
	for range maxLinks {
		at, err := find(root, name)
		if errors.Is(err, errdefs.ErrNotFound) {
			return name, nil
		}
		if err != nil {
			return "", err
		}
		target, err := readlink(at.dir, at.base)
		at.close()
		switch {
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return name, nil
		case err != nil:
			return "", lookupError(name, err)
		case path.IsAbs(target):
			name = target
		default: // not cleaned: ".." is the parent of what a link leads to
			dir, _ := path.Split(name)
			name = "/" + strings.TrimLeft(dir, "/") + target
		}
	}
	return "", lookupError(name, unix.ELOOP)
}

func readlink(dir int, base string) (string, error) {
	for size := 256; ; size *= 4 {
		b := make([]byte, size)
		n, err := unix.Readlinkat(dir, base, b)
		if err != nil || n < size {
			return string(b[:max(n, 0)]), err
		}
	}
}

func fileMode(mode uint32) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		m |= fs.ModeDir
	case unix.S_IFLNK:
		m |= fs.ModeSymlink
	case unix.S_IFIFO:
		m |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		m |= fs.ModeSocket
	case unix.S_IFBLK:
		m |= fs.ModeDevice
	case unix.S_IFCHR:
		m |= fs.ModeDevice | fs.ModeCharDevice
	}
	for bit, is := range map[uint32]fs.FileMode{unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid, unix.S_ISVTX: fs.ModeSticky} {
		if mode&bit != 0 {
			m |= is
		}
	}
	return m
}

// kernelFS tells whether a descriptor is in a filesystem in which the kernel
// shows itself. Reading and writing there acts on the machine, with the rights
// of who does it.
func kernelFS(fd int) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return false, os.NewSyscallError("fstatfs", err)
	}
	const (
		mqueue   = 0x19800202 // ipc/mqueue.c
		configfs = 0x62656570 // fs/configfs/mount.c
	)
	switch uint32(st.Type) {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC,
		unix.DEVPTS_SUPER_MAGIC, unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC,
		unix.BPF_FS_MAGIC, unix.PSTOREFS_MAGIC, unix.EFIVARFS_MAGIC, unix.BINFMTFS_MAGIC,
		unix.SELINUX_MAGIC, unix.SMACK_MAGIC, unix.NSFS_MAGIC, mqueue, configfs:
		return true, nil
	}
	return false, nil
}

var errKernelFS = fmt.Errorf("is in a filesystem of the kernel's: %w", errdefs.ErrInvalidArgument)

// procPath names an open file, or a name in an open directory, for the calls
// that take no descriptor. The last name is not followed by the calls that are
// given it.
func procPath(fd int, base string) string {
	p := "/proc/self/fd/" + strconv.Itoa(fd)
	if base == "" {
		return p
	}
	return p + "/" + base
}

// quote makes an untrusted name safe to print, and not too long.
func quote(name string) string {
	if len(name) > 200 {
		name = name[:200] + "..."
	}
	return strconv.Quote(name)
}
