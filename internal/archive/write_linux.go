package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	// maxDepth bounds how deep directories are followed: each level has one
	// descriptor, and a container can nest them without end.
	maxDepth = 1000

	// maxTries bounds how often a name is looked at that is something else each
	// time.
	maxTries = 100
)

// WriteOptions are those of Write.
type WriteOptions struct {
	// Follow takes what a link at the path leads to, under the link's name.
	Follow bool
	// IDs are the mappings of the user namespace that the ids in the tar are to
	// be of; nil: the host's.
	IDs *IDMap
}

// Write writes what is at a path to w, as a tar: its member names begin with the
// last name of the path, or with "." where the path ends with "/." or is "/".
// Sockets are left out, as in every tar. A path that is not there gives
// errdefs.ErrNotFound before anything is written.
//
// What changes meanwhile is as it is found. A file that grows ends where it did
// when its turn came, one that shrinks is filled up with zeros, and a name that
// is gone is left out. Large files can have holes, which GNU tar's sparse format
// keeps.
//
// The context is asked before each write, and each name.
func Write(ctx context.Context, root *os.File, name string, w io.Writer, o WriteOptions) error {
	as := path.Base("/" + name)
	if as == "/" || as == ".." || strings.HasSuffix(name, "/.") || name == "." {
		as = "."
	}
	if o.Follow {
		var err error
		if name, err = follow(int(root.Fd()), name); err != nil {
			return err
		}
	}
	at, err := find(int(root.Fd()), name)
	if err != nil {
		return err
	}
	defer at.close()
	var st unix.Stat_t
	if err := unix.Fstatat(at.dir, at.base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return lookupError(name, err)
	}
	kernels, err := kernelFS(at.dir)
	if err == nil && kernels {
		err = errKernelFS
	}
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFSOCK {
		err = fmt.Errorf("is a socket: %w", errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", quote(name), err)
	}
	x := &writer{sink: newSink(ctx, w), ids: o.IDs, name: []byte(as), links: make(map[inode]string)}
	if err := x.member(at.dir, at.base, typeOf(st.Mode), noDevice); err != nil {
		return err
	}
	if x.members == 0 {
		return lookupError(name, unix.ENOENT)
	}
	x.buf, _ = extend(x.buf, 2*blockSize) // the end marker
	return x.flush()
}

// noDevice is no filesystem's number.
const noDevice = ^uint64(0)

type inode struct{ dev, ino uint64 }

// writer is one Write.
type writer struct {
	*sink
	ids     *IDMap
	name    []byte           // of the member at hand
	links   map[inode]string // first names of files that have several
	members int
	depth   int
	refused error  // the last time that a name could not be opened
	xattrs  []byte // for lists and values
}

// member writes what a name in a directory is. kind says what it was just now,
// if that is known.
func (x *writer) member(dir int, base string, kind uint8, dev uint64) error {
	x.refused = nil
	for range maxTries {
		if err := x.ctx.Err(); err != nil {
			return err
		}
		var err error
		switch kind {
		case unix.DT_REG:
			err = x.file(dir, base)
		case unix.DT_DIR:
			err = x.directory(dir, base, dev)
		case unix.DT_LNK, unix.DT_CHR, unix.DT_BLK, unix.DT_FIFO:
			err = x.special(dir, base)
		case unix.DT_SOCK:
			return nil
		default:
			err = errChanged
		}
		if err != errChanged {
			return err
		}
		var st unix.Stat_t
		if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			if err == unix.ENOENT {
				return nil
			}
			return x.failed("look at it", err)
		}
		kind = typeOf(st.Mode)
	}
	if x.refused != nil {
		return x.failed("open", x.refused)
	}
	return x.failed("look at it", fmt.Errorf("it is something else each time: %w", errdefs.ErrUnavailable))
}

// errChanged tells that a name was not what it was taken for.
var errChanged = errors.New("is something else")

func typeOf(mode uint32) uint8 { return uint8(mode & unix.S_IFMT >> 12) } // IFTODT of dirent.h

func (x *writer) failed(step string, err error) error {
	return fmt.Errorf("%s: %s: %w", quote(string(x.name)), step, err)
}

