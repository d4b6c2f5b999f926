package cgroup

import (
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func limitFile(h *Host) string {
	if h.version("memory") == 1 {
		return "memory.limit_in_bytes"
	}
	return "memory.max"
}

// A limit below what cannot be freed is refused, and kills nobody.
func TestUpdateBelowUsage(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		needs(t, h, "memory")
		c := newCgroup(t, h, "n")
		both := func(n int64) *specs.LinuxResources {
			return memory(specs.LinuxMemory{Limit: ptr(n * mb), Swap: ptr(n * mb)})
		}
		set(t, c, both(256))
		a := start(t, c, "hold", "64")
		if got := a.line(t); got != "ate <nil>" {
			t.Fatal(got)
		}
		r := both(16)
		if h.version("cpu") != 0 {
			r.CPU = &specs.LinuxCPU{Shares: ptr[uint64](77)}
		}
		if err := c.Update(r); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "in use") {
			t.Error(err)
		}
		if got := content(t, c, "memory", limitFile(h)); got != "268435456" {
			t.Errorf("limit %s after an update that was refused", got)
		}
		for _, n := range []int64{512, 128, 96, 300} {
			if err := c.Update(both(n)); err != nil {
				t.Errorf("%d MB: %v", n, err)
			}
			if got := stats(t, c).Memory.Limit; got != uint64(n*mb) {
				t.Errorf("limit %d", got)
			}
		}
		if n, err := c.OOMKills(); n != 0 || err != nil {
			t.Errorf("oom kills: %d, %v", n, err)
		}
		a.in.Close()
		if err := a.cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
}

// Page cache is no use that keeps a limit from being lowered.
func TestUpdateBelowCache(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		needs(t, h, "memory")
		c := newCgroup(t, h, "n")
		a := start(t, c, "cache", t.TempDir(), "64")
		if got := a.line(t); got != "<nil>" {
			t.Fatal(got)
		}
		if s := stats(t, c).Memory; s.Usage < 48*mb {
			t.Skipf("needs a filesystem whose page cache is charged and stays: %d bytes are", s.Usage)
		}
		update := func() error { return c.Update(memory(specs.LinuxMemory{Limit: ptr[int64](32 * mb)})) }
		err := update()
		// On a busy machine the disk may still be at it.
		for end := time.Now().Add(time.Minute); errdefs.IsFailedPrecondition(err) && time.Now().Before(end); {
			err = update()
		}
		if _, missing := c.read("memory", "memory.reclaim"); err != nil && h.version("memory") == 2 && missing != nil {
			t.Skip("needs memory.reclaim, Linux 5.19")
		}
		if err != nil {
			t.Error(err)
		}
		a.in.Close()
		a.cmd.Wait()
	})
}

// An update of which the kernel refuses a part leaves the other parts alone.
func TestUpdateAllOrNothing(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		needs(t, h, "memory")
		needs(t, h, "cpuset")
		needs(t, h, "cpu")
		c := newCgroup(t, h, "n")
		set(t, c, &specs.LinuxResources{
			Memory: &specs.LinuxMemory{Limit: ptr[int64](64 * mb), Swap: ptr[int64](64 * mb)},
			CPU:    &specs.LinuxCPU{Shares: ptr[uint64](2048), Quota: ptr[int64](50000), Period: ptr[uint64](100000)},
		})
		files := map[string]string{limitFile(h): "memory"}
		if h.version("cpu") == 1 {
			files["cpu.shares"], files["cpu.cfs_quota_us"], files["cpu.cfs_period_us"] = "cpu", "cpu", "cpu"
		} else {
			files["cpu.weight"], files["cpu.max"] = "cpu", "cpu"
		}
		before := map[string]string{}
		for file, controller := range files {
			before[file] = content(t, c, controller, file)
		}
		for _, n := range []int64{128, 32} {
			err := c.Update(&specs.LinuxResources{
				Memory: &specs.LinuxMemory{Limit: ptr(n * mb), Swap: ptr(2 * n * mb)},
				CPU:    &specs.LinuxCPU{Shares: ptr[uint64](512), Quota: ptr[int64](5000), Period: ptr[uint64](10000), Cpus: "4095"},
			})
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "4095") {
				t.Error(err)
			}
			for file, controller := range files {
				if now := content(t, c, controller, file); now != before[file] {
					t.Errorf("%s is %s, was %s", file, now, before[file])
				}
			}
		}
		if err := c.Update(cpu(specs.LinuxCPU{Shares: ptr[uint64](1)})); !errdefs.IsInvalidArgument(err) {
			t.Error(err)
		}
		if err := c.Update(nil); err != nil {
			t.Error(err)
		}
	})
}

// A cpuset shrinks and grows below processes.
func TestUpdateCpuset(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		needs(t, h, "cpuset")
		c := newCgroup(t, h, "n")
		a := start(t, c, "echo")
		a.line(t)
		for _, cpus := range []string{"0", "0", "0-1"} {
			if err := c.Update(cpu(specs.LinuxCPU{Cpus: cpus})); err != nil && cpus == "0-1" && errdefs.IsInvalidArgument(err) {
				t.Skip("needs two processors:", err)
			} else if err != nil {
				t.Error(err)
			}
			if got := content(t, c, "cpuset", "cpuset.cpus"); got != cpus {
				t.Errorf("cpus %q, want %q", got, cpus)
			}
		}
		kill(t, c)
	})
}
