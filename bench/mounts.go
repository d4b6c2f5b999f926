//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/inboard/engine"
)

// benchMounts counts lines: every process that starts or ends a mount
// namespace, and every look at the table, costs more with each.
func benchMounts(ctx context.Context, b *bench) (_ []Result, err error) {
	o, err := b.open(ctx, "mounts")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, o.close()) }()
	count := 200
	if b.short {
		count = 5
	}
	ours, err := added(count, func() (int, error) { return mountLines("/proc/self/mountinfo") }, func() (func() error, error) {
		c, err := o.sleeper(ctx)
		if c == nil {
			return nil, err
		}
		return func() error { return c.Remove(context.WithoutCancel(ctx), engine.RemoveOptions{Force: true}) }, err
	})
	if err != nil {
		return nil, err
	}
	opened, err := b.peers(ctx)
	if err != nil {
		return nil, err
	}
	values := map[string]float64{}
	for _, p := range only[starter](opened) {
		// Ten are enough to see what each adds.
		few := min(count, 10)
		lines, err := added(few, p.Mounts, func() (func() error, error) {
			_, stop, err := p.Sleeper(ctx)
			return stop, err
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.Name(), err)
		}
		values[p.Name()] = float64(lines) * float64(count) / float64(few)
	}
	return []Result{newResult("mounts", "lines", float64(ours), 0, values)}, nil
}

// added starts count containers, counts lines, and stops them.
func added(count int, lines func() (int, error), start func() (stop func() error, err error)) (_ int, err error) {
	before, err := lines()
	if err != nil {
		return 0, err
	}
	for range count {
		stop, startErr := start()
		if stop != nil {
			defer func() { err = errors.Join(err, stop()) }()
		}
		if startErr != nil {
			return 0, startErr
		}
	}
	after, err := lines()
	return after - before, err
}
