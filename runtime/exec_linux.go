package runtime

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Exec starts another process in a running container: in all of its namespaces
// and its cgroup, with the capabilities, limits, credentials and environment of
// p, and the container's seccomp filter. It returns when the command has been
// executed; the process ends with the container at the latest. Cwd is not made
// if it is missing.
//
// The container may be full of processes that watch. What enters its pid
// namespace, where they could see it, has no descriptor but 0 to 2, final
// credentials and the filter, and nothing of the caller in its memory.
//
// Errors: errdefs.ErrFailedPrecondition for a container that does not run, a
// *CommandError for a command that is not found or not executable, and those of
// Create.
func (c *Container) Exec(ctx context.Context, p *specs.Process, o ProcessOptions) (*Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := checkProcess(p); err != nil {
		return nil, err
	}
	if p.OOMScoreAdj != nil {
		return nil, fmt.Errorf("process: oomScoreAdj of an exec'd process: %w", errdefs.ErrNotImplemented)
	}
	c.mu.Lock()
	runs := c.waiting == nil && !c.deleted && !c.process.ended()
	c.mu.Unlock()
	if !runs {
		return nil, errNotRunning
	}
	credential, err := c.credential(p, o.User)
	if err != nil {
		return nil, err
	}
	streams, err := openStreams(&o, c.rt.null)
	if err != nil {
		return nil, err
	}
	process, err := c.exec(ctx, p, credential, streams, &o)
	if err != nil {
		streams.close()
		if c.process.ended() { // in the middle of it, and that is why
			return nil, errNotRunning
		}
		return nil, err
	}
	return process, nil
}

// credential looks a user up in the running container.
func (c *Container) credential(p *specs.Process, user string) (*credential, error) {
	root, err := c.openInside()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return lookupCredential(int(root.Fd()), user, p)
}

func (c *Container) exec(ctx context.Context, p *specs.Process, who *credential, s *streams, o *ProcessOptions) (*Process, error) {
	b := newBuilder(c.rt, nil, c.cgroup)
	b.unified = c.unified
	defer b.close()
	entered, err := c.entering()
	if err != nil {
		return nil, err
	}
	defer entered()
	target, err := c.process.pidfdCopy()
	if err != nil {
		return nil, err
	}
	pidSlot, command := b.exec(c, b.sendOwned(target), p, who, s)
	if b.err != nil {
		return nil, b.err
	}
	if err := b.write(0); err != nil {
		return nil, err
	}
	k := c.process.keeper
	k.expectFork()
	middle, err := k.clone(b.program, 0, b.intoCgroup)
	if err != nil {
		if middle != nil { // it runs, and the host is out of descriptors to hold on to it
			<-middle.ended
		}
		if child := k.adopt(int(b.word(pidSlot))); child != nil {
			b.close() // to kill takes some too
			lost := newProcess(child, s, o.WaitDelay, c.cgroup, k)
			lost.kill()
			<-child.ended
			lost.closePidfd()
		}
		return nil, err
	}
	s.started()
	// The middle process ends when its child has executed the command, or died.
	err = awaitChild(ctx, middle)
	child := k.adopt(int(b.word(pidSlot)))
	middle.pidfd.Close()
	if err == nil {
		err = command.outcome(b.program)
	}
	if child == nil {
		if err == nil {
			err = errNotReached
		}
		return nil, err
	}
	process := newProcess(child, s, o.WaitDelay, c.cgroup, k)
	go func() { // nobody has to ask for its end
		<-child.ended
		process.closePidfd()
	}()
	if err != nil {
		process.kill()
		<-child.ended
		return nil, err
	}
	return process, nil
}

// awaitChild waits for a child's end; if ctx ends first, it is killed.
func awaitChild(ctx context.Context, c *child) error {
	select {
	case <-c.ended:
		return nil
	case <-ctx.Done():
		unix.PidfdSendSignal(int(c.pidfd.Fd()), unix.SIGKILL, nil, 0)
		<-c.ended
		return ctx.Err()
	}
}

// exec compiles a whole program that enters a container, whose first process
// the descriptor target stands for. The slot gets the pid of the process that
// stays, in the keeper's pid namespace.
func (b *builder) exec(c *Container, target uintptr, p *specs.Process, who *credential, s *streams) (pidSlot uintptr, cmd *command) {
	filter := c.filter
	b.stdio(s.child, -1)
	b.enterCgroup()
	pidSlot, page := b.pageSlot()
	b.add("enter the container's namespaces", unix.SYS_SETNS, target, c.ns)
	b.closeAll()
	b.add("new session keyring", unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0).orSkip(anyErrno, 0)
	b.workingDirectory(p.Cwd, false)
	b.limits(p) // after what needs descriptors
	b.noNewPrivileges(p)
	keepAdmin := len(filter.code) > 0 && !p.NoNewPrivileges
	b.credentials(p, who, keepAdmin)
	b.signals()
	b.seccomp(filter.code, filter.flags)
	if keepAdmin {
		if sets, err := capabilitySets(p.Capabilities); err == nil {
			b.capset(sets)
		}
	}
	// The child is the keeper's, like the first process. With CLONE_VFORK the
	// parent half ends after the child's execve, which tells the host; with
	// CLONE_PARENT_SETTID the host knows the child also when it has killed the
	// parent half meanwhile. clone and not clone3: Docker's filter allows it.
	// The child shares the program, and whoever can trace it in the container
	// could write there; so it does not get the page with its pid.
	b.add("hide the pid", unix.SYS_MADVISE, pidSlot, page, unix.MADV_DONTFORK)
	b.add("enter the pid namespace", unix.SYS_CLONE,
		unix.CLONE_PARENT|unix.CLONE_VFORK|unix.CLONE_PARENT_SETTID|uintptr(unix.SIGCHLD), 0, pidSlot).
		into(pidSlot).with(flagFork)
	// A session made before would have an id that means nothing in there.
	b.add("new session", unix.SYS_SETSID).orSkip(anyErrno, 0)
	return pidSlot, b.execute(p, who.home)
}

// closeAll leaves 0 to 2.
func (b *builder) closeAll() {
	b.add("close descriptors", unix.SYS_CLOSE_RANGE, 3, 0xffffffff, 0)
}
