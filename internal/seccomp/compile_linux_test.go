package seccomp

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	mobyseccomp "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

var goarches = []string{"amd64", "arm64"}

// dockerCapabilities is what Docker gives a container by default.
var dockerCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW",
	"CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE",
	"CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// docker gives Docker's default profile as a machine of another architecture
// with a new kernel would get it; mobyseccomp.GetDefaultProfile answers for
// this machine only.
func docker(goarch string, caps []string) *specs.LinuxSeccomp {
	def := mobyseccomp.DefaultProfile()
	p := def.LinuxSeccomp
	for _, a := range def.ArchMap {
		if a.Arch == nativeArch[goarch] {
			p.Architectures = append([]specs.Arch{a.Arch}, a.SubArches...)
		}
	}
	hasAll := func(want []string) bool {
		return !slices.ContainsFunc(want, func(c string) bool { return !slices.Contains(caps, c) })
	}
	hasAny := func(want []string) bool {
		return slices.ContainsFunc(want, func(c string) bool { return slices.Contains(caps, c) })
	}
	for _, s := range def.Syscalls {
		if x := s.Excludes; x != nil && (slices.Contains(x.Arches, goarch) || hasAny(x.Caps)) {
			continue
		}
		if i := s.Includes; i != nil && (len(i.Arches) > 0 && !slices.Contains(i.Arches, goarch) || !hasAll(i.Caps)) {
			continue
		}
		p.Syscalls = append(p.Syscalls, s.LinuxSyscall)
	}
	return &p
}

// agree compiles p and compares the filter with a plain reading, for all
// numbers that mean something and a few that do not; rounds times with random
// arguments where conditions are.
func agree(t testing.TB, p *specs.LinuxSeccomp, goarch string, random *rand.Rand, rounds int) []unix.SockFilter {
	t.Helper()
	code, err := Compile(p, goarch)
	if err != nil {
		t.Fatalf("%s: %v", goarch, err)
	}
	same(t, p, goarch, code, callNumbers(random), random, rounds)
	return code
}

// same compares a filter with a plain reading of its profile for some numbers.
func same(t testing.TB, p *specs.LinuxSeccomp, goarch string, code []unix.SockFilter, nrs []uint32, random *rand.Rand, rounds int) {
	t.Helper()
	if err := check(code); err != nil {
		t.Fatalf("%s: %v", goarch, err)
	}
	rd := read(p, goarch)
	values := interesting(p)
	named := map[string]bool{}
	for _, s := range p.Syscalls {
		for _, name := range s.Names {
			named[name] = named[name] || len(s.Args) > 0
		}
	}
	conditional := map[uint32]bool{102: true, 117: true}
	for _, s := range syscalls {
		for _, nr := range s.nr {
			conditional[uint32(nr)] = conditional[uint32(nr)] || named[s.name]
		}
	}
	for _, nr := range nrs {
		n := 1
		if conditional[nr] {
			n = rounds
		}
		for _, arch := range audit {
			for range n {
				r := request{nr: nr, arch: arch}
				for i := range r.args {
					r.args[i] = values[random.IntN(len(values))]
				}
				got, _ := run(code, r)
				if want := rd.verdict(r); got != want {
					t.Fatalf("%s: %v: filter returns %#x, profile says %#x", goarch, r, got, want)
				}
			}
		}
	}
	for _, arch := range []uint32{0, 0xffffffff, unix.AUDIT_ARCH_MIPS64, random.Uint32()} {
		r := request{nr: uint32(random.IntN(500)), arch: arch}
		if got, _ := run(code, r); got != rd.verdict(r) {
			t.Fatalf("%s: %v: filter returns %#x", goarch, r, got)
		}
	}
}

// callNumbers are all numbers that some ABI uses, and others.
func callNumbers(random *rand.Rand) []uint32 {
	var out []uint32
	for i := range uint32(1024) {
		out = append(out, i)
	}
	for i := range uint32(600) {
		out = append(out, x32Bit+i)
	}
	for i := range uint32(8) {
		out = append(out, armPrivate-2+i, x32Bit-4+i, 0x80000000-4+i, 0xfffffff8+i)
	}
	for range 50 {
		out = append(out, random.Uint32())
	}
	return out
}

