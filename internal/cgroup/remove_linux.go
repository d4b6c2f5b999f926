package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Remove removes c and what is nested in it from every hierarchy, and closes
// it. It kills nothing: while processes are inside it waits for their end (on
// v2 for the event of cgroup.events, on v1 for that of each process), and for
// as long as ctx lasts. What is gone already is no error, so it may be called
// again after one.
func (c *Cgroup) Remove(ctx context.Context) error {
	c.Release()
	err := c.all(func(_ int, y *hierarchy, parent int) error {
		if err := c.removeIn(ctx, y, parent); err != nil {
			return fmt.Errorf("remove cgroup %s from hierarchy %s: %w", c.path, y.name, classify(err))
		}
		return nil
	})
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	if err != nil {
		return err
	}
	return c.Close()
}

func (c *Cgroup) removeIn(ctx context.Context, y *hierarchy, parent int) error {
	var wait backoff
	for {
		err := removeTree(parent, c.name)
		if err != unix.EBUSY {
			return err
		}
		if err := c.awaitProcesses(ctx, y, parent, &wait); err != nil {
			pids, _ := pidsBelow(parent, c.name)
			return fmt.Errorf("processes %v are in it: %w", pids, err)
		}
	}
}

// awaitProcesses waits until it makes sense to try a removal again.
func (c *Cgroup) awaitProcesses(ctx context.Context, y *hierarchy, parent int, wait *backoff) error {
	if y.v2 {
		if err := awaitEmpty(ctx, parent, c.name); err != nil {
			return err
		}
		return wait.wait(ctx) // busy though empty: on the way out
	}
	pids, err := pidsBelow(parent, c.name)
	if err != nil {
		return err
	}
	list, err := openProcesses(pids[:min(len(pids), killBatch)])
	if err != nil {
		return err
	}
	defer closeProcesses(list)
	if len(list) == 0 {
		// v1 lists neither a leader that has ended before its threads nor
		// what a thread alone has joined, and has no event for their end.
		return wait.wait(ctx)
	}
	for _, p := range list {
		if err := p.awaitExit(ctx); err != nil {
			return err
		}
	}
	return nil
}

// removeTree removes a directory and all below it. EBUSY means that a process
// is in one of them.
func removeTree(parent int, name string) error {
	rmdir := func(parent int, name string) error {
		for {
			err := unix.Unlinkat(parent, name, unix.AT_REMOVEDIR)
			if err == nil || gone(err) {
				return nil
			}
			if err != unix.EINTR {
				return err
			}
		}
	}
	err := rmdir(parent, name)
	if err != unix.EBUSY && err != unix.ENOTEMPTY {
		return err
	}
	// The kernel says EBUSY for children as for processes.
	busy := false
	err = walk(parent, name, visitor{
		skip: func(parent int, name string) bool { return rmdir(parent, name) == nil },
		leave: func(parent int, name string) error {
			err := rmdir(parent, name)
			if err == unix.EBUSY || err == unix.ENOTEMPTY {
				busy = true
				return nil
			}
			return err
		},
	})
	if err == nil && busy {
		return unix.EBUSY
	}
	return err
}

// RemoveAll kills every process in the cgroup at path and below it, in any
// hierarchy, and removes all their directories. One that is not there is no
// error. It is for what an earlier process has left; it refuses the root, and
// (errdefs.ErrFailedPrecondition) a cgroup that the calling process is in.
func (h *Host) RemoveAll(ctx context.Context, path string) error {
	c, err := h.Open(path)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer c.Close()
	pids, err := c.Pids()
	if err != nil {
		return err
	}
	if slices.Contains(pids, os.Getpid()) {
		return kindf(errdefs.ErrFailedPrecondition, "remove cgroup %s: process %d, the calling one, is in it", path, os.Getpid())
	}
	if len(pids) > 0 {
		if err := c.Kill(ctx); err != nil {
			return err
		}
	}
	return c.Remove(ctx)
}

// Prune removes the directory at path from each hierarchy where it is empty,
// and leaves it where it is not. It is for parents that nobody else may need.
func (h *Host) Prune(path string) error {
	c, err := h.Open(path)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer c.Close()
	return c.all(func(_ int, y *hierarchy, parent int) error {
		err := unix.Unlinkat(parent, c.name, unix.AT_REMOVEDIR)
		if err == nil || gone(err) || err == unix.EBUSY || err == unix.ENOTEMPTY {
			return nil
		}
		return fmt.Errorf("remove cgroup %s from hierarchy %s: %w", path, y.name, classify(err))
	})
}
