//go:build linux

package main

import (
	"context"
	"errors"
)

// runningCount is how many containers a program has that has many.
func (b *bench) runningCount() int {
	if b.short {
		return 20
	}
	return 2000
}

// benchRunning measures a start while there are 1,999 others, and while there
// are none: in turn, so that both have the same machine.
func benchRunning(ctx context.Context, b *bench) (_ []Result, err error) {
	h, err := b.host(ctx, "running2000")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.stop()) }()
	first := &subject{name: "the first", every: 1, measure: h.start}
	last := &subject{name: "the last", every: 1, measure: h.start}
	times := b.rounds(50)
	some := func(s *subject, others int) error {
		if err := h.run(others); err != nil {
			return err
		}
		if err := b.calm(ctx); err != nil {
			return err
		}
		for i := range times + 1 { // the first one is not counted
			if err := errors.Join(ctx.Err(), s.once(ctx, i > 0)); err != nil {
				return err
			}
		}
		return nil
	}
	for range b.rounds(3) {
		err := some(first, 0)
		if err == nil {
			err = some(last, b.runningCount()-1)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := some(first, 0); err != nil {
		return nil, err
	}
	return []Result{compare("running2000", "ms", (*subject).milliseconds, last, first, nil)}, nil
}

// benchThreads counts the threads of a program that has started 2,000
// containers, atOnce at a time.
func benchThreads(ctx context.Context, b *bench) (_ []Result, err error) {
	h, err := b.host(ctx, "threads")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.stop()) }()
	if err := h.run(b.runningCount()); err != nil {
		return nil, err
	}
	threads, _, err := h.weigh()
	return []Result{newResult("threads", "threads", float64(threads), 0, nil)}, err
}
