package engine

import (
	"bytes"
	"errors"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/inboard/engine/internal/cgroup"
)

// cgroupFiles are where the container itself sees a limit: of cgroups v1, and
// of v2. Both are relative to /sys/fs/cgroup.
var cgroupFiles = map[string][2]string{
	"memory": {"memory/memory.limit_in_bytes", "memory.max"},
	"swap":   {"memory/memory.memsw.limit_in_bytes", "memory.swap.max"},
	"quota":  {"cpu/cpu.cfs_quota_us", "cpu.max"},
	"shares": {"cpu/cpu.shares", "cpu.weight"},
	"cpus":   {"cpuset/cpuset.cpus", "cpuset.cpus"},
	"mems":   {"cpuset/cpuset.mems", "cpuset.mems"},
	"pids":   {"pids/pids.max", "pids.max"},

	"reservation": {"memory/memory.soft_limit_in_bytes", "memory.low"},
	"swappiness":  {"memory/memory.swappiness", ""},
	"tcp":         {"memory/memory.kmem.tcp.limit_in_bytes", ""},
	"oom":         {"memory/memory.oom_control", ""},
	"period":      {"cpu/cpu.cfs_period_us", "cpu.max"},
	"weight":      {"blkio/blkio.bfq.weight", "io.weight"},
}

