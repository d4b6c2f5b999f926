package cgroup

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func planMemory(p *plan, r *specs.LinuxResources) error {
	m := r.Memory
	if m == nil {
		return nil
	}
	for _, f := range []struct {
		name  string
		value *int64
	}{{"memory limit", m.Limit}, {"memory reservation", m.Reservation}, {"memory and swap limit", m.Swap}, {"kernel tcp memory limit", m.KernelTCP}} {
		if f.value != nil && *f.value < -1 {
			return kindf(errdefs.ErrInvalidArgument, "%s %d: not a number of bytes, nor -1 for none", f.name, *f.value)
		}
	}
	limit, swap := value(m.Limit), value(m.Swap)
	if limit > 0 && swap > 0 && swap < limit {
		return kindf(errdefs.ErrInvalidArgument, "memory and swap limit %d: less than the memory limit %d", swap, limit)
	}
	if m.UseHierarchy != nil && !*m.UseHierarchy {
		// Gone since Linux 5.11 (commit bef8620cd8e0).
		return kindf(errdefs.ErrNotImplemented, "memory accounting without hierarchy: the kernel has no such mode")
	}
	request := memoryRequest(m)
	if request == "" {
		return nil
	}
	version, err := p.need("memory", request)
	if err != nil {
		return err
	}
	if m.CheckBeforeUpdate != nil && *m.CheckBeforeUpdate && limit > 0 {
		p.group(usageCheck(version, limit))
	}
	if version == 1 {
		return planMemoryV1(p, m)
	}
	return planMemoryV2(p, m)
}

// value returns what p points to, or 0.
func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// memoryRequest names the first thing in m that needs the controller. The
// kernel memory limit does not: runtimes may ignore it (runtime-spec,
// config-linux.md) and the kernel does.
func memoryRequest(m *specs.LinuxMemory) string {
	switch {
	case value(m.Limit) != 0:
		return fmt.Sprintf("memory limit %d", *m.Limit)
	case value(m.Swap) != 0:
		return fmt.Sprintf("memory and swap limit %d", *m.Swap)
	case value(m.Reservation) != 0:
		return fmt.Sprintf("memory reservation %d", *m.Reservation)
	case m.Swappiness != nil:
		return fmt.Sprintf("swappiness %d", *m.Swappiness)
	case value(m.KernelTCP) != 0:
		return fmt.Sprintf("kernel tcp memory limit %d", *m.KernelTCP)
	case value(m.DisableOOMKiller):
		return "oom killer disabled"
	}
	return ""
}

func usageCheck(version int, limit int64) write {
	file := "memory.current"
	if version == 1 {
		file = "memory.usage_in_bytes"
	}
	request := fmt.Sprintf("memory limit %d", limit)
	return write{controller: "memory", file: file, request: request, check: func(now string) error {
		used, err := strconv.ParseInt(strings.TrimSpace(now), 10, 64)
		if err == nil && used > limit {
			return kindf(errdefs.ErrFailedPrecondition, "%s: %d bytes are in use", request, used)
		}
		return err
	}}
}

func planMemoryV1(p *plan, m *specs.LinuxMemory) error {
	limit, swap := value(m.Limit), value(m.Swap)
	var group []write
	add := func(file string, n int64, what string) {
		group = append(group, write{
			controller: "memory", file: file, value: strconv.FormatInt(n, 10), request: fmt.Sprintf("%s %d", what, n),
		})
	}
	if limit != 0 {
		add("memory.limit_in_bytes", limit, "memory limit")
	}
	switch {
	case swap != 0:
		add("memory.memsw.limit_in_bytes", swap, "memory and swap limit")
	case limit == -1:
		// No limit of memory is none at all only without one of the sum.
		add("memory.memsw.limit_in_bytes", -1, "memory and swap limit")
		group[len(group)-1].optional = true
	}
	p.group(group...)
	group = nil
	if n := value(m.Reservation); n != 0 {
		add("memory.soft_limit_in_bytes", n, "memory reservation")
	}
	if m.Swappiness != nil {
		n := *m.Swappiness
		if n > 100 {
			return outside(fmt.Sprintf("swappiness %d", n), 0, 100)
		}
		add("memory.swappiness", int64(n), "swappiness")
	}
	if n := value(m.KernelTCP); n != 0 {
		add("memory.kmem.tcp.limit_in_bytes", n, "kernel tcp memory limit")
	}
	if m.DisableOOMKiller != nil {
		w := write{controller: "memory", file: "memory.oom_control", value: "0", request: "oom killer enabled"}
		if *m.DisableOOMKiller {
			w.value, w.request = "1", "oom killer disabled"
		}
		group = append(group, w)
	}
	for _, w := range group {
		p.group(w)
	}
	return nil
}

func planMemoryV2(p *plan, m *specs.LinuxMemory) error {
	limit, swap := value(m.Limit), value(m.Swap)
	switch {
	case m.Swappiness != nil:
		return lacks(2, fmt.Sprintf("swappiness %d", *m.Swappiness))
	case value(m.KernelTCP) != 0:
		return lacks(2, fmt.Sprintf("kernel tcp memory limit %d", *m.KernelTCP))
	case value(m.DisableOOMKiller):
		return lacks(2, "oom killer disabled")
	case swap > 0 && limit == 0:
		return kindf(errdefs.ErrInvalidArgument, "memory and swap limit %d: needs a memory limit beside it", swap)
	}
	if swap != 0 || limit == -1 {
		// The specification counts memory and swap together, as v1 does.
		n := swap
		switch {
		case swap > 0 && limit > 0:
			n = swap - limit
		case swap == 0:
			n = -1
		}
		p.group(write{
			controller: "memory", file: "memory.swap.max", value: number(2, n),
			request:  fmt.Sprintf("memory and swap limit %d", swap),
			optional: n == -1 || n == 0 && !kernelSwaps(),
		})
	}
	if limit != 0 {
		p.group(write{controller: "memory", file: "memory.max", value: number(2, limit), request: fmt.Sprintf("memory limit %d", limit)})
	}
	if n := value(m.Reservation); n != 0 {
		p.group(write{controller: "memory", file: "memory.low", value: number(2, n), request: fmt.Sprintf("memory reservation %d", n)})
	}
	return nil
}

// kernelSwaps tells whether the kernel can swap at all. Where it cannot, "no
// swap" needs no file.
func kernelSwaps() bool {
	_, err := os.Stat("/proc/swaps")
	return err == nil
}
