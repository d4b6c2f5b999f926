package cgroup

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Bounds of the scheduler, kernel/sched: MIN_SHARES, MAX_SHARES and MAX_BW in
// sched.h, min_cfs_quota_period and max_cfs_quota_period in core.c. Times in µs.
const (
	minShares, maxShares = 2, 1 << 18
	minPeriod, maxPeriod = 1000, 1000000 // a quota has the same minimum
	maxQuota             = 1<<44 - 1
)

func planCPU(p *plan, r *specs.LinuxResources) error {
	c := r.CPU
	if c == nil {
		return nil
	}
	request, err := cpuRequest(c)
	if err != nil || request == "" {
		return err
	}
	version, err := p.need("cpu", request)
	if err != nil {
		return err
	}
	realtime := value(c.RealtimeRuntime) != 0 || value(c.RealtimePeriod) != 0
	if realtime && version == 2 {
		return lacks(2, fmt.Sprintf("realtime runtime %d of period %d", value(c.RealtimeRuntime), value(c.RealtimePeriod)))
	}
	if c.Idle != nil {
		p.group(cpuWrite("cpu.idle", strconv.FormatInt(*c.Idle, 10), "cpu idle"))
	}
	// A group of SCHED_IDLE has no weight of its own; the kernel says EINVAL.
	if shares := value(c.Shares); shares != 0 && value(c.Idle) != 1 {
		if version == 1 {
			p.group(cpuWrite("cpu.shares", strconv.FormatUint(shares, 10), "cpu shares"))
		} else {
			p.group(cpuWrite("cpu.weight", strconv.FormatUint(weight(shares), 10), fmt.Sprintf("cpu shares %d as weight", shares)))
		}
	}
	planBandwidth(p, version, c)
	if realtime {
		planRealtime(p, c)
	}
	return nil
}

// cpuRequest checks the bounds, and names the first thing in c that needs the
// controller.
func cpuRequest(c *specs.LinuxCPU) (request string, err error) {
	ask := func(what string, n, low, high int64, fine bool) {
		text := fmt.Sprintf("cpu %s %d", what, n)
		if request == "" {
			request = text
		}
		if !fine && (n < low || n > high) && err == nil {
			err = outside(text, low, high)
		}
	}
	if n := value(c.Shares); n != 0 {
		ask("shares", int64(min(n, math.MaxInt64)), minShares, maxShares, false)
	}
	if n := value(c.Quota); n != 0 {
		ask("quota", n, minPeriod, maxQuota, n == -1)
	}
	if n := value(c.Period); n != 0 {
		ask("period", int64(min(n, math.MaxInt64)), minPeriod, maxPeriod, false)
	}
	if c.Burst != nil {
		ask("burst", int64(min(*c.Burst, math.MaxInt64)), 0, maxQuota, false)
	}
	if c.Idle != nil {
		ask("idle", *c.Idle, 0, 1, false)
	}
	if n := value(c.RealtimePeriod); n != 0 {
		ask("realtime period", int64(min(n, math.MaxInt64)), 1, math.MaxInt32, false)
	}
	if n := value(c.RealtimeRuntime); n != 0 {
		ask("realtime runtime", n, -1, math.MaxInt32, false)
	}
	return request, err
}

func cpuWrite(file, value, what string) write {
	return write{controller: "cpu", file: file, value: value, request: what + " " + value}
}

// planBandwidth limits the cpu time. Quota, period and burst bound each other
// and are bounded by those of the cgroups above.
func planBandwidth(p *plan, version int, c *specs.LinuxCPU) {
	quota, period := value(c.Quota), value(c.Period)
	var group []write
	if version == 1 {
		if period != 0 {
			group = append(group, cpuWrite("cpu.cfs_period_us", strconv.FormatUint(period, 10), "cpu period"))
		}
		if quota != 0 {
			group = append(group, cpuWrite("cpu.cfs_quota_us", strconv.FormatInt(quota, 10), "cpu quota"))
		}
	} else if quota != 0 || period != 0 {
		w := cpuWrite("cpu.max", number(2, quota), "cpu quota")
		switch {
		case quota == 0:
			w = cpuWrite("cpu.max", strconv.FormatUint(period, 10), "cpu period")
			w.merge = func(now string) string {
				old, _, _ := strings.Cut(now, " ")
				return old + " " + strconv.FormatUint(period, 10)
			}
		case period != 0:
			w.value += " " + strconv.FormatUint(period, 10)
		}
		group = append(group, w)
	}
	if c.Burst != nil {
		file := "cpu.max.burst"
		if version == 1 {
			file = "cpu.cfs_burst_us"
		}
		group = append(group, cpuWrite(file, strconv.FormatUint(*c.Burst, 10), "cpu burst"))
	}
	p.group(group...)
}

// planRealtime sets the time of realtime tasks, where the kernel has
// CONFIG_RT_GROUP_SCHED and the cgroups above have time to give.
func planRealtime(p *plan, c *specs.LinuxCPU) {
	var group []write
	if n := value(c.RealtimePeriod); n != 0 {
		group = append(group, cpuWrite("cpu.rt_period_us", strconv.FormatUint(n, 10), "realtime period"))
	}
	if n := value(c.RealtimeRuntime); n != 0 {
		group = append(group, cpuWrite("cpu.rt_runtime_us", strconv.FormatInt(n, 10), "realtime runtime"))
	}
	p.group(group...)
}

// weight converts cpu shares (2 to 262144, 1024 by default) to a v2 weight (1
// to 10000, 100 by default). The three points fit a square function of the
// logarithms; the linear map that was used before gave the default 39. Same
// formula as runc since 1.3.2 (opencontainers/cgroups pull request 20) and
// crun since 1.23.
func weight(shares uint64) uint64 {
	switch {
	case shares <= minShares:
		return 1
	case shares >= maxShares:
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}
