package runtime

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/inboard/engine/internal/cgroup"
)

// A cgroupParent is a directory of the Runtime's own below a CgroupParent of
// CreateOptions, for as long as containers are in it.
type cgroupParent struct {
	*cgroup.Parent
	key         string   // the CgroupParent
	made        []string // the directories above that were not there, the topmost first
	users, next int
}

// parentKey checks a CgroupParent and gives it in one form.
func parentKey(above string) (string, error) {
	key := strings.Trim(above, "/")
	if strings.Contains(key, ":") || strings.HasSuffix(key, ".slice") && !strings.Contains(key, "/") {
		return "", fmt.Errorf("cgroup parent %q: systemd's form is not supported, but paths are: %w", above, errdefs.ErrNotImplemented)
	}
	for name := range strings.SplitSeq(key, "/") {
		if name == "." || name == ".." || strings.ContainsAny(name, "\n\x00") {
			return "", fmt.Errorf("cgroup parent %q: %q is no name of a cgroup: %w", above, name, errdefs.ErrInvalidArgument)
		}
	}
	return strings.TrimPrefix(path.Join("/", key), "/"), nil
}

// makeBelow makes a cgroup of our own naming below a path; g.mu is held.
func (g *cgroups) makeBelow(above string) (*cgroup.Cgroup, error) {
	key, err := parentKey(above)
	if err != nil {
		return nil, err
	}
	p := g.below[key]
	if p == nil {
		if p, err = g.openBelow(key); err != nil {
			return nil, fmt.Errorf("cgroup parent %q: %w", above, err)
		}
		g.below[key] = p
	}
	p.users++
	p.next++
	c, err := p.New(strconv.Itoa(p.next))
	if err != nil {
		return nil, errors.Join(err, g.leaveBelow(p))
	}
	return c, nil
}

// openBelow makes the directory of the Runtime below a path, and tells the lock
// file first.
func (g *cgroups) openBelow(key string) (*cgroupParent, error) {
	p := &cgroupParent{key: key}
	for i := range len(key) + 1 {
		if i == 0 || i < len(key) && key[i] != '/' {
			continue
		}
		c, err := g.host.Open(key[:i])
		switch {
		case err == nil:
			c.Close()
		case errdefs.IsNotFound(err):
			p.made = append(p.made, key[:i])
		default:
			return nil, err
		}
	}
	for _, dir := range p.made {
		if err := g.noteLocked("+", dir); err != nil {
			return nil, err
		}
	}
	full := path.Join(key, path.Base(g.path))
	err := g.noteLocked("", "/"+full)
	if err == nil {
		p.Parent, err = g.host.Parent(full)
	}
	if err != nil {
		g.prune(full, p.made) // what was made before it failed
		return nil, err
	}
	return p, nil
}

// leaveBelow tells that a container is gone; with the last one go the
// directories that were made for them. g.mu is held.
func (g *cgroups) leaveBelow(p *cgroupParent) error {
	if p.users--; p.users > 0 {
		return nil
	}
	delete(g.below, p.key)
	return errors.Join(p.Close(), g.prune(p.Path(), p.made))
}

// prune removes directories that are empty: own and those above it.
func (g *cgroups) prune(own string, above []string) error {
	err := g.host.Prune(own)
	for _, dir := range slices.Backward(above) {
		err = errors.Join(err, g.host.Prune(dir))
	}
	if err != nil {
		return err
	}
	err = g.noteLocked("-", "/"+own)
	for _, dir := range above {
		err = errors.Join(err, g.noteLocked("-", dir))
	}
	return err
}

// removed tells that a container's cgroup is gone.
func (g *cgroups) removed(c *cgroup.Cgroup) {
	g.mu.Lock()
	defer g.mu.Unlock()
	dir := path.Dir(c.Path())
	if dir == g.path {
		return
	}
	for _, p := range g.below {
		if p.Path() == dir {
			g.leaveBelow(p) // what stays, a sweep finds in the lock file
			return
		}
	}
	g.noteLocked("-", c.Path())
}

// closeBelow removes what is left when all containers are gone.
func (g *cgroups) closeBelow() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var errs []error
	for _, p := range g.below {
		errs = append(errs, g.host.RemoveAll(context.Background(), p.Path()))
		p.users = 1
		errs = append(errs, g.leaveBelow(p))
	}
	return errors.Join(errs...)
}
