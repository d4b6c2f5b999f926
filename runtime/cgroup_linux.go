package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/inboard/engine/internal/cgroup"
)

// cgroups makes and removes those of a Runtime's containers. Making one and
// removing it costs half as much as starting a process, so a few are made
// ahead, and removal does not keep a caller waiting.
type cgroups struct {
	host   *cgroup.Host
	parent *cgroup.Parent
	path   string
	lock   *os.File // the Runtime's, which says what a sweep has to remove

	mu     sync.Mutex
	next   int
	rules  []specs.LinuxDeviceCgroup // of the last container: spares get them
	spare  []*cgroup.Cgroup
	below  map[string]*cgroupParent // by CgroupParent
	making bool
	closed bool
	work   sync.WaitGroup // goroutines that make and remove
}

// sparesAhead is how many cgroups, and mounts of a kind, wait for a container.
const sparesAhead = 4

func openCgroups(path string, lock *os.File) (*cgroups, error) {
	host, err := cgroup.Detect()
	if err != nil {
		return nil, fmt.Errorf("cgroups: %w", err)
	}
	if _, err := lock.WriteString(path + "\n"); err != nil {
		return nil, err
	}
	return &cgroups{host: host, path: path, lock: lock, below: map[string]*cgroupParent{}}, nil
}

// take returns a cgroup for a container with the limits and rules of r: at
// path, or if that is empty one of our own naming, below the parent if one is
// given.
func (g *cgroups) take(path, parent string, r *specs.LinuxResources) (*cgroup.Cgroup, error) {
	c, err := g.get(path, parent, r)
	if err != nil {
		return nil, needsRoot(err)
	}
	if r != nil {
		if err := c.Set(r); err != nil {
			g.remove(c)
			return nil, err
		}
		if len(r.HugepageLimits)+len(r.Rdma) > 0 || r.Network != nil {
			c.Release() // Set may have used more hierarchies than those prepared
		}
	}
	return c, nil
}

func (g *cgroups) get(path, parent string, r *specs.LinuxResources) (*cgroup.Cgroup, error) {
	if path != "" {
		if strings.Contains(path, ":") {
			return nil, fmt.Errorf("cgroup path %q: systemd's form is not supported: %w", path, errdefs.ErrNotImplemented)
		}
		return g.makeNamed(strings.Trim(path, "/"))
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, errClosed
	}
	if parent != "" {
		return g.makeBelow(parent)
	}
	if r != nil {
		g.rules = slices.Clone(r.Devices) // the caller may change his spec
	}
	if n := len(g.spare); n > 0 {
		c := g.spare[n-1]
		g.spare = g.spare[:n-1]
		return c, nil
	}
	return g.make()
}

// makeNamed makes a cgroup that a spec names.
func (g *cgroups) makeNamed(path string) (*cgroup.Cgroup, error) {
	if strings.Contains(path, "\n") {
		return nil, fmt.Errorf("cgroup path %q: %w", path, errdefs.ErrInvalidArgument)
	}
	c, err := g.host.New(path)
	if err != nil {
		return nil, err
	}
	if err := g.note("+", path); err != nil {
		g.remove(c)
		return nil, err
	}
	return c, nil
}

// note writes to the lock file what becomes of a named cgroup.
func (g *cgroups) note(what, path string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.noteLocked(what, path)
}

func (g *cgroups) noteLocked(what, path string) error {
	line := what + path + "\n"
	n, err := g.lock.WriteString(line)
	if err != nil && n > 0 { // a part of a line would spoil the next one
		at, e := g.lock.Seek(int64(-n), io.SeekCurrent)
		if e == nil {
			e = g.lock.Truncate(at)
		}
		err = errors.Join(err, e)
	}
	return err
}

// make makes a cgroup; g.mu is held.
func (g *cgroups) make() (*cgroup.Cgroup, error) {
	if g.parent == nil {
		p, err := g.host.Parent(g.path)
		if err != nil {
			return nil, err
		}
		if err := p.ShareCpusets(); err != nil {
			return nil, errors.Join(err, p.Close())
		}
		g.parent = p
	}
	g.next++
	return g.parent.New(strconv.Itoa(g.next))
}

// refill makes spares in the background, ready to be entered. It is called when
// a container has been started, so as not to compete with that. An error is no
// matter here: the next take meets it.
func (g *cgroups) refill() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.making || g.closed || g.parent == nil {
		return
	}
	g.making = true
	g.work.Go(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		for len(g.spare) < sparesAhead && !g.closed {
			c, err := g.make()
			if err != nil {
				break
			}
			rules := g.rules
			g.mu.Unlock()
			c.Set(&specs.LinuxResources{Devices: rules}) // the same again is free
			c.Join()
			c.Dir()
			c.Tree()
			g.mu.Lock()
			g.spare = append(g.spare, c)
		}
		g.making = false
	})
}

