package cgroup

import (
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// An undo is what a control file said before a write.
type undo struct {
	dir         int
	file, value string
}

// Update is Set for a Cgroup in use. It changes everything or nothing: when the
// kernel refuses a value, those that were written before are put back (device
// rules, which come last, are not changed then). On v2, where the kernel kills
// to get below a new memory limit, one that is less than what is in use after
// reclaim is refused (errdefs.ErrFailedPrecondition); v1's kernel does so
// itself. A pids limit below the number of processes is no error: it stops
// forks.
func (c *Cgroup) Update(r *specs.LinuxResources) error {
	if r == nil {
		return nil
	}
	c.set.Lock()
	defer c.set.Unlock()
	if r.Memory != nil && value(r.Memory.Limit) > 0 && c.parent.host.version("memory") == 2 {
		careful, check := *r, true
		memory := *r.Memory
		memory.CheckBeforeUpdate = &check
		careful.Memory = &memory
		r = &careful
		if err := c.reclaim(*memory.Limit); err != nil {
			return err
		}
	}
	var done []undo
	c.undo = &done
	err := c.setAll(r)
	c.undo = nil
	if err == nil {
		return nil
	}
	// Backwards, through the states that the kernel has taken on the way.
	if e := c.use(); e != nil {
		return err
	}
	defer c.parent.Close()
	for _, u := range slices.Backward(done) {
		writeAt(u.dir, u.file, u.value)
	}
	return err
}

// reclaim asks v2's kernel (Linux 5.19, memory.reclaim) to make what is in use
// fit into a limit. How far it came shows afterwards.
func (c *Cgroup) reclaim(limit int64) error {
	text, err := c.read("memory", "memory.current")
	if err != nil {
		return err
	}
	used, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil || used <= limit {
		return err
	}
	if err := c.use(); err != nil {
		return err
	}
	defer c.parent.Close()
	dir, err := c.parent.dir(c.parent.host.where["memory"])
	if err == nil {
		writeAt(dir, c.name+"/memory.reclaim", strconv.FormatInt(used-limit, 10))
	}
	return err
}

// oldValue is what to write to a file to undo the writing of value: of a file
// with a line for each device, the line of the same one.
func oldValue(dir int, file, value string) string {
	text, err := readAt(dir, file)
	if err != nil {
		return value
	}
	device, _, _ := strings.Cut(value, " ")
	if !strings.Contains(device, ":") {
		first, _, _ := strings.Cut(text, "\n")
		return first + "\n" // an empty write would be none
	}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, device+" ") {
			return strings.TrimSpace(line)
		}
	}
	switch {
	case strings.HasSuffix(file, "io.max"):
		return device + " rbps=max wbps=max riops=max wiops=max"
	case strings.Contains(file, "weight"):
		return device + " default"
	}
	return device + " 0"
}
