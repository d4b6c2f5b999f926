package seccomp

import (
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	retAllow  = unix.SECCOMP_RET_ALLOW
	retEPERM  = unix.SECCOMP_RET_ERRNO | 1
	retENOSYS = unix.SECCOMP_RET_ERRNO | 38
	retKill   = unix.SECCOMP_RET_KILL_PROCESS
)

func errno(n uint) *uint { return &n }

// one is a profile that refuses all but what rules say.
func one(rules ...specs.LinuxSyscall) *specs.LinuxSeccomp {
	return &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: rules}
}

func allow(name string, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
	return specs.LinuxSyscall{Names: []string{name}, Action: specs.ActAllow, Args: args}
}

func refuse(name string, errno uint, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
	return specs.LinuxSyscall{Names: []string{name}, Action: specs.ActErrno, ErrnoRet: &errno, Args: args}
}

func arg(index uint, op specs.LinuxSeccompOperator, value uint64, second ...uint64) specs.LinuxSeccompArg {
	a := specs.LinuxSeccompArg{Index: index, Op: op, Value: value}
	if len(second) > 0 {
		a.ValueTwo = second[0]
	}
	return a
}

func ask(t *testing.T, p *specs.LinuxSeccomp, goarch string, r request) uint32 {
	t.Helper()
	code, err := Compile(p, goarch)
	if err != nil {
		t.Fatal(err)
	}
	if err := check(code); err != nil {
		t.Fatal(err)
	}
	got, _ := run(code, r)
	return got
}

func TestOperators(t *testing.T) {
	const big = 0x1_0000_0005
	tests := []struct {
		arg   specs.LinuxSeccompArg
		holds []uint64
		fails []uint64
	}{
		{arg(0, specs.OpEqualTo, big), []uint64{big}, []uint64{5, big - 1, big + 1, 0x2_0000_0005}},
		{arg(0, specs.OpNotEqual, big), []uint64{5, big - 1, big + 1, 0x2_0000_0005}, []uint64{big}},
		{arg(0, specs.OpLessThan, big), []uint64{0, big - 1, 0xffffffff}, []uint64{big, big + 1, 1 << 63}},
		{arg(0, specs.OpLessEqual, big), []uint64{0, big, 0xffffffff}, []uint64{big + 1, 0x2_0000_0000}},
		{arg(0, specs.OpGreaterThan, big), []uint64{big + 1, 0x2_0000_0000}, []uint64{big, 0, 0xffffffff}},
		{arg(0, specs.OpGreaterEqual, big), []uint64{big, big + 1, 0x2_0000_0000}, []uint64{big - 1, 0xffffffff}},
		{arg(0, specs.OpMaskedEqual, 0xff_0000_00f0, 0x12_0000_0030), []uint64{0x12_0000_0030, 0xf12_abcd_0f3f}, []uint64{0x12_0000_0040, 0x13_0000_0030}},
		{arg(0, specs.OpMaskedEqual, 0xf0, 0), []uint64{0, 0x0f, 1 << 63}, []uint64{0x10, 0x80}},
		{arg(0, specs.OpMaskedEqual, 0x10, 0x10), []uint64{0x10, 0x1f}, []uint64{0, 0xef}},
		{arg(0, specs.OpMaskedEqual, 0x30, 0x30), []uint64{0x30, 0xff}, []uint64{0x10, 0x20, 0}},
		// Bits of the value outside of the mask do not count.
		{arg(0, specs.OpMaskedEqual, 0x0f, 0xf1), []uint64{0x01, 0xe1}, []uint64{0xf2}},
		{arg(0, specs.OpMaskedEqual, 0, 7), []uint64{0, 7}, nil},
		{arg(0, specs.OpLessThan, 0), nil, []uint64{0, 1, 1<<64 - 1}},
		{arg(0, specs.OpGreaterThan, 1<<64-1), nil, []uint64{0, 1, 1<<64 - 1}},
		{arg(0, specs.OpGreaterEqual, 0), []uint64{0, 1, 1<<64 - 1}, nil},
		{arg(0, specs.OpLessEqual, 1<<64-1), []uint64{0, 1, 1<<64 - 1}, nil},
	}
	for _, tt := range tests {
		for index := range uint(6) {
			a := tt.arg
			a.Index = index
			p := one(allow("ioctl", a))
			for want, values := range map[uint32][]uint64{retAllow: tt.holds, retEPERM: tt.fails} {
				for _, v := range values {
					r := request{nr: 16, arch: unix.AUDIT_ARCH_X86_64, args: [6]uint64{7, 7, 7, 7, 7, 7}}
					r.args[index] = v
					if got := ask(t, p, "amd64", r); got != want {
						t.Errorf("argument %d is %#x, %s %#x %#x: got %#x, want %#x", index, v, a.Op, a.Value, a.ValueTwo, got, want)
					}
				}
			}
		}
	}
}

