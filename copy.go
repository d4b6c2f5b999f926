package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"
	"time"
)

// PathInfo is what StatPath knows of a path in a container.
type PathInfo struct {
	// Name is the last name of the path.
	Name string
	// Size is in bytes.
	Size    int64
	Mode    fs.FileMode
	ModTime time.Time
	// Target is where a link leads to in the end, or would if something was
	// there, as a path in the container. Links may be left on the way to its
	// last name.
	Target string
}

// CopyFromOptions are those of CopyFrom; the zero value is right.
type CopyFromOptions struct {
	// FollowLink takes what a link at the path leads to, under the name that the
	// link has.
	FollowLink bool
}

// CopyToOptions are those of CopyTo; the zero value is right.
type CopyToOptions struct {
	// NoOverwriteDirNonDir refuses to put something else in the place of a
	// directory, or a directory in the place of something else.
	NoOverwriteDirNonDir bool
	// CopyUIDGID gives what is copied to the container's user and group, if its
	// Config or image names them. Else it belongs to those of the archive. Both
	// are ids of the container's.
	CopyUIDGID bool
}

// StatPath tells what is at a path in the container, without following a link
// there: it is of the same tree, with the same errors, as CopyFrom's.
func (c *Container) StatPath(ctx context.Context, path string) (PathInfo, error) {
	const op = "look at path in container"
	t, err := c.openTree(ctx)
	if err != nil {
		return PathInfo{}, failed(op, c.id, err)
	}
	defer t.close()
	info, err := t.stat(path)
	return info, failed(op, c.id, err)
}

// CopyFrom writes what is at a path in the container to w, as a tar stream: a
// file, or a directory and all that is in it. Names in the archive begin with
// the last name of the path, or if it ends with "/." with "." alone. A link at
// the path is copied as a link, unless the path goes on behind it, be it with
// "/.".
//
// Of a running container, of any program, that is what its processes see: binds
// and tmpfs too, but of the kernel's filesystems, such as /proc, the directory
// alone. It goes on running; what it changes meanwhile is copied as it is found:
// a file that shrinks is filled up with zeros, one that is gone is left out. Of
// a container that does not run, it is the image with the writable layer over
// it, and of its Mounts the binds, as with docker cp: where a tmpfs is to be,
// what is below it shows. A bind whose source is not there fails the copy, as it
// would a start, with ErrInvalidArgument.
//
// The archive has hard links, devices, FIFOs, owners by number, times in
// nanoseconds, the extended attributes that Docker's images can have, and the
// holes of large files; sockets are left out. Its format is POSIX's with PAX
// records, as archive/tar and GNU tar read it. Ids are those that the container
// sees. With a user namespace, what has none in there belongs to 65534, and file
// capabilities and ACLs are as the kernel shows them inside.
//
// No path is resolved outside of the container, whatever its processes rename
// and link meanwhile (CVE-2018-15664), none of its programs or libraries is run
// (CVE-2019-14271), and no device or FIFO in it is opened.
//
// A path that is not there gives ErrNotFound, and nothing is written. After
// another error, of the context or of w too, the archive has no end marker. A w
// that blocks keeps nobody else waiting, but on Linux before 6.15, or where the
// copy began while it ran, the next Start of the same container. Needs the same
// privileges as Start.
//
// The files of another program's container that does not run are that one's who
// copies, as two overlays must not have one writable layer: Start, and copies by
// further programs, wait until it is done, and a copy waits for those of others;
// after a run that is a second at most. Start also waits for what others still
// copy of the run before. All waits end with their contexts. A program that has
// ended leaves nothing to be copied: ErrFailedPrecondition, or ErrNotFound once
// its containers are swept.
func (c *Container) CopyFrom(ctx context.Context, path string, w io.Writer, o CopyFromOptions) error {
	const op = "copy from container"
	t, err := c.openTree(ctx)
	if err != nil {
		return failed(op, c.id, err)
	}
	defer t.close()
	err = t.write(ctx, path, whileOpen{c.engine, nil, w}, o)
	if err == nil {
		err = c.stillThere()
	}
	return failed(op, c.id, copyError(err))
}

// CopyTo extracts a tar stream into a directory of the container, which must be
// there; links on the way to it are followed. r is read to its end. What has a
// member's name already is replaced, but for a directory by a directory. Members
// whose names lead out of the directory by ".." are refused; one whose name
// leads through a link of the container is made where the link leads to inside.
//
// A running container sees what is copied at once, in its binds and tmpfs too.
// For one that was created, its writable layer is made, which its start uses.
// What a container that does not run shows of its Mounts, who waits for whom, and
// what keeps the copy inside is as with CopyFrom.
//
// The archive may be of every kind that archive/tar reads, not compressed. Its
// ids are those of the container: with a user namespace, one that it does not
// have, of an owner, in an ACL, or of the root of a file capability, gives
// ErrInvalidArgument. A directory that is not there gives ErrNotFound, one that
// is none, as well as a stream that is no whole archive, ErrInvalidArgument, a
// read-only place ErrPermissionDenied: a Mount, or with Security.ReadOnlyRoot all
// else, whether it runs or not. After an error, what has been extracted stays.
func (c *Container) CopyTo(ctx context.Context, dir string, r io.Reader, o CopyToOptions) error {
	const op = "copy to container"
	t, err := c.openTree(ctx)
	if err != nil {
		return failed(op, c.id, err)
	}
	defer t.close()
	user := ""
	if o.CopyUIDGID {
		info, err := c.inspect()
		if err != nil {
			return failed(op, c.id, err)
		}
		user = info.Process.User
	}
	err = t.extract(ctx, dir, whileOpen{c.engine, r, nil}, user, o)
	if err == nil {
		err = c.stillThere()
	}
	return failed(op, c.id, copyError(err))
}

// stillThere tells that what was copied was all of the container's: its removal
// takes its files away while they are copied.
func (c *Container) stillThere() error {
	_, err := c.engine.root.records().read(c.id)
	if errors.Is(err, ErrNotFound) {
		return fmt.Errorf("container was removed meanwhile: %w", ErrNotFound)
	}
	return err
}

func copyError(err error) error {
	if errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("%w: %w", err, ErrPermissionDenied)
	}
	return err
}

// whileOpen is a stream of the caller's that ends with the Engine. Close does
// not wait for it, as nobody knows how long a stream blocks.
type whileOpen struct {
	engine *Engine
	r      io.Reader
	w      io.Writer
}

func (s whileOpen) Read(b []byte) (int, error) {
	if err := s.engine.isOpen(); err != nil {
		return 0, err
	}
	return s.r.Read(b)
}

func (s whileOpen) Write(b []byte) (int, error) {
	if err := s.engine.isOpen(); err != nil {
		return 0, err
	}
	return s.w.Write(b)
}

func (e *Engine) isOpen() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return errClosed
	}
	return nil
}
