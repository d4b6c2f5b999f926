package cgroup

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// commonName is the directory, in a v1 cpuset hierarchy, of all Cgroups of a
// Parent that have no limits there.
const commonName = "common"

// ShareCpusets has the Cgroups that are made below p from now on share one v1
// cpuset for as long as they have no limits there, where that controller has a
// hierarchy of its own. Each cpuset would cost more the more there are beside
// it: the kernel compares a new one with all others, and builds its scheduling
// domains anew when one is removed (cpuset_css_online, validate_change and
// rebuild_sched_domains_locked in kernel/cgroup/cpuset.c). v2 has no such cost.
func (p *Parent) ShareCpusets() error {
	for i, y := range p.host.hierarchies {
		if !y.sharable() {
			continue
		}
		dir, err := p.dir(i)
		if err == nil {
			err = p.makeCommon(dir)
		}
		if err != nil {
			return fmt.Errorf("make cgroup %s/%s in hierarchy %s: %w", p.path, commonName, y.name, classify(err))
		}
		p.mu.Lock()
		p.shared |= 1 << i
		p.mu.Unlock()
	}
	return nil
}

// sharable tells whether h is for cpusets alone.
func (h *hierarchy) sharable() bool {
	return !h.v2 && len(h.controllers) == 1 && h.has("cpuset")
}

func (p *Parent) makeCommon(dir int) error {
	if err := unix.Mkdirat(dir, commonName, 0o755); err != nil && err != unix.EEXIST {
		return err
	}
	if err := unix.Fchmodat(dir, commonName, 0o755, 0); err != nil { // the umask
		return err
	}
	fd, err := openAt(dir, commonName, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return copyCpuset(dir, fd)
}

// sharesIn tells whether c is in its parent's common directory of hierarchy i.
func (c *Cgroup) sharesIn(i int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.shared&(1<<i) != 0
}

// leaveCommon gives c a directory of its own in hierarchy i, and moves there
// what is in c. c.set is held. The files that lead to the common directory are
// closed, to be asked for again.
func (c *Cgroup) leaveCommon(i int) error {
	if err := c.makeIn(i); err != nil {
		return err
	}
	c.mu.Lock()
	c.shared &^= 1 << i
	entered := c.entered
	c.mu.Unlock()
	c.Release()
	if !entered {
		return nil
	}
	dir, err := c.parent.dir(i)
	if err == nil {
		err = c.gather(context.Background(), dir)
	}
	if err != nil {
		return fmt.Errorf("enter hierarchy %s: %w", c.parent.host.hierarchies[i].name, err)
	}
	return nil
}

// place is where c is in a hierarchy: below the directory parent.
type place struct {
	hierarchy *hierarchy
	parent    int
	name      string
}

// places calls f for each hierarchy that c has part in: with a directory of its
// own, or in one that it shares.
func (c *Cgroup) places(f func(p place) error) error {
	if err := c.use(); err != nil {
		return err
	}
	defer c.parent.Close()
	for i, y := range c.parent.host.hierarchies {
		p := place{hierarchy: y, name: c.name}
		switch {
		case c.madeIn(i):
		case c.sharesIn(i):
			p.name = commonName
		default:
			continue
		}
		var err error
		if p.parent, err = c.parent.dir(i); err == nil {
			err = f(p)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// open opens a file, or with "" the directory.
func (p place) open(file string, flags int) (*os.File, error) {
	fd, err := openAt(p.parent, p.name+file, flags)
	if err != nil {
		return nil, fmt.Errorf("open %s%s in hierarchy %s: %w", p.name, file, p.hierarchy.name, classify(err))
	}
	return os.NewFile(uintptr(fd), p.name+file), nil
}
