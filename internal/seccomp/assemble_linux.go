package seccomp

import (
	"math"
	"slices"

	"golang.org/x/sys/unix"
)

// maxInstructions is the kernel's limit for one filter (BPF_MAXINSNS).
const maxInstructions = unix.BPF_MAXINSNS

// An assembler turns a graph into instructions. Jumps go forward only, so it
// writes from the last instruction to the first, each node after those that it
// leads to; the distance between two places is then known when the jump
// between them is written.
type assembler struct {
	nodes []node
	code  []unix.SockFilter // last instruction first
	at    []int32           // where a node is in code, -1 if not yet
	near  []int32           // where the last jump to a node is, or its last copy
}

func newAssembler(nodes []node) *assembler {
	a := &assembler{nodes: nodes, at: make([]int32, len(nodes)), near: make([]int32, len(nodes))}
	for i := range a.at {
		a.at[i] = -1
	}
	copy(a.near, a.at)
	return a
}

// program gives the instructions in the order in which they run.
func (a *assembler) program() []unix.SockFilter {
	slices.Reverse(a.code)
	return a.code
}

// write writes a node and all that it leads to, before what is already there.
func (a *assembler) write(r ref) {
	if a.at[r] >= 0 {
		return
	}
	n := a.nodes[r]
	switch n.op {
	case leave:
		a.push(unix.BPF_RET|unix.BPF_K, n.value)
	case load:
		a.write(n.yes)
		if a.distance(a.at[n.yes]) > 0 {
			a.push(unix.BPF_JMP|unix.BPF_JA, a.distance(a.at[n.yes]))
		}
		if n.mask != math.MaxUint32 {
			a.push(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, n.mask)
		}
		a.push(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, n.word.offset())
	default:
		a.write(n.yes)
		a.write(n.no)
		a.test(n)
	}
	a.at[r] = int32(len(a.code)) - 1
	a.near[r] = a.at[r]
}

// test writes a conditional jump. Its distances have 8 bits; where one does
// not suffice, a long jump is put right behind the test.
func (a *assembler) test(n node) {
	yes, no := a.reach(n.yes), a.reach(n.no)
	for yes < 0 || no < 0 || a.distance(yes) > math.MaxUint8 || a.distance(no) > math.MaxUint8 {
		if yes < 0 || a.distance(yes) > math.MaxUint8 {
			yes = a.bridge(n.yes)
		} else {
			no = a.bridge(n.no)
		}
	}
	var code uint16
	switch n.op {
	case equal:
		code = unix.BPF_JEQ
	case atLeast:
		code = unix.BPF_JGE
	case anyBit:
		code = unix.BPF_JSET
	}
	a.code = append(a.code, unix.SockFilter{
		Code: unix.BPF_JMP | unix.BPF_K | code,
		Jt:   uint8(a.distance(yes)),
		Jf:   uint8(a.distance(no)),
		K:    n.value,
	})
}

// reach finds a place from which a node runs and that a short jump reaches; -1
// if there is none.
func (a *assembler) reach(r ref) int32 {
	for _, place := range [...]int32{a.at[r], a.near[r]} {
		if a.distance(place) <= math.MaxUint8 {
			return place
		}
	}
	return -1
}

// bridge writes a place from which a node runs.
func (a *assembler) bridge(r ref) int32 {
	if n := a.nodes[r]; n.op == leave {
		a.push(unix.BPF_RET|unix.BPF_K, n.value)
	} else {
		a.push(unix.BPF_JMP|unix.BPF_JA, a.distance(a.at[r]))
	}
	a.near[r] = int32(len(a.code)) - 1
	return a.near[r]
}

// distance is what a jump written now has to skip to get to a place.
func (a *assembler) distance(place int32) uint32 {
	return uint32(int32(len(a.code)) - 1 - place)
}

func (a *assembler) push(code uint16, k uint32) {
	a.code = append(a.code, unix.SockFilter{Code: code, K: k})
}
