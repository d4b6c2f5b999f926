package engine

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/inboard/engine/runtime"
)

// Start runs the container's program; it returns when the program is executed.
// A container that has exited runs again, on the writable layer that the last
// run left. A command that is not found, or that cannot be executed, gives an
// error with a *CommandError inside, and the container stays as it was.
//
// The context bounds the call alone: its end after Start has returned means
// nothing to the container. Only the Engine that created a container starts it.
// It waits for copies that other programs are making, see CopyFrom.
func (c *Container) Start(ctx context.Context) error {
	const op = "start container"
	return c.inTurn(ctx, op, nil, c.start)
}

// start is Start in its turn.
func (c *Container) start(ctx context.Context) error {
	o := c.own
	o.mu.Lock()
	removed, state, last := o.removed, o.state, o.run
	o.mu.Unlock()
	switch {
	case removed:
		return errNoContainer
	case state == StateRunning:
		return fmt.Errorf("container is already running: %w", ErrFailedPrecondition)
	case state == StatePaused:
		return errPaused
	}
	if last != nil {
		select {
		case <-last.released:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	rt, err := c.engine.runtime()
	if err != nil {
		return err
	}
	spec, err := o.spec()
	if err != nil {
		return err
	}
	r := newRun(o.runs + 1)
	o.claim.hold()
	defer func() {
		if r.container == nil {
			r.output.drop()
			c.engine.ids.release(r.ids)
			o.claim.release()
		}
	}()
	if err := r.output.connect(&o.config, o.log, r.number); err != nil {
		return err
	}
	shared, err := c.join(ctx, spec)
	if err != nil {
		return err
	}
	defer shared.close()
	options, err := c.createOptions(ctx, r) // with a mount for rt to close
	if err != nil {
		return err
	}
	options.Shm = shared.shm
	r.ids.apply(spec)
	if !confined(spec) || !confinedProcess(spec.Process, &options.ProcessOptions) {
		o.exposed.Store(true)
	}
	since := bootTime()
	if r.container, err = rt.Start(ctx, spec, options); err != nil {
		return err
	}
	r.output.begin()
	c.readyNext()
	return c.started(ctx, r, since, bootTime())
}

// started writes down that a run has begun.
func (c *Container) started(ctx context.Context, r *run, since, until int64) error {
	o := c.own
	err := c.engine.running.add(c.id)
	if err == nil {
		err = c.become(ctx, StateRunning, r, startChange{
			State:   StateRunning,
			PID:     r.container.Pid(),
			Cgroup:  r.container.CgroupPath(),
			Runs:    r.number,
			Started: time.Now(),
			Layer:   o.layer.name,
			Since:   since,
			Until:   until,
		})
	}
	if err != nil {
		// It has been removed by another program, or cannot be written down:
		// a container that nobody can find must not run.
		err = errors.Join(err, r.container.Delete(context.Background()), c.engine.running.remove(c.id))
		c.engine.ids.release(r.ids)
		o.claim.release()
		r.force()
		_, _ = r.output.wait(0, r.forced)
		return err
	}
	c.publish(EventStart)
	c.engine.runs.Go(func() { c.finish(r) })
	return nil
}

// finish follows a run to its end, and frees what it had.
func (c *Container) finish(r *run) {
	ctx := context.Background()
	status, err := r.container.Wait(ctx)
	r.status = status
	finished := time.Now()
	// Who sees the container's end in its record finds its log complete.
	logged, lost := r.output.wait(c.own.config.WaitDelay, r.forced)
	change := c.become(ctx, StateExited, r, exitChange{
		State:    StateExited,
		Status:   status,
		Finished: finished,
		Logged:   logged,
	})
	if errors.Is(change, ErrNotFound) {
		change = nil // another program has removed it
	}
	r.err = errors.Join(err, lost, change, c.engine.running.remove(c.id))
	if r.err != nil { // Wait tells it, if anyone asks
		c.engine.log().Warn("output or status is lost", "container", c.id, "error", r.err)
	}
	if !status.Known {
		c.engine.log().Error("the keeper has ended, and the container with it", "container", c.id)
	}
	if status.OOMKilled {
		c.publish(EventOOM)
	}
	c.publishDeath(EventDie, status)
	close(r.done)

	if err := r.container.Delete(ctx); err != nil {
		c.engine.log().Warn("something of a run cannot be removed", "container", c.id, "error", err)
		// What is left keeps the writable layer from being used again.
		o := c.own
		o.mu.Lock()
		o.layer = nil
		o.mu.Unlock()
	} else {
		c.engine.ids.release(r.ids)
		c.own.claim.release()
	}
	close(r.released)
}

// Wait waits until the container's process has ended, and tells how; a code
// that is not zero is no error. Before a start it waits for one. All callers,
// of any program, get the same answer. For a container whose program has been
// killed, Known is false.
//
// An error beside a known Status is one of the streams or of the log: output
// was lost.
func (c *Container) Wait(ctx context.Context) (Status, error) {
	const op = "wait for container"
	if c.own == nil {
		status, err := c.engine.waitForeign(ctx, c.id, 0)
		return status, failed(op, c.id, err)
	}
	r, err := c.own.awaitRun(ctx, 1)
	if err != nil {
		return Status{}, failed(op, c.id, err)
	}
	select {
	case <-r.done:
		return r.status, failed(op, c.id, r.err)
	case <-ctx.Done():
		return Status{}, failed(op, c.id, ctx.Err())
	}
}

// awaitRun waits for a run to begin, or one after it, and gives the last one.
func (o *own) awaitRun(ctx context.Context, number int) (*run, error) {
	for {
		o.mu.Lock()
		r, removed, changed := o.run, o.removed, o.changed
		o.mu.Unlock()
		if r != nil && r.number >= number {
			return r, nil
		}
		if removed {
			return nil, fmt.Errorf("container was removed before it was started: %w", ErrNotFound)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// runOf is awaitRun for a run and none after it.
func (o *own) runOf(ctx context.Context, number int) (*run, error) {
	r, err := o.awaitRun(ctx, number)
	if err == nil && r.number != number {
		return nil, notRunning(StateExited)
	}
	return r, err
}

// signal sends a signal to the container's process.
func (r *run) signal(ctx context.Context, sig syscall.Signal) error {
	err := r.container.Signal(ctx, sig)
	if errors.Is(err, ErrNotFound) {
		return notRunning(StateExited) // it has ended just now
	}
	return err
}

// createOptions gathers what the runtime needs beside the spec.
func (c *Container) createOptions(ctx context.Context, r *run) (runtime.CreateOptions, error) {
	o := c.own
	rootfs, user, err := c.rootfs(ctx, r)
	if err != nil {
		return runtime.CreateOptions{}, err
	}
	return runtime.CreateOptions{
		ID:            c.id,
		Rootfs:        rootfs,
		UserNamespace: user,
		CgroupParent:  o.config.CgroupParent,
		Init:          o.config.Init,
		Files:         notCovered(hostFiles(c.engine.sharedNetwork(o.config.Network), o.process.Hostname), o.config.Mounts),
		ProcessOptions: runtime.ProcessOptions{
			User:         first(o.process.User, "0"),
			Stdin:        r.output.input,
			Stdout:       r.output.stdout,
			Stderr:       r.output.stderr,
			TakeTerminal: r.output.takeTerminal,
		},
	}, nil
}