func TestActions(t *testing.T) {
	tests := []struct {
		action specs.LinuxSeccompAction
		errno  *uint
		want   uint32
	}{
		{specs.ActKill, nil, 0},
		{specs.ActKillThread, nil, 0},
		{specs.ActKillProcess, nil, 0x80000000},
		{specs.ActTrap, nil, 0x00030000},
		{specs.ActErrno, nil, 0x00050001},
		{specs.ActErrno, errno(0), 0x00050000},
		{specs.ActErrno, errno(4095), 0x00050fff},
		{specs.ActTrace, nil, 0x7ff00001},
		{specs.ActTrace, errno(65535), 0x7ff0ffff},
		{specs.ActLog, nil, 0x7ffc0000},
		{specs.ActAllow, nil, 0x7fff0000},
	}
	for _, tt := range tests {
		read := request{nr: 0, arch: unix.AUDIT_ARCH_X86_64}
		p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: errno(99), Syscalls: []specs.LinuxSyscall{
			{Names: []string{"read", "write"}, Action: tt.action, ErrnoRet: tt.errno}}}
		if got := ask(t, p, "amd64", read); got != tt.want {
			t.Errorf("rule %s: got %#x, want %#x", tt.action, got, tt.want)
		}
		p = &specs.LinuxSeccomp{DefaultAction: tt.action, DefaultErrnoRet: tt.errno, Syscalls: []specs.LinuxSyscall{refuse("write", 99)}}
		if got := ask(t, p, "amd64", read); got != tt.want {
			t.Errorf("default %s: got %#x, want %#x", tt.action, got, tt.want)
		}
	}
}

func TestWhichRuleDecides(t *testing.T) {
	is := func(v uint64) specs.LinuxSeccompArg { return arg(0, specs.OpEqualTo, v) }
	tests := []struct {
		name  string
		rules []specs.LinuxSyscall
		arg   uint64
		want  uint32
	}{
		{"unconditional after conditional", []specs.LinuxSyscall{refuse("socket", 97, is(38)), allow("socket")}, 38, retAllow},
		{"two unconditional", []specs.LinuxSyscall{allow("socket"), refuse("socket", 97)}, 1, retAllow},
		{"two conditional", []specs.LinuxSyscall{refuse("socket", 97, is(38)), allow("socket", arg(0, specs.OpLessThan, 40))}, 38, 0x50000 | 97},
		{"two conditional, second", []specs.LinuxSyscall{refuse("socket", 97, is(38)), allow("socket", arg(0, specs.OpLessThan, 40))}, 37, retAllow},
		{"the default's action", []specs.LinuxSyscall{refuse("socket", 1), allow("socket")}, 1, retAllow},
		{"the default's action with a condition", []specs.LinuxSyscall{refuse("socket", 1, is(38)), allow("socket")}, 38, retAllow},
		{"conditions on two arguments, one holds", []specs.LinuxSyscall{allow("socket", is(1), arg(1, specs.OpEqualTo, 5))}, 1, retEPERM},
		{"conditions on two arguments, both hold", []specs.LinuxSyscall{allow("socket", is(1), arg(1, specs.OpEqualTo, 0))}, 1, retAllow},
		{"two conditions on one argument", []specs.LinuxSyscall{allow("socket", is(1), is(3))}, 3, retAllow},
		{"two conditions on one argument, neither", []specs.LinuxSyscall{allow("socket", is(1), is(3))}, 2, retEPERM},
		{"two conditions on one argument, a third on another", []specs.LinuxSyscall{allow("socket", is(1), is(3), arg(1, specs.OpEqualTo, 0))}, 9, retAllow},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := request{nr: 41, arch: unix.AUDIT_ARCH_X86_64, args: [6]uint64{tt.arg}}
			if got := ask(t, one(tt.rules...), "amd64", r); got != tt.want {
				t.Errorf("got %#x, want %#x", got, tt.want)
			}
		})
	}
}

