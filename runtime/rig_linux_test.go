package runtime

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make namespaces and mounts")
	}
}

// openTest opens a Runtime that the test closes, and then has left no file in
// its directory.
func openTest(t testing.TB) *Runtime {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	r, err := Open(Options{Dir: dir, CgroupParent: testParent})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error("close:", err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left in the runtime's directory: %v, %v", left, err)
		}
	})
	return r
}

// testBinary is a copy of this program from which other directories on the
// filesystem of temporary files can link.
var testBinary = sync.OnceValues(func() (string, error) {
	name := filepath.Join(testBase, "test")
	return name, copyFile("/proc/self/exe", name, 0o755)
})

func copyFile(from, to string, mode os.FileMode) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(to, data, mode); err != nil {
		return err
	}
	return os.Chmod(to, mode)
}

// newRootfs makes a root directory with little more than the test binary in it.
func newRootfs(t testing.TB) string {
	t.Helper()
	root, err := os.MkdirTemp(testBase, "root-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	fillRootfs(t, root)
	return root
}

func fillRootfs(t testing.TB, root string) {
	t.Helper()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	binary, err := testBinary()
	if err == nil {
		err = os.Link(binary, filepath.Join(root, "test"))
	}
	if err == nil {
		err = addLibraries(root)
	}
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1001::/home/user:/bin/sh\n",
		"etc/group":  "root:x:0:root\nuser:x:1001:\nextra:x:1002:other,user\nmore:x:1003:user\n",
	} {
		writeFile(t, filepath.Join(root, name), text, 0o644)
	}
	for _, dir := range []string{"proc", "sys", "dev", "bin", "tmp"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
	}
	for name, program := range map[string][]byte{"bin/true": exitProgram(0), "bin/false": exitProgram(1), "bin/sleep": sleepProgram()} {
		writeFile(t, filepath.Join(root, name), string(program), 0o755)
	}
}

// addLibraries brings what a test binary needs that is linked with C, as the
// race detector's is: its interpreter, and what it has mapped.
func addLibraries(root string) error {
	f, err := elf.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			name, _ := io.ReadAll(p.Open())
			interpreter := string(bytes.TrimRight(name, "\x00"))
			if err := copyFile(interpreter, filepath.Join(root, interpreter), 0o755); err != nil {
				return err
			}
		}
	}
	maps, err := os.ReadFile("/proc/self/maps")
	for line := range strings.Lines(string(maps)) {
		if f := strings.Fields(line); len(f) == 6 && strings.Contains(f[5], ".so") && f[2] == "00000000" {
			err = errors.Join(err, copyFile(f[5], filepath.Join(root, f[5]), 0o755))
		}
	}
	return err
}

// exitProgram is an executable of one page that ends at once: some tests start
// hundreds of processes, and not the Go runtime with each.
func exitProgram(code byte) []byte {
	if goruntime.GOARCH == "arm64" { // mov x0, code; mov x8, exit_group; svc
		return machineProgram(0xd2800000|uint32(code)<<5, uint32(0xd2800bc8), uint32(0xd4000001))
	}
	return machineProgram(byte(0xbf), code, uint16(0), byte(0), byte(0xb8), uint32(231), uint16(0x050f)) // mov edi; mov eax; syscall
}

// sleepProgram is one that does nothing until a signal ends it.
func sleepProgram() []byte {
	if goruntime.GOARCH == "arm64" { // mov x0..x3, 0; mov x8, ppoll; svc; b to the start
		return machineProgram(uint32(0xd2800000), uint32(0xd2800001), uint32(0xd2800002), uint32(0xd2800003), uint32(0xd2800928), uint32(0xd4000001), uint32(0x17fffffa))
	}
	return machineProgram(byte(0xb8), uint32(34), uint16(0x050f), uint16(0xf7eb)) // mov eax, pause; syscall; jmp to the start
}

// machineProgram makes an ELF file of machine code.
func machineProgram(code ...any) []byte {
	const base, at = 0x10000, 64 + 56
	var buffer bytes.Buffer
	for _, c := range code {
		binary.Write(&buffer, binary.LittleEndian, c)
	}
	text := buffer.Bytes()
	machine := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[goruntime.GOARCH]
	size := uint64(at + len(text))
	var b bytes.Buffer
	binary.Write(&b, binary.LittleEndian, elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', 2, 1, 1}, Type: uint16(elf.ET_EXEC), Machine: uint16(machine),
		Version: 1, Entry: base + at, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
	})
	binary.Write(&b, binary.LittleEndian, elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: base, Paddr: base, Filesz: size, Memsz: size, Align: 0x10000,
	})
	b.Write(text)
	return b.Bytes()
}