// remove removes the cgroup of a container that is gone.
func (g *cgroups) remove(c *cgroup.Cgroup) {
	c.Release()
	remove := func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if c.Remove(ctx) != nil { // something lives in it still
			c.Kill(context.Background())
			c.Remove(context.Background())
		}
		g.removed(c)
	}
	g.mu.Lock()
	closed := g.closed
	if !closed {
		g.work.Go(remove)
	}
	g.mu.Unlock()
	if closed {
		remove()
	}
}

// close removes all that is left. The Runtime's processes are gone.
func (g *cgroups) close() error {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.work.Wait()
	for _, c := range g.spare {
		c.Close()
	}
	g.spare = nil
	err := g.closeBelow()
	if g.parent == nil {
		return err
	}
	return errors.Join(err, g.parent.Close(), g.host.RemoveAll(context.Background(), g.path), g.host.Prune(path.Dir(g.path)))
}

// cgroupTree is Cgroup.Tree; a test replaces it, to compare with bindCgroups.
var cgroupTree = (*cgroup.Cgroup).Tree

// mountCgroup shows the container its own cgroup.
func (b *builder) mountCgroup(destination string, attrs uint64) {
	what := "mount cgroup on " + destination
	if b.hostCgroups && (b.explained != nil || b.rt.cgroups.host.Mode() == cgroup.Unified) {
		b.bindHostCgroup(what, destination, attrs)
		return
	}
	if b.explained != nil || b.rt.cgroups.host.Mode() == cgroup.Unified {
		slot := b.childMount(what, "cgroup2", attrs, nil)
		b.attach(what, slot, destination)
		b.made = append(b.made, madeMount{destination, slot})
		return
	}
	tree, err := cgroupTree(b.cgroup)
	if errdefs.IsNotImplemented(err) {
		b.bindCgroups(what, destination)
		return
	}
	if err != nil {
		b.fail(err)
		return
	}
	slot := b.words(uint64(b.send(int(tree.Fd()))))
	b.attach(what, slot, destination)
	b.made = append(b.made, madeMount{destination, slot})
}

// bindHostCgroup is mountCgroup for a container in the host's cgroup namespace,
// which sees what the host does. To mount cgroup2 there would change the options
// that the host has mounted it with (cgroup_get_tree in kernel/cgroup/cgroup.c).
func (b *builder) bindHostCgroup(what, destination string, attrs uint64) {
	const source = "/sys/fs/cgroup"
	fd, ok := b.obtain(func() (*os.File, error) {
		tree, _, err := openBind(&specs.Mount{Source: source, Options: []string{"bind"}}, nil)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		if err := unix.MountSetattr(int(tree.Fd()), "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: attrs}); err != nil {
			tree.Close()
			return nil, fmt.Errorf("%s: %w", what, os.NewSyscallError("mount_setattr", err))
		}
		return tree, nil
	}, func() string { return "detached copy of " + source })
	if ok {
		slot := b.words(uint64(fd))
		b.attach(what, slot, destination)
		b.made = append(b.made, madeMount{destination, slot})
	}
}

// bindCgroups is mountCgroup on a v1 or hybrid host whose kernel does not mount
// on detached mounts: hierarchy by hierarchy.
func (b *builder) bindCgroups(what, destination string) {
	binds, err := b.cgroup.Binds()
	if err != nil {
		b.fail(err)
		return
	}
	m, err := newMount("tmpfs", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC, "mode", "755")
	if err != nil {
		b.fail(fmt.Errorf("%s: %w", what, err))
		return
	}
	view := b.words(uint64(b.sendOwned(m)))
	b.attach(what, view, destination)
	empty := b.string("")
	attr := b.words(unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC, 0, 0, 0)
	for _, bind := range binds {
		err := unix.Mkdirat(int(m.Fd()), bind.Name, 0o755)
		for _, l := range bind.Links {
			err = errors.Join(err, unix.Symlinkat(bind.Name, int(m.Fd()), l))
		}
		var fd int
		if err == nil {
			fd, err = unix.OpenTree(int(bind.Dir.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
		}
		if err != nil {
			b.fail(fmt.Errorf("%s: %s: %w", what, bind.Name, err))
			return
		}
		tree := b.sendOwned(os.NewFile(uintptr(fd), bind.Name))
		b.add(what+"/"+bind.Name, unix.SYS_MOVE_MOUNT, tree, empty, view, b.string(bind.Name), unix.MOVE_MOUNT_F_EMPTY_PATH).with(flagArg2)
	}
	b.add(what, unix.SYS_MOUNT_SETATTR, view, empty, unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, attr, sizeofMountAttr).with(flagArg0)
	b.made = append(b.made, madeMount{destination, view})
}
