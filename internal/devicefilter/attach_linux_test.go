package devicefilter

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// An attempt is something that a process in a cgroup does to a device.
type attempt struct {
	Mknod bool // or open
	Path  string
	Flags int    // of open
	Mode  uint32 // of mknod
	Dev   int
}

const inmateEnv = "INBOARD_DEVICE_INMATE"

func TestMain(m *testing.M) {
	if os.Getenv(inmateEnv) == "" {
		os.Exit(m.Run())
	}
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var a attempt
		if in.Decode(&a) != nil {
			os.Exit(0)
		}
		var err error
		if a.Mknod {
			err = unix.Mknod(a.Path, a.Mode|0o600, a.Dev)
		} else {
			var fd int
			if fd, err = unix.Open(a.Path, a.Flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err == nil {
				unix.Close(fd)
			}
		}
		var errno syscall.Errno
		errors.As(err, &errno)
		if out.Encode(errno) != nil {
			os.Exit(1)
		}
	}
}

// An inmate is a process in a cgroup that makes attempts.
type inmate struct {
	t   *testing.T
	in  *json.Encoder
	out *json.Decoder
}

func jail(t *testing.T, cgroup *os.File) *inmate {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), inmateEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start a process in a cgroup: %v", err)
	}
	t.Cleanup(func() {
		in.Close()
		io.Copy(io.Discard, out)
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	return &inmate{t, json.NewEncoder(in), json.NewDecoder(out)}
}

func (i *inmate) want(errno syscall.Errno, a attempt) {
	i.t.Helper()
	var got syscall.Errno
	if err := errors.Join(i.in.Encode(a), i.out.Decode(&got)); err != nil {
		i.t.Fatal(err)
	}
	if got != errno {
		i.t.Errorf("%+v: got %v (%d), want %v", a, got, got, errno)
	}
}

// hierarchy is where cgroups v2 are mounted.
func hierarchy(t testing.TB) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads a program and makes a cgroup")
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		fields, rest, ok := strings.Cut(line, " - ")
		if ok && strings.HasPrefix(rest, "cgroup2 ") {
			return strings.Fields(fields)[4]
		}
	}
	t.Skip("needs cgroups v2: no mount of type cgroup2")
	return ""
}