func TestNewCalls(t *testing.T) {
	const arch = unix.AUDIT_ARCH_X86_64
	p := one(allow("statx"), refuse("rseq", 1), allow("no_such_call")) // 332, 334
	for nr, want := range map[uint32]uint32{332: retAllow, 333: retEPERM, 334: retEPERM, 335: retENOSYS, 1000: retENOSYS} {
		if got := ask(t, p, "amd64", request{nr: nr, arch: arch}); got != want {
			t.Errorf("call %d: got %#x, want %#x", nr, got, want)
		}
	}
	for _, a := range []specs.LinuxSeccompAction{specs.ActAllow, specs.ActLog, specs.ActTrace} {
		p := &specs.LinuxSeccomp{DefaultAction: a, Syscalls: []specs.LinuxSyscall{refuse("read", 5)}}
		if got := ask(t, p, "amd64", request{nr: 1000, arch: arch}); got != returned(a, nil) {
			t.Errorf("default %s: call 1000 returns %#x", a, got)
		}
	}
	// Without a single known name nothing says what is new.
	if got := ask(t, one(allow("no_such_call")), "amd64", request{nr: 1000, arch: arch}); got != retEPERM {
		t.Errorf("empty profile: got %#x", got)
	}
	p = one(allow("read"), allow("set_tls"))
	p.Architectures = []specs.Arch{specs.ArchARM}
	for nr, want := range map[uint32]uint32{3: retAllow, 4: retENOSYS, 0xeffff: retENOSYS, 0xf0001: retEPERM, 0xf0005: retAllow, 0xf0006: retENOSYS} {
		if got := ask(t, p, "arm64", request{nr: nr, arch: unix.AUDIT_ARCH_ARM}); got != want {
			t.Errorf("arm, call %#x: got %#x, want %#x", nr, got, want)
		}
	}
}

func TestArchitectures(t *testing.T) {
	const x86, i386, a64, a32 = unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_ARM
	tests := []struct {
		goarch string
		arches []specs.Arch
		arch   uint32
		nr     uint32
		want   uint32
	}{
		{"amd64", nil, x86, 39, retAllow},
		{"amd64", nil, i386, 20, retKill},
		{"amd64", nil, x86, x32Bit + 39, retKill},
		{"amd64", nil, x86, 0xffffffff, retEPERM},
		{"amd64", []specs.Arch{specs.ArchX86}, i386, 20, retAllow},
		{"amd64", []specs.Arch{specs.ArchX86}, x86, 39, retAllow},
		{"amd64", []specs.Arch{specs.ArchX32}, x86, x32Bit + 39, retAllow},
		{"amd64", []specs.Arch{specs.ArchX32}, i386, 20, retKill},
		{"amd64", []specs.Arch{specs.ArchARM, specs.ArchAARCH64, specs.ArchS390X}, a64, 172, retKill},
		{"arm64", nil, a64, 172, retAllow},
		{"arm64", nil, a32, 20, retKill},
		{"arm64", []specs.Arch{specs.ArchAARCH64, specs.ArchARM, specs.ArchARM}, a32, 20, retAllow},
		{"arm64", []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}, i386, 20, retKill},
	}
	for _, tt := range tests {
		p := one(allow("getpid"))
		p.Architectures = tt.arches
		r := request{nr: tt.nr, arch: tt.arch}
		if got := ask(t, p, tt.goarch, r); got != tt.want {
			t.Errorf("%s with %v: %v: got %#x, want %#x", tt.goarch, tt.arches, r, got, tt.want)
		}
	}
}