// openAs opens a name that is not a link, for reading. A FIFO in its place
// neither blocks nor is read, and a device is not opened where the mount has
// "nodev".
func (x *writer) openAs(dir int, base string, flags int) (int, error) {
	flags |= unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC
	noatime := unix.O_NOATIME
	for {
		fd, err := unix.Openat(dir, base, flags|noatime, 0)
		switch err {
		case unix.EINTR:
		case unix.EPERM: // not the owner, and no CAP_FOWNER in its namespace
			if noatime == 0 {
				return -1, err
			}
			noatime = 0
		case unix.EAGAIN:
			// Somebody has a lease on it, which the kernel is breaking now
			// (F_SETLEASE in fcntl(2)); it takes /proc/sys/fs/lease-break-time.
			select {
			case <-time.After(10 * time.Millisecond):
			case <-x.ctx.Done():
				return -1, x.ctx.Err()
			}
		case unix.ENOENT, unix.ELOOP, unix.ENOTDIR, unix.EACCES, unix.ENXIO, unix.ENODEV:
			x.refused = err // which a device is too
			return -1, errChanged
		default:
			return fd, err
		}
	}
}

func (x *writer) file(dir int, base string) error {
	fd, err := x.openAs(dir, base, 0)
	if err != nil {
		return x.openError(err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return x.failed("fstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return errChanged
	}
	h := x.newHeader(string(x.name), kindFile, &st)
	if x.linked(&h, &st) {
		return x.header(&h)
	}
	if h.xattrs, err = x.attributes(fd, ""); err != nil {
		return err
	}
	h.size = st.Size
	if st.Size > bufferSize && st.Blocks*512 < st.Size {
		if runs := dataRuns(fd, st.Size); runs != nil {
			return x.sparse(&h, fd, runs)
		}
	}
	if err := x.header(&h); err != nil {
		return err
	}
	return x.content(fd, 0, h.size)
}

func (x *writer) openError(err error) error {
	if err == errChanged || errors.Is(err, x.ctx.Err()) {
		return err
	}
	return x.failed("open", err)
}

// content writes a member's data and what fills its last block.
func (x *writer) content(fd int, off, size int64) error {
	if err := x.data(fd, off, size); err != nil {
		return x.dataError(err)
	}
	return x.zeros(-size & (blockSize - 1))
}

func (x *writer) dataError(err error) error {
	if x.ctx.Err() != nil {
		return err
	}
	return fmt.Errorf("%s: %w", quote(string(x.name)), err)
}

// linked makes the member a link to the one that had the file first.
func (x *writer) linked(h *header, st *unix.Stat_t) bool {
	if st.Nlink < 2 {
		return false
	}
	key := inode{st.Dev, st.Ino}
	first, ok := x.links[key]
	if ok {
		h.kind, h.link = kindHardlink, first
	} else {
		x.links[key] = h.name
	}
	return ok
}

var specialKinds = map[uint32]byte{
	unix.S_IFLNK: kindSymlink,
	unix.S_IFCHR: kindChar,
	unix.S_IFBLK: kindBlock,
	unix.S_IFIFO: kindFIFO,
}

func (x *writer) special(dir int, base string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if err == unix.ENOENT {
			return nil
		}
		return x.failed("look at it", err)
	}
	kind, ok := specialKinds[st.Mode&unix.S_IFMT]
	if !ok {
		return errChanged
	}
	h := x.newHeader(string(x.name), kind, &st)
	if x.linked(&h, &st) {
		return x.header(&h)
	}
	var err error
	switch kind {
	case kindSymlink:
		if h.link, err = readlink(dir, base); err == unix.EINVAL || err == unix.ENOENT {
			return errChanged
		} else if err != nil {
			return x.failed("read link", err)
		}
	case kindChar, kindBlock:
		h.major, h.minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
	}
	if h.xattrs, err = x.attributes(dir, base); err != nil {
		return err
	}
	return x.header(&h)
}

func (x *writer) newHeader(name string, kind byte, st *unix.Stat_t) header {
	owner := x.ids.owner(Owner{st.Uid, st.Gid})
	return header{
		name:   name,
		kind:   kind,
		mode:   st.Mode & 0o7777,
		uid:    owner.UID,
		gid:    owner.GID,
		sec:    st.Mtim.Sec,
		nsec:   uint32(st.Mtim.Nsec),
		sparse: -1,
	}
}

func (x *writer) header(h *header) error {
	if err := x.room(); err != nil {
		return err
	}
	x.members++
	x.buf = h.append(x.buf)
	return nil
}

// directory writes a directory and what is in it. dev is the filesystem of the
// one above.
func (x *writer) directory(dir int, base string, dev uint64) error {
	fd, err := x.openAs(dir, base, unix.O_DIRECTORY)
	if err != nil {
		return x.openError(err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return x.failed("fstat", err)
	}
	h := x.newHeader(string(x.name)+"/", kindDir, &st)
	if h.xattrs, err = x.attributes(fd, ""); err != nil {
		return err
	}
	if err := x.header(&h); err != nil {
		return err
	}
	if st.Dev != dev {
		if kernels, err := kernelFS(fd); kernels || err != nil {
			return err
		}
	}
	if x.depth++; x.depth > maxDepth {
		return x.failed("go into it", fmt.Errorf("more than %d directories deep: %w", maxDepth, errdefs.ErrInvalidArgument))
	}
	err = x.entries(fd, st.Dev)
	x.depth--
	return err
}

// entries writes what is in a directory, as it is listed: in the order that the
// filesystem has, so that memory does not depend on how much it is.
func (x *writer) entries(fd int, dev uint64) error {
	list := dirents{fd: fd}
	n := len(x.name)
	defer func() { x.name = x.name[:n] }()
	for {
		base, kind, err := list.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return x.failed("list", err)
		}
		x.name = append(append(x.name[:n], '/'), base...)
		if err := x.member(fd, base, kind, dev); err != nil {
			return err
		}
	}
}

// attributes reads the extended attributes of an open file, or of a name in an
// open directory: those that another file can be given, see kept.
func (x *writer) attributes(fd int, base string) (list []xattr, err error) {
	path := ""
	if base != "" {
		path = procPath(fd, base)
	}
	names, err := x.xattr(func(b []byte) (int, error) {
		if base == "" {
			return unix.Flistxattr(fd, b)
		}
		return unix.Llistxattr(path, b)
	})
	if err != nil {
		return nil, x.failed("list xattrs", err)
	}
	for name := range strings.SplitSeq(string(names), "\x00") {
		if !kept(name) {
			continue
		}
		value, err := x.xattr(func(b []byte) (int, error) {
			if base == "" {
				return unix.Fgetxattr(fd, name, b)
			}
			return unix.Lgetxattr(path, name, b)
		})
		if err != nil {
			return nil, x.failed("read xattr "+quote(name), err)
		}
		if value == nil {
			continue
		}
		if value, ok := x.ids.read(name, value); ok {
			list = append(list, xattr{name, string(value)})
		}
	}
	return list, nil
}

// xattr calls get with a buffer that is large enough. It gives nil for what is
// not there.
func (x *writer) xattr(get func([]byte) (int, error)) ([]byte, error) {
	if x.xattrs == nil {
		x.xattrs = make([]byte, 1<<16) // XATTR_SIZE_MAX, XATTR_LIST_MAX
	}
	n, err := get(x.xattrs)
	switch err {
	case nil:
		return x.xattrs[:n], nil
	case unix.ENODATA, unix.EOPNOTSUPP, unix.ENOENT, unix.ENOTDIR, unix.ELOOP:
		return nil, nil
	}
	return nil, err
}

// kept tells which extended attributes go into an archive, and out of one again:
// not those by which overlayfs and security modules steer themselves.
func kept(name string) bool {
	switch {
	case strings.HasPrefix(name, "trusted.overlay."), strings.HasPrefix(name, "user.overlay."):
		return false
	case strings.HasPrefix(name, "user."), strings.HasPrefix(name, "trusted."):
		return true
	}
	return name == xattrCapability || name == xattrACL || name == xattrDefaultACL
}
