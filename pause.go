package engine

import (
	"context"
	"errors"
	"fmt"
)

// Pause stops all processes of a running container where they are, until
// Unpause; it returns when they have stopped. A paused container is
// StatePaused: Exec and Start are refused, Stop, Kill, Remove and the end of
// its program end it, Wait, Stats, Logs and Update work.
//
// A process that sleeps in the kernel, as on a network filesystem that does not
// answer, holds Pause up; when ctx ends, all go on. It is
// ErrFailedPrecondition for what is not running or paused already. A container
// of another program is paused by that, in its turn: one that is stopped itself
// is waited for until ctx ends.
func (c *Container) Pause(ctx context.Context) error {
	return c.changePause(ctx, "pause container", verbPause, StateRunning, StatePaused, func(ctx context.Context, r *run) error {
		return r.container.Pause(ctx)
	})
}

// Unpause lets a paused container go on. It is ErrFailedPrecondition for one
// that is not paused. As to other programs' it is as Pause.
func (c *Container) Unpause(ctx context.Context) error {
	return c.changePause(ctx, "unpause container", verbUnpause, StatePaused, StateRunning, func(ctx context.Context, r *run) error {
		return r.container.Resume(ctx)
	})
}

// changePause is both.
func (c *Container) changePause(ctx context.Context, op string, ask verb, from, to State, do func(context.Context, *run) error) error {
	return c.inTurn(ctx, op, &request{Verb: ask}, func(ctx context.Context) error {
		r, state, err := c.own.running()
		switch {
		case err != nil:
		case state != from && from == StateRunning:
			err = errPaused
		case state != from:
			err = errNotPaused
		default:
			err = c.settlePause(ctx, r, to, do)
		}
		return err
	})
}

// settlePause freezes or thaws, and writes it down. What cannot be written down
// is undone.
func (c *Container) settlePause(ctx context.Context, r *run, to State, do func(context.Context, *run) error) error {
	err := do(ctx, r)
	resumed := err == nil && to == StateRunning
	if err == nil {
		err = c.become(ctx, to, r, pauseChange{State: to})
		if err != nil && to == StatePaused {
			err = errors.Join(err, r.container.Resume(context.WithoutCancel(ctx)))
		}
	}
	if resumed && errors.Is(err, ErrFailedPrecondition) {
		err = nil // it went on, to its end
	} else if !resumed {
		select {
		case <-r.done:
			return notRunning(StateExited) // meanwhile
		default:
		}
	}
	if err == nil {
		c.publish(pauseActions[to])
	}
	return err
}

// pauseActions are the events of the states that a pause and its end lead to.
var pauseActions = map[State]EventAction{StatePaused: EventPause, StateRunning: EventUnpause}

var (
	errPaused    = fmt.Errorf("container is paused: unpause it first: %w", ErrFailedPrecondition)
	errNotPaused = fmt.Errorf("container is not paused: %w", ErrFailedPrecondition)
)

// resume lets a paused container go on that was sent its stop signal.
func (c *Container) resume(ctx context.Context, r *run) error {
	if err := r.container.Resume(ctx); err != nil && !errors.Is(err, ErrFailedPrecondition) {
		return err
	} // else another was faster, or it has ended, which become finds
	return c.become(ctx, StateRunning, r, pauseChange{State: StateRunning})
}
