package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/inboard/engine/runtime"
)

// NoLimit is the value of a limit in Stats that is not set.
const NoLimit = runtime.NoLimit

// Stats is one sample of what a container's processes use; what it has is of
// the types below.
type (
	Stats         = runtime.Stats
	MemoryStats   = runtime.MemoryStats
	CPUStats      = runtime.CPUStats
	PidsStats     = runtime.PidsStats
	IOStats       = runtime.IOStats
	HugepageStats = runtime.HugepageStats
	PressureStats = runtime.PressureStats
	Pressure      = runtime.Pressure
	Stall         = runtime.Stall
)

// Stats takes a sample of what a running or paused container of any program
// uses. It costs some fifteen reads of kernel files; who wants rates takes two.
// Of a container that is not running it is ErrFailedPrecondition.
func (c *Container) Stats(ctx context.Context) (Stats, error) {
	const op = "statistics of container"
	ctx, leave, err := c.engine.enter(ctx)
	if err != nil {
		return Stats{}, failed(op, c.id, err)
	}
	defer leave()
	s, err := c.stats(ctx)
	return s, failed(op, c.id, err)
}

func (c *Container) stats(ctx context.Context) (Stats, error) {
	if c.own != nil {
		r, _, err := c.own.running()
		if err != nil {
			return Stats{}, err
		}
		s, err := r.container.Stats(ctx)
		if errors.Is(err, ErrFailedPrecondition) {
			err = notRunning(StateExited) // just now
		}
		return s, err
	}
	info, err := c.inspect()
	if err != nil {
		return Stats{}, err
	}
	if !info.State.live() {
		return Stats{}, notRunning(info.State)
	}
	if info.Cgroup == "" {
		return Stats{}, fmt.Errorf("its program has not written down its cgroup: %w", ErrNotImplemented)
	}
	s, err := runtime.ReadStats(info.Cgroup)
	if errors.Is(err, ErrNotFound) {
		err = notRunning(StateExited)
	}
	return s, err
}
