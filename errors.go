package engine

import (
	"errors"
	"syscall"

	"github.com/containerd/errdefs"

	"github.com/inboard/engine/image"
	"github.com/inboard/engine/runtime"
)

// What an error is about, for errors.Is. They are the sentinels of
// github.com/containerd/errdefs, which Docker's own client uses too, so that
// errdefs.IsNotFound and its kin work on every error of this package.
var (
	// ErrNotFound: no such image, container or name.
	ErrNotFound error = errdefs.ErrNotFound
	// ErrInvalidArgument: a value that cannot be right, as a name with a
	// space, a limit out of range, or a command line with nothing in it.
	ErrInvalidArgument error = errdefs.ErrInvalidArgument
	// ErrAlreadyExists: the name is taken.
	ErrAlreadyExists error = errdefs.ErrAlreadyExists
	// ErrFailedPrecondition: the thing is there, but not in a state for this,
	// as Start of a running container, or a second run directory for a root.
	ErrFailedPrecondition error = errdefs.ErrFailedPrecondition
	// ErrConflict: an image is used by a container, or has several names.
	ErrConflict error = errdefs.ErrConflict
	// ErrPermissionDenied: this process may not do it.
	ErrPermissionDenied error = errdefs.ErrPermissionDenied
	// ErrUnavailable: it may work later.
	ErrUnavailable error = errdefs.ErrUnavailable
	// ErrResourceExhausted: a disk is full, or a registry was asked too often.
	ErrResourceExhausted error = errdefs.ErrResourceExhausted
	// ErrDataLoss: a file on disk is damaged, or an image is not what its
	// digests, sizes and formats promise. The error's text names it.
	ErrDataLoss error = errdefs.ErrDataLoss
	// ErrNotImplemented: this version cannot do it.
	ErrNotImplemented error = errdefs.ErrNotImplemented
	// ErrUnsupported: this operating system, or this kernel, cannot do it.
	// It is ErrNotImplemented under another name.
	ErrUnsupported error = errdefs.ErrNotImplemented
)

// Error is the type of the errors that this package's functions return.
type Error struct {
	// Op is what was asked for, as "start container".
	Op string
	// ID is the container's or image's ID, or the name or reference that
	// was given for it. Empty where there is none.
	ID string
	// Err is what went wrong; it names the step and the thing.
	Err error
}

// Error gives Op, ID (of a container its first 12 digits) and Err.
func (e *Error) Error() string {
	if e.ID == "" {
		return e.Op + ": " + e.Err.Error()
	}
	id := e.ID
	if isID(id) {
		id = id[:shortID]
	}
	return e.Op + " " + id + ": " + e.Err.Error()
}

// Unwrap gives Err.
func (e *Error) Unwrap() error { return e.Err }

// CommandError is the error inside of what Start and Exec return when the
// container's program was not found (Code 127) or cannot be executed (126).
type CommandError = runtime.CommandError

// PanicError is inside of the error that Wait returns when a Reader or Writer
// of the caller's has panicked. The panic ends no more than its use.
type PanicError = runtime.PanicError

// failed wraps err, unless it is nil or tells its operation already.
func failed(op, id string, err error) error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return err
	}
	if i, ok := err.(*image.Error); ok {
		err = i.Err // it names the same
	}
	if isDiskFull(err) {
		err = diskFull{err}
	}
	return &Error{Op: op, ID: id, Err: err}
}

func isDiskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// diskFull is an error of a full disk, and says so by its class too.
type diskFull struct{ error }

func (f diskFull) Unwrap() []error { return []error{f.error, ErrResourceExhausted} }
