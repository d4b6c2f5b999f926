package cgroup

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// await calls done at once and after each event on f, until it returns true.
// f was opened with O_NONBLOCK. It waits in the Go runtime's poller and so
// holds no thread, however many callers wait.
func await(ctx context.Context, f *os.File, done func(fd int) bool) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	err = raw.Read(func(fd uintptr) bool { return done(int(fd)) })
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// awaitEmpty returns when no live process is left in a v2 cgroup, or below it,
// or when it is gone.
func awaitEmpty(ctx context.Context, parent int, name string) error {
	err := awaitEvent(ctx, parent, name, "populated", 0)
	if gone(err) {
		return nil
	}
	return err
}

// awaitEvent returns when a field of a v2 cgroup's cgroup.events has a value;
// when the cgroup is gone, with an error that says so. The kernel signals each
// change of the file to those who poll it (at most one in 10 ms:
// CGROUP_FILE_NOTIFY_MIN_INTV).
func awaitEvent(ctx context.Context, parent int, name, key string, want uint64) error {
	fd, err := openAt(parent, name+"/cgroup.events", unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "cgroup.events")
	defer f.Close()
	buf := make([]byte, 256)
	var failed error
	err = await(ctx, f, func(fd int) bool {
		n, err := unix.Pread(fd, buf, 0)
		if err != nil {
			failed = err
			return err != unix.EINTR
		}
		failed = nil
		value, ok := field(string(buf[:n]), key)
		if !ok {
			failed = fmt.Errorf("cgroup.events has no field %s", key)
		}
		return !ok || value == want
	})
	if err == nil {
		err = failed
	}
	return err
}

// A process that was found in a cgroup, by a descriptor that no other process
// can come to mean.
type process struct {
	pid int
	fd  int      // a pidfd
	f   *os.File // that owns it
}

// openProcesses opens those of pids that are still there. The caller closes them.
func openProcesses(pids []int) ([]process, error) {
	var list []process
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
		switch err {
		case nil:
			list = append(list, process{pid, fd, os.NewFile(uintptr(fd), "pidfd")})
		case unix.ESRCH, unix.EINVAL: // ended; or outside our pid namespace
		default:
			closeProcesses(list)
			return nil, err
		}
	}
	return list, nil
}

func closeProcesses(list []process) {
	for _, p := range list {
		p.f.Close()
	}
}

// awaitExit returns when the process has ended, reaped or not. It has left
// its cgroups by then (do_exit, kernel/exit.c: cgroup_exit comes before
// exit_notify), on 6.19 and newer an instant later.
func (p process) awaitExit(ctx context.Context) error {
	return await(ctx, p.f, func(fd int) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		return n > 0 || err != nil && err != unix.EINTR
	})
}

// backoff is for what the kernel gives no event for. Its zero value waits 1 ms
// first, then ever longer, up to 50 ms.
type backoff struct{ next time.Duration }

func (b *backoff) wait(ctx context.Context) error {
	b.next = min(max(2*b.next, time.Millisecond), 50*time.Millisecond)
	t := time.NewTimer(b.next)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
