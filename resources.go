package engine

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Resources are limits of a container as a whole. A zero field sets no limit.
// What contradicts itself or another field is refused by Create; a limit whose
// cgroup controller or file this machine lacks, by Start, with an error that
// names both. Where a field says v1 or v2, cgroups of that version alone have
// it.
type Resources struct {
	// Memory in bytes, at least 6 MiB.
	Memory int64 `json:"memory,omitempty"`
	// MemorySwap is memory and swap together, in bytes; it wants Memory.
	// Zero: twice Memory, if that is set. -1: swap without limit.
	MemorySwap int64 `json:"memory_swap,omitempty"`
	// MemoryReservation in bytes is what the kernel tries to leave to the
	// container when memory is short; 6 MiB at least, and at most Memory.
	MemoryReservation int64 `json:"memory_reservation,omitempty"`
	// MemorySwappiness is how readily its memory is swapped out, 0 to 100; v1.
	// Nil: as the machine's.
	MemorySwappiness *int64 `json:"memory_swappiness,omitempty"`
	// KernelMemoryTCP in bytes is for the buffers of TCP; v1.
	KernelMemoryTCP int64 `json:"kernel_memory_tcp,omitempty"`
	// OOMKillDisable lets processes wait, instead of one being killed, when
	// the memory is full; v1. It wants Memory.
	OOMKillDisable bool `json:"oom_kill_disable,omitempty"`
	// OOMScoreAdj makes its processes more or less likely to be killed when
	// the machine's memory is full: -1000 (never) to 1000. Below what this
	// program has itself it needs CAP_SYS_RESOURCE, or Start fails with
	// ErrPermissionDenied. Zero: 0, or what the program has if it may not
	// choose that.
	OOMScoreAdj int `json:"oom_score_adj,omitempty"`

	// CPUs is how many processors' time it may use: 0.01 to as many as there are.
	CPUs float64 `json:"cpus,omitempty"`
	// CPUQuota and CPUPeriod say the same in microseconds: so much time in each
	// period. A quota is 1000 at least, a period 1000 to 1,000,000; without
	// one it is 100,000. They exclude CPUs.
	CPUQuota  int64 `json:"cpu_quota,omitempty"`
	CPUPeriod int64 `json:"cpu_period,omitempty"`
	// CPUShares is the weight against other containers, 2 to 262144; 1024 is usual.
	CPUShares uint64 `json:"cpu_shares,omitempty"`
	// CPURealtimeRuntime is the time in microseconds that realtime tasks get in
	// each CPURealtimePeriod; v1, of kernels with CONFIG_RT_GROUP_SCHED, and
	// only from what the cgroups above have to give.
	CPURealtimeRuntime int64 `json:"cpu_realtime_runtime,omitempty"`
	CPURealtimePeriod  int64 `json:"cpu_realtime_period,omitempty"`
	// CpusetCPUs and CpusetMems are the processors and memory nodes it may
	// use, as "0-2,7".
	CpusetCPUs string `json:"cpuset_cpus,omitempty"`
	CpusetMems string `json:"cpuset_mems,omitempty"`

	// Pids is how many processes and threads it may have. -1: no limit.
	Pids int64 `json:"pids,omitempty"`
	// ShmSize is what fits into /dev/shm, in bytes. Zero: 64 MiB.
	ShmSize int64 `json:"shm_size,omitempty"`

	// BlkioWeight is the weight of its reads and writes against others', 10 to
	// 1000, and BlkioWeightDevice that for single devices. The devices need the
	// BFQ scheduler, or on v2 iocost.
	BlkioWeight       uint16         `json:"blkio_weight,omitempty"`
	BlkioWeightDevice []DeviceWeight `json:"blkio_weight_device,omitempty"`
	// What it may read and write of block devices: bytes, and operations, a
	// second.
	BlkioDeviceReadBps   []DeviceRate `json:"blkio_device_read_bps,omitempty"`
	BlkioDeviceWriteBps  []DeviceRate `json:"blkio_device_write_bps,omitempty"`
	BlkioDeviceReadIOps  []DeviceRate `json:"blkio_device_read_iops,omitempty"`
	BlkioDeviceWriteIOps []DeviceRate `json:"blkio_device_write_iops,omitempty"`

	// Hugepages limits huge pages, by size.
	Hugepages []HugepageLimit `json:"hugepages,omitempty"`
	// RDMA limits what it may have of RDMA devices.
	RDMA []RDMALimit `json:"rdma,omitempty"`
}

// DeviceWeight is a weight, 10 to 1000, for the block device at a path of the
// host.
type DeviceWeight struct {
	Path   string `json:"path"`
	Weight uint16 `json:"weight"`
}

// DeviceRate is a limit a second for the block device at a path of the host.
// A rate of 0 is none, for Update to lift it.
type DeviceRate struct {
	Path string `json:"path"`
	Rate uint64 `json:"rate"`
}

// HugepageLimit is for huge pages of one size, as the kernel writes it: "2MB".
type HugepageLimit struct {
	Size string `json:"size"`
	// Limit in bytes.
	Limit uint64 `json:"limit"`
}

// RDMALimit is for one RDMA device, as "mlx5_0". Nil: no limit.
type RDMALimit struct {
	Device  string  `json:"device"`
	Handles *uint32 `json:"handles,omitempty"`
	Objects *uint32 `json:"objects,omitempty"`
}

// UnmarshalJSON replaces all of it: a member that is missing is zero, also
// where a record had one before.
func (r *Resources) UnmarshalJSON(data []byte) error {
	type plain Resources
	var p plain
	if err := json.Unmarshal(data, &p); err != nil {
		return err
	}
	*r = Resources(p)
	return nil
}

// clone shares nothing with r.
func (r Resources) clone() Resources {
	r.MemorySwappiness = clonePointer(r.MemorySwappiness)
	r.BlkioWeightDevice = slices.Clone(r.BlkioWeightDevice)
	for _, list := range r.rates() {
		*list.devices = slices.Clone(*list.devices)
	}
	r.Hugepages = slices.Clone(r.Hugepages)
	r.RDMA = slices.Clone(r.RDMA)
	for i := range r.RDMA {
		r.RDMA[i].Handles, r.RDMA[i].Objects = clonePointer(r.RDMA[i].Handles), clonePointer(r.RDMA[i].Objects)
	}
	return r
}

func clonePointer[T any](p *T) *T {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}

// deviceRates is one of the four lists of rates.
type deviceRates struct {
	field   string
	devices *[]DeviceRate
}

func (r *Resources) rates() []deviceRates {
	return []deviceRates{
		{"blkio device read bps", &r.BlkioDeviceReadBps},
		{"blkio device write bps", &r.BlkioDeviceWriteBps},
		{"blkio device read iops", &r.BlkioDeviceReadIOps},
		{"blkio device write iops", &r.BlkioDeviceWriteIOps},
	}
}

// checkCgroupParent finds what no machine would take.
func checkCgroupParent(parent string) error {
	for name := range strings.SplitSeq(parent, "/") {
		if name == "." || name == ".." || strings.ContainsAny(name, "\n\x00") {
			return fmt.Errorf("cgroup parent %q: %q is no name of a cgroup: %w", parent, name, ErrInvalidArgument)
		}
	}
	if strings.Contains(parent, ":") || strings.HasSuffix(parent, ".slice") && !strings.Contains(parent, "/") {
		return fmt.Errorf("cgroup parent %q: systemd's slices are not supported, but paths are: %w", parent, ErrNotImplemented)
	}
	return nil
}
