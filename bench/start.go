//go:build linux

package main

import (
	"context"
	"errors"
	"time"
)

// open gives the engine on a directory that is new.
func (b *bench) open(ctx context.Context, dir string) (*ours, error) {
	small, err := b.image()
	if err != nil {
		return nil, err
	}
	path, err := b.mkdir(dir)
	if err != nil {
		return nil, err
	}
	return openOurs(ctx, path, small)
}

// startSubjects are ours, the limit and the peers.
func (b *bench) startSubjects(ctx context.Context, o *ours) (ours, limit *subject, peers []*subject, err error) {
	opened, err := b.peers(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	for _, p := range only[starter](opened) {
		peers = append(peers, &subject{name: p.Name(), every: slowness(p.Name()), measure: p.Start})
	}
	ours = &subject{name: "ours", every: 1, measure: timed(o.start)}
	limit = &subject{name: "limit", every: 1, measure: timed(bare(b.small.true_))}
	return ours, limit, peers, nil
}

// slowness says which rounds are enough for an engine.
func slowness(peer string) int {
	switch peer {
	case "crun":
		return 5
	case "runc":
		return 10
	}
	return 20
}

func benchStart(ctx context.Context, b *bench) (_ []Result, err error) {
	o, err := b.open(ctx, "start")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, o.close()) }()
	ours, limit, peers, err := b.startSubjects(ctx, o)
	if err != nil {
		return nil, err
	}
	parts := make([]subject, len(phases))
	ours.measure = func(ctx context.Context) (total time.Duration, err error) {
		took, err := o.startPhases(ctx)
		for i := range parts {
			parts[i].took = append(parts[i].took, took[i])
			total += took[i]
		}
		return total, err
	}
	if err := interleave(ctx, b.rounds(400), true, append([]*subject{limit, ours}, peers...)...); err != nil {
		return nil, err
	}
	r := compare("start", "ms", (*subject).milliseconds, ours, limit, peers)
	r.Also = map[string]float64{}
	for i, phase := range phases {
		r.Also[phase] = round(parts[i].milliseconds())
	}
	return []Result{r}, nil
}

func benchStartIdle(ctx context.Context, b *bench) (_ []Result, err error) {
	o, err := b.open(ctx, "start-idle")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, o.close()) }()
	ours, limit, peers, err := b.startSubjects(ctx, o)
	if err != nil {
		return nil, err
	}
	all := append([]*subject{limit, ours}, peers...)
	for _, s := range all {
		s.before = idle
		s.every = (s.every + 4) / 5
	}
	// Between two that waited, a few that did not.
	busy := &subject{name: "start", every: 1, measure: func(ctx context.Context) (time.Duration, error) {
		s := &subject{name: "ours", every: 1, measure: timed(o.start)}
		err := interleave(ctx, 5, true, s)
		return s.median(), err
	}}
	if err := interleave(ctx, b.rounds(40), true, append(all, busy)...); err != nil {
		return nil, err
	}
	r := compare("start-idle", "ms", (*subject).milliseconds, ours, limit, peers)
	r.Also = map[string]float64{
		"start":      round(busy.milliseconds()),
		"over_start": round(ours.milliseconds() / busy.milliseconds()),
	}
	return []Result{r}, nil
}

// benchStartHeap measures two processes, one of them with much memory in use:
// what costs fork dear must cost us nothing.
func benchStartHeap(ctx context.Context, b *bench) (_ []Result, err error) {
	o, err := b.open(ctx, "start-heap")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, o.close()) }()
	size := int64(3 << 30)
	if b.short {
		size = 64 << 20
	}
	dir, err := b.mkdir("start-heap")
	if err != nil {
		return nil, err
	}
	big, err := startHost(ctx, dir, size)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, big.stop()) }()
	small, err := startHost(ctx, dir, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, small.stop()) }()
	ours := &subject{name: "with a heap", every: 1, measure: big.start}
	limit := &subject{name: "without a heap", every: 1, measure: small.start}
	if err := interleave(ctx, b.rounds(300), true, limit, ours); err != nil {
		return nil, err
	}
	return []Result{compare("start-heap", "ms", (*subject).milliseconds, ours, limit, nil)}, nil
}
