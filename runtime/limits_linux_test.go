package runtime

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/inboard/engine/internal/cgroup"
)

func init() {
	// eat touches megabytes of memory.
	programs["eat"] = func(args []string) int {
		n, _ := strconv.Atoi(args[0])
		b, err := unix.Mmap(-1, 0, n<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		for i := 0; err == nil && i < len(b); i += 4096 {
			b[i] = 1
		}
		return exitCode(err)
	}
}

func needController(t *testing.T, name string) {
	t.Helper()
	needRoot(t)
	host, err := cgroup.Detect()
	if err != nil {
		t.Skip(err)
	}
	for _, c := range host.Controllers() {
		if c == name {
			return
		}
	}
	t.Skip("needs the controller ", name)
}

func limitMemory(s *specs.Spec, bytes int64) {
	s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &bytes}
}

// The kernel's memory limit ends processes of the container, and nothing else.
func TestMemoryLimit(t *testing.T) {
	needController(t, "memory")
	r := openTest(t)
	root := newRootfs(t)
	s := newSpec(t, root, "eat", "200")
	limitMemory(s, 64<<20)
	c := start(t, r, s, CreateOptions{})
	if st := wait(t, c); st != (Status{Code: 137, Signal: unix.SIGKILL, OOMKilled: true, Known: true}) {
		t.Errorf("%+v", st)
	}
	in := idle(t, r, func(s *specs.Spec) { limitMemory(s, 64<<20) })
	x, err := in.Exec(background, s.Process, ProcessOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if st := wait(t, x); !st.OOMKilled && in.Pid() != 0 {
		t.Errorf("exec: %+v", st)
	}
	small := newSpec(t, root, "eat", "8")
	limitMemory(small, 128<<20)
	if st := wait(t, start(t, r, small, CreateOptions{})); st != (Status{Known: true}) {
		t.Errorf("below the limit: %+v", st)
	}
}

// A limit so low that the process is killed before it executes its command, or
// that the kernel refuses, is an error of Start that says so.
func TestMemoryLimitTooLow(t *testing.T) {
	needController(t, "memory")
	r := openTest(t)
	root := newRootfs(t)
	other := idle(t, r, nil)
	for _, limit := range []int64{4096, 16384, 65536, 256 << 10} {
		s := fileSpec(t, root, "/bin/true")
		limitMemory(s, limit)
		c, err := r.Start(background, s, CreateOptions{})
		switch {
		case err == nil:
			if st := wait(t, c); !st.Known {
				t.Errorf("%d: %+v", limit, st)
			}
			c.Delete(background)
		case errdefs.IsResourceExhausted(err) && strings.Contains(err.Error(), "memory limit"):
		case errors.Is(err, unix.ENOMEM):
		default:
			t.Errorf("%d bytes: %v", limit, err)
		}
	}
	if other.Pid() == 0 {
		t.Error("another container died")
	}
	output(t, r, fileSpec(t, root, "/bin/true"), CreateOptions{})
}

func TestPidsLimit(t *testing.T) {
	needController(t, "pids")
	r := openTest(t)
	root := newRootfs(t)
	s := fileSpec(t, root, "/bin/sleep")
	s.Linux.Resources.Pids = &specs.LinuxPids{Limit: ptr(int64(1))}
	c := start(t, r, s, CreateOptions{})
	if _, err := c.Exec(background, fileSpec(t, root, "/bin/true").Process, ProcessOptions{}); !errors.Is(err, unix.EAGAIN) {
		t.Error(err)
	}
	if n := nestedChildren(t, c); len(n) > 0 {
		t.Error("left:", n)
	}
}

// A container's view of its cgroups is the same whether it comes as one mount
// or as several.
func TestCgroupViews(t *testing.T) {
	r := openTest(t)
	if r.cgroups.host.Mode() == cgroup.Unified {
		t.Skip("needs a host with cgroups v1")
	}
	root := newRootfs(t)
	s := newSpec(t, root, "tree", "/sys/fs/cgroup")
	s.Linux.Resources.Pids = &specs.LinuxPids{Limit: ptr(int64(77))}
	whole := output(t, r, s, CreateOptions{})
	defer func(f func(*cgroup.Cgroup) (*os.File, error)) { cgroupTree = f }(cgroupTree)
	cgroupTree = func(*cgroup.Cgroup) (*os.File, error) { return nil, errdefs.ErrNotImplemented }
	parts := output(t, r, s, CreateOptions{})
	names := func(text string) (list []string) {
		for line := range strings.Lines(text) {
			list = append(list, strings.Join(strings.Fields(line)[:2], " "))
			if strings.Contains(line, "pids.max ") && !strings.Contains(line, `"77\n"`) {
				t.Error(line)
			}
		}
		return list
	}
	if a, b := strings.Join(names(whole), "\n"), strings.Join(names(parts), "\n"); a != b || len(a) < 100 {
		t.Errorf("one mount:\n%s\nseveral:\n%s", a, b)
	}
	if text := output(t, r, newSpec(t, root, "writable", "2000", "/sys/fs/cgroup"), CreateOptions{}); text != "" {
		t.Error("writable:", text)
	}
}

// A cgroup that the spec names is used and removed.
func TestCgroupsPath(t *testing.T) {
	r := openTest(t)
	s := newSpec(t, newRootfs(t), "idle")
	s.Linux.CgroupsPath = "/" + testParent + "/named/one"
	c := start(t, r, s, CreateOptions{})
	if c.CgroupPath() != testParent+"/named/one" {
		t.Error(c.CgroupPath())
	}
	cgroups, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.Pid()))
	if !bytes.Contains(cgroups, []byte(":/"+testParent+"/named/one\n")) {
		t.Errorf("%s", cgroups)
	}
	if _, err := r.Start(background, s, CreateOptions{}); !errdefs.IsAlreadyExists(err) {
		t.Error("a second container in it:", err)
	}
	dirs := cgroupDirs(testParent + "/named")
	c.Delete(background)
	r.Close()
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, "one")); err == nil {
			t.Error("left:", dir)
		}
		os.Remove(dir)
	}
}

// Descriptors that a container may not open: Docker's device rules.
func TestDeviceRules(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	s := newSpec(t, root, "devices")
	if text := output(t, r, s, CreateOptions{}); text != "null <nil>\nfull <nil>\nmem operation not permitted\nblock operation not permitted\n" {
		t.Error(text)
	}
}

func init() {
	programs["devices"] = func([]string) int {
		for _, d := range []struct {
			name string
			mode uint32
			dev  uint64
		}{{"null", unix.S_IFCHR, unix.Mkdev(1, 3)}, {"full", unix.S_IFCHR, unix.Mkdev(1, 7)}, {"mem", unix.S_IFCHR, unix.Mkdev(1, 1)}, {"block", unix.S_IFBLK, unix.Mkdev(7, 0)}} {
			if err := unix.Mknod("/dev/made-"+d.name, d.mode|0o666, int(d.dev)); err != nil {
				return exitCode(err)
			}
			fd, err := unix.Open("/dev/made-"+d.name, unix.O_RDONLY, 0)
			unix.Close(fd)
			fmt.Println(d.name, err)
		}
		return 0
	}
}
