package seccomp

import (
	"fmt"
	"math"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Compile makes the filter for a profile and the kernel of a machine of the
// given GOARCH, amd64 or arm64. A nil profile, and one without default action
// and rules, give no filter (nil).
//
// A profile that says something invalid gives an error that wraps
// errdefs.ErrInvalidArgument, as does one that needs more than the kernel's
// 4096 instructions; another GOARCH and the action SCMP_ACT_NOTIFY give one
// that wraps errdefs.ErrNotImplemented. Compile needs no privileges, does not
// change the profile and may be called concurrently.
func Compile(p *specs.LinuxSeccomp, goarch string) ([]unix.SockFilter, error) {
	if p == nil || p.DefaultAction == "" && len(p.Syscalls) == 0 {
		return nil, nil
	}
	m, err := machineOf(goarch)
	if err != nil {
		return nil, err
	}
	prof, err := parse(p, m)
	if err != nil {
		return nil, err
	}
	g := newGraph()
	kill := g.leaf(unix.SECCOMP_RET_KILL_PROCESS)
	native := g.native(prof, m, kill)
	compat := kill
	if prof.enabled[m.compat] {
		compat = g.compat(prof, m)
	}
	other := kill
	if compat != kill {
		other = g.add(node{equal, archWord, math.MaxUint32, m.compatAudit, compat, kill})
	}
	start := g.add(node{equal, archWord, math.MaxUint32, m.nativeAudit, native, other})
	start = g.add(node{op: load, word: archWord, mask: math.MaxUint32, yes: start})

	// The part for the native architecture stands first, so that no long jump
	// leads to it.
	a := newAssembler(g.nodes)
	a.write(compat)
	a.write(native)
	a.write(start)
	code := a.program()
	if len(code) > maxInstructions {
		return nil, fmt.Errorf("seccomp profile needs %d instructions, the kernel takes %d: %w",
			len(code), maxInstructions, errdefs.ErrInvalidArgument)
	}
	return code, nil
}

// native makes the tree for calls whose audit architecture is the machine's
// own. On amd64 these include x32's.
func (g *graph) native(p *profile, m machine, kill ref) ref {
	if m.native != amd64 {
		return g.search(numberWord, g.numbers(nil, p, m.native, 0, math.MaxUint32))
	}
	s := g.numbers(nil, p, amd64, 0, x32Bit-1)
	if p.enabled[x32] {
		s = g.numbers(s, p, x32, x32Bit, math.MaxUint32)
	} else {
		// A tracer skips a call by making its number -1; that must not kill.
		s = s.set(x32Bit, kill).set(math.MaxUint32, g.leaf(p.fallback))
	}
	return g.search(numberWord, s)
}

// compat makes the tree for the machine's 32-bit ABI.
func (g *graph) compat(p *profile, m machine) ref {
	if m.compat != arm {
		return g.search(numberWord, g.numbers(nil, p, m.compat, 0, math.MaxUint32))
	}
	s := g.numbers(nil, p, arm, 0, armPrivate-1)
	return g.search(numberWord, g.numbers(s, p, arm, armPrivate, math.MaxUint32))
}

// numbers adds the outcomes for an ABI's numbers from first to last to s.
func (g *graph) numbers(s spans, p *profile, a abi, first, last uint32) spans {
	fallback := g.leaf(p.fallback)
	s = s.set(first, fallback)
	calls := p.calls[a]
	largest := last
	for len(calls) > 0 {
		nr, n := calls[0].nr, 1
		for n < len(calls) && calls[n].nr == nr {
			n++
		}
		rules := rulesFor(calls[:n])
		calls = calls[n:]
		if nr < first || nr > last {
			continue
		}
		s = s.set(nr, g.decide(rules, fallback))
		if nr < last {
			s = s.set(nr+1, fallback)
		}
		largest = nr
	}
	if largest < last && refuses(p.fallback) {
		s = s.set(largest+1, g.leaf(unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS)))
	}
	return s
}

// rulesFor gathers the rules of one system call.
func rulesFor(calls []call) []rule {
	if len(calls) == 1 {
		return calls[0].rules
	}
	var rules []rule
	for _, c := range calls {
		rules = append(rules, c.rules...)
	}
	return rules
}
