package engine

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/inboard/engine/image"
)

func TestError(t *testing.T) {
	if failed("op", "", nil) != nil {
		t.Error("nil became an error")
	}
	id := strings.Repeat("0123456789abcdef", 4)
	err := failed("start container", id, notRunning(StateExited))
	if want := "start container 0123456789ab: container is not running, but exited: failed precondition"; err.Error() != want {
		t.Errorf("%q, want %q", err, want)
	}
	if !errdefs.IsFailedPrecondition(err) || !errors.Is(err, ErrFailedPrecondition) {
		t.Error("the sentinel is lost")
	}
	var e *Error
	if again := failed("outer", "x", err); !errors.As(again, &e) || e.Op != "start container" || e.ID != id {
		t.Errorf("wrapped twice: %v", again)
	}
	if err := failed("pull image", "alpine", fs.ErrPermission); err.Error() != "pull image alpine: permission denied" {
		t.Errorf("%q", err)
	}
	inner := &image.Error{Op: "pull", Name: "docker.io/library/alpine:latest", Err: fs.ErrPermission}
	if err := failed("pull image", "alpine", inner); err.Error() != "pull image alpine: permission denied" {
		t.Errorf("%q", err)
	}
	if ErrUnsupported != ErrNotImplemented {
		t.Error("ErrUnsupported is not ErrNotImplemented")
	}
}
