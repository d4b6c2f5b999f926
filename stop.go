package engine

import (
	"context"
	"fmt"
	"strconv"
	"syscall"
	"time"
)

// defaultGrace is Docker's.
const defaultGrace = 10 * time.Second

// StopOptions are those of Stop.
type StopOptions struct {
	// Grace is how long the process may take to end before it is killed.
	// Nil: 10 s. Zero: it is killed at once. Negative: it is never killed.
	Grace *time.Duration
}

// Kill sends a signal to the process of a running container, of any program.
// A process of a container that handles no signal gets only SIGKILL and
// SIGSTOP: it is pid 1 of its namespace (pid_namespaces(7)).
//
// A paused container is ended by SIGKILL, and goes on when it is sent its stop
// signal, as Docker's do; other signals reach it after Unpause.
func (c *Container) Kill(ctx context.Context, sig syscall.Signal) error {
	const op = "kill container"
	ctx, leave, err := c.engine.enter(ctx)
	if err != nil {
		return failed(op, c.id, err)
	}
	defer leave()
	return failed(op, c.id, c.kill(ctx, sig))
}

func (c *Container) kill(ctx context.Context, sig syscall.Signal) error {
	if err := checkSignal(sig); err != nil {
		return err
	}
	var err error
	if c.own == nil {
		err = c.killForeign(ctx, sig)
	} else {
		err = c.killOwn(ctx, sig)
	}
	if err == nil {
		c.publish(EventKill, "signal", strconv.Itoa(int(sig)))
	}
	return err
}

// killOwn sends a signal to the process of a container of this Engine.
func (c *Container) killOwn(ctx context.Context, sig syscall.Signal) error {
	r, state, err := c.own.running()
	if err != nil {
		return err
	}
	if err := r.signal(ctx, sig); err != nil || state != StatePaused || sig == syscall.SIGKILL {
		return err // the runtime sees to it that what is killed ends
	}
	if !resumes(sig, c.own.process.StopSignal) {
		return nil
	}
	return c.unlessEnded(c.resume(ctx, r))
}

// resumes tells whether a signal lets a paused container go on.
func resumes(sig syscall.Signal, stop string) bool {
	s, err := stopSignal(stop)
	return sig == syscall.SIGKILL || err == nil && s == sig
}

// Stop asks the container's process to end, by the stop signal of its Config
// or image, or SIGTERM; waits; and kills it if it takes too long. It returns
// when the process has ended. A paused container goes on to get the signal; one
// that is not running is stopped already. A context that ends meanwhile leaves
// the process as it is then.
func (c *Container) Stop(ctx context.Context, o StopOptions) error {
	const op = "stop container"
	ctx, leave, err := c.engine.enter(ctx)
	if err != nil {
		return failed(op, c.id, err)
	}
	defer leave()
	grace := defaultGrace
	if o.Grace != nil {
		grace = *o.Grace
	}
	return failed(op, c.id, c.stop(ctx, grace))
}

func (c *Container) stop(ctx context.Context, grace time.Duration) (err error) {
	info, err := c.inspect()
	if err != nil || !info.State.live() {
		return err
	}
	defer func() {
		if err == nil {
			c.publish(EventStop)
		}
	}()
	sig := syscall.SIGKILL
	if grace != 0 {
		if sig, err = stopSignal(info.Process.StopSignal); err != nil {
			return err
		}
	}
	end, err := c.end(info.Runs)
	if err != nil {
		return c.unlessEnded(err)
	}
	if err := c.kill(ctx, sig); err != nil {
		return c.unlessEnded(err)
	}
	if grace > 0 {
		within, cancel := context.WithTimeout(ctx, grace)
		err := end(within)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
		if err := c.kill(ctx, syscall.SIGKILL); err != nil {
			return c.unlessEnded(err)
		}
	}
	return end(ctx)
}

// end gives a function that waits for the end of one run, and not of a later
// one.
func (c *Container) end(run int) (func(context.Context) error, error) {
	if c.own == nil {
		return func(ctx context.Context) error {
			_, err := c.engine.waitForeign(ctx, c.id, run)
			return err
		}, nil
	}
	r, _, err := c.own.running()
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		select {
		case <-r.done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}, nil
}

// unlessEnded is nil if a signal failed because the process had ended.
func (c *Container) unlessEnded(err error) error {
	if err == nil {
		return nil
	}
	if info, e := c.inspect(); e == nil && !info.State.live() {
		return nil
	}
	return err
}

func stopSignal(name string) (syscall.Signal, error) {
	if name == "" {
		return syscall.SIGTERM, nil
	}
	sig, err := parseSignal(name)
	if err != nil {
		return 0, fmt.Errorf("stop signal: %w", err)
	}
	return sig, nil
}
