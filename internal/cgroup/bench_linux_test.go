package cgroup

import (
	"context"
	"slices"
	"strconv"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// dockerRules are Docker's default device rules.
func dockerRules() []specs.LinuxDeviceCgroup {
	rules := []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		{Allow: true, Type: "c", Access: "m"},
		{Allow: true, Type: "b", Access: "m"},
	}
	for _, d := range [][2]int64{{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, {5, 0}, {5, 1}, {5, 2}, {136, -1}, {10, 200}} {
		r := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: ptr(d[0]), Minor: ptr(d[1]), Access: "rwm"}
		if d[1] < 0 {
			r.Minor = nil
		}
		rules = append(rules, r)
	}
	return rules
}

// BenchmarkLife gives the median of each step of a cgroup's life.
func BenchmarkLife(b *testing.B) {
	h, err := detect()
	if err != nil {
		b.Skip("needs a cgroup hierarchy:", err)
	}
	defer closeHost(h)
	defer h.RemoveAll(context.Background(), testPath)
	p, err := h.Parent(testPath + "/r")
	if err != nil {
		b.Skip("needs root, to make cgroups:", err)
	}
	defer p.Close()
	devices := &specs.LinuxResources{Devices: dockerRules()}
	limits := &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr[int64](64 << 20), Swap: ptr[int64](64 << 20)},
		CPU:    &specs.LinuxCPU{Quota: ptr[int64](50000), Period: ptr[uint64](100000)},
		Pids:   &specs.LinuxPids{Limit: ptr[int64](100)},
	}
	if h.version("memory") == 0 {
		limits = &specs.LinuxResources{}
	}
	steps := []struct {
		name string
		do   func(c *Cgroup) error
	}{
		{"New", nil},
		{"Join", func(c *Cgroup) error { _, err := c.Join(); return err }},
		{"Dir", func(c *Cgroup) error { _, err := c.Dir(); return err }},
		{"Tree", func(c *Cgroup) error { _, err := c.Tree(); return err }},
		{"SetDevices", func(c *Cgroup) error { return c.Set(devices) }},
		{"SetDevicesAgain", func(c *Cgroup) error { return c.Set(devices) }},
		{"SetLimits", func(c *Cgroup) error { return c.Set(limits) }},
		{"OOMKills", func(c *Cgroup) error { c.OOMKills(); return nil }},
		{"Pids", func(c *Cgroup) error { _, err := c.Pids(); return err }},
		{"Kill", func(c *Cgroup) error { return c.Kill(context.Background()) }},
		{"Release", func(c *Cgroup) error { c.Release(); return nil }},
		{"Remove", func(c *Cgroup) error { return c.Remove(context.Background()) }},
	}
	times := make([][]time.Duration, len(steps))
	for n := 0; b.Loop(); n++ {
		var c *Cgroup
		for i, s := range steps {
			begin := time.Now()
			var err error
			if s.do == nil {
				c, err = p.New(strconv.Itoa(n))
			} else {
				err = s.do(c)
			}
			times[i] = append(times[i], time.Since(begin))
			if err != nil {
				b.Fatal(s.name, err)
			}
		}
	}
	for i, s := range steps {
		slices.Sort(times[i])
		b.ReportMetric(float64(times[i][len(times[i])/2].Nanoseconds())/1000, "µs/"+s.name)
	}
}
