package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/inboard/engine/internal/cgroup"
)

var errNotReached = errors.New("the process was killed before it could execute its command")

// A Container is a process, its descendants, and what they live in. It is safe
// for use by several goroutines at once.
type Container struct {
	rt      *Runtime
	id      string
	process *Process
	cgroup  *cgroup.Cgroup
	ns      uintptr // CLONE_NEW flags of its namespaces
	ids     *idMap  // nil: those of the host
	filter  *filter // of its processes
	unified bool    // they are in the v2 cgroup
	standby standby // for the next exec

	pidsLimited atomic.Bool
	pause       pause

	mu      sync.Mutex
	waiting *creation      // between Create and Start
	entries int            // programs that are entering the cgroup
	entered sync.WaitGroup // the same, for Delete
	leaving *time.Timer
	deleted bool
	gone    chan struct{} // closed by the first Delete when all is freed
}

// A creation is a container's program while it runs.
type creation struct {
	program *program
	command *command
	link    *os.File // the host's end
	forks   *child   // not nil: the one whose place a fork of the program's takes
}

// ID is the one of CreateOptions, or a random one of 64 hexadecimal digits.
func (c *Container) ID() string { return c.id }

// Pid is the first process's, in the caller's pid namespace; 0 when it has ended.
func (c *Container) Pid() int { return c.process.Pid() }

// CgroupPath is the container's cgroup below the root of each hierarchy.
func (c *Container) CgroupPath() string { return c.cgroup.Path() }

// Wait blocks until the first process has ended and its output has been copied
// (see ProcessOptions.WaitDelay), and gives its status; with it, the first error
// that copying to or from the caller's streams met. If ctx ends first, the error
// is ctx's and the container goes on. Wait may be called any number of times.
func (c *Container) Wait(ctx context.Context) (Status, error) { return c.process.Wait(ctx) }

// Signal sends a signal to the first process. If it has ended, the error is
// errdefs.ErrNotFound. The first process of a pid namespace ignores signals
// that it has no handler for, except SIGKILL and SIGSTOP. Of a paused container
// SIGKILL alone takes effect at once.
func (c *Container) Signal(ctx context.Context, sig syscall.Signal) error {
	err := c.process.Signal(ctx, sig)
	if err == nil && sig == unix.SIGKILL {
		c.letDie()
	}
	return err
}

func (r *Runtime) create(ctx context.Context, spec *specs.Spec, o *CreateOptions, wait bool) (_ *Container, err error) {
	if o.Rootfs.Mount != nil {
		defer o.Rootfs.Mount.Close()
	}
	if o.UserNamespace != nil {
		defer o.UserNamespace.Close()
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := checkSpec(spec); err != nil {
		return nil, err
	}
	keeper := r.outerKeeper
	if nested(spec) {
		keeper = r.nestedKeeper
	}
	k, err := keeper()
	if err != nil {
		return nil, err
	}
	c := &Container{rt: r, id: o.ID, gone: make(chan struct{})}
	c.pause.turn = make(chan struct{}, 1)
	if c.id == "" {
		c.id = newID()
	}
	if c.cgroup, err = r.cgroups.take(spec.Linux.CgroupsPath, o.CgroupParent, spec.Linux.Resources); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			r.cgroups.remove(c.cgroup)
		}
	}()
	user, err := r.userNamespace(ctx, spec, o.UserNamespace)
	if err != nil {
		return nil, err
	}
	if user != nil {
		defer user.Close()
		c.ids = &user.ids
	}
	root, err := openRoot(spec, o.Rootfs, user)
	if err != nil {
		return nil, err
	}
	defer root.close()
	streams, err := openStreams(&o.ProcessOptions, r.null, spec.Process.Terminal)
	if err != nil {
		return nil, err
	}
	if err := c.launch(ctx, k, &launch{spec, o, root, streams, wait, user}); err != nil {
		streams.close()
		return nil, err
	}
	r.cgroups.refill()
	r.spares.refill()
	c.cgroup.Release()
	r.mu.Lock()
	closed := r.closed
	if !closed {
		r.containers[c] = true
	}
	r.mu.Unlock()
	if closed {
		c.Delete(context.Background())
		return nil, errClosed
	}
	return c, nil
}

