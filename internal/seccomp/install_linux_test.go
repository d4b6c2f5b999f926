package seccomp

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A trial is what a child process does behind a filter: it makes the calls and
// reports their errors.
type trial struct {
	Profile *specs.LinuxSeccomp
	Calls   []attempt
}

type attempt struct {
	Nr   uintptr
	Args [6]uintptr
}

const trialEnv = "INBOARD_SECCOMP_TRIAL"

func TestMain(m *testing.M) {
	if os.Getenv(trialEnv) != "" {
		if err := behindFilter(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(3)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func machineHere(t testing.TB) machine {
	t.Helper()
	m, err := machineOf(runtime.GOARCH)
	if err != nil {
		t.Skip(err)
	}
	return m
}

// needed is what the child's thread needs behind the filter: to report, to
// end, and to come back from a signal of Go's scheduler.
var needed = []string{"write", "exit_group", "futex", "rt_sigreturn"}

// unfiltered are amd64's calls that newer kernels do not show to filters; the
// first since 6.14.
var unfiltered = []string{"uretprobe", "uprobe"}

// behindFilter is the child: it reads a trial from standard input and writes
// error numbers of 32 bits to standard output.
func behindFilter() error {
	runtime.LockOSThread()
	var tr trial
	if err := json.NewDecoder(os.Stdin).Decode(&tr); err != nil {
		return err
	}
	code, err := Compile(tr.Profile, runtime.GOARCH)
	if err != nil {
		return err
	}
	flags, err := Flags(tr.Profile)
	if err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	results := make([]uint32, len(tr.Calls))
	prog := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	// The filter is for this thread only, so that it cannot stop Go's others.
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return fmt.Errorf("install %d instructions: %w", len(code), errno)
	}
	for i, c := range tr.Calls {
		_, _, errno := unix.RawSyscall6(c.Nr, c.Args[0], c.Args[1], c.Args[2], c.Args[3], c.Args[4], c.Args[5])
		results[i] = uint32(errno)
	}
	unix.RawSyscall(unix.SYS_WRITE, 1, uintptr(unsafe.Pointer(&results[0])), uintptr(4*len(results)))
	unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	return nil
}

// try gives the errors of the calls behind the profile's filter.
func try(t *testing.T, tr trial) ([]syscall.Errno, error) {
	t.Helper()
	in, err := json.Marshal(tr)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), trialEnv+"=1")
	cmd.Stdin = strings.NewReader(string(in))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, stderr.String())
	}
	if len(out) != 4*len(tr.Calls) {
		t.Fatalf("%d bytes for %d calls: %s", len(out), len(tr.Calls), stderr.String())
	}
	var errnos []syscall.Errno
	for i := range tr.Calls {
		errnos = append(errnos, syscall.Errno(binary.NativeEndian.Uint32(out[4*i:])))
	}
	return errnos, nil
}

func TestInstallDockerProfile(t *testing.T) {
	machineHere(t)
	const none = ^uintptr(0)
	tests := []struct {
		name string
		call attempt
		want syscall.Errno
	}{
		{"getpid", attempt{Nr: unix.SYS_GETPID}, 0},
		{"keyctl", attempt{Nr: unix.SYS_KEYCTL}, unix.EPERM},
		{"clone3", attempt{Nr: unix.SYS_CLONE3}, unix.ENOSYS},
		{"a call of the future", attempt{Nr: 700}, unix.ENOSYS},
		{"personality, read", attempt{unix.SYS_PERSONALITY, [6]uintptr{0xffffffff}}, 0},
		{"personality, ADDR_NO_RANDOMIZE", attempt{unix.SYS_PERSONALITY, [6]uintptr{0x40000}}, unix.EPERM},
		{"socket, AF_ALG", attempt{unix.SYS_SOCKET, [6]uintptr{unix.AF_ALG, unix.SOCK_SEQPACKET}}, unix.EPERM},
		{"socket, AF_UNIX, bad type", attempt{unix.SYS_SOCKET, [6]uintptr{unix.AF_UNIX, 99}}, unix.EINVAL},
		{"unshare, CLONE_NEWUSER", attempt{unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWUSER}}, unix.EPERM},
		{"clone, CLONE_NEWUSER", attempt{unix.SYS_CLONE, [6]uintptr{unix.CLONE_NEWUSER}}, unix.EPERM},
		{"close, bad descriptor", attempt{unix.SYS_CLOSE, [6]uintptr{none}}, unix.EBADF},
	}
	tr := trial{Profile: docker(runtime.GOARCH, dockerCapabilities)}
	for _, tt := range tests {
		tr.Calls = append(tr.Calls, tt.call)
	}
	got, err := try(t, tr)
	if err != nil {
		t.Fatal(err)
	}
	for i, tt := range tests {
		if got[i] != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got[i], tt.want)
		}
	}
}