// nearNumbers are the numbers that p names, and those beside them.
func nearNumbers(p *specs.LinuxSeccomp) []uint32 {
	out := []uint32{0, socketcall, ipc, 600, x32Bit - 1, x32Bit, x32Bit + 600, armPrivate - 1, armPrivate, 0xffffffff}
	for _, s := range p.Syscalls {
		for _, name := range s.Names {
			if n, ok := lookup(name); ok {
				for _, nr := range n.nr {
					out = append(out, uint32(nr)-1, uint32(nr), uint32(nr)+1)
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// interesting gives values at which conditions of p change, and others.
func interesting(p *specs.LinuxSeccomp) []uint64 {
	out := []uint64{0, 1, 1 << 31, 1<<32 - 1, 1 << 32, 1 << 63, 1<<64 - 1}
	for _, s := range p.Syscalls {
		for _, a := range s.Args {
			for _, v := range []uint64{a.Value, a.ValueTwo} {
				out = append(out, v-1, v, v+1, v^1<<32, v^1<<31, v|0xffffffff00000000, v&0xffffffff,
					v&^0xffffffff, v^(v&-v), ^v)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func random(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

func TestDockerProfile(t *testing.T) {
	sets := map[string][]string{
		"no capabilities": nil,
		"docker's":        dockerCapabilities,
		"CAP_SYS_ADMIN":   append([]string{"CAP_SYS_ADMIN"}, dockerCapabilities...),
		"many": {"CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_SYS_MODULE", "CAP_BPF", "CAP_PERFMON",
			"CAP_SYS_TIME", "CAP_SYS_NICE", "CAP_SYSLOG", "CAP_DAC_READ_SEARCH", "CAP_SYS_BOOT",
			"CAP_SYS_CHROOT", "CAP_SYS_PACCT", "CAP_SYS_RAWIO", "CAP_SYS_TTY_CONFIG"},
	}
	for name, caps := range sets {
		for _, goarch := range goarches {
			p := docker(goarch, caps)
			t.Run(name+" on "+goarch, func(t *testing.T) {
				agree(t, p, goarch, random(1), 300)
			})
			native := *p
			native.Architectures = nil
			t.Run(name+" on "+goarch+" alone", func(t *testing.T) {
				agree(t, &native, goarch, random(2), 300)
			})
		}
	}
}

// The profile that this machine would really get.
func TestDockerProfileHere(t *testing.T) {
	spec := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: dockerCapabilities}}}
	p, err := mobyseccomp.GetDefaultProfile(spec)
	if err != nil {
		t.Fatal(err)
	}
	for _, goarch := range goarches {
		agree(t, p, goarch, random(3), 300)
	}
}

// What Docker's profile must say, without a compiler or a reading.
func TestDockerProfileVerdicts(t *testing.T) {
	const allow, eperm, enosys, kill = 0x7fff0000, 0x50001, 0x50026, 0x80000000
	const x86, i386, a64, a32 = 0xc000003e, 0x40000003, 0xc00000b7, 0x40000028
	tests := []struct {
		goarch string
		arch   uint32
		nr     uint32
		args   [6]uint64
		want   uint32
	}{
		{"amd64", x86, unix.SYS_READ, [6]uint64{}, allow},
		{"amd64", x86, 250, [6]uint64{}, eperm},                     // keyctl
		{"amd64", x86, 435, [6]uint64{}, enosys},                    // clone3
		{"amd64", x86, 56, [6]uint64{0x11}, allow},                  // clone(SIGCHLD)
		{"amd64", x86, 56, [6]uint64{0x10000011}, eperm},            // clone(CLONE_NEWUSER)
		{"amd64", x86, 41, [6]uint64{unix.AF_INET6}, allow},         // socket
		{"amd64", x86, 41, [6]uint64{unix.AF_ALG}, eperm},           //
		{"amd64", x86, 41, [6]uint64{unix.AF_VSOCK}, eperm},         //
		{"amd64", x86, 41, [6]uint64{1<<32 | unix.AF_INET6}, eperm}, //
		{"amd64", x86, 135, [6]uint64{0xffffffff}, allow},           // personality
		{"amd64", x86, 135, [6]uint64{1}, eperm},                    //
		{"amd64", x86, 1000, [6]uint64{}, enosys},                   // not yet made
		{"amd64", x86, x32Bit + 520, [6]uint64{}, allow},            // x32's execve
		{"amd64", x86, x32Bit + 59, [6]uint64{}, eperm},             // amd64's number of it
		{"amd64", x86, x32Bit + 1000, [6]uint64{}, enosys},          //
		{"amd64", i386, 11, [6]uint64{}, allow},                     // execve
		{"amd64", i386, 288, [6]uint64{}, eperm},                    // keyctl
		{"amd64", i386, 359, [6]uint64{unix.AF_ALG}, eperm},         // socket
		{"amd64", i386, 120, [6]uint64{0x10000011}, eperm},          // clone
		{"amd64", i386, 1000, [6]uint64{}, enosys},                  //
		{"amd64", a64, 0, [6]uint64{}, kill},                        //
		{"arm64", a64, 221, [6]uint64{}, allow},                     // execve
		{"arm64", a64, 435, [6]uint64{}, enosys},                    // clone3
		{"arm64", a64, 219, [6]uint64{}, eperm},                     // keyctl
		{"arm64", a64, 1000, [6]uint64{}, enosys},                   //
		{"arm64", a32, 11, [6]uint64{}, allow},                      // execve
		{"arm64", a32, 0xf0005, [6]uint64{}, allow},                 // set_tls
		{"arm64", a32, 1000, [6]uint64{}, enosys},                   //
		{"arm64", x86, 0, [6]uint64{}, kill},                        //
	}
	for _, tt := range tests {
		code, err := Compile(docker(tt.goarch, dockerCapabilities), tt.goarch)
		if err != nil {
			t.Fatal(err)
		}
		r := request{tt.nr, tt.arch, tt.args}
		if got, _ := run(code, r); got != tt.want {
			t.Errorf("%s: %v: got %#x, want %#x", tt.goarch, r, got, tt.want)
		}
	}
}

// A filter costs time to install for each instruction, and to pass for each
// step.
func TestSize(t *testing.T) {
	tests := []struct {
		goarch       string
		alone        bool
		instructions int
		steps        int // for a call of the native ABI, arguments 0
	}{
		{"amd64", false, 320, 18},
		{"amd64", true, 120, 18},
		{"arm64", false, 240, 18},
		{"arm64", true, 120, 18},
	}
	for _, tt := range tests {
		p := docker(tt.goarch, dockerCapabilities)
		if tt.alone {
			p.Architectures = nil
		}
		code, err := Compile(p, tt.goarch)
		if err != nil {
			t.Fatal(err)
		}
		longest, sum, n := 0, 0, 0
		for nr := range uint32(470) {
			_, steps := run(code, request{nr: nr, arch: audit[nativeArch[tt.goarch]]})
			longest, sum, n = max(longest, steps), sum+steps, n+1
		}
		t.Logf("%s, alone %v: %d instructions; native calls take %.1f steps, at most %d",
			tt.goarch, tt.alone, len(code), float64(sum)/float64(n), longest)
		if len(code) > tt.instructions {
			t.Errorf("%s, alone %v: %d instructions, want at most %d", tt.goarch, tt.alone, len(code), tt.instructions)
		}
		if longest > tt.steps {
			t.Errorf("%s, alone %v: %d steps, want at most %d", tt.goarch, tt.alone, longest, tt.steps)
		}
	}
}

func TestDeterministic(t *testing.T) {
	for _, goarch := range goarches {
		p := docker(goarch, dockerCapabilities)
		first, err := Compile(p, goarch)
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			again, err := Compile(docker(goarch, dockerCapabilities), goarch)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(first, again) {
				t.Fatalf("%s: two programs for one profile", goarch)
			}
		}
	}
}

func TestRandomProfiles(t *testing.T) {
	n := 40
	if testing.Short() {
		n = 20
	}
	for seed := range uint64(n) {
		rnd := random(seed)
		p := randomProfile(rnd)
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			for _, goarch := range goarches {
				agree(t, p, goarch, rnd, 60)
			}
		})
	}
}

var (
	someActions = []specs.LinuxSeccompAction{specs.ActKill, specs.ActKillProcess, specs.ActKillThread,
		specs.ActTrap, specs.ActErrno, specs.ActTrace, specs.ActAllow, specs.ActLog}
	operators = []specs.LinuxSeccompOperator{specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual,
		specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual}
	someArches = []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32, specs.ArchAARCH64, specs.ArchARM, specs.ArchMIPS}
)

// randomProfile makes a profile in which few names have many rules.
func randomProfile(rnd *rand.Rand) *specs.LinuxSeccomp {
	pick := func(n int) int { return rnd.IntN(n) }
	errno := func(a specs.LinuxSeccompAction) *uint {
		if a != specs.ActErrno && a != specs.ActTrace || pick(2) == 0 {
			return nil
		}
		e := uint(pick(4))
		return &e
	}
	p := &specs.LinuxSeccomp{DefaultAction: someActions[pick(len(someActions))]}
	p.DefaultErrnoRet = errno(p.DefaultAction)
	for _, a := range someArches {
		if pick(2) == 0 {
			p.Architectures = append(p.Architectures, a)
		}
	}
	var names []string
	for range 1 + pick(12) {
		names = append(names, syscalls[pick(len(syscalls))].name)
	}
	names = append(names, "socket", "semop", "set_tls", "no_such_call")
	value := func() uint64 {
		return []uint64{uint64(pick(4)), rnd.Uint64(), uint64(rnd.Uint32()), 1 << pick(64), 1<<64 - 1, uint64(pick(3)) << 32}[pick(6)]
	}
	for range pick(30) {
		s := specs.LinuxSyscall{Action: someActions[pick(len(someActions))]}
		s.ErrnoRet = errno(s.Action)
		for range 1 + pick(3) {
			s.Names = append(s.Names, names[pick(len(names))])
		}
		for range pick(4) {
			s.Args = append(s.Args, specs.LinuxSeccompArg{Index: uint(pick(6)), Value: value(), ValueTwo: value(), Op: operators[pick(len(operators))]})
		}
		p.Syscalls = append(p.Syscalls, s)
	}
	for range pick(200) {
		s := specs.LinuxSyscall{Action: someActions[pick(len(someActions))]}
		s.Names = []string{syscalls[pick(len(syscalls))].name}
		p.Syscalls = append(p.Syscalls, s)
	}
	return p
}

// With an outcome of its own for each call, leaves do not fall together and
// most jumps are long.
func TestLongJumps(t *testing.T) {
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActTrap, Architectures: someArches}
	for i, s := range syscalls {
		e := uint(i)
		p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: []string{s.name}, Action: specs.ActErrno, ErrnoRet: &e})
	}
	for _, goarch := range goarches {
		code := agree(t, p, goarch, random(4), 1)
		t.Logf("%s: %d instructions", goarch, len(code))
	}
}

