package runtime

import (
	"math"
	"time"
)

// NoLimit is the value of a limit in Stats that is not set, or that the kernel
// does not have.
const NoLimit = math.MaxUint64

// Stats is one sample of what a container's processes use, all of them
// together, as the kernel counts it for their cgroup. Sizes are in bytes. What
// this kernel does not count is zero: cgroups v1 and v2 differ, and older
// kernels lack some of it.
type Stats struct {
	// Time is when the sample was taken.
	Time   time.Time
	Memory MemoryStats
	CPU    CPUStats
	Pids   PidsStats
	// IO is by device, sorted by its number. cgroups v1 do not count what the
	// kernel writes back later from the page cache; of newer kernels, as 6.18,
	// they count only devices for which a limit was set.
	IO []IOStats
	// Hugepages is by size, and of cgroups v1 only there if a limit was set.
	Hugepages []HugepageStats
	// Pressure tells how long the processes waited for resources. Nil unless
	// the machine has cgroups v2 alone, and counts it (psi=1).
	Pressure *PressureStats
}

// MemoryStats is about memory.
type MemoryStats struct {
	// Usage includes the page cache, Peak was the most (v2: Linux 5.19).
	Usage, Limit, Peak uint64
	// InactiveFile is page cache that goes first when memory is needed: what
	// docker stats shows is Usage without it.
	InactiveFile uint64
	// Swap is what was swapped out, SwapLimit how much that may be.
	Swap, SwapLimit uint64
	// LimitHits counts how often the limit was met and memory had to be freed;
	// newer kernels do not for cgroups v1.
	LimitHits uint64
	// OOMKills counts the processes that the kernel has killed for want of
	// memory. The container goes on if its first one was not among them.
	OOMKills uint64
	// Detail is memory.stat with the kernel's own names.
	Detail map[string]uint64
}

// CPUStats is about processor time.
type CPUStats struct {
	Usage, User, System time.Duration
	// PerCPU is by the processor's number; cgroups v1 alone have it.
	PerCPU []time.Duration
	// Periods are those of a quota in which a process wanted to run; in
	// Throttled ones none could until the end, for ThrottledTime in all.
	Periods, Throttled uint64
	ThrottledTime      time.Duration
}

// PidsStats counts processes and threads. LimitHits are forks that failed.
type PidsStats struct{ Current, Limit, LimitHits uint64 }

// IOStats is what went from and to one block device.
type IOStats struct {
	Major, Minor                        uint32
	ReadBytes, WriteBytes, DiscardBytes uint64
	Reads, Writes, Discards             uint64 // operations
}

// HugepageStats is about huge pages of one size, such as "2MB".
type HugepageStats struct {
	Size string
	// Peak is of cgroups v1 alone.
	Usage, Limit, Peak, LimitHits uint64
}

// PressureStats is pressure stall information
// (Documentation/accounting/psi.rst in the kernel's tree).
type PressureStats struct{ CPU, Memory, IO Pressure }

// Pressure tells how long at least one process waited for a resource, and how
// long all of them did.
type Pressure struct{ Some, Full Stall }

// Stall is a share of time: percent over the last 10, 60 and 300 seconds, and
// the total.
type Stall struct {
	Avg10, Avg60, Avg300 float64
	Total                time.Duration
}
