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

// killBatch bounds the descriptors that a Kill holds at a time.
const killBatch = 256

// Kill sends SIGKILL to every process in c and below it and returns when none
// is left; one that has ended and is not yet reaped counts as gone. A process
// that forks all the time does not escape: v2 has cgroup.kill (Linux 5.14),
// and on v1 forks are made impossible first, by a pids limit of 0 that stays.
// Frozen processes are thawed to die. It ends early with ctx. It refuses
// (errdefs.ErrFailedPrecondition) where the calling process itself is inside.
func (c *Cgroup) Kill(ctx context.Context) error {
	// v2 first: once its hierarchy is empty there is little left for the others.
	for _, v2 := range []bool{true, false} {
		err := c.all(func(_ int, y *hierarchy, parent int) error {
			if y.v2 != v2 {
				return nil
			}
			if err := c.killIn(ctx, y, parent); err != nil {
				return fmt.Errorf("kill cgroup %s in hierarchy %s: %w", c.path, y.name, classify(err))
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *Cgroup) killIn(ctx context.Context, y *hierarchy, parent int) error {
	pids, err := pidsBelow(parent, c.name)
	if err != nil || len(pids) == 0 {
		return err
	}
	if slices.Contains(pids, os.Getpid()) {
		return kindf(errdefs.ErrFailedPrecondition, "process %d is the calling one", os.Getpid())
	}
	if y.v2 {
		err := writeAt(parent, c.name+"/cgroup.kill", "1")
		if err == nil {
			return awaitEmpty(ctx, parent, c.name)
		}
		if gone(err) && unix.Faccessat(parent, c.name, unix.F_OK, 0) != nil {
			return nil
		}
	}
	c.stopForks()
	var wait backoff
	for len(pids) > 0 {
		n, err := c.killOnce(ctx, parent, pids)
		if err != nil {
			return err
		}
		if n == 0 {
			if err := wait.wait(ctx); err != nil {
				return fmt.Errorf("%w: no signal reaches processes %v", err, pids)
			}
		}
		if pids, err = pidsBelow(parent, c.name); err != nil {
			return err
		}
	}
	return nil
}

// stopForks makes every fork in c fail. A fork that has begun ends with its
// parent dead or its child listed, which is why the callers look again after
// the parents are gone. Where no pids controller is there, they just go on
// until they win.
func (c *Cgroup) stopForks() {
	if i, ok := c.parent.host.where["pids"]; ok && c.madeIn(i) {
		if dir, err := c.parent.dir(i); err == nil {
			writeAt(dir, c.name+"/pids.max", "0")
		}
	}
}

// killOnce kills pids, those in the cgroup name in parent, and waits until
// they are gone. It returns how many it found.
func (c *Cgroup) killOnce(ctx context.Context, parent int, pids []int) (found int, err error) {
	for batch := range slices.Chunk(pids, killBatch) {
		n, err := c.killFew(ctx, parent, batch)
		found += n
		if err != nil {
			return found, err
		}
	}
	return found, nil
}

func (c *Cgroup) killFew(ctx context.Context, parent int, pids []int) (int, error) {
	list, err := openProcesses(pids)
	if err != nil {
		return 0, err
	}
	defer closeProcesses(list)
	// A pid may have come to mean another process before its descriptor was
	// opened. What is listed now is killed, if the descriptor means it.
	now, err := pidsBelow(parent, c.name)
	if err != nil {
		return 0, err
	}
	var killed []process
	for _, p := range list {
		if !slices.Contains(now, p.pid) {
			continue
		}
		err := unix.PidfdSendSignal(p.fd, unix.SIGKILL, nil, 0)
		if err == nil {
			killed = append(killed, p)
		} else if !errors.Is(err, unix.ESRCH) {
			return 0, err
		}
	}
	c.thaw()
	for _, p := range killed {
		if err := p.awaitExit(ctx); err != nil {
			return 0, fmt.Errorf("process %d does not end: %w", p.pid, err)
		}
	}
	return len(killed), nil
}

// thaw lets frozen processes of a v1 freezer run, for only then a signal
// reaches them. Below c it changes what has its own state set.
func (c *Cgroup) thaw() {
	i, ok := c.parent.host.where["freezer"]
	if !ok || !c.madeIn(i) {
		return
	}
	if dir, err := c.parent.dir(i); err == nil {
		walk(dir, c.name, visitor{visit: func(dir int) error {
			writeAt(dir, "freezer.state", "THAWED")
			return nil
		}})
	}
}
