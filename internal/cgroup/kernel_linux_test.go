package cgroup

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// These tests ask the kernel what the limits do.

func TestMemoryLimit(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		needs(t, h, "memory")
		c := newCgroup(t, h, "n")
		set(t, c, memory(specs.LinuxMemory{Limit: ptr[int64](32 * mb), Swap: ptr[int64](32 * mb)}))
		if n, err := c.OOMKills(); n != 0 || err != nil {
			t.Errorf("oom kills before: %d, %v", n, err)
		}
		a := start(t, c, "eat", "200")
		a.cmd.Wait()
		if ws := a.cmd.ProcessState.Sys().(syscall.WaitStatus); !ws.Signaled() || ws.Signal() != syscall.SIGKILL {
			t.Errorf("%v, want killed", a.cmd.ProcessState)
		}
		if n, err := c.OOMKills(); n != 1 || err != nil {
			t.Errorf("oom kills: %d, %v; want 1", n, err)
		}
		again := newCgroup(t, h, "m")
		set(t, again, memory(specs.LinuxMemory{Limit: ptr[int64](256 * mb)}))
		b := start(t, again, "eat", "50")
		if got := b.line(t); got != "ate <nil>" {
			t.Error(got)
		}
		b.cmd.Wait()
		if n, err := again.OOMKills(); n != 0 || err != nil {
			t.Errorf("oom kills: %d, %v; want 0", n, err)
		}
	})
}

// Limit and sum with swap bound each other; any order of values must work.
func TestMemoryRaiseAndLower(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		needs(t, h, "memory")
		limit, sum := "memory.max", "memory.swap.max"
		if h.version("memory") == 1 {
			limit, sum = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
		}
		c := newCgroup(t, h, "n")
		if _, err := c.read("memory", sum); err != nil {
			t.Skip("needs accounting of swap")
		}
		for _, x := range [][2]int64{{64, 128}, {256, 512}, {16, 32}, {32, 32}, {512, 512}, {8, 1024}, {1024, 1024}, {4, 4}} {
			set(t, c, memory(specs.LinuxMemory{Limit: ptr(x[0] * mb), Swap: ptr(x[1] * mb)}))
			if h.version("memory") == 2 {
				x[1] -= x[0]
			}
			if got := content(t, c, "memory", limit); got != fmt.Sprint(x[0]*mb) {
				t.Errorf("%v: limit %s", x, got)
			}
			if got := content(t, c, "memory", sum); got != fmt.Sprint(x[1]*mb) {
				t.Errorf("%v: %s is %s", x, sum, got)
			}
		}
		set(t, c, memory(specs.LinuxMemory{Limit: ptr[int64](-1)}))
		if got := content(t, c, "memory", limit); got != "max" && len(got) < 19 {
			t.Errorf("no limit: %s", got)
		}
	})
}

func TestMemoryCheckBeforeUpdate(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		needs(t, h, "memory")
		c := newCgroup(t, h, "n")
		a := start(t, c, "sleep")
		a.line(t)
		err := c.Set(memory(specs.LinuxMemory{Limit: ptr[int64](4096), CheckBeforeUpdate: ptr(true)}))
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "in use") {
			t.Error(err)
		}
		a.in.Close()
		a.cmd.Wait()
	})
}

func TestPidsLimitStopsForkBomb(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		needs(t, h, "pids")
		c := newCgroup(t, h, "n")
		const limit = 40
		set(t, c, pidsLimit(limit))
		a := start(t, c, "bomb")
		n, err := strconv.Atoi(a.line(t))
		// The Go runtime's threads count as well.
		if err != nil || n >= limit || n == 0 {
			t.Errorf("%d forks, %v; limit %d", n, err, limit)
		}
		kill(t, c)
		remove(t, c)
	})
}

func TestCPUQuotaThrottles(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		needs(t, h, "cpu")
		c := newCgroup(t, h, "n")
		set(t, c, cpu(specs.LinuxCPU{Quota: ptr[int64](2000), Period: ptr[uint64](20000), Shares: ptr[uint64](512)}))
		if h.version("cpu") == 2 {
			if got := content(t, c, "cpu", "cpu.max"); got != "2000 20000" {
				t.Error("cpu.max", got)
			}
			if got := content(t, c, "cpu", "cpu.weight"); got != fmt.Sprint(weight(512)) {
				t.Error("cpu.weight", got)
			}
		} else if got := content(t, c, "cpu", "cpu.shares"); got != "512" {
			t.Error("cpu.shares", got)
		}
		a := start(t, c, "spin")
		a.line(t)
		// The kernel has no event for it. The loop ends with the first period
		// that was used up, or with the test's own time limit.
		for throttled := uint64(0); throttled == 0; runtime.Gosched() {
			throttled, _ = field(content(t, c, "cpu", "cpu.stat"), "nr_throttled")
			time.Sleep(time.Millisecond)
		}
		set(t, c, cpu(specs.LinuxCPU{Quota: ptr[int64](-1)}))
		set(t, c, cpu(specs.LinuxCPU{Period: ptr[uint64](50000)}))
		if h.version("cpu") == 2 {
			if got := content(t, c, "cpu", "cpu.max"); got != "max 50000" {
				t.Error("cpu.max", got)
			}
		} else if got := content(t, c, "cpu", "cpu.cfs_quota_us") + " " + content(t, c, "cpu", "cpu.cfs_period_us"); got != "-1 50000" {
			t.Error("quota and period", got)
		}
		kill(t, c)
	})
}