func writeFile(t testing.TB, name, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
}

// newSpec is Docker's defaults, on a root directory, for a program of this
// package; for a command of the rootfs, set Process.Args.
func newSpec(t testing.TB, root, program string, args ...string) *specs.Spec {
	t.Helper()
	s := DefaultSpec()
	s.Root.Path = root
	s.Hostname = "inside"
	var err error
	if s.Linux.Seccomp, err = DefaultSeccomp(DefaultCapabilities()); err != nil {
		t.Fatal(err)
	}
	*s.Process = *newProgramProcess(s, program, args...)
	return s
}

// newProgramProcess is a process of a spec with another program of this package.
func newProgramProcess(s *specs.Spec, program string, args ...string) *specs.Process {
	p := *s.Process
	p.Args = append([]string{"/test"}, args...)
	p.Env = slices.DeleteFunc(slices.Clone(p.Env), func(e string) bool { return strings.HasPrefix(e, programEnv+"=") })
	p.Env = append(p.Env, programEnv+"="+program)
	return &p
}

// fileSpec is newSpec for a file of the rootfs.
func fileSpec(t testing.TB, root string, args ...string) *specs.Spec {
	s := newSpec(t, root, "")
	s.Process.Args = args
	return s
}

func start(t testing.TB, r *Runtime, s *specs.Spec, o CreateOptions) *Container {
	t.Helper()
	c, err := r.Start(context.Background(), s, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Delete(context.Background()) })
	return c
}

func wait(t testing.TB, p interface {
	Wait(context.Context) (Status, error)
}) Status {
	t.Helper()
	st, err := p.Wait(context.Background())
	if err != nil {
		t.Error("wait:", err)
	}
	return st
}

// output runs a container to its end and gives what it wrote to both streams.
// Another exit code than 0 fails the test.
func output(t testing.TB, r *Runtime, s *specs.Spec, o CreateOptions) string {
	t.Helper()
	var out bytes.Buffer
	o.Stdout, o.Stderr = &out, &out
	c := start(t, r, s, o)
	if st := wait(t, c); st != (Status{Known: true}) {
		t.Fatalf("%v: %s", st, &out)
	}
	if err := c.Delete(context.Background()); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// idle starts a container whose program does nothing until it is killed.
func idle(t testing.TB, r *Runtime, change func(*specs.Spec)) *Container {
	t.Helper()
	s := newSpec(t, newRootfs(t), "idle")
	if change != nil {
		change(s)
	}
	return start(t, r, s, CreateOptions{})
}

// execOutput is output for an exec'd process.
func execOutput(t testing.TB, c *Container, p *specs.Process, o ProcessOptions) string {
	t.Helper()
	var out bytes.Buffer
	o.Stdout, o.Stderr = &out, &out
	x, err := c.Exec(context.Background(), p, o)
	if err != nil {
		t.Fatal(err)
	}
	if st := wait(t, x); st != (Status{Known: true}) {
		t.Fatalf("%v: %s", st, &out)
	}
	return out.String()
}

// hostProgram is this test binary as another program on the host, which dies
// with the test.
func hostProgram(t testing.TB, program string, args ...string) *exec.Cmd {
	t.Helper()
	needRoot(t)
	binary, err := testBinary()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(binary, args...)
	c.Env = append(os.Environ(), programEnv+"="+program, "INBOARD_TEST_PARENT="+testParent)
	c.Stderr = os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{}
	return c
}

// openAsHost opens a Runtime in a host program.
func openAsHost(dir string) (*Runtime, error) {
	return Open(Options{Dir: dir, CgroupParent: os.Getenv("INBOARD_TEST_PARENT")})
}

// few is n, or less where the test runs in emulation.
func few(n int) int {
	if testing.Short() {
		return max(n/10, 2)
	}
	return n
}

func ptr[T any](v T) *T { return &v }

func init() {
	programs["idle"] = func([]string) int {
		for {
			unix.Pause()
		}
	}
}
