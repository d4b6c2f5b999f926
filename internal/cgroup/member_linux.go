package cgroup

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Pids returns the processes that are in c or below it, in any hierarchy,
// sorted, as the calling process's pid namespace numbers them. Those that it
// does not number are left out.
func (c *Cgroup) Pids() ([]int, error) {
	var pids []int
	err := c.all(func(_ int, y *hierarchy, parent int) error {
		list, err := pidsBelow(parent, c.name)
		pids = append(pids, list...)
		if err != nil {
			return fmt.Errorf("processes of cgroup %s in hierarchy %s: %w", c.path, y.name, classify(err))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(pids)
	pids = slices.Compact(pids)
	return slices.DeleteFunc(pids, func(pid int) bool { return pid == 0 }), nil
}

// pidsBelow lists cgroup.procs of a directory and of all below it. A process
// outside the caller's pid namespace counts as 0.
func pidsBelow(parent int, name string) ([]int, error) {
	var pids []int
	err := walk(parent, name, visitor{visit: func(dir int) error {
		text, err := readAt(dir, "cgroup.procs")
		// A threaded v2 cgroup has EOPNOTSUPP; its processes are listed above it.
		if gone(err) || errors.Is(err, unix.EOPNOTSUPP) {
			return nil
		}
		for line := range strings.Lines(text) {
			if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil {
				pids = append(pids, pid)
			}
		}
		return err
	}})
	return pids, err
}
