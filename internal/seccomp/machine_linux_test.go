package seccomp

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// A request is what the kernel shows a filter: struct seccomp_data.
type request struct {
	nr   uint32
	arch uint32
	args [6]uint64
}

func (r request) String() string {
	return fmt.Sprintf("call %#x on %#x, arguments %#x", r.nr, r.arch, r.args)
}

func (r request) bytes() []byte {
	b := make([]byte, 64)
	binary.LittleEndian.PutUint32(b, r.nr)
	binary.LittleEndian.PutUint32(b[4:], r.arch)
	for i, a := range r.args {
		binary.LittleEndian.PutUint64(b[16+8*i:], a)
	}
	return b
}

// run interprets a filter as the kernel would, and counts the instructions.
func run(code []unix.SockFilter, r request) (value uint32, steps int) {
	data := r.bytes()
	var acc uint32
	for pc := 0; ; pc++ {
		in := code[pc]
		steps++
		jump := func(yes bool) {
			if yes {
				pc += int(in.Jt)
			} else {
				pc += int(in.Jf)
			}
		}
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			acc = binary.LittleEndian.Uint32(data[in.K:])
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			acc &= in.K
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(in.K)
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			jump(acc == in.K)
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			jump(acc >= in.K)
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			jump(acc&in.K != 0)
		case unix.BPF_RET | unix.BPF_K:
			return in.K, steps
		default:
			panic(fmt.Sprintf("instruction %d: code %#x", pc, in.Code))
		}
	}
}

// check applies the rules that the kernel has for a filter (bpf_check_classic
// and seccomp_check_filter), and that each instruction can be reached.
func check(code []unix.SockFilter) error {
	if len(code) == 0 || len(code) > unix.BPF_MAXINSNS {
		return fmt.Errorf("%d instructions", len(code))
	}
	reached := make([]bool, len(code))
	reached[0] = true
	for i, in := range code {
		if !reached[i] {
			return fmt.Errorf("instruction %d is never reached", i)
		}
		var next []int
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			if in.K >= 64 || in.K%4 != 0 {
				return fmt.Errorf("instruction %d loads at %d", i, in.K)
			}
			next = []int{i + 1}
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			next = []int{i + 1}
		case unix.BPF_JMP | unix.BPF_JA:
			next = []int{i + 1 + int(in.K)}
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			next = []int{i + 1 + int(in.Jt), i + 1 + int(in.Jf)}
		case unix.BPF_RET | unix.BPF_K:
		default:
			return fmt.Errorf("instruction %d has code %#x", i, in.Code)
		}
		for _, n := range next {
			if n >= len(code) {
				return fmt.Errorf("instruction %d leads to %d of %d", i, n, len(code))
			}
			reached[n] = true
		}
	}
	return nil
}
