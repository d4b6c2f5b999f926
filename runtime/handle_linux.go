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

	mu    sync.Mutex
	pidfd *os.File // nil: not opened yet, or closed
	over  bool     // pidfd is not opened again
	pid   int      // in the caller's pid namespace, once asked for

	status Status
	err    error
}

// newProcess watches a child until it has ended and its output is copied.
func newProcess(c *child, s *streams, delay time.Duration, g *cgroup.Cgroup, k *keeper) *Process {
	p := &Process{child: c, keeper: k, settled: make(chan struct{}), done: make(chan struct{}), pidfd: c.pidfd}
	first := c.pidfd != nil
	go func() {
		<-c.ended
		p.status = statusOf(c)
		// The count is the container's: of an exec'd process it tells only that
		// it may have been the one.
		if p.status.Known && (first || p.status.Signal == unix.SIGKILL) {
			kills, err := g.OOMKills()
			p.status.OOMKilled = err == nil && kills > 0
		}
		close(p.settled)
		p.err = s.wait(delay)
		close(p.done)
	}()
	return p
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
	if p.ended() {
		return 0
	}
	if p.pid == 0 && p.open() == nil {
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
	if p.pidfd != nil {
		return nil
	}
	if p.over {
		return errProcessGone
	}
	pid, err := p.keeper.hostPid(p.child.pid)
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
