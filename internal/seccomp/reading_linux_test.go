package seccomp

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A reading answers for one profile what a filter has to return. It shares
// nothing with the compiler but the table of numbers: it spreads the profile
// out as statements about single calls and goes through them in order.
type reading struct {
	p          *specs.LinuxSeccomp
	goarch     string
	statements map[callOf][]statement
	largest    map[specs.Arch]int64 // of ordinary numbers
	private    int64                // the largest of ARM's own
}

type callOf struct {
	arch specs.Arch
	nr   uint32
}

type statement struct {
	args  []specs.LinuxSeccompArg
	mux   uint32 // if not 0, what argument 0 must be
	value uint32
}

func read(p *specs.LinuxSeccomp, goarch string) reading {
	rd := reading{p, goarch, map[callOf][]statement{}, map[specs.Arch]int64{}, -1}
	for arch := range audit {
		rd.largest[arch] = -1
	}
	for _, s := range p.Syscalls {
		for _, name := range s.Names {
			rd.note(name, s)
		}
	}
	return rd
}

func (rd *reading) note(name string, s specs.LinuxSyscall) {
	say := func(c callOf, mux uint32) {
		if c.arch == specs.ArchARM && c.nr >= 0xf0000 {
			rd.private = max(rd.private, int64(c.nr))
		} else {
			rd.largest[c.arch] = max(rd.largest[c.arch], int64(c.nr))
		}
		v := returned(s.Action, s.ErrnoRet)
		if v == returned(rd.p.DefaultAction, rd.p.DefaultErrnoRet) {
			return
		}
		for _, args := range alternatives(s.Args) {
			rd.statements[c] = append(rd.statements[c], statement{args, mux, v})
		}
	}
	for arch, col := range column {
		i := slices.IndexFunc(syscalls[:], func(n numbers) bool { return n.name == name })
		if i >= 0 && syscalls[i].nr[col] >= 0 {
			say(callOf{arch, uint32(syscalls[i].nr[col])}, 0)
		}
	}
	for _, m := range muxes {
		if m.name == name {
			say(callOf{specs.ArchX86, m.nr}, m.number)
		}
	}
}

// audit has the values of seccomp_data.arch.
var audit = map[specs.Arch]uint32{
	specs.ArchX86_64:  unix.AUDIT_ARCH_X86_64,
	specs.ArchX86:     unix.AUDIT_ARCH_I386,
	specs.ArchX32:     unix.AUDIT_ARCH_X86_64,
	specs.ArchAARCH64: unix.AUDIT_ARCH_AARCH64,
	specs.ArchARM:     unix.AUDIT_ARCH_ARM,
}

var column = map[specs.Arch]abi{
	specs.ArchX86_64: amd64, specs.ArchX86: i386, specs.ArchX32: x32,
	specs.ArchAARCH64: arm64, specs.ArchARM: arm,
}

var nativeArch = map[string]specs.Arch{"amd64": specs.ArchX86_64, "arm64": specs.ArchAARCH64}

func returned(a specs.LinuxSeccompAction, errno *uint) uint32 {
	n := uint32(1)
	if errno != nil {
		n = uint32(*errno)
	}
	return map[specs.LinuxSeccompAction]uint32{
		specs.ActKill: 0, specs.ActKillThread: 0, specs.ActKillProcess: 0x80000000,
		specs.ActTrap: 0x30000, specs.ActErrno: 0x50000 + n, specs.ActTrace: 0x7ff00000 + n,
		specs.ActLog: 0x7ffc0000, specs.ActAllow: 0x7fff0000,
	}[a]
}

func (rd reading) verdict(r request) uint32 {
	const kill = 0x80000000
	arch := rd.archOf(r)
	on := append([]specs.Arch{nativeArch[rd.goarch]}, rd.p.Architectures...)
	fallback := returned(rd.p.DefaultAction, rd.p.DefaultErrnoRet)
	if arch == specs.ArchX32 && !slices.Contains(on, arch) && r.nr == 0xffffffff {
		return fallback
	}
	if arch == "" || !slices.Contains(on, arch) {
		return kill
	}
	if v, ok := rd.ruled(arch, r); ok {
		return v
	}
	switch rd.p.DefaultAction {
	case specs.ActAllow, specs.ActLog, specs.ActTrace:
		return fallback
	}
	if rd.newer(arch, r.nr) {
		return 0x50000 + uint32(unix.ENOSYS)
	}
	return fallback
}

// archOf says which ABI of the machine a call comes through.
func (rd reading) archOf(r request) specs.Arch {
	switch {
	case rd.goarch == "amd64" && r.arch == audit[specs.ArchX86_64] && r.nr >= 0x40000000:
		return specs.ArchX32
	case rd.goarch == "amd64" && r.arch == audit[specs.ArchX86_64]:
		return specs.ArchX86_64
	case rd.goarch == "amd64" && r.arch == audit[specs.ArchX86]:
		return specs.ArchX86
	case rd.goarch == "arm64" && r.arch == audit[specs.ArchAARCH64]:
		return specs.ArchAARCH64
	case rd.goarch == "arm64" && r.arch == audit[specs.ArchARM]:
		return specs.ArchARM
	}
	return ""
}

