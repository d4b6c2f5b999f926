package runtime

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/inboard/engine/internal/seccomp"
)

var errClosed = fmt.Errorf("the runtime is closed: %w", errdefs.ErrFailedPrecondition)

// A Runtime starts containers. It is safe for use by several goroutines at
// once. Close it when it is not needed any more; if the program just ends, its
// containers end too, and the next Open of the same Options.Dir removes their
// cgroups.
type Runtime struct {
	dir     string
	id      string
	lock    *os.File
	cgroups *cgroups
	spares  spares
	null    *os.File
	hostNS  *os.File // the caller's mount namespace, opened when first needed
	nested  keepers  // in whose pid namespaces containers nest
	outer   keepers  // outside

	mu         sync.Mutex
	closed     bool
	containers map[*Container]bool
	filters    map[*specs.LinuxSeccomp]*filter
}

// A filter is a compiled seccomp profile.
type filter struct {
	code  []unix.SockFilter
	flags uintptr
}

// Open makes a Runtime: its directory and lock file. The keeper process is
// started with the first container, and again if it was killed.
func Open(o Options) (*Runtime, error) {
	dir := o.Dir
	if dir == "" {
		dir = defaultDir()
	}
	parent := strings.Trim(o.CgroupParent, "/")
	if parent == "" {
		parent = "inboard"
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := sweep(dir); err != nil {
		return nil, err
	}
	id := newID()[:12]
	lock, err := lockNew(filepath.Join(dir, id+lockSuffix))
	if err != nil {
		return nil, err
	}
	r := &Runtime{dir: dir, id: id, lock: lock, containers: map[*Container]bool{}, filters: map[*specs.LinuxSeccomp]*filter{},
		nested: keepers{room: maxChildren}, outer: keepers{outside: true, room: maxChildren}}
	if r.null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err == nil {
		if r.cgroups, err = openCgroups(path.Join(parent, id), lock); err != nil {
			r.null.Close()
		}
	}
	if err != nil {
		r.unlock()
		return nil, err
	}
	return r, nil
}

func defaultDir() string {
	if os.Geteuid() != 0 {
		if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
			return filepath.Join(dir, "inboard", "runtime")
		}
	}
	return "/run/inboard/runtime"
}

func newID() string {
	var b [32]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// Default is the Runtime that the functions of this package act on. It is
// opened with zero Options when first asked for, and never closed.
var Default = sync.OnceValues(func() (*Runtime, error) { return Open(Options{}) })

// Close kills the Runtime's containers and frees all it has. A Runtime that is
// closed cannot be used again. Calling Close twice does nothing.
func (r *Runtime) Close() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	keepers := append(r.nested.stop(), r.outer.stop()...)
	containers := r.containers
	r.containers = map[*Container]bool{}
	r.mu.Unlock()
	var errs []error
	for c := range containers {
		// The keeper would wait for what is frozen; and from an outside one's
		// kill of a cgroup nothing escapes by forking.
		if c.paused() || c.process.keeper.outside {
			c.kill()
		}
		if c.process.keeper.outside {
			<-c.process.child.ended
		}
	}
	for _, k := range keepers {
		errs = append(errs, k.close())
	}
	for c := range containers {
		errs = append(errs, c.Delete(context.Background()))
	}
	r.spares.close()
	errs = append(errs, r.cgroups.close(), r.null.Close())
	if r.hostNS != nil {
		errs = append(errs, r.hostNS.Close())
	}
	return errors.Join(append(errs, r.unlock())...)
}

func (r *Runtime) unlock() error {
	return errors.Join(os.Remove(r.lock.Name()), r.lock.Close())
}

// nestedKeeper returns a keeper whose pid namespace containers nest in, started
// if need be.
func (r *Runtime) nestedKeeper() (*keeper, error) { return r.nested.get(r.dir) }

// outerKeeper returns one outside, started if need be.
func (r *Runtime) outerKeeper() (*keeper, error) { return r.outer.get(r.dir) }

// filter compiles a seccomp profile, once for each.
func (r *Runtime) filter(p *specs.LinuxSeccomp) (*filter, error) {
	if p == nil {
		return &filter{}, nil
	}
	r.mu.Lock()
	f := r.filters[p]
	r.mu.Unlock()
	if f != nil {
		return f, nil
	}
	code, err := seccomp.Compile(p, goruntime.GOARCH)
	if err != nil {
		return nil, err
	}
	flags, err := seccomp.Flags(p)
	if err != nil {
		return nil, err
	}
	f = &filter{code, flags}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.filters) >= 64 { // a caller that makes a new profile each time
		clear(r.filters)
	}
	r.filters[p] = f
	return f, nil
}

// hostMountNS is a descriptor of the mount namespace in which paths of specs
// have their meaning.
func (r *Runtime) hostMountNS() (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hostNS == nil {
		f, err := os.Open("/proc/thread-self/ns/mnt")
		if err != nil {
			return -1, err
		}
		r.hostNS = f
	}
	return int(r.hostNS.Fd()), nil
}

// Create makes a container: its cgroup, its namespaces, its mounts and its
// first process, which waits for Container.Start before it executes the
// command. The spec is not kept. ctx ends the wait for all that; it does not
// bound the container's life.
//
// Errors: errdefs.ErrInvalidArgument for a spec that makes no sense,
// ErrNotImplemented for one that asks for what is not built, and on a kernel
// that lacks what containers need, ErrPermissionDenied without root's
// privileges, a *StepError for a system call that failed. After an error
// nothing is left.
func (r *Runtime) Create(ctx context.Context, spec *specs.Spec, o CreateOptions) (*Container, error) {
	c, err := r.create(ctx, spec, &o, true)
	return c, needsKernel(err)
}

// Start is Create and Container.Start in one. An error that the command was not
// found or cannot be executed is a *CommandError.
func (r *Runtime) Start(ctx context.Context, spec *specs.Spec, o CreateOptions) (*Container, error) {
	c, err := r.create(ctx, spec, &o, false)
	return c, needsKernel(err)
}

// needsKernel adds the sentinel that tells a kernel without a system call: an
// older one, or one that a filter makes look so.
func needsKernel(err error) error {
	if errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("%w (%w: containers need Linux 5.14)", err, errdefs.ErrNotImplemented)
	}
	return err
}

func (r *Runtime) forget(c *Container) {
	r.mu.Lock()
	delete(r.containers, c)
	r.mu.Unlock()
}
