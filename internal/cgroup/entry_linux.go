package cgroup

import (
	"os"

	"golang.org/x/sys/unix"
)

// Join returns the files through which a process enters the v1 hierarchies: it
// writes "0" to each, itself, while it has one thread. That takes 0.01 ms,
// where a pid written by another process waits 10 ms for an RCU grace period
// (cgroup_attach_lock, kernel/cgroup/cgroup.c). On a v2-only host there are
// none. The files stay the Cgroup's and are open until Release. To be called
// after Set.
func (c *Cgroup) Join() ([]*os.File, error) {
	c.mu.Lock()
	c.entered = true
	files := c.join
	c.mu.Unlock()
	if files != nil {
		return files, nil
	}
	err := c.places(func(p place) error {
		if p.hierarchy.v2 {
			return nil
		}
		f, err := p.open("/tasks", unix.O_WRONLY)
		if err == nil {
			files = append(files, f)
		}
		return err
	})
	if err != nil {
		closeFiles(files)
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.join != nil || c.closed {
		closeFiles(files)
		return c.join, nil
	}
	c.join = files
	return files, nil
}

// Dir returns the directory in the v2 hierarchy, for CLONE_INTO_CGROUP, or nil
// where there is no v2. On a hybrid host a process is cloned into Dir and then
// writes to the files of Join: what the v2 hierarchy does not know, Kill finds
// more slowly. The file stays the Cgroup's and is open until Release.
func (c *Cgroup) Dir() (*os.File, error) {
	c.mu.Lock()
	dir := c.dir
	c.mu.Unlock()
	if dir != nil {
		return dir, nil
	}
	err := c.places(func(p place) (err error) {
		if p.hierarchy.v2 {
			dir, err = p.open("", unix.O_PATH|unix.O_DIRECTORY)
		}
		return err
	})
	if err != nil || dir == nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dir != nil || c.closed {
		dir.Close()
		return c.dir, nil
	}
	c.dir = dir
	return dir, nil
}

// Release closes the files that Join, Dir, Tree and Binds gave. They can be
// asked for again.
func (c *Cgroup) Release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	closeFiles(c.join)
	closeFiles([]*os.File{c.dir, c.tree})
	for _, b := range c.binds {
		b.Dir.Close()
	}
	c.join, c.dir, c.tree, c.binds = nil, nil, nil, nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}
