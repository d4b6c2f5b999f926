package engine

import (
	"context"
	"fmt"
	"sync"
)

// opening sees to it that an Engine is opened once, by the first call that needs
// it. If that gives up to wait for another program, the next one tries again.
type opening struct {
	mu     sync.Mutex
	over   bool // err says how it went
	err    error
	busy   chan struct{} // closed when who opens it now is done; nil: nobody does
	cancel context.CancelCauseFunc
}

// once opens, unless that has been done, and tells how it went.
func (o *opening) once(ctx context.Context, open func(context.Context) error) error {
	o.mu.Lock()
	for o.busy != nil {
		busy := o.busy
		o.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return ctx.Err()
		}
		o.mu.Lock()
	}
	if o.over {
		defer o.mu.Unlock()
		return o.err
	}
	o.busy = make(chan struct{})
	within, cancel := patient(ctx)
	within, o.cancel = context.WithCancelCause(within)
	o.mu.Unlock()

	err := open(within)

	o.mu.Lock()
	defer o.mu.Unlock()
	if o.over = err == nil || within.Err() == nil; o.over {
		o.err = err
	}
	close(o.busy)
	o.busy = nil
	o.cancel(nil)
	cancel()
	return err
}

var errClosed = fmt.Errorf("engine is closed: %w", ErrFailedPrecondition)

// end keeps what is not open yet from being opened.
func (o *opening) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.busy != nil {
		o.cancel(errClosed)
		busy := o.busy
		o.mu.Unlock()
		<-busy
		o.mu.Lock()
	}
	if !o.over {
		o.over, o.err = true, errClosed
	}
}
