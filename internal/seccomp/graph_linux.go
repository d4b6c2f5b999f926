package seccomp

import "math"

// A word is one of the 32-bit words of struct seccomp_data, arguments' halves
// in the order in which they are looked at: high, then low. (In memory, on
// little-endian machines, low comes first.)
type word uint8

const (
	numberWord word = iota
	archWord
	firstArgument
)

// offset is where the word lies in struct seccomp_data.
func (w word) offset() uint32 {
	switch w {
	case numberWord:
		return 0
	case archWord:
		return 4
	}
	i := uint32(w - firstArgument)
	return 16 + i/2*8 + (1-i%2)*4
}

// The kinds of node.
type op uint8

const (
	leave   op = iota // return value
	load              // look at word & value, go on with yes
	equal             // is what was loaded == value?
	atLeast           // >= value?
	anyBit            // & value != 0?
)

// A node is a step of the filter; yes and no are the steps after it. A test is
// about what the last load before it loaded: word and mask say what that is,
// so that equal nodes can be one wherever they come from.
type node struct {
	op      op
	word    word
	mask    uint32
	value   uint32
	yes, no ref
}

// A ref names a node of a graph.
type ref int32

// A graph holds each different node once. Nodes refer only to earlier ones.
type graph struct {
	nodes []node
	refs  map[node]ref
}

func newGraph() *graph {
	return &graph{refs: make(map[node]ref, 512)}
}

func (g *graph) add(n node) ref {
	if r, ok := g.refs[n]; ok {
		return r
	}
	r := ref(len(g.nodes))
	g.nodes = append(g.nodes, n)
	g.refs[n] = r
	return r
}

func (g *graph) leaf(value uint32) ref {
	return g.add(node{op: leave, value: value})
}

// masks asks whether w & mask == value.
func (g *graph) masks(w word, mask, value uint32, yes, no ref) ref {
	if yes == no {
		return yes
	}
	whole := uint32(math.MaxUint32)
	var test node
	switch {
	case value == 0:
		test = node{anyBit, w, whole, mask, no, yes}
	case value == mask && mask&(mask-1) == 0:
		test = node{anyBit, w, whole, mask, yes, no}
	default:
		test = node{equal, w, mask, value, yes, no}
	}
	return g.add(node{op: load, word: w, mask: test.mask, yes: g.add(test)})
}

// A span is the values from its start to the next span's start.
type span struct {
	from uint32
	to   ref
}

// spans are in order, begin at 0 and cover all values.
type spans []span

// set gives the values from from on to a node, until the next set. From must
// not be less than before.
func (s spans) set(from uint32, to ref) spans {
	if n := len(s); n > 0 && s[n-1].from == from {
		s = s[:n-1]
	}
	if n := len(s); n > 0 && s[n-1].to == to {
		return s
	}
	return append(s, span{from, to})
}

// search makes a search tree for the value of w.
func (g *graph) search(w word, s spans) ref {
	if len(s) == 1 {
		return s[0].to
	}
	return g.add(node{op: load, word: w, mask: math.MaxUint32, yes: g.split(w, s, math.MaxUint32)})
}

// split makes the tree for spans of which the last one ends at last.
func (g *graph) split(w word, s spans, last uint32) ref {
	if len(s) == 1 {
		return s[0].to
	}
	if r, ok := g.pick(w, s, last); ok {
		return r
	}
	mid := len(s) / 2
	return g.add(node{atLeast, w, math.MaxUint32, s[mid].from,
		g.split(w, s[mid:], last), g.split(w, s[:mid], s[mid].from-1)})
}

// pick makes tests for single values that stand out of what is otherwise one
// outcome, if there are few of them and a tree would not be smaller.
func (g *graph) pick(w word, s spans, last uint32) (ref, bool) {
	const few = 3
	if len(s) > 2*few+1 {
		return 0, false
	}
	base, best := ref(0), len(s)-1 // a tree has one test less than spans
	found := false
	for _, candidate := range s[:2] {
		n := 0
		for i, x := range s {
			end := last
			if i+1 < len(s) {
				end = s[i+1].from - 1
			}
			if x.to != candidate.to {
				if x.from != end {
					n = best
					break
				}
				n++
			}
		}
		if n < best {
			base, best, found = candidate.to, n, true
		}
	}
	if !found {
		return 0, false
	}
	r := base
	for i := len(s) - 1; i >= 0; i-- {
		if s[i].to != base {
			r = g.add(node{equal, w, math.MaxUint32, s[i].from, s[i].to, r})
		}
	}
	return r, true
}
