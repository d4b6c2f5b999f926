//go:build linux

package main

import (
	"context"
	"errors"
	"time"

	"github.com/inboard/engine"
)

func benchExec(ctx context.Context, b *bench) (_ []Result, err error) {
	o, err := b.open(ctx, "exec")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, o.close()) }()
	c, err := o.sleeper(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		err = errors.Join(err, c.Remove(context.WithoutCancel(ctx), engine.RemoveOptions{Force: true}))
	}()
	exec := func(ctx context.Context) error { return o.exec(ctx, c) }
	ours := &subject{name: "ours", every: 1, before: settle, measure: timed(exec)}
	limit := &subject{name: "limit", every: 1, before: settle, measure: timed(bare(b.small.true_))}
	opened, err := b.peers(ctx)
	if err != nil {
		return nil, err
	}
	var peers []*subject
	for _, p := range only[starter](opened) {
		id, stop, err := p.Sleeper(ctx)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, stop()) }()
		measure := func(ctx context.Context) (time.Duration, error) { return p.Exec(ctx, id) }
		peers = append(peers, &subject{name: p.Name(), every: slowness(p.Name()), before: settle, measure: measure})
	}
	// Ten right after each other, which leave no time to prepare for the next.
	row := &subject{name: "ours in a row", every: 10, before: settle, measure: timedRow(exec)}
	limitRow := &subject{name: "limit in a row", every: 10, before: settle, measure: timedRow(bare(b.small.true_))}
	if err := interleave(ctx, b.rounds(400), true, append([]*subject{limit, ours, limitRow, row}, peers...)...); err != nil {
		return nil, err
	}
	r := compare("exec", "ms", (*subject).milliseconds, ours, limit, peers)
	r.Also = map[string]float64{
		"row":            round(row.milliseconds()),
		"row_over_limit": round(row.milliseconds() / limitRow.milliseconds()),
	}
	return []Result{r}, nil
}

// settle is time for what ours prepares in the background after an exec: done
// while something else is measured, it would slow that down.
func settle(ctx context.Context) error { return pause(ctx, 15*time.Millisecond) }

// timedRow measures ten in a row, and gives the time of one.
func timedRow(f func(context.Context) error) func(context.Context) (time.Duration, error) {
	const n = 10
	ten := timed(func(ctx context.Context) error {
		for range n {
			if err := f(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	return func(ctx context.Context) (time.Duration, error) {
		took, err := ten(ctx)
		return took / n, err
	}
}
