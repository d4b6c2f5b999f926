package cgroup

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func planPids(p *plan, r *specs.LinuxResources) error {
	if r.Pids == nil || r.Pids.Limit == nil {
		return nil
	}
	n := *r.Pids.Limit
	request := fmt.Sprintf("pids limit %d", n)
	if _, err := p.need("pids", request); err != nil {
		return err
	}
	value := number(2, n) // v1 says max as well
	switch {
	case n < -1:
		return outside(request, -1, pidMax)
	case n == 0:
		// No process could be cloned into it. 1 means the same for the one that
		// is in: no fork succeeds.
		value = "1"
	case n > pidMax:
		return outside(request, -1, pidMax)
	}
	p.group(write{controller: "pids", file: "pids.max", value: value, request: request})
	return nil
}

// pidMax is PID_MAX_LIMIT of 64-bit kernels, include/linux/threads.h: pids.max
// takes no greater number.
const pidMax = 4 << 20
