package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/inboard/engine/internal/archive"
	"github.com/inboard/engine/runtime"
)

// containerTree is a container's root directory for one copy.
type containerTree struct {
	root  *os.File
	ids   *archive.IDMap // nil: the host's
	close func()
}

func (t *containerTree) stat(path string) (PathInfo, error) {
	info, err := archive.Stat(t.root, path)
	return PathInfo(info), err
}

func (t *containerTree) write(ctx context.Context, path string, w io.Writer, o CopyFromOptions) error {
	return archive.Write(ctx, t.root, path, w, archive.WriteOptions{Follow: o.FollowLink, IDs: t.ids})
}

func (t *containerTree) extract(ctx context.Context, dir string, r io.Reader, user string, o CopyToOptions) error {
	options := archive.ExtractOptions{KeepKinds: o.NoOverwriteDirNonDir, IDs: t.ids}
	if user != "" {
		uid, gid, err := runtime.LookupUser(t.root, user)
		if err != nil {
			return err
		}
		options.Owner = &archive.Owner{UID: uid, GID: gid}
	}
	return archive.Extract(ctx, t.root, dir, r, options)
}

// idMap is what a range makes of ids.
func (r *idRange) idMap() *archive.IDMap {
	if r == nil {
		return nil
	}
	return &archive.IDMap{UIDs: r.mappings(), GIDs: r.mappings()}
}

// copies are what is at work in a container's root filesystem. All of them, its
// runs and its starts have the same overlay: two of one writable layer must not
// be.
type copies struct {
	mount *os.File // of the overlay, for starts and further copies
	ids   *idRange // that it is mounted with; each copy has a share
	alone bool     // it cannot be cloned: copies share it, and a start waits
	users int
	done  chan struct{} // closed when there are none
}

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
	done, err := o.takeTurn(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	o.claim.hold()
	defer o.claim.release()
	o.mu.Lock()
	removed, state, last := o.removed, o.state, o.run
	var ids *idRange
	if state.live() {
		ids = c.engine.ids.share(last.ids) // the end of a run lets go of them, but not before its state
	}
	o.mu.Unlock()
	if removed {
		return nil, errNoContainer
	}
	// No other container may have a root filesystem in which a copy is at work.
	o.exposed.Store(true)
	if state.live() {
		root, err := last.container.CloneRoot()
		if err == nil {
			return c.beginCopy(root, ids, func(root *os.File) (*os.File, error) { return root, nil })
		}
		c.engine.ids.release(ids)
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
		ids := c.engine.ids.share(now.ids)
		o.mu.Unlock()
		return c.copyTree(now.mount, ids, now), nil
	}
	o.mu.Unlock()
	r := new(run)
	rootfs, user, err := c.rootfs(ctx, r) // a clone, if there are copies
	if err != nil {
		return nil, err
	}
	at := atRest{c.engine, r.ids, user, o.config.Mounts, o.config.Security.ReadOnlyRoot}
	defer at.close()
	mount := rootfs.Mount
	if mount == nil {
		mount, err = at.mount(rootfs.Overlay)
	}
	if err == nil && fresh { // for who removes it
		if err = c.change(ctx, layerChange{Layer: o.layer.name}); err != nil {
			mount.Close()
		}
	}
	if err != nil {
		c.engine.ids.release(r.ids)
		return nil, err
	}
	return c.beginCopy(mount, r.ids, at.tree)
}

// beginCopy begins a copy in a tree of mounts that is made of the container's
// overlay, or has it first. Both are the tree's to close, and so are the ids.
func (c *Container) beginCopy(overlay *os.File, ids *idRange, tree func(*os.File) (*os.File, error)) (*containerTree, error) {
	o := c.own
	mount, err := cloneMount(overlay) // before devices are shut off
	alone := err != nil
	root, err := tree(overlay)
	if err == nil {
		if err = runtime.Quieten(root); err != nil {
			root.Close()
		}
	}
	if err != nil {
		if !alone {
			mount.Close()
		}
		c.engine.ids.release(ids)
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.copies
	switch {
	case now == nil:
		now = &copies{mount: mount, ids: ids, alone: alone, done: make(chan struct{})}
		o.copies = now
		o.claim.hold()
	case !alone:
		mount.Close() // there is one
	}
	now.users++
	if alone && now.mount == nil && !o.state.live() {
		now.mount = root
	}
	return c.copyTree(root, ids, now), nil
}

// copyTree is for a user of now. The last one closes what they share.
func (c *Container) copyTree(root *os.File, ids *idRange, now *copies) *containerTree {
	o := c.own
	return &containerTree{root, ids.idMap(), func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		defer c.engine.ids.release(ids)
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
		o.claim.release()
		close(now.done)
	}}
}

