package cgroup

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A write is one value for one control file.
type write struct {
	controller string
	file       string
	value      string
	request    string // the limit as it was asked for, for errors

	// instead is written where the kernel lacks the file.
	instead *write
	// optional writes are left out where the kernel lacks the file.
	optional bool
	// merge, when set, makes the value from what the file says now.
	merge func(now string) string
	// check, when set, looks at what the file says now; nothing is written.
	check func(now string) error
	above bool // the file is that of the cgroup above
}

// A plan is what Set writes. The writes of a group constrain each other (a
// memory limit must not exceed that of memory and swap, say), so that the
// right order depends on what is there; see Cgroup.apply.
type plan struct {
	version func(controller string) int
	groups  [][]write
}

// A limit makes one resource's part of a plan. It checks all that can be
// checked before anything is written.
type limit func(p *plan, r *specs.LinuxResources) error

var limits = []limit{
	planMemory, planCPU, planCpuset, planPids, planBlockIO, planHugepages,
	planNetwork, planRDMA, planUnified,
}

func newPlan(version func(string) int, r *specs.LinuxResources) (*plan, error) {
	p := &plan{version: version}
	for _, l := range limits {
		if err := l(p, r); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *plan) group(writes ...write) {
	if len(writes) > 0 {
		p.groups = append(p.groups, writes)
	}
}

// need returns the version of the hierarchy that has a controller. Its error
// names the request that needs it.
func (p *plan) need(controller, request string) (int, error) {
	v := p.version(controller)
	if v == 0 {
		return 0, kindf(errdefs.ErrNotImplemented, "%s: no mounted cgroup hierarchy has the controller %s", request, controller)
	}
	return v, nil
}

// lacks is the error for a request that a version of cgroups has no file for.
func lacks(version int, request string) error {
	return kindf(errdefs.ErrNotImplemented, "%s: cgroups v%d have no such limit", request, version)
}

// outside is the error for a value that is out of its bounds.
func outside(request string, low, high int64) error {
	return kindf(errdefs.ErrInvalidArgument, "%s: not between %d and %d", request, low, high)
}

// number gives -1 as the word that v2 has for it.
func number(version int, n int64) string {
	if version == 2 && n == -1 {
		return "max"
	}
	return strconv.FormatInt(n, 10)
}

// Set writes limits and device rules. Nil fields leave what is there; for
// memory, swap, cpu shares, quota and period so does 0, as with other runtimes.
// A pids limit of 0 lets the one process in that is there to be limited, and no
// fork succeed. Device rules start from a cgroup that denies all devices; they
// cost nothing when they are those of the Set before, so that a cgroup can be
// made ready with the usual ones ahead of time.
//
// All of r is checked first: a value out of range gives
// errdefs.ErrInvalidArgument and its bounds, a limit that the kernel or its
// mounted hierarchies cannot hold errdefs.ErrNotImplemented or
// errdefs.ErrFailedPrecondition and the controller. An error of the kernel
// names file and value; what was written before it stays. Limits can be set
// again while processes run, except those of a hierarchy that they are not in.
func (c *Cgroup) Set(r *specs.LinuxResources) error {
	if r == nil {
		return nil
	}
	c.set.Lock()
	defer c.set.Unlock()
	return c.setAll(r)
}

// setAll is Set; c.set is held.
func (c *Cgroup) setAll(r *specs.LinuxResources) error {
	if err := c.use(); err != nil {
		return err
	}
	defer c.parent.Close()
	p, err := newPlan(c.parent.host.version, r)
	setDevices := func() error { return nil }
	if err == nil && len(r.Devices) > 0 && !slices.Equal(ruleKeys(r.Devices), c.given) {
		setDevices, err = c.planDevices(r.Devices)
	}
	if err != nil {
		return fmt.Errorf("cgroup %s: %w", c.path, err)
	}
	for _, g := range p.groups {
		if err := c.apply(g); err != nil {
			return fmt.Errorf("cgroup %s: %w", c.path, err)
		}
	}
	if err := setDevices(); err != nil {
		return fmt.Errorf("cgroup %s: device rules: %w", c.path, err)
	}
	return nil
}

// apply writes a group. A write that the kernel finds invalid is tried again
// after the others, for as long as others succeed: so raising and lowering two
// values that bound each other both work, without reading them first.
func (c *Cgroup) apply(group []write) error {
	for len(group) > 0 {
		var failed []write
		var first error
		for _, w := range group {
			err := c.write(w)
			switch {
			case err == nil:
			case errdefs.IsInvalidArgument(err):
				failed = append(failed, w)
				if first == nil {
					first = err
				}
			default:
				return err
			}
		}
		if len(failed) == len(group) {
			return first
		}
		group = failed
	}
	return nil
}

// busyRetries is how often an Update asks for memory to be freed: for 63 ms.
const busyRetries = 6

func (c *Cgroup) write(w write) error {
	i, err := c.enter(w)
	if err != nil {
		return err
	}
	dir, err := c.parent.dir(i)
	if err != nil {
		return err
	}
	name := c.name + "/" + w.file
	value := w.value
	if w.above {
		name = w.file
	}
	if w.merge != nil || w.check != nil {
		now, err := readAt(dir, name)
		switch {
		case err != nil:
			return w.failed(err)
		case w.check != nil:
			return w.check(now)
		}
		value = w.merge(now)
	}
	var before undo
	if c.undo != nil {
		before = undo{dir, name, oldValue(dir, name, value)}
	}
	err = writeAt(dir, name, value)
	// v1 gives up at the first look that finds no memory to free, as while it
	// is being written back.
	var wait backoff
	for i := 0; c.undo != nil && w.controller == "memory" && err == unix.EBUSY && i < busyRetries; i++ {
		wait.wait(context.Background())
		err = writeAt(dir, name, value)
	}
	switch {
	case err == nil:
		if c.undo != nil {
			*c.undo = append(*c.undo, before)
		}
		return nil
	case err != unix.ENOENT:
		return w.failed(err)
	case w.instead != nil:
		return c.write(*w.instead)
	case w.optional:
		return nil
	}
	return w.failed(err)
}

// failed gives an error of the kernel its place.
func (w write) failed(err error) error {
	if err == unix.ENOENT {
		return kindf(errdefs.ErrNotImplemented, "%s: there is no file %s: %w", w.request, w.file, err)
	}
	hint := ""
	switch {
	case err == unix.EBUSY && w.controller == "memory":
		hint = " (more is in use)"
	case err == unix.EINVAL && strings.HasPrefix(w.file, "cpu.rt_"):
		hint = " (the cgroups above have no realtime time to give)"
	}
	return fmt.Errorf("%s: write %q to %s: %w%s", w.request, w.value, w.file, classify(err), hint)
}

// enter makes sure that c has the controller of w and returns its hierarchy.
func (c *Cgroup) enter(w write) (int, error) {
	i, ok := c.parent.host.hierarchyOf(w.controller)
	if !ok {
		return 0, kindf(errdefs.ErrNotImplemented, "%s: no controller %s", w.request, w.controller)
	}
	y := c.parent.host.hierarchies[i]
	if c.sharesIn(i) {
		if err := c.leaveCommon(i); err != nil {
			return 0, fmt.Errorf("%s: %w", w.request, err)
		}
	}
	if !c.madeIn(i) {
		c.mu.Lock()
		entered := c.entered
		c.mu.Unlock()
		if entered {
			return 0, kindf(errdefs.ErrFailedPrecondition, "%s: its processes are not in hierarchy %s, which has to be joined before they start", w.request, y.name)
		}
		if err := c.makeIn(i); err != nil {
			return 0, err
		}
	}
	if y.v2 && w.controller != "cgroup" {
		if err := c.parent.need(i, w.controller); err != nil {
			return 0, fmt.Errorf("%s: %w", w.request, err)
		}
	}
	return i, nil
}
