//go:build !linux

package runtime

import (
	"context"
	"fmt"
	"os"
	"syscall"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

var errNoLinux = fmt.Errorf("containers need Linux: %w", errdefs.ErrNotImplemented)

// A Runtime starts containers, on Linux.
type Runtime struct{ none struct{} }

// Open is errdefs.ErrNotImplemented on this system.
func Open(Options) (*Runtime, error) { return nil, errNoLinux }

// Default is errdefs.ErrNotImplemented on this system.
func Default() (*Runtime, error) { return nil, errNoLinux }

// Close does nothing on this system.
func (r *Runtime) Close() error { return nil }

// Create is errdefs.ErrNotImplemented on this system.
func (r *Runtime) Create(context.Context, *specs.Spec, CreateOptions) (*Container, error) {
	return nil, errNoLinux
}

// Start is errdefs.ErrNotImplemented on this system.
func (r *Runtime) Start(context.Context, *specs.Spec, CreateOptions) (*Container, error) {
	return nil, errNoLinux
}

// ExecIn is errdefs.ErrNotImplemented on this system.
func (r *Runtime) ExecIn(context.Context, Foreign, *specs.Process, ProcessOptions) (*Process, error) {
	return nil, errNoLinux
}

// OpenNamespace is errdefs.ErrNotImplemented on this system.
func OpenNamespace(*os.File, specs.LinuxNamespaceType) (*os.File, error) { return nil, errNoLinux }

// OpenShm is errdefs.ErrNotImplemented on this system.
func OpenShm(*os.File) (*os.File, error) { return nil, errNoLinux }

// A UserNamespace is one on Linux.
type UserNamespace struct{ none struct{} }

// NewUserNamespace is errdefs.ErrNotImplemented on this system.
func (r *Runtime) NewUserNamespace(context.Context, []specs.LinuxIDMapping, []specs.LinuxIDMapping) (*UserNamespace, error) {
	return nil, errNoLinux
}

// Close does nothing on this system.
func (u *UserNamespace) Close() error { return nil }

// MountIn is errdefs.ErrNotImplemented on this system.
func (o *Overlay) MountIn(*UserNamespace) (*os.File, error) { return nil, errNoLinux }

// A Container is one on Linux.
type Container struct{ none struct{} }

// ID is empty on this system.
func (c *Container) ID() string { return "" }

// Pid is 0 on this system.
func (c *Container) Pid() int { return 0 }

// CgroupPath is empty on this system.
func (c *Container) CgroupPath() string { return "" }

// Start is errdefs.ErrNotImplemented on this system.
func (c *Container) Start(context.Context) error { return errNoLinux }

// Wait is errdefs.ErrNotImplemented on this system.
func (c *Container) Wait(context.Context) (Status, error) { return Status{}, errNoLinux }

// Signal is errdefs.ErrNotImplemented on this system.
func (c *Container) Signal(context.Context, syscall.Signal) error { return errNoLinux }

// Resize is errdefs.ErrNotImplemented on this system.
func (c *Container) Resize(rows, columns uint16) error { return errNoLinux }

// Terminal is errdefs.ErrNotImplemented on this system.
func (c *Container) Terminal() (*os.File, error) { return nil, errNoLinux }

// Exec is errdefs.ErrNotImplemented on this system.
func (c *Container) Exec(context.Context, *specs.Process, ProcessOptions) (*Process, error) {
	return nil, errNoLinux
}

// Stats is errdefs.ErrNotImplemented on this system.
func (c *Container) Stats(context.Context) (Stats, error) { return Stats{}, errNoLinux }

// ReadStats is errdefs.ErrNotImplemented on this system.
func ReadStats(string) (Stats, error) { return Stats{}, errNoLinux }

// Update is errdefs.ErrNotImplemented on this system.
func (c *Container) Update(context.Context, *specs.LinuxResources) error { return errNoLinux }

// Pause is errdefs.ErrNotImplemented on this system.
func (c *Container) Pause(context.Context) error { return errNoLinux }

// Resume is errdefs.ErrNotImplemented on this system.
func (c *Container) Resume(context.Context) error { return errNoLinux }

// Delete is errdefs.ErrNotImplemented on this system.
func (c *Container) Delete(context.Context) error { return errNoLinux }

// A Process is one in a container, on Linux.
type Process struct{ none struct{} }

// Pid is 0 on this system.
func (p *Process) Pid() int { return 0 }

// Wait is errdefs.ErrNotImplemented on this system.
func (p *Process) Wait(context.Context) (Status, error) { return Status{}, errNoLinux }

// Signal is errdefs.ErrNotImplemented on this system.
func (p *Process) Signal(context.Context, syscall.Signal) error { return errNoLinux }

// Settled is nil on this system.
func (p *Process) Settled() <-chan struct{} { return nil }

// Status is unknown on this system.
func (p *Process) Status() Status { return Status{} }

// Resize is errdefs.ErrNotImplemented on this system.
func (p *Process) Resize(rows, columns uint16) error { return errNoLinux }

// Terminal is errdefs.ErrNotImplemented on this system.
func (p *Process) Terminal() (*os.File, error) { return nil, errNoLinux }

// Explain is errdefs.ErrNotImplemented on this system.
func Explain(*specs.Spec, CreateOptions) (string, error) { return "", errNoLinux }

// Capabilities are none on this system.
func Capabilities() []string { return nil }

// DefaultSeccomp is errdefs.ErrNotImplemented on this system.
func DefaultSeccomp([]string) (*specs.LinuxSeccomp, error) { return nil, errNoLinux }

// Mount is errdefs.ErrNotImplemented on this system.
func (o *Overlay) Mount() (*os.File, error) { return nil, errNoLinux }
