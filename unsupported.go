//go:build !linux

package engine

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	goruntime "runtime"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/inboard/engine/runtime"
)

// Containers are of Linux. Elsewhere Create fails, so that nothing below is
// reached but by handles of containers that cannot be.

func supported() error {
	return fmt.Errorf("containers need Linux, this is %s: %w", goruntime.GOOS, ErrUnsupported)
}

type (
	writables struct {
		dir  string
		log  *slog.Logger
		idle time.Duration
	}
	writable   struct{ name string }
	rootAttr   struct{}
	readyRoots struct{}
	idRange    struct{}
	idRanges   struct {
		path    string
		runtime func() (*runtime.Runtime, error)
	}
	copies struct{}
	claims struct{ path string }
	claim  struct{}
)

type control struct{}

func (*control) close()       {}
func (*Engine) takeRequests() {}

func (*Container) ask(context.Context, request) error { return supported() }

func newClaim(*claims, string) *claim { return new(claim) }

func (*claims) close() error { return nil }

func (*claim) hold()         {}
func (*claim) release()      {}
func (*claim) started()      {}
func (*claim) ending() error { return nil }

type containerTree struct{ close func() }

func (*Container) openTree(context.Context) (*containerTree, error) { return nil, supported() }

func (*containerTree) stat(string) (PathInfo, error) { return PathInfo{}, supported() }

func (*containerTree) write(context.Context, string, io.Writer, CopyFromOptions) error {
	return supported()
}

func (*containerTree) extract(context.Context, string, io.Reader, string, CopyToOptions) error {
	return supported()
}

func (*writables) close()                    {}
func (*readyRoots) stop(*writables)          {}
func (*readyRoots) mapBy(*idRanges)          {}
func (*idRange) apply(*specs.Spec)           {}
func (*idRanges) release(*idRange)           {}
func (*idRanges) close() error               { return nil }
func (*Container) adopt(*record)             {}
func (*Container) readyNext()                {}
func (*Container) giveLayer(*writable, bool) {}

func (*Container) rootfs(context.Context, *run) (runtime.Rootfs, *runtime.UserNamespace, error) {
	return runtime.Rootfs{}, nil, supported()
}

func (*own) spec() (*specs.Spec, error) { return nil, supported() }

func (*own) confinement() (*specs.Spec, error) { return nil, supported() }

func (*own) processSpec() *specs.Process { return new(specs.Process) }

type joined struct{ shm *os.File }

func (*Container) join(context.Context, *specs.Spec) (*joined, error) { return nil, supported() }

func (*joined) close() {}

func (*Engine) openRunning(string) (*os.File, *record, error) { return nil, nil, supported() }

func (*Engine) waitForeign(context.Context, string, int) (Status, error) {
	return Status{}, supported()
}

func (*Container) killForeign(context.Context, syscall.Signal) error { return supported() }

func (*Engine) follow(context.Context, *EventOptions, eventPosition, func(Event, error) bool) error {
	return supported()
}

type output struct {
	input          io.Reader
	stdout, stderr io.Writer
}

func (*output) connect(*Config, *logFile, int) error { return supported() }

func (*output) takeTerminal(*os.File) error { return supported() }

func (*output) begin() {}
func (*output) drop()  {}

func (*output) wait(time.Duration, <-chan struct{}) (int64, error) { return 0, supported() }

type follower struct{}

func newFollower(*Container, string) *follower { return new(follower) }

func (*follower) look() (logState, error) { return logState{}, supported() }

func (*follower) sleep(context.Context, time.Time) (bool, error) { return false, supported() }

func (*follower) close() {}

func (*attachment) read(context.Context) error { return supported() }

func linuxResources(Resources) (*specs.LinuxResources, error) { return nil, supported() }

func thawForeign(string) error { return supported() }

func checkRlimits([]Rlimit) error { return supported() }

func parseSignal(string) (syscall.Signal, error) { return 0, supported() }

func checkSignal(syscall.Signal) error { return supported() }

func bootTime() int64 { return 0 }

func openedOnce(*os.File) bool { return false }
