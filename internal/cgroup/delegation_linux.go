package cgroup

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// v2Wanted returns the controllers that each new Cgroup gets on v2. The rest
// is handed down when a limit asks for it, since each makes mkdir dearer.
func v2Wanted(y *hierarchy) []string {
	var list []string
	for _, c := range []string{"cpu", "cpuset", "io", "memory", "pids"} {
		if y.has(c) {
			list = append(list, c)
		}
	}
	return list
}

// enable hands controllers to the children of dir, a directory of a v2
// hierarchy, and records in p.enabled how that went.
func (p *Parent) enable(dir int, level string, wanted []string) {
	if len(wanted) == 0 {
		return
	}
	now, _ := readAt(dir, "cgroup.subtree_control") // an error shows again below
	have := strings.Fields(now)
	var missing []string
	for _, c := range wanted {
		if p.enabled[c] == nil {
			p.enabled[c] = nil
			if !slices.Contains(have, c) {
				missing = append(missing, c)
			}
		}
	}
	if len(missing) == 0 {
		return
	}
	if busy(dir) {
		for _, c := range missing {
			p.enabled[c] = kindf(errdefs.ErrFailedPrecondition,
				"controller %s: cgroup /%s has processes of its own and so cannot hand it to its children: %w", c, level, unix.EBUSY)
		}
		return
	}
	// All in one write is cheaper, but the kernel takes it whole or not at all.
	if writeAt(dir, "cgroup.subtree_control", "+"+strings.Join(missing, " +")) == nil {
		return
	}
	for _, c := range missing {
		err := writeAt(dir, "cgroup.subtree_control", "+"+c)
		if err == nil {
			continue
		}
		err = fmt.Errorf("controller %s: cannot be handed to the children of cgroup /%s: %w", c, level, classify(err))
		p.enabled[c] = err
	}
}

// busy tells whether a v2 cgroup has processes of its own and is not the root
// of the whole hierarchy, which may have both them and children with
// controllers. The kernel refuses such a cgroup only domain controllers as
// memory. It would take cpu, cpuset and pids, and thereby make of the cgroup
// the root of a threaded subtree, whose children no process can enter
// (cgroup_vet_subtree_control_enable, kernel/cgroup/cgroup.c).
func busy(dir int) bool {
	if unix.Faccessat(dir, "cgroup.type", unix.F_OK, 0) != nil {
		return false // only the root has no type
	}
	text, err := readAt(dir, "cgroup.procs")
	return err != nil || text != ""
}

// need makes sure that children have a v2 controller, and returns why not.
func (p *Parent) need(i int, controller string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err, asked := p.enabled[controller]; asked || !p.make {
		return err
	}
	components, err := split(p.path)
	if err != nil {
		return err
	}
	fd, err := p.host.hierarchies[i].descend(components, true, func(_, dir int, level string, _ bool) {
		p.enable(dir, level, []string{controller})
	})
	if err != nil {
		return classify(err)
	}
	unix.Close(fd)
	return p.enabled[controller]
}
