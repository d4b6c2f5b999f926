package seccomp

import (
	"encoding/binary"
	"math"
	"slices"
)

// decide makes the steps that find the first of rules whose conditions hold,
// and go to otherwise if none does.
//
// The steps look at each half of an argument once and then know what is left
// of every rule. Where that would branch too much (conditions on several
// arguments can multiply), the rules are tried one after the other.
func (g *graph) decide(rules []rule, otherwise ref) ref {
	for _, r := range rules {
		if len(r.conditions) == 0 {
			return g.leaf(r.action)
		}
	}
	conditions := 0
	for _, r := range rules {
		conditions += len(r.conditions)
	}
	together := decision{graph: g, otherwise: otherwise, nodes: len(g.nodes) + 16 + 8*conditions, work: 1 << 16}
	if r := together.among(rules); !together.failed {
		return r
	}
	next := otherwise
	for i := len(rules) - 1; i >= 0; i-- {
		one := decision{graph: g, otherwise: next, nodes: math.MaxInt, work: math.MaxInt}
		next = one.among(rules[i : i+1])
	}
	return next
}

// A decision is the making of the steps for one list of rules.
type decision struct {
	graph     *graph
	otherwise ref
	nodes     int // in the graph at most
	work      int // that may still be done, in conditions looked at
	failed    bool
	known     map[string]ref
	key       []byte
}

// among handles what is left of the rules after some words are known.
func (d *decision) among(rules []rule) ref {
	rules = d.trim(rules)
	if len(rules) == 0 {
		return d.otherwise
	}
	if len(rules[0].conditions) == 0 {
		return d.graph.leaf(rules[0].action)
	}
	if d.work <= 0 || len(d.graph.nodes) > d.nodes {
		d.failed = true
	}
	if d.failed {
		return d.otherwise
	}
	key := d.keyOf(rules)
	if r, ok := d.known[key]; ok {
		return r
	}
	w, mask := next(rules)
	var r ref
	if mask != nil {
		r = d.byMask(rules, w, *mask)
	} else {
		r = d.byRange(rules, w)
	}
	if d.known == nil {
		d.known = make(map[string]ref)
	}
	d.known[key] = r
	return r
}

// trim drops rules that cannot make a difference: those after a rule without
// conditions, and those at the end that do what otherwise does.
func (d *decision) trim(rules []rule) []rule {
	for i, r := range rules {
		if len(r.conditions) == 0 {
			rules = rules[:i+1]
			break
		}
	}
	if end := d.graph.nodes[d.otherwise]; end.op == leave {
		for len(rules) > 0 && rules[len(rules)-1].action == end.value {
			rules = rules[:len(rules)-1]
		}
	}
	return rules
}

// next says which word to look at, and by which mask if no range is on it.
func next(rules []rule) (w word, mask *condition) {
	w = math.MaxUint8
	for i := range rules {
		for j := range rules[i].conditions {
			c := &rules[i].conditions[j]
			if c.word() > w {
				continue
			}
			if c.word() < w {
				w, mask = c.word(), c
			}
			if c.kind != masked {
				mask = nil
			}
		}
	}
	return w, mask
}

// byRange divides the values of w at the ends of all ranges that are on it.
func (d *decision) byRange(rules []rule, w word) ref {
	starts := []uint32{0}
	for _, r := range rules {
		for _, c := range r.conditions {
			if c.kind != masked && c.word() == w {
				c.starts(func(v uint32) { starts = append(starts, v) })
			}
		}
	}
	slices.Sort(starts)
	starts = slices.Compact(starts)
	if d.work -= len(starts) * len(rules); d.work < 0 {
		d.failed = true
		return d.otherwise
	}
	var s spans
	for _, v := range starts {
		left := remaining(rules, func(c condition) condition {
			if c.kind == masked || c.word() != w {
				return c
			}
			return c.given(v)
		})
		s = s.set(v, d.among(left))
	}
	return d.graph.search(w, s)
}

// byMask asks for the mask of one condition on w.
func (d *decision) byMask(rules []rule, w word, m condition) ref {
	d.work -= 2 * len(rules)
	mask, value := m.mask()
	by := func(holds bool) ref {
		return d.among(remaining(rules, func(c condition) condition {
			if c.kind != masked || c.word() != w {
				return c
			}
			cm, cv := c.mask()
			switch {
			case cm != mask:
				return c
			case holds && cv == value:
				return c.below()
			case holds || cv == value:
				return condition{kind: never}
			}
			return c
		}))
	}
	return d.graph.masks(w, mask, value, by(true), by(false))
}

// remaining applies f to all conditions. What comes after a rule that has none
// left does not count.
func remaining(rules []rule, f func(condition) condition) []rule {
	var out []rule
next:
	for _, r := range rules {
		left := rule{action: r.action}
		for _, c := range r.conditions {
			switch c = f(c); c.kind {
			case never:
				continue next
			case always:
			default:
				left.conditions = append(left.conditions, c)
			}
		}
		out = append(out, left)
		if len(left.conditions) == 0 {
			break
		}
	}
	return out
}

// keyOf makes a string that tells lists of rules apart.
func (d *decision) keyOf(rules []rule) string {
	b := d.key[:0]
	for _, r := range rules {
		b = binary.LittleEndian.AppendUint32(b, r.action)
		b = append(b, byte(len(r.conditions)))
		for _, c := range r.conditions {
			low := byte(0)
			if c.low {
				low = 1
			}
			b = append(b, byte(c.kind), c.arg, low)
			b = binary.LittleEndian.AppendUint64(b, c.from)
			b = binary.LittleEndian.AppendUint64(b, c.to)
		}
	}
	d.key = b
	return string(b)
}