func newCgroup(t testing.TB, parent string) *os.File {
	t.Helper()
	path, err := os.MkdirTemp(parent, "inboard-devicefilter-")
	if err != nil {
		t.Skip("needs a cgroup hierarchy that can be written: ", err)
	}
	t.Cleanup(func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	})
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func mustLoad(t *testing.T, list []specs.LinuxDeviceCgroup) *os.File {
	t.Helper()
	code, err := Compile(list)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Load(code)
	if errors.Is(err, errdefs.ErrNotImplemented) || errors.Is(err, errdefs.ErrPermissionDenied) {
		t.Skip("needs a kernel that loads device filters: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// mustAttach leaves no file open: what stays is the cgroup's.
func mustAttach(t *testing.T, cgroup *os.File, list []specs.LinuxDeviceCgroup) {
	t.Helper()
	f := mustLoad(t, list)
	if err := Attach(cgroup, f); err != nil {
		t.Fatal(err)
	}
	f.Close()
}

func open(path string, flags int) attempt { return attempt{Path: path, Flags: flags} }

func mknod(path string, mode uint32, major, minor uint32) attempt {
	return attempt{Mknod: true, Path: path, Mode: mode, Dev: int(unix.Mkdev(major, minor))}
}

func TestKernelAppliesDockerRules(t *testing.T) {
	cgroup := newCgroup(t, hierarchy(t))
	mustAttach(t, cgroup, dockerRules(t))
	dir := t.TempDir()
	i := jail(t, cgroup)
	i.want(0, open("/dev/null", unix.O_RDWR))
	i.want(0, open("/dev/zero", unix.O_RDONLY))
	i.want(0, mknod(filepath.Join(dir, "kmsg"), unix.S_IFCHR, 1, 11))
	i.want(unix.EPERM, open(filepath.Join(dir, "kmsg"), unix.O_RDONLY))
	i.want(unix.EPERM, open(filepath.Join(dir, "kmsg"), unix.O_WRONLY))
	i.want(0, mknod(filepath.Join(dir, "disk"), unix.S_IFBLK, 8, 0))
	i.want(unix.EPERM, open(filepath.Join(dir, "disk"), unix.O_RDONLY))
	i.want(unix.EPERM, mknod(filepath.Join(dir, "fuse"), unix.S_IFCHR, 10, 229))
	// What is no device is not asked about; nor is overlay's whiteout.
	i.want(0, mknod(filepath.Join(dir, "fifo"), unix.S_IFIFO, 0, 0))
	i.want(0, open(filepath.Join(dir), unix.O_RDONLY))
}

func TestKernelSplitsAccess(t *testing.T) {
	cgroup := newCgroup(t, hierarchy(t))
	mustAttach(t, cgroup, rules(t, "allow c 1:* rw", "deny c 1:5 w", "allow c 1:7 r"))
	i := jail(t, cgroup)
	i.want(0, open("/dev/zero", unix.O_RDONLY))
	i.want(unix.EPERM, open("/dev/zero", unix.O_WRONLY))
	i.want(unix.EPERM, open("/dev/zero", unix.O_RDWR))
	i.want(0, open("/dev/null", unix.O_RDWR))
	i.want(unix.EPERM, mknod(filepath.Join(t.TempDir(), "null"), unix.S_IFCHR, 1, 3))
}

// An update reaches processes that are in the cgroup, and leaves one program.
func TestReplace(t *testing.T) {
	cgroup := newCgroup(t, hierarchy(t))
	i := jail(t, cgroup)
	i.want(0, open("/dev/null", unix.O_RDWR))
	var last []uint32
	for range 3 {
		mustAttach(t, cgroup, nil)
		i.want(unix.EPERM, open("/dev/null", unix.O_RDWR))
		mustAttach(t, cgroup, rules(t, "allow c 1:3 r"))
		i.want(0, open("/dev/null", unix.O_RDONLY))
		i.want(unix.EPERM, open("/dev/null", unix.O_RDWR))
		ids, err := programs(cgroup)
		if err != nil || len(ids) != 1 || slices.Equal(ids, last) {
			t.Fatalf("programs %v, %v", ids, err)
		}
		last = ids
	}
	same := mustLoad(t, rules(t, "allow c 1:3 rw"))
	for range 2 {
		if err := Attach(cgroup, same); err != nil {
			t.Fatalf("the same program again: %v", err)
		}
	}
	i.want(0, open("/dev/null", unix.O_RDWR))
}

// One loaded program serves many cgroups.
func TestShare(t *testing.T) {
	parent := hierarchy(t)
	program := mustLoad(t, rules(t, "allow c 1:3 rw"))
	for range 3 {
		cgroup := newCgroup(t, parent)
		if err := Attach(cgroup, program); err != nil {
			t.Fatal(err)
		}
		i := jail(t, cgroup)
		i.want(0, open("/dev/null", unix.O_RDWR))
		i.want(unix.EPERM, open("/dev/zero", unix.O_RDONLY))
	}
}

// Programs of others, as systemd has them, stay where they are.
func TestForeignProgramStays(t *testing.T) {
	cgroup := newCgroup(t, hierarchy(t))
	mustLoad(t, nil) // or skip
	code, err := Compile(rules(t, "allow c 1:3 rw", "allow c 1:5 rw"))
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := load(code, "sd_devices")
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	if err := attach(cgroup, foreign, nil); err != nil {
		t.Fatal(err)
	}
	i := jail(t, cgroup)
	for range 2 {
		mustAttach(t, cgroup, rules(t, "allow c 1:3 rw", "allow c 1:8 rw"))
		i.want(0, open("/dev/null", unix.O_RDWR))
		i.want(unix.EPERM, open("/dev/zero", unix.O_RDONLY))
		i.want(unix.EPERM, open("/dev/random", unix.O_RDONLY))
		if ids, err := programs(cgroup); err != nil || len(ids) != 2 {
			t.Fatalf("programs %v, %v", ids, err)
		}
	}
}

// What a parent cgroup denies stays denied below it.
func TestNested(t *testing.T) {
	parent := newCgroup(t, hierarchy(t))
	child := newCgroup(t, parent.Name())
	mustAttach(t, parent, rules(t, "allow c 1:3 rw"))
	mustAttach(t, child, rules(t, "allow rwm"))
	i := jail(t, child)
	i.want(0, open("/dev/null", unix.O_RDWR))
	i.want(unix.EPERM, open("/dev/zero", unix.O_RDONLY))
}

// The verifier follows every path; many rules must not be too many paths.
func TestManyRules(t *testing.T) {
	cgroup := newCgroup(t, hierarchy(t))
	list := rules(t, "allow c *:* m")
	for n := range 100 {
		list = append(list, rules(t, fmt.Sprintf("allow c 1:%d r", n), fmt.Sprintf("deny b %d:* w", n))...)
	}
	mustAttach(t, cgroup, list)
	i := jail(t, cgroup)
	i.want(0, open("/dev/zero", unix.O_RDONLY))
	i.want(unix.EPERM, open("/dev/zero", unix.O_WRONLY))
}

func TestLoadErrors(t *testing.T) {
	if _, err := Load(nil); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("empty program: %v", err)
	}
	mustLoad(t, nil) // or skip
	_, err := Load([]Instruction{{Code: opLoad, Registers: result | context<<4, Offset: 100}, {Code: opExit}})
	if !errors.Is(err, unix.EACCES) || !strings.Contains(err.Error(), "invalid bpf_context access") {
		t.Errorf("access behind the context: %v", err)
	}
}

func TestAttachErrors(t *testing.T) {
	program := mustLoad(t, nil)
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := Attach(dir, program); !errors.Is(err, unix.EBADF) {
		t.Errorf("attach to a directory that is no cgroup: %v", err)
	}
	cgroup := newCgroup(t, hierarchy(t))
	if err := Attach(cgroup, dir); !errors.Is(err, unix.EINVAL) {
		t.Errorf("attach a file that is no program: %v", err)
	}
}

func BenchmarkLoadAttach(b *testing.B) {
	cgroup := newCgroup(b, hierarchy(b))
	code, err := Compile(dockerRules(b))
	if err != nil {
		b.Fatal(err)
	}
	b.Run("load", func(b *testing.B) {
		for b.Loop() {
			f, err := Load(code)
			if err != nil {
				b.Fatal(err)
			}
			f.Close()
		}
	})
	b.Run("attach", func(b *testing.B) {
		f, err := Load(code)
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		for b.Loop() {
			if err := Attach(cgroup, f); err != nil {
				b.Fatal(err)
			}
		}
	})
}
