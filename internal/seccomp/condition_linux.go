package seccomp

import (
	"fmt"
	"math"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// The forms of a condition. Comparisons of every kind are ranges or the
// outside of ranges; only masks are not.
type form uint8

const (
	within  form = iota // from <= argument <= to
	outside             // not within
	masked              // argument & from == to
	always
	never
)

// A condition is about one argument, or, when its high half is decided, about
// that argument's low half.
type condition struct {
	kind     form
	arg      uint8
	low      bool
	from, to uint64
}

// conditionOf reads a condition of a profile. On ABIs of 32 bits the low
// halves of the argument and of the values count. In a mask's value the bits
// that the mask lacks do not count.
func conditionOf(a specs.LinuxSeccompArg, wide bool) (condition, error) {
	if a.Index > 5 {
		return condition{}, fmt.Errorf("argument %d of a system call, the last is 5: %w", a.Index, errdefs.ErrInvalidArgument)
	}
	limit := uint64(math.MaxUint64)
	if !wide {
		limit = math.MaxUint32
	}
	v := a.Value & limit
	c := condition{arg: uint8(a.Index), low: !wide}
	switch a.Op {
	case specs.OpEqualTo:
		c.from, c.to = v, v
	case specs.OpNotEqual:
		c.kind, c.from, c.to = outside, v, v
	case specs.OpLessThan:
		c.kind, c.from, c.to = outside, v, limit
	case specs.OpLessEqual:
		c.to = v
	case specs.OpGreaterEqual:
		c.from, c.to = v, limit
	case specs.OpGreaterThan:
		c.kind, c.to = outside, v
	case specs.OpMaskedEqual:
		c.kind, c.from, c.to = masked, v, a.ValueTwo&v
	default:
		return condition{}, fmt.Errorf("seccomp operator %q: %w", a.Op, errdefs.ErrInvalidArgument)
	}
	return c.simplified(), nil
}

// narrowEqual is the condition that an argument of a 32-bit call has a value.
func narrowEqual(arg uint8, value uint64) condition {
	return condition{arg: arg, low: true, from: value, to: value}
}

// simplified finds what is always or never true, and masks that do not look at
// the high half.
func (c condition) simplified() condition {
	limit := uint64(math.MaxUint64)
	if c.low {
		limit = math.MaxUint32
	}
	full := c.from == 0 && c.to == limit
	switch {
	case c.kind == masked && c.from == 0:
		return condition{kind: always}
	case c.kind == masked && c.from <= math.MaxUint32:
		c.low = true
	case c.kind == within && full:
		return condition{kind: always}
	case c.kind == outside && full:
		return condition{kind: never}
	}
	return c
}

// word is the half of an argument that the condition has to look at next. The
// order of words is the order in which a filter looks at them.
func (c condition) word() word {
	w := word(2 * c.arg)
	if c.low {
		w++
	}
	return firstArgument + w
}

// starts calls f with the values of c's word from which on c may have another
// outcome. Only for ranges.
func (c condition) starts(f func(uint32)) {
	after := func(v uint32) {
		if v != math.MaxUint32 {
			f(v + 1)
		}
	}
	if c.low {
		f(uint32(c.from))
		after(uint32(c.to))
		return
	}
	from, to := uint32(c.from>>32), uint32(c.to>>32)
	f(from)
	after(from)
	f(to)
	after(to)
}

// given is what is left of a range when its word has the value v.
func (c condition) given(v uint32) condition {
	if c.low {
		return c.truth(c.from <= uint64(v) && uint64(v) <= c.to)
	}
	from, to := uint32(c.from>>32), uint32(c.to>>32)
	if v < from || v > to {
		return c.truth(false)
	}
	left := c
	left.low, left.from, left.to = true, 0, math.MaxUint32
	if v == from {
		left.from = c.from & math.MaxUint32
	}
	if v == to {
		left.to = c.to & math.MaxUint32
	}
	return left.simplified()
}

func (c condition) truth(in bool) condition {
	if in == (c.kind == within) {
		return condition{kind: always}
	}
	return condition{kind: never}
}

// mask gives the part of a mask and of its value that fall on c's word.
func (c condition) mask() (mask, value uint32) {
	if c.low {
		return uint32(c.from), uint32(c.to)
	}
	return uint32(c.from >> 32), uint32(c.to >> 32)
}

// below is what is left of a mask when its word fits.
func (c condition) below() condition {
	if c.low {
		return condition{kind: always}
	}
	c.low = true
	c.from &= math.MaxUint32
	c.to &= math.MaxUint32
	return c.simplified()
}
