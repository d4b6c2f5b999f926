//go:build linux

package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// recorded is a subject that notes when it is measured.
func recorded(name string, every int, order *[]string) *subject {
	note := func(what string) func(context.Context) error {
		return func(context.Context) error {
			*order = append(*order, what)
			return nil
		}
	}
	return &subject{name: name, every: every, before: note("(" + name), measure: timed(note(name)), after: note(name + ")")}
}

func TestInterleave(t *testing.T) {
	var order []string
	a, b := recorded("a", 1, &order), recorded("b", 2, &order)
	if err := interleave(t.Context(), 3, false, a, b); err != nil {
		t.Fatal(err)
	}
	want := strings.Fields("(a a a) (b b b) (a a a) (a a a) (b b b)")
	if !slices.Equal(order, want) {
		t.Errorf("got %q, want %q", order, want)
	}
	if len(a.took) != 3 || len(b.took) != 2 {
		t.Errorf("counted %d and %d", len(a.took), len(b.took))
	}
}

func TestInterleaveWarm(t *testing.T) {
	var order []string
	a, b := recorded("a", 1, &order), recorded("b", 2, &order)
	if err := interleave(t.Context(), 1, true, a, b); err != nil {
		t.Fatal(err)
	}
	if len(order) != 12 {
		t.Errorf("not each was done twice: %q", order)
	}
	if len(a.took) != 1 || len(b.took) != 1 {
		t.Errorf("counted %d and %d", len(a.took), len(b.took))
	}
}

func TestInterleaveStops(t *testing.T) {
	wrong := errors.New("wrong")
	ctx, cancel := context.WithCancel(t.Context())
	failing := &subject{name: "failing", every: 1, measure: func(context.Context) (time.Duration, error) { return 0, wrong }}
	if err := interleave(ctx, 3, false, failing); !errors.Is(err, wrong) || !strings.Contains(err.Error(), "failing") {
		t.Errorf("got %v", err)
	}
	count := 0
	cancelled := &subject{name: "cancelled", every: 1, measure: func(context.Context) (time.Duration, error) {
		count++
		cancel()
		return 0, nil
	}}
	if err := interleave(ctx, 3, false, cancelled); !errors.Is(err, context.Canceled) || count != 1 {
		t.Errorf("got %v after %d", err, count)
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		took []time.Duration
		want time.Duration
	}{
		{nil, 0},
		{[]time.Duration{7}, 7},
		{[]time.Duration{9, 1}, 5},
		{[]time.Duration{9, 1, 2}, 2},
		{[]time.Duration{100, 4, 1, 2}, 3},
	} {
		if got := (&subject{took: c.took}).median(); got != c.want {
			t.Errorf("median of %v = %v, want %v", c.took, got, c.want)
		}
	}
}
