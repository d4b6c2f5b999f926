package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
)

// RemoveOptions are those of Container.Remove.
type RemoveOptions struct {
	// Force kills a container that is running. Writers that block (see
	// Config.Stdout) hold this up for a second at most, or for WaitDelay.
	Force bool
}

// Remove removes a container of any program: its name, its writable layer and
// its log. One that is running is refused, unless Force says to kill it.
func (c *Container) Remove(ctx context.Context, o RemoveOptions) error {
	const op = "remove container"
	ctx, leave, err := c.engine.enter(ctx)
	if err != nil {
		return failed(op, c.id, err)
	}
	defer leave()
	if c.own == nil {
		return failed(op, c.id, c.removeForeign(ctx, o))
	}
	return failed(op, c.id, c.remove(ctx, o))
}

var errRunning = fmt.Errorf("container is running: stop it first, or force its removal: %w", ErrFailedPrecondition)

// remove removes a container of this Engine.
func (c *Container) remove(ctx context.Context, opts RemoveOptions) error {
	o := c.own
	done, err := o.takeTurn(ctx)
	if err != nil {
		return err
	}
	defer done()
	o.mu.Lock()
	removed, state, last := o.removed, o.state, o.run
	o.mu.Unlock()
	if removed {
		return errNoContainer
	}
	if state.live() {
		if !opts.Force {
			return errRunning
		}
		if err := last.signal(ctx, syscall.SIGKILL); err != nil && !errors.Is(err, ErrFailedPrecondition) {
			return err
		}
		last.force()
	}
	if last != nil {
		select {
		case <-last.released:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	// Whatever happens from here on, the container is no more; a record that
	// another program has removed is no error of this one's memory.
	err = c.engine.removeRecord(ctx, c.id, c.engine.drafts.give, func(r *record) error {
		if r.Exposed { // by another program
			o.exposed.Store(true)
		}
		c.adopt(r)
		o.mu.Lock()
		o.name = r.Name // for its last event
		o.mu.Unlock()
		return nil
	})
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if err == nil {
		c.publish(EventDestroy)
	}
	// The other program may be about to remove the writable layer.
	return errors.Join(err, c.forget(err == nil))
}

// forget frees what an Engine keeps of a container whose record is gone. Its
// writable layer may serve another container if again says so.
func (c *Container) forget(again bool) error {
	o := c.own
	o.mu.Lock()
	o.removed = true
	w := o.layer
	o.layer = nil
	o.announce()
	o.mu.Unlock()
	c.engine.mu.Lock()
	delete(c.engine.containers, c.id)
	c.engine.mu.Unlock()
	if w != nil {
		c.giveLayer(w, again)
	}
	c.engine.holds.drop(o.image.ID(), o.hold)
	if o.log != nil {
		return o.log.remove()
	}
	return nil
}

// removeRecord removes a container's name, and its record in the way given,
// unless check says no.
func (e *Engine) removeRecord(ctx context.Context, id string, remove func(*os.File) error, check func(*record) error) error {
	d := e.root.records()
	f, err := d.open(ctx, id)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := decodeRecord(f, id)
	if err == nil && check != nil {
		err = check(r)
	}
	if err == nil {
		err = e.unclaim(r)
	}
	if err != nil {
		return err
	}
	return remove(f)
}

// removeForeign removes a container of another Engine. That learns of it when
// it next touches the container.
func (c *Container) removeForeign(ctx context.Context, o RemoveOptions) error {
	e := c.engine
	for {
		var last *record
		remove := func(f *os.File) error { return os.Remove(f.Name()) }
		err := e.removeRecord(ctx, c.id, remove, func(r *record) error {
			alive, err := e.root.alive(r.Owner.Engine)
			if err == nil && e.snapshot(r, alive).State.live() {
				err = errRunning
			}
			last = r
			return err
		})
		if err == nil {
			e.publishRecord(last, EventDestroy)
			return e.removeFiles(c.owner.Engine, c.id, last.Layer)
		}
		if !errors.Is(err, errRunning) || !o.Force {
			return err
		}
		info, err := c.inspect()
		if err != nil {
			return err
		}
		if err := c.killForeign(ctx, syscall.SIGKILL); err != nil && !errors.Is(err, ErrFailedPrecondition) {
			return err
		}
		if _, err := e.waitForeign(ctx, c.id, info.Runs); err != nil {
			return err
		}
	}
}

// removeFiles removes what a foreign container has in the root.
func (e *Engine) removeFiles(owner, id, layer string) error {
	err := os.RemoveAll(e.root.logDir(owner, id))
	if layer != "" {
		err = errors.Join(err, removeTree(e.root.layerDir(owner, layer)))
	}
	return err
}

// removeAll kills and removes containers of this Engine, at its end. All are
// killed before the first is waited for.
func (e *Engine) removeAll(containers []*Container) error {
	ctx := context.Background()
	for _, c := range containers {
		if r, _, err := c.own.running(); err == nil {
			_ = r.signal(ctx, syscall.SIGKILL) // remove does it again, and tells
		}
	}
	var errs []error
	for _, c := range containers {
		if err := c.remove(ctx, RemoveOptions{Force: true}); err != nil && !errors.Is(err, ErrNotFound) {
			errs = append(errs, failed("remove container", c.id, err))
		}
	}
	return errors.Join(errs...)
}
