package cgroup

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// maxFile bounds what is read from one file. The largest ones are lists of
// processes, eleven bytes for each of at most 4 million.
const maxFile = 64 << 20

const dirFlags = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// openAt opens name below the directory dir. Control files are never links.
func openAt(dir int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// readAt reads a control file whole.
func readAt(dir int, name string) (string, error) {
	fd, err := openAt(dir, name, unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	return readAll(fd)
}

func readAll(fd int) (string, error) {
	buf := make([]byte, 0, 1024)
	for len(buf) < maxFile {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := unix.Read(fd, buf[len(buf):cap(buf)])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return "", err
		}
		if n == 0 {
			return string(buf), nil
		}
		buf = buf[:len(buf)+n]
	}
	return "", unix.EFBIG
}

// writeAt writes value to a control file with one write call, as the kernel
// wants it. A write that reclaims memory ends with EINTR when the Go runtime
// preempts its thread, so it is repeated.
func writeAt(dir int, name, value string) error {
	fd, err := openAt(dir, name, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return writeFD(fd, value)
}

func writeFD(fd int, value string) error {
	for {
		_, err := unix.Write(fd, []byte(value))
		if err != unix.EINTR {
			return err
		}
	}
}

// gone tells that an error means "this directory is not there any more":
// kernfs answers ENODEV where a removed directory is still open.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV)
}

// classify adds the errdefs sentinel that tells a caller what to do about err.
func classify(err error) error {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return err
	}
	var kind error
	switch errno {
	case unix.ENOENT, unix.EOPNOTSUPP, unix.ENOSYS:
		kind = errdefs.ErrNotImplemented
	case unix.EINVAL, unix.ERANGE, unix.E2BIG:
		kind = errdefs.ErrInvalidArgument
	case unix.EPERM, unix.EACCES:
		kind = errdefs.ErrPermissionDenied
	case unix.EEXIST:
		kind = errdefs.ErrAlreadyExists
	case unix.ENODEV, unix.ENXIO:
		kind = errdefs.ErrNotFound
	case unix.EBUSY, unix.EROFS, unix.ENOSPC, unix.EAGAIN, unix.ENOTEMPTY:
		kind = errdefs.ErrFailedPrecondition
	default:
		return err
	}
	return &kindError{err, kind}
}

// kindError is err that also is one of errdefs' sentinels, without its text.
type kindError struct{ err, kind error }

func (e *kindError) Error() string   { return e.err.Error() }
func (e *kindError) Unwrap() []error { return []error{e.err, e.kind} }

// kindf is fmt.Errorf whose result also is kind.
func kindf(kind error, format string, args ...any) error {
	return &kindError{fmt.Errorf(format, args...), kind}
}

// field returns the number after "key " in the lines of a flat keyed file.
func field(text, key string) (uint64, bool) {
	for line := range strings.Lines(text) {
		k, v, ok := strings.Cut(strings.TrimSpace(line), " ")
		if ok && k == key {
			n, err := strconv.ParseUint(v, 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}