// checkSpec refuses what is missing or not built.
func checkSpec(spec *specs.Spec) error {
	no := func(sentinel error, what string) error { return fmt.Errorf("spec: %s: %w", what, sentinel) }
	switch {
	case spec == nil || spec.Linux == nil:
		return no(errdefs.ErrInvalidArgument, "no linux section")
	case spec.Hooks != nil:
		return no(errdefs.ErrNotImplemented, "hooks")
	case spec.Linux.RootfsPropagation != "" && spec.Linux.RootfsPropagation != "private" && spec.Linux.RootfsPropagation != "rprivate":
		return no(errdefs.ErrNotImplemented, "rootfs propagation "+spec.Linux.RootfsPropagation)
	case spec.Linux.MountLabel != "" || spec.Linux.IntelRdt != nil || spec.Linux.Personality != nil || len(spec.Linux.TimeOffsets) > 0:
		return no(errdefs.ErrNotImplemented, "mount label, Intel RDT, personality or time offsets")
	case len(spec.Linux.Devices) > 0 && !slices.ContainsFunc(spec.Mounts, isDev):
		return no(errdefs.ErrNotImplemented, "devices without a tmpfs on /dev")
	}
	if err := checkUserNamespace(spec); err != nil {
		return fmt.Errorf("spec: %w", err)
	}
	return checkProcess(spec.Process)
}

// isDev tells whether a mount is the one that devices are made in.
func isDev(m specs.Mount) bool { return m.Type == "tmpfs" && path.Clean(m.Destination) == "/dev" }

// A launch is what one container's program is made of.
type launch struct {
	spec    *specs.Spec
	options *CreateOptions
	root    *root
	streams *streams
	wait    bool // for Container.Start
	user    *UserNamespace
}

// launch compiles the program, has the keeper run it, and waits for it.
func (c *Container) launch(ctx context.Context, k *keeper, l *launch) (err error) {
	if c.filter, err = c.rt.filter(l.spec.Linux.Seccomp); err != nil {
		return err
	}
	// A root that the program mounts can be looked at only when it has.
	barrier := l.wait || l.root.mount == nil || !nested(l.spec)
	ours, theirs, err := newLink(barrier)
	if err != nil {
		return err
	}
	c.unified = c.rt.usesUnified(l.spec.Linux.Resources)
	c.pidsLimited.Store(l.spec.Linux.Resources != nil && l.spec.Linux.Resources.Pids != nil)
	b := newBuilder(c.rt, l.spec, c.cgroup)
	b.unified = c.unified
	run := &creation{program: b.program, link: ours}
	defer func() {
		theirs.Close()
		if err != nil || c.waiting == nil {
			run.close()
		}
	}()
	c.ns = b.container(l, int(theirs.Fd()))
	if b.console != nil {
		if err := l.streams.connect(b.console, &l.options.ProcessOptions); err != nil {
			return err
		}
	}
	if barrier {
		b.barrier()
	}
	finish := func(rootfd int) error {
		credential, err := lookupCredential(rootfd, l.options.User, l.spec.Process)
		if err == nil {
			err = c.ids.checkCredential(credential)
		}
		if err != nil {
			return err
		}
		if b.console != nil {
			if err := b.console.prepare(l.spec.Process, credential, c.ids); err != nil {
				return err
			}
		}
		run.command = b.finish(l.spec.Process, credential, c.filter)
		return b.err
	}
	if l.root.mount != nil {
		if err := finish(int(l.root.mount.Fd())); err != nil {
			return err
		}
	}
	if b.err != nil {
		return b.err
	}
	if err := b.write(b.room(l.spec.Process, c.filter)); err != nil {
		return err
	}
	flags := uint64(unix.CLONE_NEWPID)
	if k.outside {
		flags = 0
	}
	child, err := k.clone(b.program, flags, b.intoCgroup)
	if err != nil {
		if child != nil { // it runs, and the host is out of descriptors to hold on to it
			theirs.Close()
			run.close() // to kill takes some too
			if c.cgroup.Kill(context.WithoutCancel(ctx)) == nil {
				<-child.ended
			}
		}
		return err
	}
	theirs.Close()
	if b.pidNS != 0 {
		err = run.forking(k, child, b.pidSlot)
	}
	c.process = newProcess(child, l.streams, l.options.WaitDelay, c.cgroup, k)
	if err == nil {
		err = c.follow(ctx, run, l, barrier, finish)
	}
	l.streams.started() // not before: the owner of a terminal may be known late
	if err != nil {
		c.kill()
		c.process.Wait(context.WithoutCancel(ctx))
		c.process.closePidfd()
		return c.explain(err)
	}
	if !l.wait {
		c.process.keepMounts()
	}
	return nil
}

