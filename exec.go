package engine

import (
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/inboard/engine/runtime"
)

// ExecConfig says what Exec runs. Args must be set; the zero value of the
// rest is right.
type ExecConfig struct {
	// Args is the whole command line.
	Args []string
	// Env is added to the container's environment, as Config.Env is to the
	// image's.
	Env []string
	// User and WorkingDir are as in Config. Empty: the container's.
	User       string
	WorkingDir string
	// TTY gives the process a terminal of its own, and WindowSize that its size
	// at the beginning, as in Config. When the process ends, its terminal does,
	// and others that have it open are hung up.
	TTY        bool
	WindowSize WindowSize
	// Stdin, Stdout, Stderr and WaitDelay are as in Config, but nothing is
	// logged: nil output goes nowhere.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	WaitDelay      time.Duration
}

// Exec is a process that Container.Exec has started. It ends with its
// container at the latest. Its methods may be called by several goroutines at
// once.
type Exec struct {
	container *Container
	process   *runtime.Process
}

// Exec runs one more process in a running container, with the container's
// limits and restrictions. It returns when the program is executed; a command
// that is not found, or that cannot be executed, gives an error with a
// *CommandError inside.
//
// The context bounds the call alone. A process in a container of another program
// ends with the container and with the Engine that has started it, whichever is
// first; processes that it leaves behind become the container's.
func (c *Container) Exec(ctx context.Context, x ExecConfig) (*Exec, error) {
	const op = "exec in container"
	ctx, leave, err := c.engine.enter(ctx)
	if err != nil {
		return nil, failed(op, c.id, err)
	}
	defer leave()
	exec := c.exec
	if c.own == nil {
		exec = c.execForeign
	}
	p, err := exec(ctx, x)
	if err != nil {
		return nil, failed(op, c.id, err)
	}
	command := strings.Join(x.Args, " ")
	c.publish(EventExecStart, "execCommand", command)
	c.engine.runs.Go(func() {
		<-p.Settled()
		c.publishDeath(EventExecDie, p.Status(), "execCommand", command)
	})
	return &Exec{c, p}, nil
}

// exec is Exec for a container of this Engine.
func (c *Container) exec(ctx context.Context, x ExecConfig) (*runtime.Process, error) {
	r, state, err := c.own.running()
	if err == nil && state == StatePaused {
		err = errPaused
	}
	if err != nil {
		return nil, err
	}
	spec, options, err := c.own.execProcess(x)
	if err != nil {
		return nil, err
	}
	if !confinedProcess(spec, &options) {
		c.own.exposed.Store(true)
	}
	p, err := r.container.Exec(ctx, spec, options)
	if err != nil {
		select {
		case <-r.done:
			err = notRunning(StateExited)
		default:
		}
	}
	return p, err
}

// execForeign is Exec for a container of another Engine. What there is to know
// of it is in its record.
func (c *Container) execForeign(ctx context.Context, x ExecConfig) (*runtime.Process, error) {
	process, r, err := c.engine.openRunning(c.id)
	if err != nil {
		return nil, err
	}
	defer process.Close()
	if r.State == StatePaused {
		return nil, errPaused
	}
	o := &own{process: r.Process, config: Config{
		Rlimits: r.Rlimits, Security: r.Security, Network: r.Network, PID: r.PIDNamespace, IPC: r.IPCNamespace, UTS: r.UTSNamespace,
	}}
	o.config.Security.Devices = nil // they are there
	if o.capabilities, err = o.config.Security.check(); err != nil {
		return nil, err
	}
	spec, options, err := o.execProcess(x)
	if err != nil {
		return nil, err
	}
	container, err := o.confinement()
	if err != nil {
		return nil, err
	}
	if r.Security.UserNamespace == UserNamespacePrivate { // the process has its ids
		container.Linux.Namespaces = append(container.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	}
	rt, err := c.engine.runtime()
	if err != nil {
		return nil, err
	}
	// Its processes are not all known to its program.
	if err := c.engine.expose(ctx, c.id, r); err != nil {
		return nil, err
	}
	return rt.ExecIn(ctx, runtime.Foreign{Process: process, CgroupPath: r.Cgroup, Spec: container}, spec, options)
}

// execProcess is the container's own process with what x says.
func (o *own) execProcess(x ExecConfig) (spec *specs.Process, options runtime.ProcessOptions, err error) {
	for _, v := range x.Env {
		if err := checkVariable(v); err != nil {
			return nil, options, err
		}
	}
	p := Process{
		Args:       slices.Clone(x.Args),
		Env:        mergeEnv(terminalEnv(x.TTY), o.process.Env, x.Env),
		User:       first(x.User, o.process.User, "0"),
		WorkingDir: path.Clean(first(x.WorkingDir, o.process.WorkingDir)),
	}
	if len(p.Args) == 0 {
		return nil, options, fmt.Errorf("no command: %w", ErrInvalidArgument)
	}
	if x.WaitDelay < 0 {
		return nil, options, fmt.Errorf("wait delay %v: negative: %w", x.WaitDelay, ErrInvalidArgument)
	}
	if err := p.check(); err != nil {
		return nil, options, err
	}
	spec = o.processSpec()
	spec.Args, spec.Env, spec.Cwd = p.Args, p.Env, p.WorkingDir
	setTerminal(spec, x.TTY, x.WindowSize)
	return spec, runtime.ProcessOptions{
		User:      p.User,
		Stdin:     x.Stdin,
		Stdout:    x.Stdout,
		Stderr:    x.Stderr,
		WaitDelay: x.WaitDelay,
	}, nil
}

// PID is the process on the host.
func (x *Exec) PID() int { return x.process.Pid() }

// Wait waits until the process has ended, and tells how. Many may wait.
func (x *Exec) Wait(ctx context.Context) (Status, error) {
	status, err := x.process.Wait(ctx)
	return status, failed("wait for exec in container", x.container.id, err)
}

// Kill sends a signal to the process.
func (x *Exec) Kill(ctx context.Context, sig syscall.Signal) error {
	const op = "kill exec in container"
	if err := checkSignal(sig); err != nil {
		return failed(op, x.container.id, err)
	}
	return failed(op, x.container.id, x.process.Signal(ctx, sig))
}
