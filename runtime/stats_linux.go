package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/inboard/engine/internal/cgroup"
)

// Stats takes a sample of what the container uses. It costs some fifteen reads
// of kernel files, and works on a paused container. Once the container's
// process has ended, it is errdefs.ErrFailedPrecondition.
func (c *Container) Stats(ctx context.Context) (Stats, error) {
	if err := ctx.Err(); err != nil {
		return Stats{}, err
	}
	if c.process.ended() {
		return Stats{}, errNotRunning
	}
	s, err := c.cgroup.Stats()
	if errors.Is(err, os.ErrClosed) || errdefs.IsNotFound(err) {
		return Stats{}, errNotRunning
	}
	return statsOf(s), err
}

// ReadStats is Container.Stats for a container of any program by its
// CgroupPath. It is errdefs.ErrNotFound where no hierarchy has that cgroup.
func ReadStats(cgroupPath string) (Stats, error) {
	host, err := cgroup.Detect()
	if err != nil {
		return Stats{}, fmt.Errorf("cgroups: %w", err)
	}
	c, err := host.Open(cgroupPath)
	if err != nil {
		return Stats{}, err
	}
	defer c.Close()
	s, err := c.Stats()
	return statsOf(s), err
}

func statsOf(s *cgroup.Stats) Stats {
	if s == nil {
		return Stats{}
	}
	to := Stats{Time: s.Time, Memory: MemoryStats(s.Memory), CPU: CPUStats(s.CPU), Pids: PidsStats(s.Pids)}
	for _, d := range s.IO {
		to.IO = append(to.IO, IOStats(d))
	}
	for _, h := range s.Hugepages {
		to.Hugepages = append(to.Hugepages, HugepageStats(h))
	}
	if p := s.Pressure; p != nil {
		of := func(p cgroup.Pressure) Pressure { return Pressure{Stall(p.Some), Stall(p.Full)} }
		to.Pressure = &PressureStats{of(p.CPU), of(p.Memory), of(p.IO)}
	}
	return to
}

// Update changes limits of a container that is there, running, paused, or
// waiting for Start: those of r that are set, as in a spec (0 and nil leave
// what is there, -1 lifts a limit). Either all are changed or none. Devices, if
// there are any, are a whole new list of rules.
//
// Errors: errdefs.ErrInvalidArgument for values out of range or against each
// other or those in force, ErrNotImplemented for what the kernel or its mounted
// hierarchies lack (the error names both), ErrFailedPrecondition for a memory
// limit below what is in use and cannot be freed, for one of huge pages, rdma
// or network classes where the container had none at its start, and for a
// container that has ended.
func (c *Container) Update(ctx context.Context, r *specs.LinuxResources) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.process.ended() {
		return errNotRunning
	}
	err := c.cgroup.Update(r)
	if errors.Is(err, os.ErrClosed) || err != nil && c.process.ended() {
		return errNotRunning
	}
	if err == nil && r != nil && r.Pids != nil {
		c.pidsLimited.Store(true)
		c.standby.drop(false)
	}
	return err
}
