package cgroup

import (
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// A Cgroup is one leaf, with the same path in every hierarchy that it uses.
type Cgroup struct {
	parent *Parent
	name   string
	path   string

	mu      sync.Mutex
	made    uint64 // bit i: it has a directory in hierarchy i
	shared  uint64 // bit i: there, it is in its parent's common one
	closed  bool   // Close or Remove was called
	entered bool   // Join was called: a new hierarchy would stay empty
	join    []*os.File
	dir     *os.File
	binds   []Bind
	tree    *os.File

	set     sync.Mutex // held by Set as a whole; guards what follows
	devices rules      // what was set last, on v1
	given   []ruleKey  // as it was given
	undo    *[]undo    // of an Update that is at work
}

// Open returns the Cgroup at path as it stands, in whatever hierarchies have
// it. It is errdefs.ErrNotFound where none does.
func (h *Host) Open(path string) (*Cgroup, error) {
	above, name, err := cut(path)
	if err != nil {
		return nil, err
	}
	p := newParent(h, above, false)
	c := &Cgroup{parent: p, name: name, path: strings.Trim(path, "/"), entered: true}
	for i := range h.hierarchies {
		if err = p.open(i); err != nil {
			break
		}
		if p.dirs[i] < 0 {
			continue
		}
		err = unix.Faccessat(p.dirs[i], name, unix.F_OK, 0)
		if err == nil {
			c.made |= 1 << i
		} else if gone(err) && h.hierarchies[i].sharable() && unix.Faccessat(p.dirs[i], commonName, unix.F_OK, 0) == nil {
			c.shared |= 1 << i
		} else if !gone(err) {
			err = fmt.Errorf("open cgroup %s: %w", c.path, classify(err))
			break
		}
	}
	if c.made == 0 && (err == nil || gone(err)) {
		err = kindf(errdefs.ErrNotFound, "cgroup %s: not found", c.path)
	} else if c.made != 0 && gone(err) {
		err = nil
	}
	if err != nil {
		p.closeAll()
		return nil, err
	}
	return c, nil
}

// Path returns the path below the root of each hierarchy, without a slash in
// front.
func (c *Cgroup) Path() string { return c.path }

// makeIn makes the directory in hierarchy i.
func (c *Cgroup) makeIn(i int) error {
	y := c.parent.host.hierarchies[i]
	var err error
	for range 16 {
		var dir int
		if dir, err = c.parent.dir(i); err != nil {
			return err
		}
		err = unix.Mkdirat(dir, c.name, 0o755)
		if err == nil {
			c.mu.Lock()
			c.made |= 1 << i
			c.mu.Unlock()
			if c.parent.copyCpuset && !y.v2 && y.has("cpuset") {
				err = c.copyCpuset(dir)
			}
			break
		}
		if !gone(err) {
			break
		}
		// Somebody swept the parent away since it was opened.
		if err := c.parent.reopen(i, dir); err != nil {
			return err
		}
	}
	if err != nil {
		return fmt.Errorf("make cgroup %s in hierarchy %s: %w", c.path, y.name, classify(err))
	}
	return nil
}

func (c *Cgroup) copyCpuset(parent int) error {
	fd, err := openAt(parent, c.name, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return copyCpuset(parent, fd)
}

// fixModes opens the directories to readers where the process's umask has
// closed them: in a container not only root wants to know the limits.
func (c *Cgroup) fixModes() error {
	for i, y := range c.parent.host.hierarchies {
		if !c.madeIn(i) {
			continue
		}
		dir, err := c.parent.dir(i)
		var st unix.Stat_t
		if err == nil {
			err = unix.Fstatat(dir, c.name, &st, unix.AT_SYMLINK_NOFOLLOW)
		}
		if err == nil && st.Mode&0o777 == 0o755 {
			return nil // and so are the others
		}
		if err == nil {
			err = unix.Fchmodat(dir, c.name, 0o755, 0)
		}
		if err != nil {
			return fmt.Errorf("mode of cgroup %s in hierarchy %s: %w", c.path, y.name, classify(err))
		}
	}
	return nil
}

// unmake removes what New has made before it failed.
func (c *Cgroup) unmake() {
	for i := range c.parent.host.hierarchies {
		if c.madeIn(i) {
			dir, _ := c.parent.dir(i)
			unix.Unlinkat(dir, c.name, unix.AT_REMOVEDIR)
		}
	}
}

func (c *Cgroup) madeIn(i int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.made&(1<<i) != 0
}

// all calls f for each hierarchy in which c has a directory, with the
// directory that it stands in.
func (c *Cgroup) all(f func(i int, y *hierarchy, parent int) error) error {
	if err := c.use(); err != nil {
		return err
	}
	defer c.parent.Close()
	for i, y := range c.parent.host.hierarchies {
		if !c.madeIn(i) {
			continue
		}
		dir, err := c.parent.dir(i)
		if err == nil {
			err = f(i, y, dir)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// use keeps the parent's descriptors open, also when c is closed meanwhile,
// until the caller closes c.parent.
func (c *Cgroup) use() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return fmt.Errorf("cgroup %s: %w", c.path, os.ErrClosed)
	}
	c.parent.hold()
	return nil
}

// Close frees what c holds in this process and leaves the directories as they
// are. Remove does so as well.
func (c *Cgroup) Close() error {
	c.Release()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	return c.parent.Close()
}

// OOMKills returns how many processes the kernel has killed because the cgroup
// was at its memory limit: on v2 in it and below it, on v1 in it alone. It is
// errdefs.ErrNotImplemented where there is no memory controller.
func (c *Cgroup) OOMKills() (uint64, error) {
	file := "memory.events"
	switch c.parent.host.version("memory") {
	case 0:
		return 0, kindf(errdefs.ErrNotImplemented, "cgroup %s: no memory controller", c.path)
	case 1:
		file = "memory.oom_control"
	}
	text, err := c.read("memory", file)
	if err != nil {
		return 0, err
	}
	n, ok := field(text, "oom_kill")
	if !ok {
		return 0, kindf(errdefs.ErrNotImplemented, "%s of cgroup %s has no oom_kill", file, c.path)
	}
	return n, nil
}

// read returns the content of a file of a controller.
func (c *Cgroup) read(controller, file string) (text string, err error) {
	i, ok := c.parent.host.where[controller]
	if !ok || !c.madeIn(i) {
		return "", kindf(errdefs.ErrNotImplemented, "cgroup %s has no controller %s", c.path, controller)
	}
	if err := c.use(); err != nil {
		return "", err
	}
	defer c.parent.Close()
	dir, err := c.parent.dir(i)
	if err == nil {
		text, err = readAt(dir, c.name+"/"+file)
	}
	if err != nil {
		return "", fmt.Errorf("read %s of cgroup %s: %w", file, c.path, classify(err))
	}
	return text, nil
}
