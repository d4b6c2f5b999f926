//go:build linux

package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// subject is one thing that is measured among others.
type subject struct {
	name string
	// every says in which rounds: 1 in all, 10 in every tenth, for what is slow.
	every int
	// before, when set, is done before each measurement and not counted.
	before func(context.Context) error
	// measure does the thing once and tells how long it took.
	measure func(context.Context) (time.Duration, error)
	// after is like before.
	after func(context.Context) error

	took []time.Duration
}

// timed makes a measure function of f.
func timed(f func(context.Context) error) func(context.Context) (time.Duration, error) {
	return func(ctx context.Context) (time.Duration, error) {
		begin := time.Now()
		err := f(ctx)
		return time.Since(begin), err
	}
}

// interleave measures the subjects in turn, round by round, so that whatever
// else the machine does meets all of them alike. Each is done once before,
// uncounted, if warm is set.
func interleave(ctx context.Context, rounds int, warm bool, subjects ...*subject) error {
	for _, s := range subjects {
		s.took = nil
	}
	first := 0
	if warm {
		first = -1
	}
	for round := first; round < rounds; round++ {
		for _, s := range subjects {
			if round >= 0 && round%s.every != 0 {
				continue
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := s.once(ctx, round >= 0); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	return nil
}

func (s *subject) once(ctx context.Context, count bool) error {
	if s.before != nil {
		if err := s.before(ctx); err != nil {
			return err
		}
	}
	took, err := s.measure(ctx)
	if err != nil {
		return err
	}
	if count {
		s.took = append(s.took, took)
	}
	if s.after != nil {
		return s.after(ctx)
	}
	return nil
}

// median of what was measured.
func (s *subject) median() time.Duration {
	if len(s.took) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s.took))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// milliseconds is the median in the unit of most results.
func (s *subject) milliseconds() float64 { return float64(s.median()) / 1e6 }

// seconds likewise.
func (s *subject) seconds() float64 { return s.median().Seconds() }

// compare gives the result of subjects: ours, limit, then peers by name.
func compare(name, unit string, value func(*subject) float64, ours, limit *subject, peers []*subject) Result {
	values := map[string]float64{}
	for _, p := range peers {
		values[p.name] = value(p)
	}
	return newResult(name, unit, value(ours), value(limit), values)
}
