package archive

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/inboard/engine/internal/fsids"
)

// ExtractOptions are those of Extract.
type ExtractOptions struct {
	// KeepKinds refuses members that would put a directory in the place of
	// something else, or something else in the place of a directory.
	KeepKinds bool
	// Owner, if set, owns what is made, whatever the archive says.
	Owner *Owner
	// IDs are the mappings of the user namespace that the archive's ids, and
	// Owner's, are of; nil: the host's.
	IDs *IDMap
}

// Owner is a user and a group.
type Owner struct{ UID, GID uint32 }

// Extract makes the members of a tar in the directory that a path leads to. What
// has a member's name already is removed before, but for a directory where the
// member is one too. Names are taken below that directory; links on the way are
// followed as a process with that root does, also out of the directory, but not
// the last name. A member with ".." that leads above the directory is refused,
// as is one with an id that IDs does not have; directories that no member names
// are root's, with mode 0755.
//
// The stream is read to its end. After an error, of the context too, what has
// been made stays.
func Extract(ctx context.Context, root *os.File, dir string, r io.Reader, o ExtractOptions) error {
	fd, err := open(int(root.Fd()), "/"+dir, unix.O_PATH)
	if err != nil {
		return lookupError(dir, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return fmt.Errorf("%s: is no directory: %w", quote(dir), errdefs.ErrInvalidArgument)
	}
	in := bufio.NewReaderSize(source{ctx, r}, readSize)
	x := &extraction{ctx: ctx, root: int(root.Fd()), target: "/" + dir + "/", options: o, tar: tar.NewReader(in), parent: -1}
	defer x.leave()
	if err := x.run(); err != nil {
		return err
	}
	// Who writes the stream may not be done: GNU tar fills up its last record.
	_, err = io.Copy(io.Discard, in)
	return err
}

// source is a stream that ends with a context, as far as it does not block.
type source struct {
	ctx context.Context
	r   io.Reader
}

func (s source) Read(b []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	return s.r.Read(b)
}

// extraction is one Extract.
type extraction struct {
	ctx     context.Context
	root    int
	target  string // ends with a slash
	options ExtractOptions
	tar     *tar.Reader
	buf     []byte

	parentName string // the directory that parent is, if that is not -1
	parent     int
	dirs       []dirTime
}

// dirTime is a time that a directory gets when all is in it.
type dirTime struct {
	name  string
	mtime unix.Timespec
}

func (x *extraction) run() error {
	for {
		if err := x.ctx.Err(); err != nil {
			return err
		}
		h, err := x.tar.Next()
		if err == io.EOF {
			return x.directoryTimes()
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) { // that is for us to say
			return archiveError("archive", err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := x.member(h); err != nil {
			if x.ctx.Err() != nil {
				return x.ctx.Err()
			}
			return fmt.Errorf("%s: %w", quote(h.Name), err)
		}
	}
}

// archiveError is of a stream that is no whole tar, or of its Reader's own.
func archiveError(what string, err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%s: %w: %w", what, err, errdefs.ErrInvalidArgument)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// below cleans a name of the archive's.
func below(name string) (string, error) {
	clean := path.Clean(strings.TrimLeft(name, "/"))
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", fmt.Errorf("leads out of the directory: %w", errdefs.ErrInvalidArgument)
	}
	return clean, nil
}

func (x *extraction) member(h *tar.Header) error {
	name, err := below(h.Name)
	if err != nil || name == "." {
		return err
	}
	dir, base := path.Split(name)
	at, err := x.enter(path.Clean(dir))
	if err != nil {
		return err
	}
	if h.Typeflag == tar.TypeLink {
		return x.link(h, name, place{at, base})
	}
	if _, err := x.owner(h); err != nil { // before what is there is removed
		return err
	}
	for range maxTries {
		isDir, err := x.clear(at, base, h.Typeflag == tar.TypeDir)
		if err != nil {
			return err
		}
		if !isDir {
			err = x.create(h, at, base)
		}
		if err == nil && h.Typeflag == tar.TypeDir {
			err = x.directory(h, name, at, base)
		}
		if !errors.Is(err, unix.EEXIST) && err != errChanged {
			return err
		}
	}
	return fmt.Errorf("something else is in its place each time: %w", errdefs.ErrUnavailable)
}

// enter opens a directory below the target, which is made where it is missing.
// It stays open for the next member.
func (x *extraction) enter(dir string) (int, error) {
	if x.parent >= 0 && x.parentName == dir {
		return x.parent, nil
	}
	x.leave()
	fd, err := open(x.root, x.target+dir, unix.O_PATH|unix.O_DIRECTORY)
	if err == unix.ENOENT && dir != "." {
		var above int
		if above, err = x.enter(path.Dir(dir)); err != nil {
			return -1, err
		}
		err = x.asRoot(func() error { return unix.Mkdirat(above, path.Base(dir), 0o755) })
		if err != nil && err != unix.EEXIST {
			return -1, fmt.Errorf("make directory %s: %w", quote(dir), err)
		}
		x.leave()
		fd, err = open(x.root, x.target+dir, unix.O_PATH|unix.O_DIRECTORY)
	}
	if err != nil {
		return -1, lookupError(x.target+dir, err)
	}
	kernels, err := kernelFS(fd)
	if err == nil && kernels {
		err = fmt.Errorf("directory %s: %w", quote(dir), errKernelFS)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	x.parent, x.parentName = fd, dir
	return fd, nil
}

func (x *extraction) leave() {
	if x.parent >= 0 {
		unix.Close(x.parent)
		x.parent = -1
	}
}

// clear removes what is in a member's place, and tells whether a directory stays
// there.
func (x *extraction) clear(at int, base string, forDir bool) (isDir bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstatat(at, base, &st, unix.AT_SYMLINK_NOFOLLOW); err == unix.ENOENT {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("look at what is there: %w", err)
	}
	isDir = st.Mode&unix.S_IFMT == unix.S_IFDIR
	switch {
	case isDir && forDir:
		return true, nil
	case x.options.KeepKinds && isDir:
		return false, fmt.Errorf("is a directory, and would become something else: %w", errdefs.ErrInvalidArgument)
	case x.options.KeepKinds && forDir:
		return false, fmt.Errorf("is no directory, and would become one: %w", errdefs.ErrInvalidArgument)
	case isDir:
		err = removeAll(at, base)
	default:
		err = unix.Unlinkat(at, base, 0)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EISDIR) { // create finds a new one
		return false, fmt.Errorf("remove what is there: %w", err)
	}
	return false, nil
}

// removeAll removes a directory. os.Root goes down by descriptors, and follows
// no link.
func removeAll(at int, base string) error {
	dir, err := os.OpenRoot(procPath(at, ""))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.RemoveAll(base)
}

// asRoot calls f to make a file, which then is the container's root's. In a file
// system that shows the ids of a user namespace nobody can make one who has no
// id there (EOVERFLOW).
func (x *extraction) asRoot(f func() error) error {
	if x.options.IDs == nil {
		return f()
	}
	root, err := x.options.IDs.root()
	if err != nil {
		return err
	}
	return fsids.As(root.UID, root.GID, f)
}

// create makes what is not there, with all that it is to have; of a directory
// only the name.
func (x *extraction) create(h *tar.Header, at int, base string) error {
	switch h.Typeflag {
	case tar.TypeDir:
		return os.NewSyscallError("mkdirat", x.asRoot(func() error { return unix.Mkdirat(at, base, 0o700) }))
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		return x.file(h, at, base)
	case tar.TypeSymlink:
		if h.Linkname == "" {
			return fmt.Errorf("link to nothing: %w", errdefs.ErrInvalidArgument)
		}
		if err := x.asRoot(func() error { return unix.Symlinkat(h.Linkname, at, base) }); err != nil {
			return os.NewSyscallError("symlinkat", err)
		}
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		mode := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}[h.Typeflag]
		device := unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
		if err := x.asRoot(func() error { return unix.Mknodat(at, base, mode, int(device)) }); err != nil {
			return os.NewSyscallError("mknodat", err)
		}
	default:
		return fmt.Errorf("member of type %q: %w", h.Typeflag, errdefs.ErrInvalidArgument)
	}
	// No call opens these, so they are held by a descriptor that does not.
	fd, err := unix.Openat(at, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return errChanged
	}
	defer unix.Close(fd)
	return x.attributes(h, fd, true)
}

func (x *extraction) file(h *tar.Header, at int, base string) error {
	fd := -1
	err := x.asRoot(func() (err error) {
		fd, err = unix.Openat(at, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return os.NewSyscallError("openat", err)
	}
	defer unix.Close(fd)
	if err := x.data(h, fd); err != nil {
		return err
	}
	return x.attributes(h, fd, false)
}

// data writes a file's. Of a sparse one, what is zero becomes holes.
func (x *extraction) data(h *tar.Header, fd int) error {
	if x.buf == nil {
		x.buf = make([]byte, bufferSize)
	}
	sparse := h.Typeflag == tar.TypeGNUSparse || h.PAXRecords["GNU.sparse.realsize"] != "" || h.PAXRecords["GNU.sparse.size"] != ""
	if sparse {
		if err := unix.Ftruncate(fd, h.Size); err != nil {
			return os.NewSyscallError("ftruncate", err)
		}
	}
	for off := int64(0); ; {
		if err := x.ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(x.tar, x.buf)
		if err == io.ErrUnexpectedEOF && off+int64(n) == h.Size {
			err = io.EOF
		}
		if e := writeAt(fd, x.buf[:n], off, sparse); e != nil {
			return fmt.Errorf("write: %w", e)
		}
		off += int64(n)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return archiveError("data", err)
		}
	}
}

// hole is what a sparse file leaves out at least.
const hole = 4096

var zeroes [hole]byte

func writeAt(fd int, b []byte, off int64, sparse bool) error {
	for len(b) > 0 {
		piece := b
		if sparse {
			piece = b[:min(len(b), hole)]
			if string(piece) == string(zeroes[:len(piece)]) {
				b, off = b[len(piece):], off+int64(len(piece))
				continue
			}
		}
		n, err := unix.Pwrite(fd, piece, off)
		if err == unix.EINTR {
			continue
		}
		if err == nil && n == 0 {
			err = io.ErrShortWrite
		}
		if err != nil {
			return err
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}

// directory gives a directory its attributes, but for the time.
func (x *extraction) directory(h *tar.Header, name string, at int, base string) error {
	fd, err := unix.Openat(at, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ELOOP || err == unix.ENOTDIR || err == unix.ENOENT {
		return errChanged
	}
	if err != nil {
		return os.NewSyscallError("openat", err)
	}
	defer unix.Close(fd)
	kernels, err := kernelFS(fd)
	if err == nil && kernels {
		err = errKernelFS
	}
	if err != nil {
		return err
	}
	x.dirs = append(x.dirs, dirTime{name, mtime(h)})
	return x.attributes(h, fd, false)
}

func mtime(h *tar.Header) unix.Timespec {
	return unix.Timespec{Sec: h.ModTime.Unix(), Nsec: int64(h.ModTime.Nanosecond())}
}

// attributes sets what belongs to an open file: the owner first, because chown
// clears set-uid bits and capabilities. A path descriptor is named through
// /proc, which leads to what it holds, and nowhere else.
func (x *extraction) attributes(h *tar.Header, fd int, isPath bool) error {
	owner, err := x.owner(h)
	if err != nil {
		return err
	}
	if err := unix.Fchownat(fd, "", int(owner.UID), int(owner.GID), unix.AT_EMPTY_PATH); err != nil {
		return os.NewSyscallError("chown", err)
	}
	mode := uint32(h.Mode) & 0o7777
	switch {
	case h.Typeflag == tar.TypeSymlink: // has no mode
	case isPath:
		err = unix.Chmod(procPath(fd, ""), mode)
	default:
		err = unix.Fchmod(fd, mode)
	}
	if err != nil {
		return os.NewSyscallError("chmod", err)
	}
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, schilyXattr)
		if name = unescapeKey.Replace(name); !ok || !kept(name) {
			continue
		}
		data, err := x.options.IDs.write(name, []byte(value))
		switch {
		case err != nil:
		case isPath:
			err = unix.Setxattr(procPath(fd, ""), name, data, 0)
		default:
			err = unix.Fsetxattr(fd, name, data, 0)
		}
		if err != nil && err != unix.EOPNOTSUPP {
			return fmt.Errorf("set xattr %s: %w", quote(name), err)
		}
	}
	return setTime(fd, mtime(h))
}

// owner is whom on the host a member is to belong to.
func (x *extraction) owner(h *tar.Header) (Owner, error) {
	if o := x.options.Owner; o != nil {
		return x.options.IDs.host(*o)
	}
	if h.Uid < 0 || h.Uid >= noID || h.Gid < 0 || h.Gid >= noID {
		return Owner{}, fmt.Errorf("owner %d:%d: %w", h.Uid, h.Gid, errdefs.ErrInvalidArgument)
	}
	return x.options.IDs.host(Owner{uint32(h.Uid), uint32(h.Gid)})
}

// setTime sets both times of what a descriptor holds, without following it
// should it be a link.
func setTime(fd int, t unix.Timespec) error {
	err := unix.UtimesNanoAt(fd, "", []unix.Timespec{t, t}, unix.AT_EMPTY_PATH) // Linux 5.8
	return os.NewSyscallError("utimensat", err)
}

// directoryTimes sets the times of directories, which change with each name that
// is made in them. One that is not there any more needs none.
func (x *extraction) directoryTimes() error {
	for i := len(x.dirs) - 1; i >= 0; i-- {
		d := x.dirs[i]
		fd, err := open(x.root, x.target+d.name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
		if err != nil {
			continue
		}
		err = setTime(fd, d.mtime)
		unix.Close(fd)
		if err != nil {
			return fmt.Errorf("%s: %w", quote(d.name), err)
		}
	}
	return nil
}

// link makes a further name of a file.
func (x *extraction) link(h *tar.Header, name string, to place) error {
	target, err := below(h.Linkname)
	if err != nil {
		return fmt.Errorf("link to %s: %w", quote(h.Linkname), err)
	}
	if target == name {
		return nil
	}
	dir, base := path.Split(target)
	from, err := open(x.root, x.target+dir, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("link to %s: %w", quote(h.Linkname), lookupError(x.target+dir, err))
	}
	defer unix.Close(from)
	for range maxTries {
		if _, err := x.clear(to.dir, to.base, false); err != nil {
			return err
		}
		err = unix.Linkat(from, base, to.dir, to.base, 0)
		if err != unix.EEXIST {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("link to %s: %w", quote(h.Linkname), err)
	}
	return nil
}