// A profile that only refuses certain sockets must refuse them to 32-bit
// programs too, which call socketcall(2).
func TestMultiplexedCalls(t *testing.T) {
	p := &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		Architectures: []specs.Arch{specs.ArchX86},
		Syscalls:      []specs.LinuxSyscall{refuse("socket", 97, arg(0, specs.OpEqualTo, unix.AF_ALG)), refuse("semop", 38)},
	}
	tests := []struct {
		nr   uint32
		args [6]uint64
		want uint32
	}{
		{359, [6]uint64{unix.AF_ALG}, 0x50000 | 97},
		{359, [6]uint64{unix.AF_UNIX}, retAllow},
		{socketcall, [6]uint64{1, 0xbfff0000}, 0x50000 | 97}, // its domain is out of sight
		{socketcall, [6]uint64{2, 0xbfff0000}, retAllow},     // bind
		{ipc, [6]uint64{1}, retENOSYS},                       // semop
		{ipc, [6]uint64{2}, retAllow},                        // semget
	}
	for _, tt := range tests {
		r := request{nr: tt.nr, arch: unix.AUDIT_ARCH_I386, args: tt.args}
		if got := ask(t, p, "amd64", r); got != tt.want {
			t.Errorf("%v: got %#x, want %#x", r, got, tt.want)
		}
	}
}

func TestNoFilter(t *testing.T) {
	for _, p := range []*specs.LinuxSeccomp{nil, {}} {
		code, err := Compile(p, "amd64")
		if code != nil || err != nil {
			t.Errorf("%v: got %v, %v", p, code, err)
		}
	}
}

func TestErrors(t *testing.T) {
	tests := []struct {
		name   string
		p      *specs.LinuxSeccomp
		goarch string
		want   error
		text   string
	}{
		{"machine", one(), "riscv64", errdefs.ErrNotImplemented, "riscv64"},
		{"default action", &specs.LinuxSeccomp{DefaultAction: "SCMP_ACT_NO"}, "amd64", errdefs.ErrInvalidArgument, "SCMP_ACT_NO"},
		{"no default action", &specs.LinuxSeccomp{Syscalls: []specs.LinuxSyscall{allow("read")}}, "amd64", errdefs.ErrInvalidArgument, "default"},
		{"action", one(specs.LinuxSyscall{Names: []string{"read"}, Action: "allow"}), "amd64", errdefs.ErrInvalidArgument, "rule 0"},
		{"notify", one(allow("read"), specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActNotify}), "amd64", errdefs.ErrNotImplemented, "rule 1"},
		{"notify by default", &specs.LinuxSeccomp{DefaultAction: specs.ActNotify}, "amd64", errdefs.ErrNotImplemented, "SCMP_ACT_NOTIFY"},
		{"architecture", &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{"SCMP_ARCH_VAX"}}, "amd64", errdefs.ErrInvalidArgument, "SCMP_ARCH_VAX"},
		{"argument", one(allow("read", arg(6, specs.OpEqualTo, 1))), "amd64", errdefs.ErrInvalidArgument, "argument 6"},
		{"operator", one(allow("read", arg(0, "SCMP_CMP_XX", 1))), "amd64", errdefs.ErrInvalidArgument, "SCMP_CMP_XX"},
		{"name", one(allow("")), "amd64", errdefs.ErrInvalidArgument, "name"},
		{"errno", one(refuse("read", 4096)), "amd64", errdefs.ErrInvalidArgument, "4096"},
		{"trace", one(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActTrace, ErrnoRet: errno(65536)}), "amd64", errdefs.ErrInvalidArgument, "65536"},
		{"errno of kill", one(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActKill, ErrnoRet: errno(1)}), "amd64", errdefs.ErrInvalidArgument, "errnoRet"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code, err := Compile(tt.p, tt.goarch)
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, want %v with %q", err, tt.want, tt.text)
			}
			if code != nil {
				t.Errorf("%d instructions with an error", len(code))
			}
		})
	}
}

func TestFlags(t *testing.T) {
	tests := []struct {
		flags []specs.LinuxSeccompFlag
		want  uintptr
		err   error
	}{
		{nil, 4, nil},
		{[]specs.LinuxSeccompFlag{}, 0, nil},
		{[]specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog}, 2, nil},
		{[]specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow, flagTSync}, 7, nil},
		{[]specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv}, 0, errdefs.ErrNotImplemented},
		{[]specs.LinuxSeccompFlag{"LOG"}, 0, errdefs.ErrInvalidArgument},
	}
	for _, tt := range tests {
		got, err := Flags(&specs.LinuxSeccomp{Flags: tt.flags})
		if got != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("%v: got %d, %v", tt.flags, got, err)
		}
	}
	if got, err := Flags(nil); got != 0 || err != nil {
		t.Errorf("no profile: got %d, %v", got, err)
	}
}
