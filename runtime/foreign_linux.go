package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/inboard/engine/internal/cgroup"
)

// ExecIn is Container.Exec for a container of another Runtime. The process ends
// with its container, and with this Runtime: when that is closed, or when the
// calling process ends in whatever way, it is killed. Processes that it has
// started, and that it leaves behind, become the container's.
func (r *Runtime) ExecIn(ctx context.Context, f Foreign, p *specs.Process, o ProcessOptions) (*Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := checkExec(p); err != nil {
		return nil, err
	}
	c, err := r.foreign(&f)
	if err != nil {
		return nil, err
	}
	process, err := c.execForeign(ctx, p, &o)
	if err != nil {
		if cutOff(err, c.process.pidfd) {
			err = errNotRunning
		}
		c.letGo()
		return nil, err
	}
	c.cgroup.Release()
	go c.followForeign(process)
	return process, nil
}

// foreign makes what Exec needs of a container that is another's. It is no
// container of this Runtime's, and is to be let go of.
func (r *Runtime) foreign(f *Foreign) (_ *Container, err error) {
	if f.Spec == nil || f.Spec.Linux == nil || f.Process == nil {
		return nil, fmt.Errorf("container without a spec or a process: %w", errdefs.ErrInvalidArgument)
	}
	k, err := r.outerKeeper()
	if err != nil {
		return nil, err
	}
	c := &Container{rt: r}
	b := newBuilder(r, f.Spec, nil)
	if _, c.ns = b.namespaces(); b.err != nil {
		return nil, b.err
	}
	if c.filter, err = r.filter(f.Spec.Linux.Seccomp); err != nil {
		return nil, err
	}
	fd, err := unix.FcntlInt(f.Process.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("dup", err)
	}
	unix.SetNonblock(fd, true) // for the Go poller
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	c.process = &Process{child: &child{pidfd: pidfd, ended: make(chan struct{})}, keeper: k, pidfd: pidfd}
	if c.cgroup, err = r.cgroups.host.Open(f.CgroupPath); errdefs.IsNotFound(err) {
		err = errNotRunning
	}
	if err == nil {
		c.unified, err = r.inUnified(c)
	}
	if err == nil && c.ns&unix.CLONE_NEWUSER != 0 {
		c.ids = new(idMap)
		if c.ids.uids, c.ids.gids, err = IDMappings(c.process.pidfd); errors.Is(err, errProcessGone) {
			err = errNotRunning
		}
	}
	if err != nil {
		c.letGo()
		return nil, err
	}
	return c, nil
}

// IDMappings reads the mappings of the user namespace that a process is in, by
// its pidfd: the host's ids are those of the caller's user namespace. If the
// process has ended, the error is errdefs.ErrNotFound.
func IDMappings(pidfd *os.File) (uids, gids []specs.LinuxIDMapping, err error) {
	proc := "/proc/" + strconv.Itoa(pidOf(int(pidfd.Fd())))
	for name, list := range map[string]*[]specs.LinuxIDMapping{"/uid_map": &uids, "/gid_map": &gids} {
		text, err := os.ReadFile(proc + name)
		if err == nil {
			*list, err = parseMap(string(text))
		}
		if exited(pidfd, 0) { // it may have been another's
			return nil, nil, errProcessGone
		}
		if err != nil {
			return nil, nil, err
		}
	}
	return uids, gids, nil
}

// inUnified tells whether a container's processes are in its v2 cgroup, see
// usesUnified.
func (r *Runtime) inUnified(c *Container) (bool, error) {
	if r.cgroups.host.Mode() != cgroup.Hybrid {
		return true, nil
	}
	list, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.process.Pid()))
	if exited(c.process.pidfd, 0) {
		return false, errNotRunning
	}
	return strings.Contains("\n"+string(list), "\n0::/"+c.cgroup.Path()+"\n"), err
}

func (c *Container) execForeign(ctx context.Context, p *specs.Process, o *ProcessOptions) (*Process, error) {
	credential, err := c.credential(p, o.User)
	if err != nil {
		return nil, err
	}
	streams, err := c.execStreams(p, credential, o)
	if err != nil {
		return nil, err
	}
	process, err := c.execAtOnce(ctx, p, credential, streams, o)
	if err != nil {
		streams.close()
	}
	return process, err
}

// followForeign goes with a process to its end. That of a container which shares
// its pid namespace is not the kernel's to bring about.
func (c *Container) followForeign(process *Process) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if waitReadable(ctx, c.process.pidfd) == nil {
			process.kill()
		}
	}()
	<-process.settled
	cancel()
	<-done
	c.letGo()
}

// letGo frees what this Runtime has of another's container.
func (c *Container) letGo() {
	if c.cgroup != nil {
		c.cgroup.Close()
	}
	c.process.closePidfd()
}

// cutOff tells whether an exec has failed because its container was about to end.
// What such a process has is gone some time before its pidfd tells of the end.
func cutOff(err error, pidfd *os.File) bool {
	if exited(pidfd, 0) {
		return true
	}
	var command *CommandError
	if errors.As(err, &command) {
		return false
	}
	for _, e := range []error{unix.ENOENT, unix.ESRCH, unix.ENODEV, unix.ENOMEM, errNotReached} { // of /proc, setns, cgroups, fork; and a kill
		if errors.Is(err, e) {
			return exited(pidfd, 1000)
		}
	}
	return false
}

// exited tells whether a pidfd's process has ended, or does so in a number of
// milliseconds.
func exited(pidfd *os.File, within int) bool {
	p := []unix.PollFd{{Fd: int32(pidfd.Fd()), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(p, within)
		if err != unix.EINTR {
			return err == nil && n > 0
		}
	}
}