// follow goes with a running program to where Create or Start end.
func (c *Container) follow(ctx context.Context, run *creation, l *launch, barrier bool, finish func(rootfd int) error) error {
	if barrier {
		if err := run.await(ctx, 1); err != nil {
			return err
		}
		if run.command == nil {
			if err := c.finishInside(run, finish); err != nil {
				return err
			}
		}
		if l.wait {
			c.waiting = run
			return nil
		}
		if err := run.release(); err != nil {
			return err
		}
	}
	return run.finish(ctx)
}

// finishInside completes a program whose root is there now, seen through the
// waiting child.
func (c *Container) finishInside(run *creation, finish func(rootfd int) error) error {
	root, err := c.openInside()
	if err != nil {
		return err
	}
	defer root.Close()
	if err := finish(int(root.Fd())); err != nil {
		return err
	}
	return run.program.write(0)
}

// openInside opens the container's root directory as its first process has it.
func (c *Container) openInside() (*os.File, error) {
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/root", c.Pid()), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the container's root: %w", err)
	}
	if c.process.Signal(context.Background(), 0) != nil { // the pid may have been another's by then
		unix.Close(fd)
		return nil, errNotRunning
	}
	return os.NewFile(uintptr(fd), "container root"), nil
}

var errNotRunning = fmt.Errorf("the container does not run: %w", errdefs.ErrFailedPrecondition)

// explain adds to an error of a first process that was killed early why it was.
func (c *Container) explain(err error) error {
	if !errors.Is(err, errNotReached) {
		return err
	}
	if n, oomErr := c.cgroup.OOMKills(); oomErr == nil && n > 0 {
		return fmt.Errorf("%w: its memory limit is too low (%w)", err, errdefs.ErrResourceExhausted)
	}
	select {
	case <-c.process.keeper.gone:
		return fmt.Errorf("%w: %w", err, errKeeperGone)
	default:
		return err
	}
}

// await reads the link: want bytes of a child that waits, or with want 0 the
// end that execve and a child's death bring.
func (run *creation) await(ctx context.Context, want int) error {
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		run.link.SetReadDeadline(time.Unix(1, 0))
		close(interrupted)
	})
	var b [1]byte
	n, err := run.link.Read(b[:])
	if !stop() { // the next await has a context of its own
		<-interrupted
		run.link.SetReadDeadline(time.Time{})
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ctx.Err()
	}
	if n == want && want > 0 {
		return nil
	}
	if want > 0 || n > 0 {
		if failed := run.program.failure(); failed != nil {
			return needsRoot(failed)
		}
		return errNotReached
	}
	return run.command.outcome(run.program)
}

// finish waits until the command is executed, in the end of which a process may
// have taken the place of the one that the program began with.
func (run *creation) finish(ctx context.Context) error {
	if run.forks == nil {
		return run.await(ctx, 0)
	}
	select {
	case <-run.forks.moved:
	case <-run.forks.ended:
	case <-ctx.Done():
		return ctx.Err()
	}
	return run.command.outcome(run.program)
}

