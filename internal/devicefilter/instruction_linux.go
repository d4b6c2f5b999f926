package devicefilter

import "golang.org/x/sys/unix"

// An Instruction is struct bpf_insn of include/uapi/linux/bpf.h, on a
// little-endian machine.
type Instruction struct {
	Code      uint8
	Registers uint8 // destination, and source shifted left by 4
	Offset    int16
	Immediate int32
}

// The registers that a program uses. Result and context are the kernel's
// convention.
const (
	result  = 0
	context = 1
	kind    = 2 // BPF_DEVCG_DEV_BLOCK or BPF_DEVCG_DEV_CHAR
	wanted  = 3 // BPF_DEVCG_ACC_ bits that no rule has granted so far
	major   = 4
	minor   = 5
)

// The instructions that a program uses. Comparisons are those of 32 bits
// (class BPF_JMP32, Linux 5.1): the others would extend the sign of the
// immediate value.
const (
	opLoad         = unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W
	opCopy         = unix.BPF_ALU | unix.BPF_MOV | unix.BPF_X
	opSet          = unix.BPF_ALU | unix.BPF_MOV | unix.BPF_K
	opAnd          = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	opShiftRight   = unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K
	opJump         = unix.BPF_JMP | unix.BPF_JA
	opJumpNotEqual = unix.BPF_JMP32 | unix.BPF_JNE | unix.BPF_K
	opJumpEqual    = unix.BPF_JMP32 | unix.BPF_JEQ | unix.BPF_K
	opJumpAnyBit   = unix.BPF_JMP32 | unix.BPF_JSET | unix.BPF_K
	opExit         = unix.BPF_JMP | unix.BPF_EXIT
)

// Offsets in struct bpf_cgroup_dev_ctx.
const (
	contextAccessType = 0 // access << 16 | type
	contextMajor      = 4
	contextMinor      = 8
)
