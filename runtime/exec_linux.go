package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"

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
// Errors: errdefs.ErrFailedPrecondition for a container that does not run or is
// paused, a *CommandError for a command that is not found or not executable, and those of
// Create.
func (c *Container) Exec(ctx context.Context, p *specs.Process, o ProcessOptions) (*Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := checkExec(p); err != nil {
		return nil, err
	}
	c.mu.Lock()
	runs, paused := c.waiting == nil && !c.deleted && !c.process.ended(), c.pause.on
	c.mu.Unlock()
	switch {
	case !runs:
		return nil, errNotRunning
	case paused:
		return nil, errPaused
	}
	credential, err := c.credential(p, o.User)
	if err != nil {
		return nil, err
	}
	streams, err := c.execStreams(p, credential, &o)
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

func checkExec(p *specs.Process) error {
	if err := checkProcess(p); err != nil {
		return err
	}
	if p.OOMScoreAdj != nil {
		return fmt.Errorf("process: oomScoreAdj of an exec'd process: %w", errdefs.ErrNotImplemented)
	}
	return nil
}

// execStreams makes the streams of an exec'd process.
func (c *Container) execStreams(p *specs.Process, who *credential, o *ProcessOptions) (*streams, error) {
	s, err := openStreams(o, c.rt.null, p.Terminal)
	if err != nil || !p.Terminal {
		return s, err
	}
	t, err := c.openTerminalInside()
	if err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	if err = t.prepare(p, who, c.ids); err == nil {
		err = s.connect(t, o)
	}
	if err != nil {
		t.close()
		return nil, err
	}
	slave := int(t.slave.Fd())
	s.child = [3]int{slave, slave, slave}
	return s, nil
}

// credential looks a user up in the running container.
func (c *Container) credential(p *specs.Process, user string) (*credential, error) {
	root, err := c.openInside()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	who, err := lookupCredential(int(root.Fd()), user, p)
	if err == nil {
		err = c.ids.checkCredential(who)
	}
	return who, err
}

// exec executes a command, through a standby if there is one that fits.
func (c *Container) exec(ctx context.Context, p *specs.Process, who *credential, s *streams, o *ProcessOptions) (*Process, error) {
	entered, err := c.entering()
	if err != nil {
		return nil, err
	}
	defer entered()
	t := stanceOf(p, who)
	process, err := c.execStandby(ctx, t, p, who, s, o)
	if errors.Is(err, errNoStandby) {
		process, err = c.execAtOnce(ctx, p, who, s, o)
	}
	if err == nil {
		c.standBy(t, process)
	}
	return process, err
}

// execAtOnce executes a command with a process that goes all the way.
func (c *Container) execAtOnce(ctx context.Context, p *specs.Process, who *credential, s *streams, o *ProcessOptions) (*Process, error) {
	m := c.newMiddle()
	defer m.release()
	m.stdio(s.child, -1)
	if err := m.enter(3); err != nil {
		return nil, err
	}
	m.become(p, who, c.filter)
	command := m.fork(p, who)
	if m.err != nil {
		return nil, m.err
	}
	if err := m.write(0); err != nil {
		return nil, err
	}
	return m.run(ctx, command, s, o, m.start)
}

// A middle is the process between the keeper and an exec'd one, with its
// program: it enters the container and becomes what the command is to be. Only
// what it forks then is in the container's pid namespace.
type middle struct {
	*builder
	container *Container
	child     *child   // nil: not started
	link      *os.File // the host's end, of one that waits for its command
	forked    bool     // it has, with the pid in pidSlot
}

func (c *Container) newMiddle() *middle {
	m := &middle{builder: newBuilder(c.rt, nil, c.cgroup), container: c}
	m.unified, m.outside = c.unified, c.process.keeper.outside
	return m
}

// start has the keeper clone the middle process.
func (m *middle) start() (err error) {
	m.child, err = m.container.process.keeper.clone(m.program, 0, m.intoCgroup)
	return err
}

// run has the middle process fork, and goes with it until the command has been
// executed. begin makes it go. Whatever comes of it, the middle is released.
func (m *middle) run(ctx context.Context, command *command, s *streams, o *ProcessOptions, begin func() error) (*Process, error) {
	c := m.container
	k := c.process.keeper
	k.expectFork()
	err := begin()
	if err == nil {
		// It ends when what it forked has executed the command, or died.
		err = awaitChild(ctx, m.child)
	} else if m.child != nil { // it is there, and the host cannot make use of it
		m.dismiss()
		<-m.child.ended
	}
	child := k.adopt(int(m.word(m.pidSlot)))
	m.forked = child != nil
	if err == nil {
		err = command.outcome(m.program)
	}
	m.release() // before a kill, which takes descriptors of a host that may have none left
	if child == nil {
		if err == nil {
			err = errNotReached
		}
		return nil, err
	}
	s.started()
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

// dismiss has the middle process end.
func (m *middle) dismiss() {
	if m.link != nil {
		m.link.Close()
	}
	if m.child.pidfd != nil {
		unix.PidfdSendSignal(int(m.child.pidfd.Fd()), unix.SIGKILL, nil, 0)
	}
}

// release frees what the host has of a middle process that has ended, or was
// not started. A second release does nothing.
func (m *middle) release() {
	m.close()
	if m.link != nil {
		m.link.Close()
	}
	if m.child != nil && m.child.pidfd != nil {
		m.child.pidfd.Close()
	}
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

// enter takes the process into the container's cgroup and namespaces, and
// leaves it the descriptors below keep.
func (m *middle) enter(keep uintptr) error {
	c := m.container
	target, err := c.process.pidfdCopy()
	if err != nil {
		return err
	}
	pidfd := m.sendOwned(target)
	m.enterCgroup()
	m.pidSlot, m.pidPage = m.pageSlot()
	m.add("enter the container's namespaces", unix.SYS_SETNS, pidfd, c.ns)
	if c.ns&unix.CLONE_NEWUSER != 0 {
		m.becomeRoot()
	}
	m.add("close descriptors", unix.SYS_CLOSE_RANGE, keep, 0xffffffff, 0)
	return m.err
}

// become makes a process that is in the container what its command will be, up
// to the seccomp filter.
func (b *builder) become(p *specs.Process, who *credential, f *filter) {
	b.sessionKeyring()
	b.workingDirectory(p.Cwd, false)
	b.signals()
	b.restrict(p, who, f)
}

// fork adds the process with the command. It has descriptors 0 to 2 and nothing
// left to do but execve.
func (m *middle) fork(p *specs.Process, who *credential) *command {
	m.forkInside(m.pidSlot, m.pidPage)
	if p.Terminal {
		m.controllingTerminal()
	}
	return m.execute(p, who.home)
}
