package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/inboard/engine/internal/archive"
	"github.com/inboard/engine/runtime"
)

// containerTree is a container's root directory for one copy.
type containerTree struct {
	root  *os.File
	close func()
}

func (t *containerTree) stat(path string) (PathInfo, error) {
	info, err := archive.Stat(t.root, path)
	return PathInfo(info), err
}

func (t *containerTree) write(ctx context.Context, path string, w io.Writer, o CopyFromOptions) error {
	return archive.Write(ctx, t.root, path, w, archive.WriteOptions{Follow: o.FollowLink})
}

func (t *containerTree) extract(ctx context.Context, dir string, r io.Reader, user string, o CopyToOptions) error {
	options := archive.ExtractOptions{KeepKinds: o.NoOverwriteDirNonDir}
	if user != "" {
		uid, gid, err := runtime.LookupUser(t.root, user)
		if err != nil {
			return err
		}
		options.Owner = &archive.Owner{UID: uid, GID: gid}
	}
	return archive.Extract(ctx, t.root, dir, r, options)
}

// copies are what is at work in a container's root filesystem. All of them, its
// runs and its starts have the same overlay: two of one writable layer must not
// be.
type copies struct {
	mount *os.File // of the overlay, for starts and further copies
	alone bool     // it cannot be cloned: copies share it, and a start waits
	users int
	done  chan struct{} // closed when there are none
}

// errMappedCopy: the ids in a tar stream would have to be those in the container.
var errMappedCopy = fmt.Errorf("container has a user namespace, with which copies are not built: %w", ErrNotImplemented)

// openTree opens the container's root directory for a copy. It holds up nobody
// when it returns, if mounts can be cloned.
func (c *Container) openTree(ctx context.Context) (*containerTree, error) {
	ctx, leave, err := c.engine.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if c.own == nil {
		return c.foreignTree(ctx)
	}
	o := c.own
	if o.config.Security.UserNamespace != "" {
		return nil, errMappedCopy
	}
	done, err := o.takeTurn(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	o.mu.Lock()
	removed, state, last := o.removed, o.state, o.run
	o.mu.Unlock()
	if removed {
		return nil, errNoContainer
	}
	// No other container may have a root filesystem in which a copy is at work.
	o.exposed.Store(true)
	if state.live() {
		root, err := last.container.CloneRoot()
		if err == nil {
			return o.beginCopy(root)
		}
		if !errors.Is(err, ErrNotFound) {
			return nil, err
		} // else it has ended just now
	}
	if last != nil {
		select {
		case <-last.released:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return c.openStill(ctx)
}

// openStill is openTree, in its turn, for a container that does not run.
func (c *Container) openStill(ctx context.Context) (*containerTree, error) {
	o := c.own
	o.mu.Lock()
	now, fresh := o.copies, o.layer == nil
	if now != nil && now.alone && now.mount != nil {
		now.users++
		o.mu.Unlock()
		return o.copyTree(now.mount, now), nil
	}
	o.mu.Unlock()
	rootfs, _, err := c.rootfs(ctx, new(run)) // a clone, if there are copies
	if err != nil {
		return nil, err
	}
	mount := rootfs.Mount
	if mount == nil {
		if mount, err = rootfs.Overlay.Open(); err != nil {
			return nil, err
		}
	}
	if fresh { // for who removes it
		if err := c.change(ctx, layerChange{Layer: o.layer.name}); err != nil {
			mount.Close()
			return nil, err
		}
	}
	return o.beginCopy(mount)
}

// beginCopy begins a copy in a tree of mounts, the first one of which is the
// container's overlay.
func (o *own) beginCopy(root *os.File) (*containerTree, error) {
	mount, err := cloneMount(root) // before devices are shut off
	alone := err != nil
	if err := runtime.Quieten(root); err != nil {
		if !alone {
			mount.Close()
		}
		root.Close()
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.copies
	switch {
	case now == nil:
		now = &copies{mount: mount, alone: alone, done: make(chan struct{})}
		o.copies = now
	case !alone:
		mount.Close() // there is one
	}
	now.users++
	if alone && now.mount == nil && !o.state.live() {
		now.mount = root
	}
	return o.copyTree(root, now), nil
}

// copyTree is for a user of now. The last one closes what they share.
func (o *own) copyTree(root *os.File, now *copies) *containerTree {
	return &containerTree{root, func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		if now.mount != root {
			root.Close()
		}
		if now.users--; now.users > 0 {
			return
		}
		if now.mount != nil {
			now.mount.Close()
		}
		o.copies = nil
		close(now.done)
	}}
}

// copied gives a start, or a further copy, a clone of the overlay in which
// copies are at work, or nil if there are none. Where it cannot be cloned, it
// waits for their end.
func (o *own) copied(ctx context.Context) (*os.File, error) {
	o.mu.Lock()
	now := o.copies
	if now == nil || !now.alone {
		defer o.mu.Unlock()
		if now == nil {
			return nil, nil
		}
		return cloneMount(now.mount)
	}
	o.mu.Unlock()
	select {
	case <-now.done:
		return nil, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// foreignTree is openTree for a container of another Engine, by its process.
func (c *Container) foreignTree(ctx context.Context) (*containerTree, error) {
	e := c.engine
	pidfd, r, err := e.openRunning(c.id)
	if errors.Is(err, ErrFailedPrecondition) {
		return nil, fmt.Errorf("container does not run, and belongs to process %d: %w", c.owner.PID, ErrNotImplemented)
	}
	if err != nil {
		return nil, err
	}
	defer pidfd.Close()
	if r.Security.UserNamespace != "" {
		return nil, errMappedCopy
	}
	// Its Engine must not give its root filesystem to another container.
	if err := e.expose(ctx, c.id, r); err != nil {
		return nil, err
	}
	root, err := runtime.CloneRoot(pidfd)
	if errors.Is(err, ErrNotFound) {
		return nil, notRunning(StateExited)
	}
	if err != nil {
		return nil, err
	}
	if err := runtime.Quieten(root); err != nil {
		root.Close()
		return nil, err
	}
	return &containerTree{root, func() { root.Close() }}, nil
}
