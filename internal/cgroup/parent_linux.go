package cgroup

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// A Parent is a directory that holds Cgroups, in every hierarchy that they
// use. It keeps a descriptor of each, and so makes New cheap: whoever makes
// many Cgroups below one path keeps its Parent open.
type Parent struct {
	host *Host
	path string
	make bool // missing directories are made

	refs int // guarded by host.mu; the handle and each of its Cgroups

	mu   sync.Mutex
	dirs []int // per hierarchy; -1: not there, or not yet
	old  []int // replaced, closed with the Parent since others may still use them
	// copyCpuset tells that a new v1 cpuset is born empty, since the directory
	// is not ours and lacks cgroup.clone_children.
	copyCpuset bool
	shared     uint64           // bit i: new Cgroups are in the common directory of hierarchy i
	enabled    map[string]error // v2 controllers asked for; why not, or nil
}

// split checks a path and returns its components. A leading slash is allowed;
// the root has none.
func split(p string) ([]string, error) {
	p = strings.Trim(p, "/")
	if p == "" {
		return nil, nil
	}
	components := strings.Split(p, "/")
	for _, c := range components {
		if err := checkName(c); err != nil {
			return nil, kindf(errdefs.ErrInvalidArgument, "cgroup path %q: %w", p, err)
		}
	}
	return components, nil
}

func checkName(c string) error {
	if c == "" || c == "." || c == ".." || len(c) > unix.NAME_MAX || strings.ContainsAny(c, "/\n\x00") {
		return kindf(errdefs.ErrInvalidArgument, "%q is no name of a cgroup", c)
	}
	return nil
}

// Parent opens the directory at path, such as "inboard/r1", in all hierarchies
// that every Cgroup uses, and makes it where it is missing. On v2 it hands the
// usual controllers (cpu, cpuset, io, memory, pids) down to it, as far as the
// kernel lets it; Set tells which one is missing when a limit needs it.
// Parents of one path share their descriptors. The caller closes it.
func (h *Host) Parent(path string) (*Parent, error) {
	components, err := split(path)
	if err != nil {
		return nil, err
	}
	path = strings.Join(components, "/")
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.parents[path]; p != nil {
		p.refs++
		return p, nil
	}
	p := newParent(h, path, true)
	for i, y := range h.hierarchies {
		if !y.base {
			continue
		}
		if err := p.open(i); err != nil {
			p.closeAll()
			return nil, err
		}
	}
	h.parents[path] = p
	return p, nil
}

func newParent(h *Host, path string, make bool) *Parent {
	p := &Parent{host: h, path: path, make: make, refs: 1, enabled: map[string]error{}}
	p.dirs = slices.Repeat([]int{-1}, len(h.hierarchies))
	return p
}

// Path returns the path below the root of each hierarchy, without a slash in front.
func (p *Parent) Path() string { return p.path }

// Close drops the handle. Cgroups that were made below it stay usable.
func (p *Parent) Close() error {
	p.host.mu.Lock()
	defer p.host.mu.Unlock()
	p.refs--
	if p.refs > 0 {
		return nil
	}
	if p.host.parents[p.path] == p {
		delete(p.host.parents, p.path)
	}
	p.closeAll()
	return nil
}

// hold takes one more reference, which Close gives back.
func (p *Parent) hold() {
	p.host.mu.Lock()
	p.refs++
	p.host.mu.Unlock()
}

func (p *Parent) closeAll() {
	for _, fd := range append(p.dirs, p.old...) {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// dir returns the directory in hierarchy i, or -1 if it is not there and is
// not made.
func (p *Parent) dir(i int) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dirs[i] >= 0 || !p.make {
		return p.dirs[i], nil
	}
	err := p.open(i)
	return p.dirs[i], err
}

// reopen replaces the directory in hierarchy i, which somebody has removed.
// broken is the descriptor that the caller found so.
func (p *Parent) reopen(i, broken int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dirs[i] != broken {
		return nil // another goroutine was faster
	}
	if err := p.open(i); err != nil {
		return err
	}
	p.old = append(p.old, broken)
	return nil
}

// open opens the directory in hierarchy i. p.mu is held, or p is not shared yet.
func (p *Parent) open(i int) error {
	y := p.host.hierarchies[i]
	var failed error
	enter := func(above, dir int, level string, fresh bool) {
		switch {
		case y.v2:
			p.enable(dir, level, v2Wanted(y))
		case y.has("cpuset") && above < 0:
			failed, p.copyCpuset = nil, true // the walk starts, maybe once more
		case y.has("cpuset"):
			inherits, err := inheritCpuset(above, dir, fresh)
			p.copyCpuset = !inherits
			if err != nil {
				failed = fmt.Errorf("cpuset of cgroup %s: %w", level, classify(err))
			}
		}
	}
	if y.v2 {
		clear(p.enabled)
	}
	components, err := split(p.path)
	if err != nil {
		return err
	}
	fd, err := y.descend(components, p.make, enter)
	if err != nil {
		return fmt.Errorf("make cgroup %s in hierarchy %s: %w", p.path, y.name, classify(err))
	}
	if failed != nil {
		unix.Close(fd)
		return failed
	}
	p.dirs[i] = fd
	return nil
}

// New makes a Cgroup called name, one component, in every hierarchy that all
// Cgroups use. It is errdefs.ErrAlreadyExists where one of them has it already.
func (p *Parent) New(name string) (*Cgroup, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	c := &Cgroup{parent: p, name: name, path: path.Join(p.path, name)}
	p.mu.Lock()
	shared := p.shared
	p.mu.Unlock()
	if shared != 0 && name == commonName {
		return nil, kindf(errdefs.ErrInvalidArgument, "%q is the cgroup of those that have no limits", name)
	}
	for i, y := range p.host.hierarchies {
		if !y.base {
			continue
		}
		if shared&(1<<i) != 0 {
			c.shared |= 1 << i
			continue
		}
		if err := c.makeIn(i); err != nil {
			c.unmake()
			return nil, err
		}
	}
	if err := c.fixModes(); err != nil {
		c.unmake()
		return nil, err
	}
	p.hold()
	return c, nil
}

// New makes the Cgroup at path and the directories above it. Use Parent where
// many are made below one path.
func (h *Host) New(path string) (*Cgroup, error) {
	above, name, err := cut(path)
	if err != nil {
		return nil, err
	}
	p, err := h.Parent(above)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	return p.New(name)
}

// cut splits a path before its last component.
func cut(p string) (above, name string, err error) {
	components, err := split(p)
	if err != nil {
		return "", "", err
	}
	if len(components) == 0 {
		return "", "", kindf(errdefs.ErrInvalidArgument, "cgroup path %q names the root", p)
	}
	last := len(components) - 1
	return strings.Join(components[:last], "/"), components[last], nil
}