// ruled finds the statement for a call: one without conditions first.
func (rd reading) ruled(arch specs.Arch, r request) (uint32, bool) {
	all := rd.statements[callOf{arch, r.nr}]
	narrow := arch != specs.ArchX86_64 && arch != specs.ArchAARCH64
	for _, st := range all {
		trivial := func(a specs.LinuxSeccompArg) bool { return trivial(a, narrow) }
		if st.mux == 0 && !slices.ContainsFunc(st.args, func(a specs.LinuxSeccompArg) bool { return !trivial(a) }) {
			return st.value, true
		}
	}
	for _, st := range all {
		if st.holds(r, narrow) {
			return st.value, true
		}
	}
	return 0, false
}

func (st statement) holds(r request, narrow bool) bool {
	if st.mux != 0 && (uint32(r.args[0]) != st.mux || impossible(st.args, narrow)) {
		return false
	}
	for _, a := range st.args {
		if !(st.mux != 0 && a.Index == 0) && !compare(a, r.args[a.Index], narrow) {
			return false
		}
	}
	return true
}

// alternatives splits conditions that look at one argument twice.
func alternatives(args []specs.LinuxSeccompArg) [][]specs.LinuxSeccompArg {
	count := map[uint]int{}
	var each [][]specs.LinuxSeccompArg
	twice := false
	for _, a := range args {
		count[a.Index]++
		twice = twice || count[a.Index] > 1
		each = append(each, []specs.LinuxSeccompArg{a})
	}
	if twice {
		return each
	}
	return [][]specs.LinuxSeccompArg{args}
}

func compare(a specs.LinuxSeccompArg, v uint64, narrow bool) bool {
	w, w2 := a.Value, a.ValueTwo
	if narrow {
		v, w, w2 = v<<32, w<<32, w2<<32
	}
	switch a.Op {
	case specs.OpEqualTo:
		return v == w
	case specs.OpNotEqual:
		return v != w
	case specs.OpLessThan:
		return v < w
	case specs.OpLessEqual:
		return v <= w
	case specs.OpGreaterThan:
		return v > w
	case specs.OpGreaterEqual:
		return v >= w
	case specs.OpMaskedEqual:
		return v&w == w2&w
	}
	panic(a.Op)
}

// trivial says whether a condition holds for every value.
func trivial(a specs.LinuxSeccompArg, narrow bool) bool {
	top := ^uint64(0)
	v := a.Value
	if narrow {
		top, v = top>>32, v&0xffffffff
	}
	switch a.Op {
	case specs.OpMaskedEqual, specs.OpGreaterEqual:
		return v == 0
	case specs.OpLessEqual:
		return v == top
	}
	return false
}

// impossible says whether one of the conditions holds for no value.
func impossible(args []specs.LinuxSeccompArg, narrow bool) bool {
	return slices.ContainsFunc(args, func(a specs.LinuxSeccompArg) bool {
		top := ^uint64(0)
		v := a.Value
		if narrow {
			top, v = top>>32, v&0xffffffff
		}
		return a.Op == specs.OpLessThan && v == 0 || a.Op == specs.OpGreaterThan && v == top
	})
}

// newer says whether nr is above all numbers that the profile names.
func (rd reading) newer(arch specs.Arch, nr uint32) bool {
	largest := rd.largest[arch]
	if arch == specs.ArchARM && nr >= 0xf0000 {
		largest = rd.private
	}
	return largest >= 0 && int64(nr) > largest
}

// muxes are the calls that 386 has behind others: `man 2 socketcall`, `man 2
// ipc`.
var muxes = []struct {
	name   string
	nr     uint32
	number uint32
}{
	{"socket", 102, 1}, {"bind", 102, 2}, {"connect", 102, 3}, {"listen", 102, 4},
	{"accept", 102, 5}, {"getsockname", 102, 6}, {"getpeername", 102, 7}, {"socketpair", 102, 8},
	{"send", 102, 9}, {"recv", 102, 10}, {"sendto", 102, 11}, {"recvfrom", 102, 12},
	{"shutdown", 102, 13}, {"setsockopt", 102, 14}, {"getsockopt", 102, 15}, {"sendmsg", 102, 16},
	{"recvmsg", 102, 17}, {"accept4", 102, 18}, {"recvmmsg", 102, 19}, {"sendmmsg", 102, 20},
	{"semop", 117, 1}, {"semget", 117, 2}, {"semctl", 117, 3}, {"semtimedop", 117, 4},
	{"msgsnd", 117, 11}, {"msgrcv", 117, 12}, {"msgget", 117, 13}, {"msgctl", 117, 14},
	{"shmat", 117, 21}, {"shmdt", 117, 22}, {"shmget", 117, 23}, {"shmctl", 117, 24},
}