// Conditions on several arguments multiply; the filter must not.
func TestManyConditions(t *testing.T) {
	rnd := random(5)
	for _, n := range []int{10, 40, 100} {
		p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}
		for range n {
			s := specs.LinuxSyscall{Names: []string{"ioctl"}, Action: specs.ActAllow}
			for i := range uint(4) {
				s.Args = append(s.Args, specs.LinuxSeccompArg{Index: i, Value: rnd.Uint64N(1000), ValueTwo: rnd.Uint64N(1000), Op: operators[rnd.IntN(len(operators))]})
			}
			p.Syscalls = append(p.Syscalls, s)
		}
		code := agree(t, p, "amd64", rnd, 2000)
		t.Logf("%d rules of 4 conditions: %d instructions", n, len(code))
		if len(code) > 25*n {
			t.Errorf("%d rules of 4 conditions: %d instructions", n, len(code))
		}
	}
}

func TestTooLarge(t *testing.T) {
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}
	for i := range uint64(5000) {
		p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: []string{"ioctl"}, Action: specs.ActAllow,
			Args: []specs.LinuxSeccompArg{{Index: 1, Value: 3 * i, Op: specs.OpEqualTo}}})
	}
	if _, err := Compile(p, "amd64"); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("got %v", err)
	}
}

func BenchmarkCompile(b *testing.B) {
	for _, goarch := range goarches {
		b.Run(goarch, func(b *testing.B) {
			p := docker(goarch, dockerCapabilities)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Compile(p, goarch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
