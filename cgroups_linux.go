package engine

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const (
	// minMemory is Docker's least limit: below it no process can start.
	minMemory = 6 << 20
	// cpuPeriod in microseconds is the kernel's default.
	cpuPeriod = 100_000
	// minCPUs is what the kernel's least quota, 1000 us, is of cpuPeriod.
	minCPUs = 0.01
	// maxPids is the kernel's PID_MAX_LIMIT.
	maxPids = 4 << 20
)

// linuxResources checks limits against each other and this machine, and puts
// them into the terms of the runtime specification.
func linuxResources(r Resources) (*specs.LinuxResources, error) {
	s := new(specs.LinuxResources)
	if err := setMemory(s, r); err != nil {
		return nil, err
	}
	if err := setCPU(s, r); err != nil {
		return nil, err
	}
	switch {
	case r.ShmSize < 0:
		return nil, fmt.Errorf("size of /dev/shm %d: negative: %w", r.ShmSize, ErrInvalidArgument)
	case r.Pids < -1 || r.Pids > maxPids:
		return nil, fmt.Errorf("pids %d: not 1 to %d, or -1 for no limit: %w", r.Pids, maxPids, ErrInvalidArgument)
	case r.Pids != 0:
		s.Pids = &specs.LinuxPids{Limit: &r.Pids}
	}
	return s, nil
}

func setMemory(s *specs.LinuxResources, r Resources) error {
	switch {
	case r.Memory == 0 && r.MemorySwap == 0:
		return nil
	case r.Memory == 0:
		return fmt.Errorf("memory swap %d: memory is not limited: %w", r.MemorySwap, ErrInvalidArgument)
	case r.Memory < minMemory:
		return fmt.Errorf("memory %d bytes: less than %d: %w", r.Memory, minMemory, ErrInvalidArgument)
	case r.MemorySwap < -1:
		return fmt.Errorf("memory swap %d bytes: negative, and not -1 for no limit: %w", r.MemorySwap, ErrInvalidArgument)
	case r.MemorySwap > 0 && r.MemorySwap < r.Memory:
		return fmt.Errorf("memory swap %d bytes: less than memory, %d, which it includes: %w", r.MemorySwap, r.Memory, ErrInvalidArgument)
	}
	swap := r.MemorySwap
	if swap == 0 {
		swap = math.MaxInt64
		if r.Memory <= math.MaxInt64/2 {
			swap = 2 * r.Memory
		}
	}
	s.Memory = &specs.LinuxMemory{Limit: &r.Memory, Swap: &swap}
	return nil
}

func setCPU(s *specs.LinuxResources, r Resources) error {
	if r.CPUs == 0 && r.CPUShares == 0 && r.CpusetCPUs == "" && r.CpusetMems == "" {
		return nil
	}
	cpu := &specs.LinuxCPU{Cpus: r.CpusetCPUs, Mems: r.CpusetMems}
	if r.CPUs != 0 {
		if have := float64(runtime.NumCPU()); !(r.CPUs >= minCPUs && r.CPUs <= have) {
			return fmt.Errorf("cpus %v: not %v to %v, which this machine has: %w", r.CPUs, minCPUs, have, ErrInvalidArgument)
		}
		period, quota := uint64(cpuPeriod), int64(math.Round(r.CPUs*cpuPeriod))
		cpu.Period, cpu.Quota = &period, &quota
	}
	if r.CPUShares != 0 {
		// The range of cpu.shares (kernel/sched/sched.h, MIN_SHARES and MAX_SHARES).
		if r.CPUShares < 2 || r.CPUShares > 1<<18 {
			return fmt.Errorf("cpu shares %d: not 2 to %d: %w", r.CPUShares, 1<<18, ErrInvalidArgument)
		}
		cpu.Shares = &r.CPUShares
	}
	if err := checkSet("cpuset cpus", r.CpusetCPUs, "/sys/devices/system/cpu/online"); err != nil {
		return err
	}
	if err := checkSet("cpuset mems", r.CpusetMems, "/sys/devices/system/node/online"); err != nil {
		return err
	}
	s.CPU = cpu
	return nil
}

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
