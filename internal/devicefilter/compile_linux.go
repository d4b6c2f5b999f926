package devicefilter

import (
	"fmt"
	"math"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Compile makes the program for rules, whose meaning the package's text has;
// no rules deny everything. Equal rules give equal programs, and one loaded
// program can be attached to any number of cgroups. An invalid rule gives an
// error that wraps errdefs.ErrInvalidArgument. Compile needs no privileges.
func Compile(rules []specs.LinuxDeviceCgroup) ([]Instruction, error) {
	var parsed []rule
	otherwise := false
	for i, d := range rules {
		r, err := parse(d)
		if err != nil {
			return nil, fmt.Errorf("device rule %d: %w", i, err)
		}
		switch {
		case r.coversAll():
			parsed, otherwise = nil, r.allow
		case len(parsed) == 0 && r.allow == otherwise:
			// It says what holds already.
		default:
			parsed = append(parsed, r)
		}
	}
	p := program{otherwise: otherwise}
	p.begin()
	for i := len(parsed) - 1; i >= 0; i-- {
		p.add(parsed[i])
	}
	p.end()
	// Jumps have 16 bits.
	if len(p.code) > math.MaxInt16 {
		return nil, fmt.Errorf("%d device rules: %w", len(rules), errdefs.ErrInvalidArgument)
	}
	return p.code, nil
}

// A program tries the rules from the last to the first. Granted accesses are
// taken out of what is wanted; when nothing is left, the request is granted.
type program struct {
	code      []Instruction
	otherwise bool  // the answer if no rule decides
	grants    []int // jumps to where a request is granted
	denials   []int // jumps to where it is denied
}

func (p *program) put(code uint8, register uint8, immediate int32) {
	p.code = append(p.code, Instruction{Code: code, Registers: register, Immediate: immediate})
}

func (p *program) begin() {
	load := func(register uint8, offset int16) {
		p.code = append(p.code, Instruction{Code: opLoad, Registers: register | context<<4, Offset: offset})
	}
	load(kind, contextAccessType)
	load(major, contextMajor)
	load(minor, contextMinor)
	p.code = append(p.code, Instruction{Code: opCopy, Registers: wanted | kind<<4})
	p.put(opShiftRight, wanted, 16)
	p.put(opAnd, kind, 0xffff)
}

func (p *program) add(r rule) {
	var skips []int
	skipUnless := func(register uint8, value int32) {
		skips = append(skips, len(p.code))
		p.put(opJumpNotEqual, register, value)
	}
	if r.kind != 0 {
		skipUnless(kind, r.kind)
	}
	if r.major != nil {
		skipUnless(major, *r.major)
	}
	if r.minor != nil {
		skipUnless(minor, *r.minor)
	}
	switch {
	case r.access == allAccess && r.allow:
		p.jump(&p.grants, opJump, 0)
	case r.access == allAccess:
		p.jump(&p.denials, opJump, 0)
	case r.allow:
		p.put(opAnd, wanted, allAccess&^r.access)
		p.jump(&p.grants, opJumpEqual, 0)
	default:
		p.jump(&p.denials, opJumpAnyBit, r.access)
		p.jump(&p.denials, opJumpEqual, 0) // nothing was wanted
	}
	p.land(skips)
}

// jump writes a jump on what is wanted whose place is not known yet.
func (p *program) jump(to *[]int, code uint8, immediate int32) {
	*to = append(*to, len(p.code))
	register := uint8(wanted)
	if code == opJump {
		register = 0
	}
	p.put(code, register, immediate)
}

// land makes jumps lead to the next instruction.
func (p *program) land(jumps []int) {
	for _, i := range jumps {
		p.code[i].Offset = int16(len(p.code) - i - 1)
	}
}

// end writes the answers. The verifier does not accept one that nothing leads
// to.
func (p *program) end() {
	answer := func(granted bool) {
		jumps, value := p.denials, int32(0)
		if granted {
			jumps, value = p.grants, 1
		}
		if granted != p.otherwise && len(jumps) == 0 {
			return
		}
		p.land(jumps)
		p.put(opSet, result, value)
		p.put(opExit, 0, 0)
	}
	answer(p.otherwise)
	answer(!p.otherwise)
}
