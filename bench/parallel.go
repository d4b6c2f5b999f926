//go:build linux

package main

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"
)

// atOnce is how many containers there are at a time.
const atOnce = 16

func benchParallel(ctx context.Context, b *bench) (_ []Result, err error) {
	o, err := b.open(ctx, "parallel")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, o.close()) }()
	opened, err := b.peers(ctx)
	if err != nil {
		return nil, err
	}
	ours := &subject{name: "ours", every: 1, measure: crowd(b.crowd(500), o.start)}
	limit := &subject{name: "limit", every: 1, measure: crowd(b.crowd(500), bare(b.small.true_))}
	var peers []*subject
	for _, p := range only[starter](opened) {
		start := func(ctx context.Context) error {
			_, err := p.Start(ctx)
			return err
		}
		// A rate needs no 500 of them: those that take a third of a second
		// each get fewer.
		count := b.crowd(500 / slowness(p.Name()) * 4)
		peers = append(peers, &subject{name: p.Name(), every: 3, measure: crowd(count, start)})
	}
	if err := interleave(ctx, b.rounds(5), false, append([]*subject{limit, ours}, peers...)...); err != nil {
		return nil, err
	}
	rate := func(s *subject) float64 { return 1 / s.seconds() }
	return []Result{compare("parallel", rateUnit, rate, ours, limit, peers)}, nil
}

func (b *bench) crowd(n int) int {
	if b.short {
		return atOnce
	}
	return n
}

// crowd does f count times, atOnce at a time, and gives the time per each.
func crowd(count int, f func(context.Context) error) func(context.Context) (time.Duration, error) {
	return func(ctx context.Context) (time.Duration, error) {
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(atOnce)
		begin := time.Now()
		for range count {
			group.Go(func() error { return f(ctx) })
		}
		err := group.Wait()
		return time.Since(begin) / time.Duration(count), err
	}
}
