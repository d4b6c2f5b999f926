package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// UpdateOptions are those of Update.
type UpdateOptions struct {
	// Resources are the limits to change; what is zero stays as it is. -1 lifts
	// Memory (and with it the one of swap), MemoryReservation, CPUQuota and
	// Pids, and CPUQuota of -1 CPUs as well. CPUs takes the place of CPUQuota
	// and CPUPeriod, and these that of CPUs. Of lists, the entries given are
	// added, or take the place of those for the same device or size. ShmSize
	// and OOMScoreAdj cannot be changed.
	Resources Resources
}

// Update changes limits of a container, running or not: now, and for each start
// to come. Either all are changed or none.
//
// Errors are those of Create and Start for the limits that result; a limit of
// memory below what is in use and cannot be freed is ErrFailedPrecondition, as
// is one of huge pages or RDMA for a running container that had none, where
// cgroups are v1. A container of another program is updated by that, in its
// turn: see Pause.
func (c *Container) Update(ctx context.Context, u UpdateOptions) error {
	const op = "update container"
	ask := request{Verb: verbUpdate, Resources: &u.Resources}
	return c.inTurn(ctx, op, &ask, func(ctx context.Context) error { return c.update(ctx, u.Resources.clone()) })
}

// update is Update in its turn.
func (c *Container) update(ctx context.Context, change Resources) error {
	o := c.own
	merged, err := o.config.Resources.merge(change)
	if err != nil {
		return err
	}
	whole, err := linuxResources(merged)
	if err != nil {
		return err
	}
	o.mu.Lock()
	removed, state, r := o.removed, o.state, o.run
	o.mu.Unlock()
	if removed {
		return errNoContainer
	}
	if state.live() {
		now := *whole
		lift(&now, change)
		if err := r.container.Update(ctx, &now); err != nil {
			select {
			case <-r.done: // it is the next start's, as of any that has exited
			default:
				return err
			}
		}
	}
	if err := c.change(ctx, resourcesChange{merged}); err != nil {
		if state.live() { // the kernel has the new limits: back to the old ones
			old := *o.resources
			lift(&old, liftedBy(o.config.Resources, merged))
			err = errors.Join(err, r.container.Update(context.WithoutCancel(ctx), &old))
		}
		return err
	}
	o.config.Resources, o.resources = merged, whole
	c.publish(EventUpdate)
	return nil
}

// merge gives r with what a change says.
func (r Resources) merge(change Resources) (Resources, error) {
	if change.ShmSize != 0 || change.OOMScoreAdj != 0 {
		return r, fmt.Errorf("size of /dev/shm and oom score adjustment: cannot be changed: %w", ErrInvalidArgument)
	}
	if change.CPUPeriod != 0 && change.CPUQuota == 0 && r.CPUs != 0 {
		return r, fmt.Errorf("cpu period %d: cpus are set to %v: a quota has to take their place: %w", change.CPUPeriod, r.CPUs, ErrInvalidArgument)
	}
	r = r.clone()
	if change.CPUs != 0 {
		r.CPUQuota, r.CPUPeriod = 0, 0
	}
	if change.CPUQuota != 0 || change.CPUPeriod != 0 {
		r.CPUs = 0
	}
	r.Memory, r.MemorySwap = cmp.Or(change.Memory, r.Memory), cmp.Or(change.MemorySwap, r.MemorySwap)
	r.MemoryReservation = cmp.Or(change.MemoryReservation, r.MemoryReservation)
	r.MemorySwappiness = cmp.Or(change.MemorySwappiness, r.MemorySwappiness)
	r.KernelMemoryTCP = cmp.Or(change.KernelMemoryTCP, r.KernelMemoryTCP)
	r.OOMKillDisable = change.OOMKillDisable || r.OOMKillDisable
	r.CPUs = cmp.Or(change.CPUs, r.CPUs)
	r.CPUQuota, r.CPUPeriod = cmp.Or(change.CPUQuota, r.CPUQuota), cmp.Or(change.CPUPeriod, r.CPUPeriod)
	r.CPUShares = cmp.Or(change.CPUShares, r.CPUShares)
	r.CPURealtimeRuntime = cmp.Or(change.CPURealtimeRuntime, r.CPURealtimeRuntime)
	r.CPURealtimePeriod = cmp.Or(change.CPURealtimePeriod, r.CPURealtimePeriod)
	r.CpusetCPUs, r.CpusetMems = cmp.Or(change.CpusetCPUs, r.CpusetCPUs), cmp.Or(change.CpusetMems, r.CpusetMems)
	r.Pids = cmp.Or(change.Pids, r.Pids)
	r.BlkioWeight = cmp.Or(change.BlkioWeight, r.BlkioWeight)
	r.BlkioWeightDevice = mergeList(r.BlkioWeightDevice, change.BlkioWeightDevice, func(d DeviceWeight) string { return d.Path })
	rates := r.rates()
	for i, list := range change.rates() {
		*rates[i].devices = mergeList(*rates[i].devices, *list.devices, func(d DeviceRate) string { return d.Path })
	}
	r.Hugepages = mergeList(r.Hugepages, change.Hugepages, func(h HugepageLimit) string { return h.Size })
	r.RDMA = mergeList(r.RDMA, change.RDMA, func(d RDMALimit) string { return d.Device })
	// What is lifted is not there any more; -1 of Pids is a limit's own word.
	if r.Memory == -1 {
		r.Memory, r.MemorySwap = 0, 0
	}
	for _, n := range []*int64{&r.MemoryReservation, &r.CPUQuota} {
		if *n == -1 {
			*n = 0
		}
	}
	return r, nil
}

func mergeList[T any](list, change []T, key func(T) string) []T {
	for _, x := range change {
		i := slices.IndexFunc(list, func(y T) bool { return key(x) == key(y) })
		if i >= 0 {
			list[i] = x
		} else {
			list = append(list, x)
		}
	}
	return list
}

// lift says to the kernel what a change lifts: what is not limited is not in
// the specification's terms.
func lift(s *specs.LinuxResources, change Resources) {
	none := int64(-1)
	if change.Memory == none || change.MemoryReservation == none {
		m := specs.LinuxMemory{}
		if s.Memory != nil {
			m = *s.Memory
		}
		if change.Memory == none {
			m.Limit, m.Swap = &none, &none
		}
		if change.MemoryReservation == none {
			m.Reservation = &none
		}
		s.Memory = &m
	}
	if change.Pids == none {
		s.Pids = &specs.LinuxPids{Limit: &none}
	}
	if change.CPUQuota == none {
		cpu := specs.LinuxCPU{}
		if s.CPU != nil {
			cpu = *s.CPU
		}
		cpu.Quota = &none
		s.CPU = &cpu
	}
}

// liftedBy is the change that lifts what now limits and old did not.
func liftedBy(old, now Resources) (change Resources) {
	if old.Memory == 0 && now.Memory != 0 {
		change.Memory = -1
	}
	if old.MemoryReservation == 0 && now.MemoryReservation != 0 {
		change.MemoryReservation = -1
	}
	if old.Pids == 0 && now.Pids != 0 {
		change.Pids = -1
	}
	if old.CPUs == 0 && old.CPUQuota == 0 && (now.CPUs != 0 || now.CPUQuota != 0) {
		change.CPUQuota = -1
	}
	return change
}
