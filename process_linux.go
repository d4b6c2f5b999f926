package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// supported tells that containers can be on this system.
func supported() error { return nil }

// bootTime is CLOCK_BOOTTIME in nanoseconds, the clock of processes' start times.
func bootTime() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0 // never fails: the clock is older than all that is supported
	}
	return t.Nano()
}

// tick is the unit of start times in /proc: USER_HZ is 100 on all that Go runs on.
const tick = 10 * time.Millisecond

// openRunning gives the record and a pidfd of the process of a container of any
// Engine, if it runs.
func (e *Engine) openRunning(id string) (*os.File, *record, error) {
	r, err := e.root.records().read(id)
	if err != nil {
		return nil, nil, err
	}
	alive, err := e.root.alive(r.Owner.Engine)
	if err != nil {
		return nil, nil, err
	}
	if state := e.snapshot(r, alive).State; !state.live() {
		return nil, nil, notRunning(state)
	}
	fd, err := openProcess(r.PID, r.Since, r.Until)
	if err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(fd), "process "+strconv.Itoa(r.PID)), r, nil
}

// killForeign sends a signal to the process of another Engine's container.
func (c *Container) killForeign(ctx context.Context, sig syscall.Signal) error {
	process, r, err := c.engine.openRunning(c.id)
	if err != nil {
		return err
	}
	defer process.Close()
	err = unix.PidfdSendSignal(int(process.Fd()), sig, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return notRunning(StateExited)
	}
	if err != nil {
		return fmt.Errorf("signal process %d: %w", r.PID, err)
	}
	if !resumes(sig, r.Process.StopSignal) {
		return nil
	}
	// It may have been paused since; what is paused after the signal has got it.
	now, err := c.engine.root.records().read(c.id)
	if err != nil || now.State != StatePaused || now.Runs != r.Runs {
		return nil
	}
	if err := thawForeign(now.Cgroup); err != nil || sig == syscall.SIGKILL {
		return err
	}
	// It runs, but whether it ends is its own matter: its program is to know. One
	// that is stopped keeps nobody from stopping it.
	ctx, cancel := context.WithTimeout(ctx, lastWord)
	defer cancel()
	_ = c.ask(ctx, request{Verb: verbResume, Run: r.Runs})
	return nil
}

// openProcess gives a pidfd of a process that started between since and until,
// and not of another that has got its number. The descriptor comes first: what
// /proc says of the number after that is either of the process that it holds,
// or of a later one.
func openProcess(pid int, since, until int64) (int, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return -1, notRunning(StateExited)
	}
	if err != nil {
		return -1, fmt.Errorf("open process %d: %w", pid, err)
	}
	start, err := startTime(pid)
	if err == nil && (start+int64(tick) < since || start > until) {
		err = notRunning(StateExited)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// startTime is when a process started, in nanoseconds of CLOCK_BOOTTIME,
// rounded down to a tick.
func startTime(pid int) (int64, error) {
	path := "/proc/" + strconv.Itoa(pid) + "/stat"
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return 0, notRunning(StateExited)
	}
	if err != nil {
		return 0, err
	}
	// The name, field 2, may have blanks and parentheses; starttime is field 22.
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("%s: %d fields", path, len(fields)+2)
	}
	ticks, err := strconv.ParseInt(string(fields[19]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: start time: %w", path, err)
	}
	return ticks * int64(tick), nil
}
