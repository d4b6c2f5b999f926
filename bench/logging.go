//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/inboard/engine"
)

// loggedBlock is how much the logged program writes at once.
const loggedBlock = 64 << 10

// benchLogging measures processor time, not how long it takes: of this process
// while a container writes and its output is logged, and of a cat that copies
// as much from a pipe to a file. Who writes is not counted in either.
func benchLogging(ctx context.Context, b *bench) (_ []Result, err error) {
	o, err := b.open(ctx, "logging")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, o.close()) }()
	size := int64(200 << 20)
	if b.short {
		size = 4 << 20
	}
	dir, err := b.mkdir("logging")
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "cat")
	ours := &subject{name: "ours", every: 1, measure: func(ctx context.Context) (time.Duration, error) { return o.logged(ctx, size) }}
	limit := &subject{
		name:  "limit",
		every: 1,
		measure: func(ctx context.Context) (time.Duration, error) {
			return catTo(ctx, filepath.Join(b.small.rootfs, "bin/busybox"), file, size)
		},
		after: func(context.Context) error { return os.Remove(file) },
	}
	if err := interleave(ctx, b.rounds(20), true, limit, ours); err != nil {
		return nil, err
	}
	each := func(s *subject) float64 { return float64(s.median()) / 1e3 / (float64(size) / 1e6) }
	return []Result{compare("logging", "us/MB", each, ours, limit, nil)}, nil
}

// writer is the command line of busybox that writes so many bytes.
func writer(size int64) []string {
	return []string{"dd", "if=/dev/zero", "bs=" + strconv.Itoa(loggedBlock), "count=" + strconv.FormatInt(size/loggedBlock, 10), "status=none"}
}

// logged runs a container that writes to its log, with the default size and
// number of files, and tells what that took of this process's time.
func (o *ours) logged(ctx context.Context, size int64) (_ time.Duration, err error) {
	c, err := o.engine.Create(ctx, o.image, engine.Config{Args: append([]string{"/bin/busybox"}, writer(size)...), Network: engine.NetworkNone})
	if err != nil {
		return 0, err
	}
	defer func() {
		err = errors.Join(err, c.Remove(context.WithoutCancel(ctx), engine.RemoveOptions{Force: true}))
	}()
	before, err := processorTime()
	if err != nil {
		return 0, err
	}
	if err := c.Start(ctx); err != nil {
		return 0, err
	}
	status, err := c.Wait(ctx)
	if err == nil && (!status.Known || status.Code != 0) {
		err = fmt.Errorf("writer: %v", status)
	}
	if err != nil {
		return 0, err
	}
	after, err := processorTime()
	return after - before, err
}

// processorTime is what this process has used.
func processorTime() (time.Duration, error) {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		return 0, err
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), nil
}

// catTo lets cat copy from a pipe to a new file, and tells its processor time.
func catTo(ctx context.Context, busybox, path string, size int64) (_ time.Duration, err error) {
	f, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	write := exec.CommandContext(ctx, busybox, writer(size)...)
	cat := exec.CommandContext(ctx, "cat")
	cat.Stdout = f
	theirs, ours, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	write.Stdout, cat.Stdin = ours, theirs
	err = errors.Join(cat.Start(), write.Start(), theirs.Close(), ours.Close())
	if err != nil {
		return 0, err
	}
	if err := errors.Join(write.Wait(), cat.Wait()); err != nil {
		return 0, err
	}
	if st, err := f.Stat(); err != nil || st.Size() != size {
		return 0, errors.Join(err, errors.New("cat has not copied everything"))
	}
	return cat.ProcessState.UserTime() + cat.ProcessState.SystemTime(), nil
}