// Values that bound each other are written in the order that the kernel takes.
func TestCPUBurst(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		needs(t, h, "cpu")
		c := newCgroup(t, h, "n")
		for _, x := range [][2]int64{{50000, 20000}, {5000, 4000}, {90000, 90000}, {2000, 0}} {
			err := c.Set(cpu(specs.LinuxCPU{Quota: ptr(x[0]), Burst: ptr(uint64(x[1]))}))
			if errdefs.IsNotImplemented(err) {
				t.Skip(err)
			}
			if err != nil {
				t.Errorf("%v: %v", x, err)
			}
		}
		err := c.Set(cpu(specs.LinuxCPU{Burst: ptr[uint64](3000)}))
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "cpu burst 3000") {
			t.Errorf("burst above quota: %v", err)
		}
	})
}

func TestCpuset(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		needs(t, h, "cpuset")
		c := newCgroup(t, h, "n")
		a := start(t, c, "cpus") // without one it can use all
		if got, want := a.line(t), fmt.Sprint(runtime.NumCPU(), " true <nil>"); got != want {
			t.Errorf("affinity %s, want %s", got, want)
		}
		last := strconv.Itoa(runtime.NumCPU() - 1)
		set(t, c, cpu(specs.LinuxCPU{Cpus: last, Mems: "0"}))
		b := start(t, c, "cpus")
		if got, want := b.line(t), fmt.Sprint(1, " ", last == "0", " <nil>"); got != want {
			t.Errorf("affinity %s, want %s", got, want)
		}
		err := c.Set(cpu(specs.LinuxCPU{Cpus: "0,4095"}))
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), `"0,4095": there are 0`) {
			t.Errorf("cpus that are not there: %v", err)
		}
	})
}

func TestIdle(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		needs(t, h, "cpu")
		c := newCgroup(t, h, "n")
		for _, idle := range []int64{1, 1, 0} {
			err := c.Set(cpu(specs.LinuxCPU{Idle: &idle, Shares: ptr[uint64](2048)}))
			if errdefs.IsNotImplemented(err) {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := content(t, c, "cpu", "cpu.idle"); got != fmt.Sprint(idle) {
				t.Errorf("cpu.idle %s, want %d", got, idle)
			}
		}
	})
}

func TestBlockIO(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		needs(t, h, "blkio", "io")
		c := newCgroup(t, h, "n")
		// A device that is not there.
		d := specs.LinuxThrottleDevice{Rate: mb}
		d.Major, d.Minor = 4000, 1
		err := c.Set(blockIO(specs.LinuxBlockIO{ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{d}}))
		if errdefs.IsNotImplemented(err) {
			t.Skip(err)
		}
		if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "4000:1") {
			t.Error(err)
		}
	})
}

// What this kernel lacks has an error that names it; on a v1 host the values
// of v2, and the other way round.
func TestNotThere(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		c := newCgroup(t, h, "n")
		if h.version("memory") == 1 {
			err := c.Set(&specs.LinuxResources{Unified: map[string]string{"memory.high": "5"}})
			if !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "memory.high") {
				t.Error(err)
			}
		}
		err := c.Set(&specs.LinuxResources{Unified: map[string]string{"nothing.max": "5"}})
		if !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "controller nothing") {
			t.Error(err)
		}
		err = c.Set(&specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{"no-such": {HcaHandles: ptr[uint32](1)}}})
		if err == nil {
			t.Error("rdma limit of a device that is not there was taken")
		}
		if h.version("memory") == 0 {
			if _, err := c.OOMKills(); !errdefs.IsNotImplemented(err) {
				t.Error(err)
			}
		}
	})
}

// A hierarchy that only some limits need gets its directory with them, and not
// once processes may be inside.
func TestLateHierarchy(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		i, ok := h.where["freezer"]
		if !ok || h.hierarchies[i].base {
			t.Skip("needs a v1 hierarchy that not every cgroup uses")
		}
		w := write{controller: "freezer", file: "freezer.state", value: "THAWED", request: "thaw"}
		c := newCgroup(t, h, "n")
		if err := c.apply([]write{w}); err != nil {
			t.Fatal(err)
		}
		files, err := c.Join()
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, f := range files {
			found = found || strings.HasSuffix(f.Name(), "tasks")
		}
		if !c.madeIn(i) || !found {
			t.Error("no directory in the hierarchy")
		}
		late := newCgroup(t, h, "late")
		if _, err := late.Join(); err != nil {
			t.Fatal(err)
		}
		if err := late.apply([]write{w}); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "freezer") {
			t.Error(err)
		}
		remove(t, c)
		remove(t, late)
		if _, err := h.Open(c.Path()); !errdefs.IsNotFound(err) {
			t.Error(err)
		}
	})
}

// A container that was frozen dies as others do.
func TestKillFrozen(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		c := newCgroup(t, h, "n")
		a := start(t, c, "sleep")
		a.line(t)
		switch h.Mode() {
		case V1:
			needs(t, h, "freezer")
			if err := c.write(write{controller: "freezer", file: "freezer.state", value: "FROZEN"}); err != nil {
				t.Fatal(err)
			}
		default:
			if err := c.write(write{controller: "cgroup", file: "cgroup.freeze", value: "1"}); err != nil {
				t.Fatal(err)
			}
		}
		kill(t, c)
		a.cmd.Wait()
		remove(t, c)
	})
}

func TestKillEndsWithContext(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		c := newCgroup(t, h, "n")
		a := start(t, c, "sleep")
		a.line(t)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := c.Kill(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		kill(t, c)
		remove(t, c)
	})
}
