package devicefilter

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// A request is what the kernel asks a filter: struct bpf_cgroup_dev_ctx.
type request struct {
	kind, access, major, minor uint32
}

// run interprets a program.
func run(code []Instruction, r request) bool {
	var reg [10]uint32
	load := map[int16]uint32{0: r.access<<16 | r.kind, 4: r.major, 8: r.minor}
	for pc := 0; ; pc++ {
		in := code[pc]
		dst, src, imm := in.Registers&15, in.Registers>>4, uint32(in.Immediate)
		jump := func(yes bool) {
			if yes {
				pc += int(in.Offset)
			}
		}
		switch in.Code {
		case unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W:
			reg[dst] = load[in.Offset]
		case unix.BPF_ALU | unix.BPF_MOV | unix.BPF_X:
			reg[dst] = reg[src]
		case unix.BPF_ALU | unix.BPF_MOV | unix.BPF_K:
			reg[dst] = imm
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			reg[dst] &= imm
		case unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K:
			reg[dst] >>= imm
		case unix.BPF_JMP | unix.BPF_JA:
			jump(true)
		case unix.BPF_JMP32 | unix.BPF_JNE | unix.BPF_K:
			jump(reg[dst] != imm)
		case unix.BPF_JMP32 | unix.BPF_JEQ | unix.BPF_K:
			jump(reg[dst] == imm)
		case unix.BPF_JMP32 | unix.BPF_JSET | unix.BPF_K:
			jump(reg[dst]&imm != 0)
		case unix.BPF_JMP | unix.BPF_EXIT:
			return reg[0] == 1
		default:
			panic(fmt.Sprintf("instruction %d: code %#x", pc, in.Code))
		}
	}
}
