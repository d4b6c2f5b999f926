package cgroup

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	// gatherRounds is how often gather looks before it makes forks fail.
	gatherRounds = 16
	// freezeRounds bounds how often a v1 freezer is asked: for some 25 s.
	freezeRounds = 500
	// freezeAnew is after how many rounds it begins anew.
	freezeAnew = 20
)

// Freeze stops every process in c and below it, and returns when all are
// stopped. When ctx ends first, or one cannot be stopped, all go on. A process
// that sleeps uninterruptibly in the kernel holds it up.
//
// Where there is a v2 hierarchy, its freezer does it, which lets SIGKILL
// through; on a hybrid host, processes that are in c's v1 cgroups alone are
// moved into its v2 one first, where they stay. On v1 a signal, SIGKILL too,
// takes effect after Thaw. It is errdefs.ErrNotImplemented where neither is
// mounted.
func (c *Cgroup) Freeze(ctx context.Context) error {
	dir, v2, err := c.freezer()
	if err != nil {
		return err
	}
	defer c.parent.Close()
	if v2 {
		err = c.freezeV2(ctx, dir)
	} else {
		err = freezeV1(ctx, dir, c.name)
	}
	if err != nil {
		c.setFrozen(dir, v2, false)
		return fmt.Errorf("freeze cgroup %s: %w", c.path, classify(err))
	}
	return nil
}

// Thaw lets the processes that Freeze has stopped go on. One that is not
// frozen, or is gone, is no error.
func (c *Cgroup) Thaw() error {
	dir, v2, err := c.freezer()
	if err != nil {
		return err
	}
	defer c.parent.Close()
	if err := c.setFrozen(dir, v2, false); err != nil && !gone(err) {
		return fmt.Errorf("thaw cgroup %s: %w", c.path, classify(err))
	}
	return nil
}

// freezer returns the directory that c stands in, in the hierarchy that
// freezes; after an error of nil the caller closes c.parent.
func (c *Cgroup) freezer() (dir int, v2 bool, err error) {
	host := c.parent.host
	i, ok := host.hierarchyOf("cgroup")
	if v2 = ok; !ok {
		i, ok = host.hierarchyOf("freezer")
	}
	if !ok || !c.madeIn(i) {
		return 0, false, kindf(errdefs.ErrNotImplemented, "cgroup %s: no freezer: it needs a v2 hierarchy, or the controller freezer", c.path)
	}
	if err := c.use(); err != nil {
		return 0, false, err
	}
	if dir, err = c.parent.dir(i); err != nil {
		c.parent.Close()
	}
	return dir, v2, err
}

// setFrozen begins or ends a freeze.
func (c *Cgroup) setFrozen(dir int, v2, frozen bool) error {
	file, value := "freezer.state", "THAWED"
	if v2 {
		file, value = "cgroup.freeze", "0"
	}
	if frozen {
		value = map[bool]string{true: "1", false: "FROZEN"}[v2]
	}
	return writeAt(dir, c.name+"/"+file, value)
}

func (c *Cgroup) freezeV2(ctx context.Context, dir int) error {
	// First, so that what is moved stops at once and forks no more.
	if err := c.setFrozen(dir, true, true); err != nil {
		return err
	}
	if c.parent.host.mode == Hybrid {
		c.set.Lock() // pids.max may be changed
		err := c.gather(ctx, dir)
		c.set.Unlock()
		if err != nil {
			return err
		}
	}
	return awaitEvent(ctx, dir, c.name, "frozen", 1)
}

// gather moves the processes of c that are in its other hierarchies alone into
// its directory below dir, in a hierarchy that it has entered later. c.set is
// held. The lists are those of a moment ago, but the kernel gives a number to
// another process only when it has been through all others.
func (c *Cgroup) gather(ctx context.Context, dir int) error {
	var wait backoff
	for round := 0; ; round++ {
		pids, err := c.Pids()
		if err != nil {
			return err
		}
		inside, err := pidsBelow(dir, c.name)
		if err != nil {
			return err
		}
		pids = slices.DeleteFunc(pids, func(pid int) bool { return slices.Contains(inside, pid) })
		if len(pids) == 0 {
			return nil
		}
		if round == gatherRounds { // they fork faster than this looks
			defer c.holdForks()()
		}
		moved := false
		for _, pid := range pids {
			err := writeAt(dir, c.name+"/cgroup.procs", strconv.Itoa(pid))
			if err != nil && err != unix.ESRCH {
				return fmt.Errorf("move process %d: %w", pid, err)
			}
			moved = moved || err == nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if !moved { // they are on the way out
			if err := wait.wait(ctx); err != nil {
				return err
			}
		}
	}
}

// holdForks is stopForks until the function that it returns is called.
func (c *Cgroup) holdForks() (restore func()) {
	old, err := c.read("pids", "pids.max")
	if err != nil {
		return func() {}
	}
	c.stopForks()
	return func() {
		if dir, err := c.parent.dir(c.parent.host.where["pids"]); err == nil {
			writeAt(dir, c.name+"/pids.max", strings.TrimSpace(old))
		}
	}
}

// freezeV1 asks again and again, as the kernel's documentation wants it
// (cgroup-v1/freezer-subsystem.rst): a freeze may be incomplete, and is
// completed by writing FROZEN again; no event tells when. Now and then it
// begins anew: a process that was forked meanwhile may have been missed.
func freezeV1(ctx context.Context, dir int, name string) error {
	var wait backoff
	for round := 1; round <= freezeRounds; round++ {
		err := writeAt(dir, name+"/freezer.state", "FROZEN")
		if err != nil && err != unix.EBUSY {
			return err
		}
		state, err := readAt(dir, name+"/freezer.state")
		if err != nil {
			return err
		}
		if strings.TrimSpace(state) == "FROZEN" {
			return nil
		}
		if round%freezeAnew == 0 {
			if err := writeAt(dir, name+"/freezer.state", "THAWED"); err != nil {
				return err
			}
		}
		if err := wait.wait(ctx); err != nil {
			return err
		}
	}
	return kindf(errdefs.ErrUnavailable, "a process does not stop: freezer.state stays FREEZING")
}