// The kernel's answers for every number, with arguments around the profile's
// values: no call is made, each gets an error number that tells its rule.
func TestKernelAgrees(t *testing.T) {
	native := machineHere(t).native
	for seed := range uint64(3) {
		rnd := random(100 + seed)
		p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: errno(4000)}
		real := map[uintptr]bool{}
		for _, name := range slices.Concat(needed, unfiltered) {
			n, _ := lookup(name)
			real[uintptr(n.nr[native])] = true
			p.Syscalls = append(p.Syscalls, allow(name))
		}
		for i := range 300 {
			name := syscalls[rnd.IntN(len(syscalls))].name
			s := refuse(name, uint(200+i))
			for index := range uint(rnd.IntN(3)) {
				s.Args = append(s.Args, arg(index, operators[rnd.IntN(len(operators))], rnd.Uint64N(3)<<32|rnd.Uint64N(3), rnd.Uint64N(3)<<32|rnd.Uint64N(3)))
			}
			p.Syscalls = append(p.Syscalls, s)
		}
		tr := trial{Profile: p}
		values := interesting(p)
		for nr := range uintptr(600) {
			for range 5 {
				if real[nr] {
					break
				}
				a := attempt{Nr: nr}
				for i := range a.Args {
					a.Args[i] = uintptr(values[rnd.IntN(len(values))])
				}
				tr.Calls = append(tr.Calls, a)
			}
		}
		got, err := try(t, tr)
		if err != nil {
			t.Fatal(err)
		}
		rd := read(p, runtime.GOARCH)
		for i, c := range tr.Calls {
			r := request{nr: uint32(c.Nr), arch: audit[nativeArch[runtime.GOARCH]]}
			for i := range r.args {
				r.args[i] = uint64(c.Args[i])
			}
			want := rd.verdict(r)
			if uint32(got[i]) != want&unix.SECCOMP_RET_DATA {
				t.Fatalf("%v: kernel says %d, profile %#x", r, got[i], want)
			}
		}
	}
}

// Calls through an ABI that the profile does not list kill the process.
func TestForeignCallKills(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("needs x32's numbers, which only amd64 has")
	}
	p := docker("amd64", nil)
	p.Architectures = nil
	_, err := try(t, trial{p, []attempt{{Nr: x32Bit + unix.SYS_GETPID}}})
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != unix.SIGSYS {
		t.Errorf("got %v, want SIGSYS", err)
	}
}

func BenchmarkInstall(b *testing.B) {
	code, err := Compile(docker(runtime.GOARCH, dockerCapabilities), runtime.GOARCH)
	if err != nil {
		b.Fatal(err)
	}
	prog := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	for b.Loop() {
		// Each filter stays with its thread, so each gets a thread of its own.
		done := make(chan error)
		b.StopTimer()
		go func() {
			runtime.LockOSThread()
			if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
				done <- err
				return
			}
			b.StartTimer()
			_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog)))
			b.StopTimer()
			if errno != 0 {
				done <- errno
				return
			}
			done <- nil
		}()
		if err := <-done; err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
