package engine

import (
	"context"
	"errors"
	"time"
)

// follower waits for more of a container's log, and for the end of its run.
// It sees both in files, so that it does not matter whose the container is.
type follower struct {
	dir   string // the log's
	wait  foreignWait
	logs  *watch // of dir; nil until it is there
	state logState
	stale bool // the container may not be as state has it
}

func newFollower(c *Container, dir string) *follower {
	return &follower{dir: dir, wait: foreignWait{engine: c.engine, id: c.id}, stale: true}
}

func (f *follower) close() {
	f.wait.close()
	if f.logs != nil {
		watches.remove(f.logs)
	}
}

// look tells how the container is. What is looked for in the log after it has
// all that came before it, or wakes sleep.
func (f *follower) look() (logState, error) {
	for f.stale {
		known := f.state.run > 0
		err := f.wait.open()
		if errors.Is(err, ErrNotFound) && known {
			f.state.ended, f.stale = true, false
			break
		}
		if err != nil {
			return logState{}, err
		}
		_, ended, err := f.wait.look()
		if errors.Is(err, ErrNotFound) { // gone, and never started
			ended, err = true, nil
		}
		if err != nil {
			return logState{}, err
		}
		if f.wait.record == nil {
			continue // it was replaced
		}
		f.stale = false
		f.state = logState{run: f.wait.run, ended: ended, dead: f.wait.dead, logged: f.wait.seen.Logged}
	}
	return f.state, f.watchLog()
}

// watchLog watches the log's directory when it is there. That it has come is
// written in the record.
func (f *follower) watchLog() error {
	if f.logs != nil {
		return nil
	}
	dir, err := openIfThere(f.dir)
	if dir == nil || err != nil {
		return err
	}
	defer dir.Close()
	f.logs, err = watches.add(dir)
	return err
}

// sleep waits until there may be more in the log, or the container may have
// ended, or the clock has passed the time given, if it is not zero: then it
// says so.
func (f *follower) sleep(ctx context.Context, until time.Time) (passed bool, err error) {
	within, leave, err := f.wait.engine.enter(ctx)
	if err != nil {
		return false, err
	}
	defer leave()
	if !until.IsZero() {
		var cancel context.CancelFunc
		within, cancel = context.WithDeadline(within, until)
		defer cancel()
	}
	var events <-chan struct{}
	if f.logs != nil {
		events = f.logs.events
	}
	logged, err := f.wait.sleep(within, events)
	f.stale = !logged
	switch {
	case err == nil:
		return false, nil
	case ctx.Err() != nil:
		return false, ctx.Err()
	case errors.Is(err, context.DeadlineExceeded):
		return true, nil
	}
	return false, errClosed
}
