package runtime

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
)

var (
	errPaused    = fmt.Errorf("the container is paused: %w", errdefs.ErrFailedPrecondition)
	errNotPaused = fmt.Errorf("the container is not paused: %w", errdefs.ErrFailedPrecondition)
)

// A pause is what a container knows of being frozen.
type pause struct {
	turn chan struct{} // holds a value while Pause, Resume or a thaw is at work

	// Guarded by Container.mu:
	on     bool          // no exec enters
	giveUp func()        // ends the Pause that is at work
	quiet  chan struct{} // closed when no exec is entering; nil: nobody waits
}

// Pause stops every process of a running container, and returns when all are
// stopped; a process that is being executed is waited for. Meanwhile Exec is
// refused, and Wait, Signal, Stats, Update and Delete go on working. SIGKILL to
// the first process ends the container; other signals take effect after Resume
// (so does on cgroups v1 SIGKILL to an exec'd process). When ctx ends first,
// the processes go on. The kernel has no say for a process that sleeps
// uninterruptibly, as on a dead network filesystem: ctx should have an end.
//
// Errors: errdefs.ErrFailedPrecondition for a container that does not run or
// is paused, ErrNotImplemented where no cgroup hierarchy can freeze,
// ErrUnavailable where cgroups v1 fail to for a long time.
func (c *Container) Pause(ctx context.Context) error {
	done, err := c.pause.take(ctx)
	if err != nil {
		return err
	}
	defer done()
	c.mu.Lock()
	switch {
	case c.waiting != nil || c.deleted || c.process.ended():
		err = errNotRunning
	case c.pause.on:
		err = errPaused
	}
	if err != nil {
		c.mu.Unlock()
		return err
	}
	within, cancel := context.WithCancel(ctx)
	defer cancel()
	c.pause.on, c.pause.giveUp = true, cancel
	c.mu.Unlock()

	c.standby.drop(false)
	if err = c.awaitQuiet(within); err == nil {
		err = c.cgroup.Freeze(within)
	}
	killed := err != nil && within.Err() != nil && ctx.Err() == nil
	c.rt.mu.Lock()
	if c.rt.closed { // it has not seen this pause, maybe
		err = errors.Join(errClosed, c.cgroup.Thaw())
	}
	c.rt.mu.Unlock()
	c.mu.Lock()
	c.pause.on, c.pause.giveUp = err == nil, nil
	c.mu.Unlock()
	if killed || c.process.ended() {
		return errNotRunning
	}
	return err
}

// Resume lets the processes of a paused container go on. It is
// errdefs.ErrFailedPrecondition for one that is not paused or does not run.
func (c *Container) Resume(ctx context.Context) error {
	done, err := c.pause.take(ctx)
	if err != nil {
		return err
	}
	defer done()
	switch on := c.paused(); {
	case c.process.ended():
		return errNotRunning
	case !on:
		return errNotPaused
	}
	if err := c.cgroup.Thaw(); err != nil {
		return err
	}
	c.mu.Lock()
	c.pause.on = false
	c.mu.Unlock()
	return nil
}

func (p *pause) take(ctx context.Context) (done func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case p.turn <- struct{}{}:
		return func() { <-p.turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// paused tells whether the container is, or is about to be.
func (c *Container) paused() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pause.on
}

// awaitQuiet waits until no exec is entering the container.
func (c *Container) awaitQuiet(ctx context.Context) error {
	c.mu.Lock()
	if c.entries == 0 {
		c.mu.Unlock()
		return nil
	}
	quiet := make(chan struct{})
	c.pause.quiet = quiet
	c.mu.Unlock()
	select {
	case <-quiet:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// letDie thaws a paused container whose first process was sent SIGKILL: on v1
// neither that one nor those that the kernel kills with it end while they are
// frozen. What the others still do is what they would have done a little
// earlier.
func (c *Container) letDie() {
	c.mu.Lock()
	on := c.pause.on
	if c.pause.giveUp != nil {
		c.pause.giveUp()
	}
	c.mu.Unlock()
	if !on {
		return
	}
	c.pause.turn <- struct{}{}
	defer func() { <-c.pause.turn }()
	c.cgroup.Thaw() // fails where it is gone, or can no longer be frozen
}
