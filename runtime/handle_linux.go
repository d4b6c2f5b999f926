package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/inboard/engine/internal/cgroup"
)

var errProcessGone = fmt.Errorf("the process has ended: %w", errdefs.ErrNotFound)

// A Process is one that runs in a container: its first, or an exec'd one. It is
// safe for use by several goroutines at once.
type Process struct {
	child   *child
	keeper  *keeper
	settled chan struct{} // closed when status is set
	done    chan struct{} // closed when err is set too

	terminal *terminal // or nil

	mu    sync.Mutex
	moved chan struct{} // of child, until it has been seen
	pidfd *os.File      // nil: not opened yet, or closed
	over  bool          // pidfd is not opened again
	pid   int           // in the caller's pid namespace, once asked for

	mounts *os.File      // the mount namespace, see keepMounts
	left   chan struct{} // of a first process: closed when that is let go of

	status Status
	err    error
}

// newProcess watches a child until it has ended and its output is copied.
func newProcess(c *child, s *streams, delay time.Duration, g *cgroup.Cgroup, k *keeper) *Process {
	p := &Process{child: c, keeper: k, settled: make(chan struct{}), done: make(chan struct{}), left: make(chan struct{}), terminal: s.terminal, pidfd: c.pidfd, moved: c.moved}
	first := c.pidfd != nil
	if k.outside {
		p.Pid() // while it is known whose number it is
	}
	go func() {
		<-c.ended
		p.status = statusOf(c)
		if k.outside {
			p.endRest(first, g)
		}
		// The count is the container's: of an exec'd process it tells only that
		// it may have been the one.
		if p.status.Known && (first || p.status.Signal == unix.SIGKILL) {
			kills, err := g.OOMKills()
			p.status.OOMKilled = err == nil && kills > 0
		}
		close(p.settled)
		if first {
			go p.leaveMounts()
		}
		p.err = s.wait(delay)
		close(p.done)
	}()
	return p
}

// endRest ends what the kernel does not end with a process outside: of a first one
// all that is left in its cgroup, of any one itself, if it has outlived its keeper.
func (p *Process) endRest(first bool, g *cgroup.Cgroup) {
	p.mu.Lock()
	if !p.status.Known && p.pidfd != nil {
		unix.PidfdSendSignal(int(p.pidfd.Fd()), unix.SIGKILL, nil, 0)
	}
	p.mu.Unlock()
	if first {
		g.Kill(context.Background())
	}
}

func statusOf(c *child) Status {
	s := Status{Known: c.known}
	switch {
	case !c.known:
	case c.status.Signaled():
		s.Signal = c.status.Signal()
		s.Code = 128 + int(s.Signal)
	default:
		s.Code = c.status.ExitStatus()
	}
	return s
}

// Wait is Container.Wait for this process.
func (p *Process) Wait(ctx context.Context) (Status, error) {
	select {
	case <-p.done:
		return p.status, p.err
	default:
	}
	select {
	case <-p.done:
		return p.status, p.err
	case <-ctx.Done():
		return Status{}, ctx.Err()
	}
}

func (p *Process) ended() bool {
	select {
	case <-p.child.ended:
		return true
	default:
		return false
	}
}

// Settled is closed when the process has ended, and before its output is copied
// to its end: Status then tells how.
func (p *Process) Settled() <-chan struct{} { return p.settled }

// Status is how the process has ended, once it is settled.
func (p *Process) Status() Status {
	select {
	case <-p.settled:
		return p.status
	default:
		return Status{}
	}
}

// Signal sends a signal. If the process has ended, the error is
// errdefs.ErrNotFound.
func (p *Process) Signal(ctx context.Context, sig syscall.Signal) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended() {
		return errProcessGone
	}
	if err := p.open(); err != nil {
		return err
	}
	err := unix.PidfdSendSignal(int(p.pidfd.Fd()), sig, nil, 0)
	if err == unix.ESRCH {
		return errProcessGone
	}
	return os.NewSyscallError("pidfd_send_signal", err)
}

// kill is Signal(SIGKILL) where a process that is gone is as good.
func (p *Process) kill() { p.Signal(context.Background(), unix.SIGKILL) }

// Pid is the process's, in the caller's pid namespace; 0 when it has ended.
func (p *Process) Pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended() || p.open() != nil {
		return 0
	}
	if p.pid == 0 {
		p.pid = pidOf(int(p.pidfd.Fd()))
	}
	return p.pid
}

