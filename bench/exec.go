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
	ours := &subject{name: "ours", every: 1, measure: timed(func(ctx context.Context) error { return o.exec(ctx, c) })}
	limit := &subject{name: "limit", every: 1, measure: timed(bare(b.small.true_))}
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
		peers = append(peers, &subject{name: p.Name(), every: slowness(p.Name()), measure: measure})
	}
	if err := interleave(ctx, b.rounds(400), true, append([]*subject{limit, ours}, peers...)...); err != nil {
		return nil, err
	}
	return []Result{compare("exec", "ms", (*subject).milliseconds, ours, limit, peers)}, nil
}
