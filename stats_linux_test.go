package engine

import (
	"bytes"
	"errors"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/inboard/engine/internal/cgroup"
	"github.com/inboard/engine/runtime"
)

// needController skips a test on a machine without one of the controllers.
func needController(t *testing.T, names ...string) {
	t.Helper()
	host, err := cgroup.Detect()
	if err != nil {
		t.Skip(err)
	}
	if !slices.ContainsFunc(names, func(name string) bool { return slices.Contains(host.Controllers(), name) }) {
		t.Skip("needs the controller ", strings.Join(names, " or "))
	}
}

func TestStats(t *testing.T) {
	needController(t, "memory")
	needController(t, "pids")
	e, img := plainImage(t)
	c := create(t, e, img, Config{Args: []string{"stubborn"}, Resources: Resources{Memory: 64 << 20, Pids: 50}})
	if _, err := c.Stats(t.Context()); !errors.Is(err, ErrFailedPrecondition) || !strings.Contains(err.Error(), "not running, but created") {
		t.Errorf("before the start: %v", err)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitLog(t, c, "ready\n")
	own, err := c.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := (&Container{engine: e, id: c.ID(), owner: c.owner}).Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []Stats{own, foreign} {
		if s.Memory.Limit != 64<<20 || s.Memory.Usage == 0 || s.Memory.Usage > 64<<20 || s.Memory.OOMKills != 0 || s.Pids.Limit != 50 || s.Pids.Current == 0 {
			t.Errorf("%+v", s)
		}
		if s.CPU.Usage == 0 || s.CPU.Usage > time.Minute || time.Since(s.Time) > time.Minute {
			t.Errorf("%+v", s)
		}
	}
}

// A container whose child the kernel kills for want of memory goes on, and
// tells of it.
func TestOOMKillOfChild(t *testing.T) {
	needController(t, "memory")
	e, img := plainImage(t)
	c := started(t, e, img, Config{Args: []string{"breed"}, Resources: Resources{Memory: 48 << 20, MemorySwap: 48 << 20}})
	awaitLog(t, c, "signal: killed\n")
	if s, err := c.Stats(t.Context()); err != nil || s.Memory.OOMKills != 1 {
		t.Errorf("%+v, %v", s.Memory, err)
	}
	if s := stateOf(t, c); s != StateRunning {
		t.Error(s)
	}
	if err := c.Kill(t.Context(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if status, err := c.Wait(t.Context()); err != nil || !status.OOMKilled {
		t.Errorf("%+v, %v", status, err)
	}
}

// An update holds for the running container, the record, and the next start.
func TestUpdate(t *testing.T) {
	for _, name := range []string{"memory", "cpu", "pids"} {
		needController(t, name)
	}
	e, img := plainImage(t)
	c := create(t, e, img, Config{Args: []string{"wait"}, Resources: Resources{Memory: 64 << 20, CPUs: 1, ShmSize: 1 << 20}})
	update := func(r Resources) {
		t.Helper()
		if err := c.Update(t.Context(), UpdateOptions{Resources: r}); err != nil {
			t.Fatal(err)
		}
	}
	check := func(want Resources, memory, pids uint64) {
		t.Helper()
		info, err := c.Inspect(t.Context())
		if err != nil || !reflect.DeepEqual(info.Resources, want) {
			t.Errorf("%+v, %v; want %+v", info.Resources, err, want)
		}
		if !info.State.live() {
			return
		}
		if s, err := c.Stats(t.Context()); err != nil || s.Memory.Limit != memory || s.Pids.Limit != pids {
			t.Errorf("limits %d and %d, want %d and %d; %v", s.Memory.Limit, s.Pids.Limit, memory, pids, err)
		}
	}
	now := Resources{Memory: 96 << 20, CPUs: 1, ShmSize: 1 << 20, Pids: 60}
	update(Resources{Memory: now.Memory, Pids: now.Pids}) // before the first start
	check(now, 0, 0)
	for range 2 { // the second run has what the first was given
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		check(now, uint64(now.Memory), uint64(now.Pids))
		now.Memory, now.CPUs, now.CPUQuota, now.CPUShares = now.Memory+32<<20, 0, now.CPUQuota+2000, 512
		update(Resources{Memory: now.Memory, CPUQuota: now.CPUQuota, CPUShares: 512})
		check(now, uint64(now.Memory), uint64(now.Pids))
		for _, test := range []struct {
			r  Resources
			is error
		}{
			{Resources{Memory: 6 << 20, MemorySwap: 1 << 20}, ErrInvalidArgument},
			{Resources{CPUs: 1, CPUPeriod: 5000}, ErrInvalidArgument},
			{Resources{ShmSize: 2 << 20}, ErrInvalidArgument},
			{Resources{MemoryReservation: 1 << 30}, ErrInvalidArgument},
			{Resources{CPUShares: 700, CpusetCPUs: "4095"}, ErrInvalidArgument},
			{Resources{CPUShares: 700, RDMA: []RDMALimit{{Device: "none0", Handles: pointer[uint32](1)}}}, nil},
		} {
			if err := c.Update(t.Context(), UpdateOptions{Resources: test.r}); err == nil || test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("%+v: %v", test.r, err)
			}
		}
		check(now, uint64(now.Memory), uint64(now.Pids))
		if err := c.Kill(t.Context(), unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	now.Memory, now.CPUQuota, now.Pids = 0, 0, -1
	update(Resources{Memory: -1, CPUQuota: -1, Pids: -1})
	check(now, NoLimit, NoLimit)
	if err := c.Remove(t.Context(), RemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	if err := c.Update(t.Context(), UpdateOptions{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("after removal: %v", err)
	}
}

// insideOutput is what the program says when it is run in a container.
func insideOutput(t *testing.T, c *Container, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	x, err := c.Exec(t.Context(), ExecConfig{Args: append([]string{"/prog", programFlag}, args...), Stdout: &out, Stderr: &out})
	if err != nil {
		t.Fatal(err)
	}
	if status, err := x.Wait(t.Context()); err != nil || status.Code != 0 {
		t.Errorf("%v, %v: %s", status, err, &out)
	}
	return out.String()
}

// A limit of memory below what is in use is refused, and kills nothing.
func TestUpdateBelowUsage(t *testing.T) {
	needController(t, "memory")
	e, img := plainImage(t)
	c := started(t, e, img, Config{Args: []string{"hoard", "64"}, Resources: Resources{Memory: 256 << 20, MemorySwap: 256 << 20}})
	awaitLog(t, c, "full\n")
	for range 2 {
		err := c.Update(t.Context(), UpdateOptions{Resources: Resources{Memory: 16 << 20, MemorySwap: 16 << 20}})
		if !errors.Is(err, ErrFailedPrecondition) || !strings.Contains(err.Error(), "in use") {
			t.Error(err)
		}
		if info, err := c.Inspect(t.Context()); err != nil || info.State != StateRunning && info.State != StatePaused || info.Resources.Memory != 256<<20 {
			t.Errorf("%+v, %v", info, err)
		}
		if c.Pause(t.Context()) != nil { // nor does it when it is paused
			break
		}
	}
}

// What a block device may be read and written is limited by its path.
func TestBlkioDevice(t *testing.T) {
	needController(t, "blkio", "io")
	var st unix.Stat_t
	dir := t.TempDir()
	if err := unix.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	if unix.Major(st.Dev) == 0 {
		t.Skip("needs temporary files on a block device")
	}
	device := dir + "/device"
	if err := unix.Mknod(device, unix.S_IFBLK|0o600, int(st.Dev)); err != nil {
		t.Fatal(err)
	}
	rate := func(n uint64) []DeviceRate { return []DeviceRate{{device, n}} }
	e, img := plainImage(t)
	c := create(t, e, img, Config{Args: []string{"wait"}, Resources: Resources{
		BlkioDeviceReadBps: rate(1 << 30), BlkioDeviceWriteBps: rate(2 << 30), BlkioDeviceReadIOps: rate(3000), BlkioDeviceWriteIOps: rate(4000),
	}})
	if err := c.Start(t.Context()); err != nil {
		if errors.Is(err, ErrUnsupported) || errors.Is(err, ErrNotFound) || errors.Is(err, ErrInvalidArgument) { // a partition
			t.Skip("needs a whole disk, and the kernel's throttling:", err)
		}
		t.Fatal(err)
	}
	host, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	read := func(v1, v2 string) string {
		name := "/sys/fs/cgroup/" + v2
		if host.Mode() != cgroup.Unified {
			name = "/sys/fs/cgroup/blkio/" + v1
		}
		return insideOutput(t, c, "read", name)
	}
	for file, want := range map[string]string{
		"blkio.throttle.read_bps_device": " 1073741824\n", "blkio.throttle.write_bps_device": " 2147483648\n",
		"blkio.throttle.read_iops_device": " 3000\n", "blkio.throttle.write_iops_device": " 4000\n",
	} {
		if host.Mode() == cgroup.Unified {
			want = " rbps=1073741824 wbps=2147483648 riops=3000 wiops=4000\n"
		}
		if got := read(file, "io.max"); !strings.HasSuffix(got, want) {
			t.Errorf("%s: %q, want %q", file, got, want)
		}
	}
	if err := c.Update(t.Context(), UpdateOptions{Resources: Resources{BlkioDeviceReadBps: rate(1 << 20), BlkioDeviceReadIOps: rate(0)}}); err != nil {
		t.Fatal(err)
	}
	if host.Mode() == cgroup.Unified {
		if got := read("", "io.max"); !strings.HasSuffix(got, " rbps=1048576 wbps=2147483648 riops=max wiops=4000\n") {
			t.Error(got)
		}
	} else if got := read("blkio.throttle.read_bps_device", "") + read("blkio.throttle.read_iops_device", ""); !strings.HasSuffix(got, " 1048576\n") {
		t.Error(got)
	}
	os.Remove(device)
	if err := c.Update(t.Context(), UpdateOptions{Resources: Resources{BlkioDeviceReadBps: rate(1)}}); !errors.Is(err, ErrInvalidArgument) {
		t.Error(err)
	}
}

func TestCgroupParent(t *testing.T) {
	e, img := plainImage(t)
	parent := cgroupParent + "/of a user"
	c := started(t, e, img, Config{Args: []string{"wait"}, CgroupParent: "/" + parent})
	info, err := c.Inspect(t.Context())
	if err != nil || !strings.HasPrefix(info.Cgroup, parent+"/") || info.CgroupParent != "/"+parent {
		t.Errorf("%+v, %v", info, err)
	}
	for _, test := range []struct {
		parent string
		is     error
	}{{"a/../b", ErrInvalidArgument}, {"..", ErrInvalidArgument}, {"a\x00", ErrInvalidArgument}, {"system.slice", ErrNotImplemented}, {"a:b:c", ErrNotImplemented}} {
		if _, err := e.Create(t.Context(), img, Config{Network: NetworkNone, CgroupParent: test.parent}); !errors.Is(err, test.is) || !strings.Contains(err.Error(), "cgroup parent") {
			t.Errorf("%q: %v", test.parent, err)
		}
	}
}

// A score below the program's own is a matter of its capability: with it the
// container has the score, without it there is an error that says so.
func TestOOMScoreAdj(t *testing.T) {
	for n, want := range map[int]string{0: "0\n", 500: "500\n"} {
		out, status := runs(t, Config{Resources: Resources{OOMScoreAdj: n}}, "read", "/proc/self/oom_score_adj")
		if out != want || status.Code != 0 {
			t.Errorf("%d: %q, %v", n, out, status)
		}
	}
	e, img := plainImage(t)
	var out bytes.Buffer
	c := create(t, e, img, Config{Args: []string{"read", "/proc/self/oom_score_adj"}, Stdout: &out, Resources: Resources{OOMScoreAdj: -500}})
	err := c.Start(t.Context())
	if !slices.Contains(runtime.Capabilities(), "CAP_SYS_RESOURCE") {
		if !errors.Is(err, ErrPermissionDenied) || !strings.Contains(err.Error(), "CAP_SYS_RESOURCE") || stateOf(t, c) != StateCreated {
			t.Error(err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Wait(t.Context()); err != nil || out.String() != "-500\n" {
		t.Errorf("%q, %v", &out, err)
	}
}

// Realtime time comes from the cgroups above, which have none to give unless
// somebody gives it to them; cgroups v2 have no such limit.
func TestRealtimeRefused(t *testing.T) {
	needController(t, "cpu")
	host, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	e, img := plainImage(t)
	c := create(t, e, img, Config{Args: []string{"wait"}, Resources: Resources{CPURealtimeRuntime: 1000}})
	is, text := ErrInvalidArgument, "no realtime time to give"
	if _, err := os.Stat("/sys/fs/cgroup/cpu/cpu.rt_runtime_us"); err != nil {
		is, text = ErrUnsupported, "cpu.rt_runtime_us"
		if host.Mode() == cgroup.Unified {
			text = "cgroups v2 have no such limit"
		}
	}
	if err := c.Start(t.Context()); !errors.Is(err, is) || !strings.Contains(err.Error(), text) {
		t.Errorf("%v, want %q", err, text)
	}
}
