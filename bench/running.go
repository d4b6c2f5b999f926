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
// are none: in turn, so that both have the same machine. What the kernel does
// after a container's end, which takes it longer the more containers there are,
// is over when the next one starts; how long starts take in a row is told too.
func benchRunning(ctx context.Context, b *bench) (_ []Result, err error) {
	h, err := b.host(ctx, "running2000")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.stop()) }()
	pair := func(name string) []*subject {
		return []*subject{
			{name: name, every: 1, before: idle, measure: h.start},
			{name: name + ", in a row", every: 1, measure: h.start},
		}
	}
	first, last := pair("the first"), pair("the last")
	times := b.rounds(30)
	some := func(pair []*subject, others int) error {
		if err := h.run(others); err != nil {
			return err
		}
		if err := b.calm(ctx); err != nil {
			return err
		}
		for _, s := range pair {
			for i := range times + 1 { // the first one is not counted
				if err := errors.Join(ctx.Err(), s.once(ctx, i > 0)); err != nil {
					return err
				}
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
	r := compare("running2000", "ms", (*subject).milliseconds, last[0], first[0], nil)
	r.Also = map[string]float64{
		"row":            round(last[1].milliseconds()),
		"row_over_limit": round(last[1].milliseconds() / first[1].milliseconds()),
	}
	return []Result{r}, nil
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
