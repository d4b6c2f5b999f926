package cgroup

import (
	"errors"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
)

// Mode is how the machine mounts its cgroups.
type Mode int

const (
	// V1 has one or more v1 hierarchies and no v2 one.
	V1 Mode = iota + 1
	// Hybrid has controllers in v1 hierarchies, and a v2 hierarchy beside them.
	Hybrid
	// Unified has a v2 hierarchy, and no v1 hierarchy that a container needs.
	Unified
)

// String returns "v1", "hybrid" or "v2".
func (m Mode) String() string {
	switch m {
	case V1:
		return "v1"
	case Hybrid:
		return "hybrid"
	case Unified:
		return "v2"
	}
	return "unknown"
}

// A Host is the set of cgroup hierarchies that are mounted. It holds a
// descriptor of the root of each, so that later mounts do not change it.
type Host struct {
	mode        Mode
	hierarchies []*hierarchy
	where       map[string]int // index of the hierarchy of a controller
	programs    programCache

	mu      sync.Mutex
	parents map[string]*Parent // those that are open, by path
}

var detected struct {
	sync.Mutex
	host *Host
}

// Detect returns the machine's cgroups as the calling process sees them. The
// first Host is kept for the life of the process; an error is not kept. It is
// errdefs.ErrNotImplemented where no hierarchy is mounted.
func Detect() (*Host, error) {
	detected.Lock()
	defer detected.Unlock()
	if detected.host != nil {
		return detected.host, nil
	}
	h, err := detect()
	if err == nil {
		detected.host = h
	}
	return h, err
}

func detect() (*Host, error) {
	// Not /proc/self: the calling thread may have a mount namespace of its own.
	text, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, err
	}
	return newHost(layout(parseMountinfo(string(text)), openMount))
}

func newHost(list []*hierarchy) (*Host, error) {
	h := &Host{hierarchies: list, where: map[string]int{}, parents: map[string]*Parent{}}
	v1, v2 := false, -1
	for i, y := range list {
		if y.v2 {
			v2 = i
			continue
		}
		v1 = v1 || y.base
		for _, c := range y.controllers {
			h.where[c] = i
		}
	}
	switch {
	case v2 >= 0 && v1:
		h.mode = Hybrid
	case v2 >= 0:
		h.mode = Unified
	case v1:
		h.mode = V1
	default:
		return nil, kindf(errdefs.ErrNotImplemented, "no cgroup hierarchy is mounted")
	}
	if v2 < 0 {
		return h, nil
	}
	// The root of the whole v2 hierarchy has cgroup.controllers as well.
	text, err := readAt(list[v2].root, "cgroup.controllers")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	list[v2].controllers = strings.Fields(text)
	for _, c := range list[v2].controllers {
		h.where[c] = v2
	}
	return h, nil
}

// Mode returns how the machine mounts its cgroups.
func (h *Host) Mode() Mode { return h.mode }

// Controllers returns the names of the controllers that are there, sorted, as
// the kernel spells them: blkio is v1's name of v2's io.
func (h *Host) Controllers() []string {
	var list []string
	for c := range h.where {
		list = append(list, c)
	}
	slices.Sort(list)
	return list
}

// hierarchyOf returns the index of the hierarchy that has a controller;
// "cgroup" is v2's core.
func (h *Host) hierarchyOf(controller string) (int, bool) {
	if i, ok := h.where[controller]; ok {
		return i, true
	}
	i := slices.IndexFunc(h.hierarchies, func(y *hierarchy) bool { return y.v2 && controller == "cgroup" })
	return i, i >= 0
}

// version returns 1 or 2, the kind of the hierarchy that has a controller, or
// 0 where none has it.
func (h *Host) version(controller string) int {
	i, ok := h.where[controller]
	switch {
	case !ok:
		return 0
	case h.hierarchies[i].v2:
		return 2
	}
	return 1
}
