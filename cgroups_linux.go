package engine

import (
	"errors"
	"fmt"
	"math"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/inboard/engine/internal/cgroup"
)

const (
	// minMemory is Docker's least limit: below it no process can start.
	minMemory = 6 << 20
	// cpuPeriod in microseconds is the kernel's default.
	cpuPeriod = 100_000
	// minQuota and maxPeriod in microseconds are the kernel's bounds
	// (kernel/sched/core.c, min_cfs_quota_period and max_cfs_quota_period).
	minQuota, maxPeriod = 1000, 1_000_000
	// minCPUs is what the kernel's least quota, 1000 us, is of cpuPeriod.
	minCPUs = 0.01
	// maxPids is the kernel's PID_MAX_LIMIT.
	maxPids = 4 << 20
)

// linuxResources checks limits against each other and this machine, and puts
// them into the terms of the runtime specification.
func linuxResources(r Resources) (*specs.LinuxResources, error) {
	r = r.clone() // the caller may change his
	s := new(specs.LinuxResources)
	for _, set := range []func(*specs.LinuxResources, *Resources) error{setMemory, setOOM, setCPU, setRealtime, setPids, setBlockIO, setDevicePages} {
		if err := set(s, &r); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), ErrInvalidArgument)
}

func setMemory(s *specs.LinuxResources, r *Resources) error {
	switch {
	case r.Memory == 0 && r.MemorySwap != 0:
		return invalid("memory swap %d: memory is not limited", r.MemorySwap)
	case r.Memory != 0 && r.Memory < minMemory:
		return invalid("memory %d bytes: less than %d", r.Memory, minMemory)
	case r.MemorySwap < -1:
		return invalid("memory swap %d bytes: negative, and not -1 for no limit", r.MemorySwap)
	case r.MemorySwap > 0 && r.MemorySwap < r.Memory:
		return invalid("memory swap %d bytes: less than memory, %d, which it includes", r.MemorySwap, r.Memory)
	case r.MemoryReservation != 0 && r.MemoryReservation < minMemory:
		return invalid("memory reservation %d bytes: less than %d", r.MemoryReservation, minMemory)
	case r.Memory != 0 && r.MemoryReservation > r.Memory:
		return invalid("memory reservation %d bytes: more than memory, %d", r.MemoryReservation, r.Memory)
	case r.MemorySwappiness != nil && (*r.MemorySwappiness < 0 || *r.MemorySwappiness > 100):
		return invalid("memory swappiness %d: not 0 to 100", *r.MemorySwappiness)
	case r.KernelMemoryTCP < 0:
		return invalid("kernel memory tcp %d bytes: negative", r.KernelMemoryTCP)
	}
	m := new(specs.LinuxMemory)
	if r.Memory != 0 {
		swap := r.MemorySwap
		if swap == 0 {
			swap = math.MaxInt64
			if r.Memory <= math.MaxInt64/2 {
				swap = 2 * r.Memory
			}
		}
		m.Limit, m.Swap = &r.Memory, &swap
	}
	if r.MemoryReservation != 0 {
		m.Reservation = &r.MemoryReservation
	}
	if r.MemorySwappiness != nil {
		n := uint64(*r.MemorySwappiness)
		m.Swappiness = &n
	}
	if r.KernelMemoryTCP != 0 {
		m.KernelTCP = &r.KernelMemoryTCP
	}
	if *m != (specs.LinuxMemory{}) {
		s.Memory = m
	}
	return nil
}

func setOOM(s *specs.LinuxResources, r *Resources) error {
	switch {
	case r.OOMScoreAdj < -1000 || r.OOMScoreAdj > 1000:
		return invalid("oom score adjustment %d: not -1000 to 1000", r.OOMScoreAdj)
	case r.OOMKillDisable && r.Memory == 0:
		// All that keeps the container from taking the machine's last page.
		return invalid("oom killer disabled: memory is not limited")
	case r.OOMKillDisable:
		s.Memory.DisableOOMKiller = &r.OOMKillDisable
	}
	return nil
}

func setCPU(s *specs.LinuxResources, r *Resources) error {
	cpu := &specs.LinuxCPU{Cpus: r.CpusetCPUs, Mems: r.CpusetMems}
	switch {
	case r.CPUs != 0 && (r.CPUQuota != 0 || r.CPUPeriod != 0):
		return invalid("cpus %v, and a cpu quota %d of period %d: one says what the other does", r.CPUs, r.CPUQuota, r.CPUPeriod)
	case r.CPUQuota != 0 && r.CPUQuota < minQuota:
		return invalid("cpu quota %d: less than %d microseconds", r.CPUQuota, minQuota)
	case r.CPUPeriod != 0 && (r.CPUPeriod < minQuota || r.CPUPeriod > maxPeriod):
		return invalid("cpu period %d: not %d to %d microseconds", r.CPUPeriod, minQuota, maxPeriod)
	case r.CPUs != 0:
		if have := float64(runtime.NumCPU()); !(r.CPUs >= minCPUs && r.CPUs <= have) {
			return invalid("cpus %v: not %v to %v, which this machine has", r.CPUs, minCPUs, have)
		}
		period, quota := uint64(cpuPeriod), int64(math.Round(r.CPUs*cpuPeriod))
		cpu.Period, cpu.Quota = &period, &quota
	}
	if r.CPUQuota != 0 {
		cpu.Quota = &r.CPUQuota
	}
	if r.CPUPeriod != 0 {
		period := uint64(r.CPUPeriod)
		cpu.Period = &period
	}
	if r.CPUShares != 0 {
		// The range of cpu.shares (kernel/sched/sched.h, MIN_SHARES and MAX_SHARES).
		if r.CPUShares < 2 || r.CPUShares > 1<<18 {
			return invalid("cpu shares %d: not 2 to %d", r.CPUShares, 1<<18)
		}
		cpu.Shares = &r.CPUShares
	}
	if err := checkSet("cpuset cpus", r.CpusetCPUs, "/sys/devices/system/cpu/online"); err != nil {
		return err
	}
	if err := checkSet("cpuset mems", r.CpusetMems, "/sys/devices/system/node/online"); err != nil {
		return err
	}
	if *cpu != (specs.LinuxCPU{}) {
		s.CPU = cpu
	}
	return nil
}