// Limits reach the kernel, as the container's own cgroup shows them to it, and
// an exec'd process is below them too.
func TestResourcesInTheKernel(t *testing.T) {
	e, img := plainImage(t)
	host, err := cgroup.Detect()
	if err != nil {
		t.Skip(err)
	}
	have := host.Controllers()
	const memory = 64 << 20
	for _, test := range []struct {
		controller string
		r          Resources
		file       string
		want       [2]string
	}{
		{"memory", Resources{Memory: memory}, "memory", [2]string{"67108864", "67108864"}},
		{"memory", Resources{Memory: memory}, "swap", [2]string{"134217728", "67108864"}},
		{"memory", Resources{Memory: memory, MemorySwap: memory}, "swap", [2]string{"67108864", "0"}},
		{"memory", Resources{Memory: memory, MemorySwap: -1}, "swap", [2]string{"9223372036854771712", "max"}},
		{"cpu", Resources{CPUs: 0.25}, "quota", [2]string{"25000", "25000 100000"}},
		{"cpu", Resources{CPUShares: 512}, "shares", [2]string{"512", "59"}},
		{"cpuset", Resources{CpusetCPUs: "0"}, "cpus", [2]string{"0", "0"}},
		{"cpuset", Resources{CpusetMems: "0"}, "mems", [2]string{"0", "0"}},
		{"pids", Resources{Pids: 33}, "pids", [2]string{"33", "33"}},
		{"pids", Resources{Pids: -1}, "pids", [2]string{"max", "max"}},
		{"memory", Resources{Memory: memory, MemoryReservation: memory / 2}, "reservation", [2]string{"33554432", "33554432"}},
		{"memory", Resources{MemorySwappiness: pointer[int64](0)}, "swappiness", [2]string{"0", ""}},
		{"memory", Resources{MemorySwappiness: pointer[int64](77)}, "swappiness", [2]string{"77", ""}},
		{"memory", Resources{KernelMemoryTCP: memory}, "tcp", [2]string{"67108864", ""}},
		{"memory", Resources{Memory: memory, OOMKillDisable: true}, "oom", [2]string{"oom_kill_disable 1\nunder_oom 0\noom_kill 0", ""}},
		{"cpu", Resources{CPUQuota: 10000, CPUPeriod: 20000}, "quota", [2]string{"10000", "10000 20000"}},
		{"cpu", Resources{CPUQuota: 10000, CPUPeriod: 20000}, "period", [2]string{"20000", "10000 20000"}},
		{"cpu", Resources{CPUQuota: 50000}, "quota", [2]string{"50000", "50000 100000"}},
		{"blkio", Resources{BlkioWeight: 10}, "weight", [2]string{"10", ""}},
		{"io", Resources{BlkioWeight: 10}, "weight", [2]string{"", "default 1"}},
	} {
		if !slices.Contains(have, test.controller) {
			t.Logf("no controller %s here", test.controller)
			continue
		}
		i, name := 0, cgroupFiles[test.file][0]
		if host.Mode() == cgroup.Unified {
			i, name = 1, cgroupFiles[test.file][1]
		}
		if test.want[i] == "" { // there is no such limit
			c := create(t, e, img, Config{Args: []string{"pause"}, Resources: test.r})
			if err := c.Start(t.Context()); !errors.Is(err, ErrUnsupported) {
				t.Errorf("%+v: %v", test.r, err)
			}
			continue
		}
		c := create(t, e, img, Config{Args: []string{"pause"}, Resources: test.r})
		if err := c.Start(t.Context()); errors.Is(err, ErrUnsupported) && strings.Contains(err.Error(), "there is no file") {
			t.Log(err)
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		x, err := c.Exec(t.Context(), ExecConfig{Args: []string{"/prog", programFlag, "read", "/sys/fs/cgroup/" + name}, Stdout: &out, Stderr: &out})
		if err != nil {
			t.Fatal(err)
		}
		status, err := x.Wait(t.Context())
		switch got := strings.TrimSpace(out.String()); {
		case err != nil:
			t.Error(err)
		case status.Code != 0 && test.file == "swap" && strings.Contains(got, "no such file"):
			t.Log("this kernel does not account swap")
		case got != test.want[i]:
			t.Errorf("%+v: %s is %q, want %q", test.r, name, got, test.want[i])
		}
		if info, err := c.Inspect(t.Context()); err != nil || !reflect.DeepEqual(info.Resources, test.r) {
			t.Errorf("%+v, %v", info.Resources, err)
		}
		if err := c.Remove(t.Context(), RemoveOptions{Force: true}); err != nil {
			t.Error(err)
		}
	}
	// A number of processors that the kernel allots, beside what it is asked for.
	if n := runtime.NumCPU(); n > 1 && slices.Contains(have, "cpuset") {
		out, _ := runs(t, Config{Resources: Resources{CpusetCPUs: strconv.Itoa(n - 1)}}, "read", "/proc/self/status")
		if want := "Cpus_allowed_list:\t" + strconv.Itoa(n-1) + "\n"; !strings.Contains(out, want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
}

// A limit whose controller is not there is refused by name, and a machine
// without cgroups says that; containers without such a limit run.
func TestMissingController(t *testing.T) {
	if !inOwnMounts(t) {
		return
	}
	hidden, want := "/sys/fs/cgroup/pids", "controller pids"
	if _, err := os.Stat(hidden + "/cgroup.procs"); err != nil { // v2, where what the kernel has is there
		hidden, want = "/sys/fs/cgroup", "no cgroup hierarchy"
	}
	// In this mount namespace alone.
	if err := unix.Mount("inboard-test", hidden, "tmpfs", unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(hidden, 0)
	e := testEngine(t)
	img := pulled(t, e, nil)
	c := create(t, e, img, Config{Args: []string{"exit", "0"}, Resources: Resources{Pids: 10}})
	for range 2 {
		if err := c.Start(t.Context()); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v", err)
		}
	}
	if info, err := c.Inspect(t.Context()); err != nil || info.State != StateCreated {
		t.Errorf("%+v, %v", info, err)
	}
	if hidden == "/sys/fs/cgroup" {
		return
	}
	c = started(t, e, img, Config{Args: []string{"exit", "0"}, Resources: Resources{Memory: 64 << 20}})
	if status, err := c.Wait(t.Context()); err != nil || status.Code != 0 {
		t.Errorf("%v, %v", status, err)
	}
}

// What the image says of volumes and ports is kept with the container, and
// set-uid programs and capabilities give nothing where new privileges are refused.
func TestConfigIsKept(t *testing.T) {
	e := sharedEngine(t)
	img := pulled(t, e, func(c *v1.ConfigFile) {
		c.Config.Volumes = map[string]struct{}{"/var/lib/data": {}, "/srv": {}}
		c.Config.ExposedPorts = map[string]struct{}{"80/tcp": {}}
		c.Config.StopSignal, c.Config.Labels = "SIGUSR1", map[string]string{"from": "image"}
	})
	c := create(t, e, img, Config{Args: []string{"read", "/proc/self/status"}, Security: Security{NoNewPrivileges: true},
		Rlimits: []Rlimit{{"nofile", 99, 100}}, Labels: map[string]string{"mine": "x"}})
	for _, handle := range []*Container{c, {engine: e, id: c.ID(), owner: c.owner}} { // of this program, and as of another
		info, err := handle.Inspect(t.Context())
		p := info.Process
		if err != nil || !slices.Equal(p.Volumes, []string{"/srv", "/var/lib/data"}) || !slices.Equal(p.ExposedPorts, []string{"80/tcp"}) ||
			p.StopSignal != "SIGUSR1" || p.Labels["from"] != "image" || p.Labels["mine"] != "x" || !info.Security.NoNewPrivileges ||
			!slices.Equal(info.Rlimits, []Rlimit{{"nofile", 99, 100}}) || info.Network != NetworkNone {
			t.Errorf("%+v, %v", info, err)
		}
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if log := logOf(t, c); !strings.Contains(log, "NoNewPrivs:\t1\n") {
		t.Error(log)
	}
	if out, _ := runs(t, Config{}, "read", "/proc/self/status"); !strings.Contains(out, "NoNewPrivs:\t0\n") {
		t.Error(out)
	}
}