// forking tells that the program forks, with the pid to be found in a slot.
func (run *creation) forking(k *keeper, c *child, slot uintptr) error {
	fd, err := unix.FcntlInt(run.program.file.Fd(), unix.F_DUPFD_CLOEXEC, 0) // run may be closed before
	if err != nil {
		return os.NewSyscallError("dup", err)
	}
	file := os.NewFile(uintptr(fd), "program")
	k.replace(c, func() int {
		defer file.Close()
		return int((&program{file: file}).word(slot))
	})
	run.forks = c
	return nil
}

// kill kills the first process, and where it shares its pid namespace all that
// is in the cgroup: the kernel does not, and the process may have been replaced.
func (c *Container) kill() {
	c.process.kill()
	c.letDie()
	if c.process.keeper.outside {
		c.cgroup.Kill(context.Background())
	}
}

// release lets a waiting child go on.
func (run *creation) release() error {
	if _, err := run.link.Write([]byte{1}); err != nil {
		return errNotReached
	}
	return nil
}

func (run *creation) close() {
	run.link.Close()
	run.program.close()
}

// Start executes the command of a container that Create has made. It returns
// when execve has succeeded, or with the reason why it has not: then, and when
// ctx ends first, the container's process is gone, and Delete is what remains.
// A second Start is errdefs.ErrFailedPrecondition.
func (c *Container) Start(ctx context.Context) error {
	c.mu.Lock()
	run := c.waiting
	c.waiting = nil
	c.mu.Unlock()
	if run == nil {
		return fmt.Errorf("container %s has been started: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	defer run.close()
	err := run.release()
	if err == nil {
		err = run.finish(ctx)
	}
	if err != nil {
		c.kill()
		c.process.Wait(context.WithoutCancel(ctx))
		return c.explain(err)
	}
	c.process.keepMounts()
	return nil
}

// Delete kills what is left of the container and frees what it had: its mounts
// are gone when Delete returns; its cgroup is removed in the background, at the
// latest by Runtime.Close. A second Delete waits for the first.
func (c *Container) Delete(ctx context.Context) error {
	c.mu.Lock()
	first := !c.deleted
	c.deleted = true
	if c.leaving != nil {
		c.leaving.Stop()
	}
	run := c.waiting
	c.waiting = nil
	c.mu.Unlock()
	if !first {
		select {
		case <-c.gone:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	c.kill()
	c.standby.drop(true)
	if run != nil {
		run.close()
	}
	<-c.process.settled // the kernel has killed all of its pid namespace by then, or the process's end all of its cgroup
	c.entered.Wait()    // an exec has the cgroup's files by their numbers, a standby the mounts
	<-c.process.left
	c.process.closePidfd()
	c.rt.forget(c)
	c.rt.cgroups.remove(c.cgroup)
	close(c.gone)
	return nil
}

// entryIdle is how long the cgroup's files stay open for the next exec. Opening
// them costs a quarter of starting a process; an idle container has none open.
const entryIdle = time.Second

// entering keeps the files of the cgroup open, which are shared, until the
// returned function is called. It fails for a container that is being deleted,
// which closes them, and for a paused one, where it would hang.
func (c *Container) entering() (done func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.deleted:
		return nil, errNotRunning
	case c.pause.on:
		return nil, errPaused
	}
	c.entries++
	c.entered.Add(1)
	return func() {
		defer c.entered.Done()
		c.mu.Lock()
		defer c.mu.Unlock()
		c.entries--
		if c.entries == 0 && c.pause.quiet != nil {
			close(c.pause.quiet)
			c.pause.quiet = nil
		}
		if c.deleted {
			return
		}
		if c.leaving == nil {
			c.leaving = time.AfterFunc(entryIdle, c.leave)
		}
		c.leaving.Reset(entryIdle)
	}, nil
}

func (c *Container) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries == 0 && !c.deleted {
		c.standby.drop(false)
		c.cgroup.Release()
	}
}

// newLink returns what connects a program with the host: a pipe that ends with
// execve, or for a program with a barrier a socket pair.
func newLink(barrier bool) (ours, theirs *os.File, err error) {
	if !barrier {
		return newPipe(0)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	unix.SetNonblock(pair[0], true)
	return os.NewFile(uintptr(pair[0]), "link"), os.NewFile(uintptr(pair[1]), "link"), nil
}
