package cgroup

import (
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func stats(t *testing.T, c *Cgroup) *Stats {
	t.Helper()
	s, err := c.Stats()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStats(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		c := newCgroup(t, h, "n")
		empty := stats(t, c)
		if empty.Memory.Limit != NoLimit || empty.Pids.Limit != NoLimit || empty.Memory.OOMKills != 0 || empty.Pids.Current != 0 {
			t.Errorf("nobody: %+v", empty)
		}
		r := &specs.LinuxResources{}
		if h.version("memory") != 0 {
			r.Memory = &specs.LinuxMemory{Limit: ptr[int64](128 * mb), Swap: ptr[int64](192 * mb)}
		}
		if h.version("pids") != 0 {
			r.Pids = &specs.LinuxPids{Limit: ptr[int64](60)}
		}
		if h.version("cpu") != 0 {
			r.CPU = &specs.LinuxCPU{Quota: ptr[int64](2000), Period: ptr[uint64](20000)}
		}
		set(t, c, r)
		a, b := start(t, c, "hold", "32"), start(t, c, "spin")
		a.line(t)
		b.line(t)
		// The kernel has no event for it. The loop ends when the spinning shows,
		// or with the test's own time limit.
		var s *Stats
		for s = stats(t, c); s.CPU.Usage == 0 || r.CPU != nil && s.CPU.Throttled == 0; s = stats(t, c) {
			if h.version("cpuacct") == 0 && h.Mode() != Unified {
				break
			}
			time.Sleep(time.Millisecond)
		}
		if m := s.Memory; r.Memory != nil && (m.Usage < 32*mb || m.Usage > 128*mb || m.Limit != 128*mb || m.OOMKills != 0 || len(m.Detail) < 10) {
			t.Errorf("memory %+v", m)
		}
		if m := s.Memory; h.version("memory") == 1 && (m.Peak < m.Usage || m.SwapLimit != 64*mb && m.SwapLimit != NoLimit) {
			t.Errorf("memory %+v", m)
		}
		if p := s.Pids; r.Pids != nil && (p.Current < 2 || p.Limit != 60 || p.LimitHits != 0) {
			t.Errorf("pids %+v", p)
		}
		if p := s.CPU; r.CPU != nil && (p.Periods == 0 || p.Throttled == 0 || p.ThrottledTime == 0) {
			t.Errorf("cpu %+v", p)
		}
		var sum time.Duration
		for _, n := range s.CPU.PerCPU {
			sum += n
		}
		if h.version("cpuacct") == 1 && (sum < s.CPU.Usage || s.CPU.User == 0) {
			t.Errorf("cpu %+v", s.CPU)
		}
		if len(s.IO) > 0 && s.IO[0].Major == 0 || s.Time.IsZero() {
			t.Errorf("%+v", s)
		}
		kill(t, c)
		remove(t, c)
		if _, err := h.Open(c.Path()); !errdefs.IsNotFound(err) {
			t.Error(err)
		}
	})
}

// A cgroup that is removed meanwhile is not one that uses nothing.
func TestStatsOfNothing(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		c := newCgroup(t, h, "n")
		other, err := h.Open(c.Path())
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		if _, err := other.Stats(); err != nil {
			t.Error(err)
		}
		remove(t, c)
		if s, err := other.Stats(); !errdefs.IsNotFound(err) {
			t.Error(s, err)
		}
	})
}

func TestStatsCountOOMKills(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		needs(t, h, "memory")
		c := newCgroup(t, h, "n")
		set(t, c, memory(specs.LinuxMemory{Limit: ptr[int64](32 * mb), Swap: ptr[int64](32 * mb)}))
		for n := uint64(1); n < 3; n++ {
			start(t, c, "eat", "200").cmd.Wait()
			if m := stats(t, c).Memory; m.OOMKills != n || m.LimitHits == 0 && h.version("memory") == 2 {
				t.Errorf("%+v, want %d kills", m, n)
			}
		}
	})
}

func TestStatsOfBlockDevice(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		needs(t, h, "blkio", "io")
		dir := t.TempDir()
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err != nil {
			t.Fatal(err)
		}
		if unix.Major(st.Dev) == 0 {
			t.Skip("needs temporary files on a block device")
		}
		c := newCgroup(t, h, "n")
		if h.version("blkio") == 1 { // which counts only where there is a limit
			d := specs.LinuxThrottleDevice{Rate: 1 << 40}
			d.Major, d.Minor = int64(unix.Major(st.Dev)), int64(unix.Minor(st.Dev))
			if err := c.Set(blockIO(specs.LinuxBlockIO{ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{d}})); err != nil {
				t.Skip("needs a device whose use is limited:", err)
			}
		}
		a := start(t, c, "direct", dir)
		if got := a.line(t); got != "<nil>" {
			t.Skip("needs a filesystem with direct writes:", got)
		}
		found := false
		for _, d := range stats(t, c).IO {
			found = found || d.WriteBytes >= mb && d.ReadBytes >= mb && d.Writes > 0 && d.Reads > 0
		}
		if !found {
			t.Errorf("%+v", stats(t, c).IO)
		}
	})
}

func TestParsePressure(t *testing.T) {
	p := parsePressure("some avg10=1.50 avg60=0.25 avg300=0.00 total=2500\nfull avg10=0.00 avg60=0.00 avg300=99.99 total=1\n")
	want := Pressure{Stall{1.5, 0.25, 0, 2500 * time.Microsecond}, Stall{0, 0, 99.99, time.Microsecond}}
	if p != want {
		t.Errorf("%+v", p)
	}
	if p := parsePressure("what avg10=1\nsome\nsome avg10 total=x\n"); p != (Pressure{}) {
		t.Errorf("%+v", p)
	}
}

// The names of huge pages are those of the files.
func TestPageSizeName(t *testing.T) {
	for kb, want := range map[uint64]string{64: "64KB", 2048: "2MB", 32 << 10: "32MB", 1 << 20: "1GB"} {
		if got := pageSizeName(kb); got != want {
			t.Errorf("%d: %s", kb, got)
		}
	}
}