// setRealtime follows the kernel's rt_period and rt_runtime: without one, a
// period is a second.
func setRealtime(s *specs.LinuxResources, r *Resources) error {
	period := r.CPURealtimePeriod
	if period == 0 {
		period = 1_000_000
	}
	switch {
	case r.CPURealtimeRuntime == 0 && r.CPURealtimePeriod == 0:
		return nil
	case period < 0 || period > math.MaxInt32:
		return invalid("cpu realtime period %d: not 1 to %d microseconds", period, math.MaxInt32)
	case r.CPURealtimeRuntime < 0 || r.CPURealtimeRuntime > period:
		return invalid("cpu realtime runtime %d: not 0 to its period, %d microseconds", r.CPURealtimeRuntime, period)
	}
	if s.CPU == nil {
		s.CPU = new(specs.LinuxCPU)
	}
	if r.CPURealtimePeriod != 0 {
		n := uint64(period)
		s.CPU.RealtimePeriod = &n
	}
	if r.CPURealtimeRuntime != 0 {
		s.CPU.RealtimeRuntime = &r.CPURealtimeRuntime
	}
	return nil
}

func setPids(s *specs.LinuxResources, r *Resources) error {
	switch {
	case r.ShmSize < 0:
		return invalid("size of /dev/shm %d: negative", r.ShmSize)
	case r.Pids < -1 || r.Pids > maxPids:
		return invalid("pids %d: not 1 to %d, or -1 for no limit", r.Pids, maxPids)
	case r.Pids != 0:
		s.Pids = &specs.LinuxPids{Limit: &r.Pids}
	}
	return nil
}

// setDevicePages is for what few machines have.
func setDevicePages(s *specs.LinuxResources, r *Resources) error {
	seen := make(map[string]bool)
	for _, h := range r.Hugepages {
		if !hugepageSize.MatchString(h.Size) || seen[h.Size] {
			return invalid("huge pages of %q: not a size as 2MB, or given twice", h.Size)
		}
		seen[h.Size] = true
		s.HugepageLimits = append(s.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: h.Size, Limit: h.Limit})
	}
	for _, d := range r.RDMA {
		if _, twice := s.Rdma[d.Device]; twice || d.Device == "" || d.Handles == nil && d.Objects == nil {
			return invalid("rdma device %q: no name, no limit, or given twice", d.Device)
		}
		if s.Rdma == nil {
			s.Rdma = make(map[string]specs.LinuxRdma)
		}
		s.Rdma[d.Device] = specs.LinuxRdma{HcaHandles: d.Handles, HcaObjects: d.Objects}
	}
	return nil
}

var hugepageSize = regexp.MustCompile(`^[1-9][0-9]*[KMG]B$`)

// checkSet checks a list of processors or memory nodes against those that the
// kernel says are online. A kernel without NUMA has no list, and node 0.
func checkSet(field, set, online string) error {
	if set == "" {
		return nil
	}
	want, err := parseSet(set)
	if err != nil {
		return fmt.Errorf("%s %q: %w: %w", field, set, err, ErrInvalidArgument)
	}
	text := "0"
	if data, err := os.ReadFile(online); err == nil {
		text = strings.TrimSpace(string(data))
	}
	have, err := parseSet(text)
	if err != nil {
		return fmt.Errorf("%s: %w", online, err)
	}
	for n := range want {
		if !have[n] {
			return fmt.Errorf("%s %q: %d is not online, %s are: %w", field, set, n, text, ErrInvalidArgument)
		}
	}
	return nil
}

// maxSet is above the number of processors that Linux can have (NR_CPUS).
const maxSet = 1 << 16

// parseSet reads the list format of cpuset(7): "0-4,9".
func parseSet(s string) (map[int]bool, error) {
	set := make(map[int]bool)
	for part := range strings.SplitSeq(s, ",") {
		from, to, isRange := strings.Cut(part, "-")
		a, err := strconv.ParseUint(from, 10, 16)
		b := a
		if err == nil && isRange {
			b, err = strconv.ParseUint(to, 10, 16)
		}
		if err != nil || a > b || b >= maxSet {
			return nil, fmt.Errorf("%q is not a number or range", part)
		}
		for n := a; n <= b; n++ {
			set[int(n)] = true
		}
	}
	return set, nil
}

// thawForeign lets the processes of another Engine's paused container go on.
func thawForeign(path string) error {
	host, err := cgroup.Detect()
	if err != nil {
		return err
	}
	c, err := host.Open(path)
	if errors.Is(err, ErrNotFound) {
		return nil // it has ended
	}
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Thaw()
}