// copied gives a start, or a further copy, a clone of the overlay in which
// copies are at work, with a share of its ids, or nil if there are none. Where it
// cannot be cloned, it waits for their end.
func (o *own) copied(ctx context.Context, ranges *idRanges) (*os.File, *idRange, error) {
	o.mu.Lock()
	now := o.copies
	if now == nil || !now.alone {
		defer o.mu.Unlock()
		if now == nil {
			return nil, nil, nil
		}
		m, err := cloneMount(now.mount)
		if err != nil {
			return nil, nil, err
		}
		return m, ranges.share(now.ids), nil
	}
	o.mu.Unlock()
	select {
	case <-now.done:
		return nil, nil, nil
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
}

// atRest is what there is beside the overlay of a container that does not run.
type atRest struct {
	engine       *Engine
	ids          *idRange               // nil: the host's own
	user         *runtime.UserNamespace // of ids; nil: to be made when it is needed
	mounts       []Mount
	readOnlyRoot bool
}

// namespace gives the user namespace, if there is to be one.
func (a *atRest) namespace() (_ *runtime.UserNamespace, err error) {
	if a.ids != nil && a.user == nil {
		a.user, err = a.engine.ids.namespace(a.ids)
	}
	return a.user, err
}

func (a *atRest) close() {
	if a.user != nil {
		a.user.Close()
	}
}

// mount mounts the overlay.
func (a *atRest) mount(o *runtime.Overlay) (*os.File, error) {
	if a.ids == nil {
		return o.Open()
	}
	user, err := a.namespace()
	if err != nil {
		return nil, err
	}
	return o.OpenIn(user)
}

// tree adds the binds, also those in what is mounted anew for each run, such as
// /dev; and what is to be read-only is. A tmpfs is of one run: what is below it
// shows. So docker cp has it (dockerd 20.10; moby, daemon/containerfs_linux.go). As
// there, a source that is not there any more fails the copy.
func (a *atRest) tree(overlay *os.File) (*os.File, error) {
	binds := slices.DeleteFunc(slices.Clone(a.mounts), func(m Mount) bool { return m.Type != MountBind })
	list := addMounts(nil, binds)
	var user *runtime.UserNamespace
	if len(list) > 0 {
		var err error
		if user, err = a.namespace(); err != nil {
			overlay.Close()
			return nil, err
		}
	}
	return runtime.WithBinds(overlay, list, a.readOnlyRoot, user)
}

// foreignTree is openTree for a container of another Engine: of its process, or
// if it has none, of its files, with its owner kept out. It waits until others
// are done with these.
func (c *Container) foreignTree(ctx context.Context) (*containerTree, error) {
	claim, err := c.engine.newForeignClaim(c.id)
	if err != nil {
		return nil, err
	}
	for wait := newBackoff(); ; {
		t, err := c.tryForeignTree(ctx, claim)
		if err == nil {
			end := t.close
			t.close = func() {
				end()
				claim.close()
			}
			return t, nil
		}
		if errors.Is(err, errClaimed) {
			err = wait.sleep(ctx)
		}
		if err != nil {
			claim.close()
			return nil, err
		}
	}
}

func (c *Container) tryForeignTree(ctx context.Context, claim foreignClaim) (*containerTree, error) {
	r, err := c.foreignRecord()
	if err != nil {
		return nil, err
	}
	kind, open := int16(unix.F_WRLCK), c.openForeignStill
	if r.State.live() {
		kind, open = unix.F_RDLCK, c.cloneForeign
	}
	if err := claim.try(kind); err != nil {
		return nil, err
	}
	// What the record said before the claim may be over.
	run, live := r.Runs, r.State.live()
	if r, err = c.foreignRecord(); err == nil && (r.Runs != run || r.State.live() != live) {
		err = errClaimed
	}
	var t *containerTree
	if err == nil {
		// Its Engine must not give its root filesystem to another container.
		if err = c.engine.expose(ctx, c.id, r); err == nil {
			t, err = open(ctx, r)
		}
	}
	if err != nil {
		claim.letGo()
		return nil, err
	}
	return t, nil
}

// foreignRecord is the record of a container whose Engine lives.
func (c *Container) foreignRecord() (*record, error) {
	r, err := c.engine.root.records().read(c.id)
	if err != nil {
		return nil, err
	}
	alive, err := c.engine.root.alive(r.Owner.Engine)
	if err == nil && !alive {
		err = fmt.Errorf("container's program, process %d, has ended: %w", r.Owner.PID, ErrFailedPrecondition)
	}
	return r, err
}

// cloneForeign clones what the container's process sees.
func (c *Container) cloneForeign(_ context.Context, r *record) (*containerTree, error) {
	fd, err := openProcess(r.PID, r.Since, r.Until)
	if errors.Is(err, ErrFailedPrecondition) {
		return nil, errClaimed // it has ended, and its record is about to say so
	}
	if err != nil {
		return nil, err
	}
	pidfd := os.NewFile(uintptr(fd), "process")
	defer pidfd.Close()
	t := new(containerTree)
	if r.Security.UserNamespace != "" {
		t.ids = new(archive.IDMap)
		t.ids.UIDs, t.ids.GIDs, err = runtime.IDMappings(pidfd)
	}
	if err == nil {
		t.root, err = runtime.CloneRoot(pidfd)
	}
	if errors.Is(err, ErrNotFound) {
		return nil, errClaimed
	}
	if err != nil {
		return nil, err
	}
	t.close = func() { t.root.Close() }
	if err := runtime.Quieten(t.root); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

// openForeignStill mounts the overlay as the container's own Engine would.
func (c *Container) openForeignStill(ctx context.Context, r *record) (_ *containerTree, err error) {
	e := c.engine
	img, err := e.images.Lookup(ctx, string(r.Image))
	if err != nil {
		return nil, err
	}
	x, err := e.holds.take(ctx, r.Image)
	if err != nil {
		return nil, err
	}
	defer e.holds.drop(r.Image, x) // what is mounted does without
	lowers, err := e.holds.layers(ctx, x, img)
	if err != nil {
		return nil, err
	}
	w := e.layerOf(r.Owner.Engine, first(r.Layer, c.id))
	if r.Layer == "" {
		if err := c.donate(ctx, w, x.root); err != nil {
			return nil, err
		}
	}
	if err := w.ready(); err != nil {
		return nil, err
	}
	at := atRest{engine: e, mounts: r.Mounts, readOnlyRoot: r.Security.ReadOnlyRoot}
	if r.Security.UserNamespace == UserNamespacePrivate {
		if at.ids, err = e.ids.take(); err != nil {
			return nil, err
		}
	}
	defer at.close()
	root, err := at.mount(w.overlay(lowers))
	if err == nil {
		root, err = at.tree(root)
	}
	if err == nil {
		if err = runtime.Quieten(root); err != nil {
			root.Close()
		}
	}
	if err != nil {
		e.ids.release(at.ids)
		return nil, err
	}
	return &containerTree{root, at.ids.idMap(), func() {
		root.Close()
		e.ids.release(at.ids)
	}}, nil
}

// donate makes the writable layer of another Engine's container that has none
// yet. What a program left that was killed while it did so is removed.
func (c *Container) donate(ctx context.Context, w *writable, root rootAttr) error {
	err := removeTree(w.dir)
	if err == nil {
		err = w.make()
	}
	if err == nil {
		err = w.setRoot(root)
	}
	if err == nil {
		err = c.engine.root.records().change(ctx, c.id, layerChange{Layer: w.name})
	}
	if err != nil {
		return errors.Join(fmt.Errorf("make writable layer: %w", err), os.RemoveAll(w.dir))
	}
	return nil
}
