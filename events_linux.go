package engine

import (
	"context"
	"errors"
	"io"
	"os"
	"time"
)

// follow gives events from a place on to yield.
func (e *Engine) follow(ctx context.Context, o *EventOptions, from eventPosition, yield func(Event, error) bool) error {
	dir, err := os.Open(e.events.dir)
	if err != nil {
		return err
	}
	w, err := watches.add(dir)
	dir.Close()
	if err != nil {
		return err
	}
	defer watches.remove(w)
	r := newEventReader(&e.events, from)
	defer r.close()
	for {
		over := !o.Until.IsZero() && !time.Now().Before(o.Until)
		if err := r.drain(ctx, o, yield); err != nil || over {
			return err
		}
		if err := e.awaitEvent(ctx, o, w); err != nil {
			return err
		}
	}
}

// drain gives what there is.
func (r *eventReader) drain(ctx context.Context, o *EventOptions, yield func(Event, error) bool) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		ev, err := r.next()
		switch {
		case err == io.EOF:
			return nil
		case errors.Is(err, ErrDataLoss):
			if !yield(Event{}, failed("watch events", "", err)) {
				return errEnough
			}
		case err != nil:
			return err
		case o.wants(&ev) && !yield(ev, nil):
			return errEnough
		}
	}
}

// awaitEvent waits until there may be an event, or the iteration is to end.
func (e *Engine) awaitEvent(ctx context.Context, o *EventOptions, w *watch) error {
	within, leave, err := e.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	var until <-chan time.Time
	if !o.Until.IsZero() {
		timer := time.NewTimer(time.Until(o.Until))
		defer timer.Stop()
		until = timer.C
	}
	select {
	case <-w.events:
	case <-until:
	case <-within.Done():
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return e.isOpen()
	}
	return nil
}