// pidOf reads a pidfd's process from fdinfo; 0 when it is gone.
func pidOf(pidfd int) int {
	info, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(pidfd))
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(info) {
		if rest, ok := bytes.CutPrefix(line, []byte("Pid:")); ok {
			pid, _ := strconv.Atoi(string(bytes.TrimSpace(rest)))
			return max(pid, 0)
		}
	}
	return 0
}

// open gets a pidfd for an exec'd process, of which the pid in the keeper's
// namespace is all that is known. That pid is taken until the keeper has told
// of the end, so no other process can be meant as long as it has not.
func (p *Process) open() error {
	select {
	case <-p.moved: // the descriptor is of the process that was there before
		p.moved = nil
		p.pidfd.Close()
		p.pidfd, p.pid = nil, 0
	default:
	}
	if p.pidfd != nil {
		return nil
	}
	if p.over {
		return errProcessGone
	}
	pid, err := p.keeper.hostPid(p.keeper.pidOf(p.child))
	if err != nil {
		return err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH {
		return errProcessGone
	}
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	if p.ended() {
		unix.Close(fd)
		return errProcessGone
	}
	p.pidfd = os.NewFile(uintptr(fd), "pidfd")
	return nil
}

// pidfdCopy returns a descriptor of the process for a program to own.
func (p *Process) pidfdCopy() (*os.File, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.open(); err != nil {
		return nil, err
	}
	fd, err := unix.FcntlInt(p.pidfd.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("dup", err)
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// keepMounts keeps the mount namespace of a first process past its end, for a
// moment: the one that leaves a mount namespace last takes it down, which waits
// for an RCU grace period (fs/namespace.c, namespace_unlock). That is not to be
// the process, whose status would come so much later. Where the kernel has no
// such ioctl (before Linux 6.11, commit 5b08bd408534), or no descriptor is left,
// it is.
func (p *Process) keepMounts() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd == nil || p.ended() {
		return
	}
	if ns, err := unix.IoctlRetInt(int(p.pidfd.Fd()), namespaceFiles[specs.MountNamespace].ioctl); err == nil {
		p.mounts = os.NewFile(uintptr(ns), "mount namespace")
	}
}

// leaveMounts is for a process that has ended.
func (p *Process) leaveMounts() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mounts != nil {
		p.mounts.Close()
		p.mounts = nil
	}
	close(p.left)
}

// closePidfd is for a process that has ended.
func (p *Process) closePidfd() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	if p.pidfd != nil {
		p.pidfd.Close()
		p.pidfd = nil
	}
}

// hostPid translates a pid from the keeper's namespace into the caller's.
func (k *keeper) hostPid(pid int) (int, error) {
	if k.outside {
		return pid, nil
	}
	if host, err := pidThrough(k.pidfd, pid); err != unix.ENOTTY {
		if err == unix.ESRCH {
			err = errProcessGone
		}
		return host, err
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", k.pid, k.pid))
	if err != nil {
		return 0, fmt.Errorf("look for process: %w", err)
	}
	for _, host := range strings.Fields(string(children)) {
		status, err := os.ReadFile("/proc/" + host + "/status")
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("look for process: %w", err)
		}
		if hasNestedPid(status, pid) {
			return strconv.Atoi(host)
		}
	}
	return 0, errProcessGone
}

// pidThrough is a pid of a pidfd's process's pid namespace in the caller's:
// NS_GET_PID_FROM_PIDNS, Linux 6.11, commit ca567df74a28. Before that the error
// is ENOTTY.
var pidThrough = func(pidfd *os.File, pid int) (int, error) {
	ns, err := unix.IoctlRetInt(int(pidfd.Fd()), namespaceFiles[specs.PIDNamespace].ioctl)
	if err == unix.EINVAL {
		return 0, unix.ENOTTY
	}
	if err != nil {
		return 0, err
	}
	defer unix.Close(ns)
	host, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(ns), unix.NS_GET_PID_FROM_PIDNS, uintptr(pid))
	if errno != 0 {
		return 0, errno
	}
	return int(host), nil
}

// hasNestedPid tells whether a process's NSpid line, which lists its pids from
// the reader's namespace inwards, has pid in second place: that of the keeper.
func hasNestedPid(status []byte, pid int) bool {
	for line := range bytes.Lines(status) {
		if rest, ok := bytes.CutPrefix(line, []byte("NSpid:")); ok {
			pids := bytes.Fields(rest)
			return len(pids) > 1 && string(pids[1]) == strconv.Itoa(pid)
		}
	}
	return false
}
