package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/inboard/engine/image"
	"github.com/inboard/engine/layer"
	"github.com/inboard/engine/runtime"
)

// rootfs gives a container's run its root filesystem: its image's layers above
// the skeleton, and its writable layer, which its first start takes; and the ids
// that go with it. The overlay is volatile: it is worth nothing once the
// container is gone, and without that its end would sync the whole filesystem.
func (c *Container) rootfs(ctx context.Context, r *run) (runtime.Rootfs, *runtime.UserNamespace, error) {
	o := c.own
	lowers, err := c.engine.holds.layers(ctx, o.hold, o.image.image)
	if err != nil {
		return runtime.Rootfs{}, nil, err
	}
	if m, ids, err := o.copied(ctx, &c.engine.ids); m != nil || err != nil {
		r.ids = ids
		return runtime.Rootfs{Mount: m}, nil, err
	}
	got, err := c.borrow(ctx, lowers)
	if err != nil {
		return runtime.Rootfs{}, nil, err
	}
	r.ids = got.ids
	o.mu.Lock()
	o.layer = got.layer
	o.mu.Unlock()
	rootfs := runtime.Rootfs{Mount: got.mount}
	if got.mount == nil {
		rootfs.Overlay, rootfs.IDMap = got.layer.overlay(lowers), got.ids != nil
	}
	return rootfs, got.user, nil
}

// borrow gives a container the root filesystem that it had last, or its first.
func (c *Container) borrow(ctx context.Context, lowers []runtime.Lower) (got loan, err error) {
	o := c.own
	o.mu.Lock()
	w := o.layer
	o.mu.Unlock()
	if w != nil {
		if got, ok := o.ready().again(w); ok {
			return got, nil
		}
	}
	if err := o.claim.mountAnew(ctx); err != nil {
		return loan{}, err
	}
	if w == nil {
		if w, err = c.donated(); w == nil || err != nil {
			if err == nil {
				got, err = o.ready().take(&c.engine.spares, o.hold.root, lowers, o.claim)
			}
			return got, err
		}
	}
	got.layer = w
	if err = w.ready(); err == nil && o.config.Security.UserNamespace == UserNamespacePrivate {
		got.ids, err = c.engine.ids.take()
	}
	return got, err
}

// donated is the writable layer that another program has made for a container
// that had none, or nil.
func (c *Container) donated() (*writable, error) {
	e := c.engine
	w := e.layerOf(e.root.engine, c.id)
	if c.own.ran() { // and has given up its own
		return nil, nil
	}
	if _, err := os.Lstat(w.dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	r, err := e.root.records().read(c.id)
	if err != nil || r.Layer != w.name { // it was about to be made
		return nil, err
	}
	c.own.exposed.Store(true)
	return w, nil
}

// adopt takes over such a layer of a container that is being removed.
func (c *Container) adopt(r *record) {
	o := c.own
	if r.Layer != c.id || o.ran() {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.layer == nil {
		o.layer = c.engine.layerOf(c.engine.root.engine, c.id)
	}
}

// ran tells whether there ever was a run.
func (o *own) ran() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.runs > 0
}

// layerOf is a writable layer of an engine's by its name. One that another
// program makes for a container has the container's ID, which is longer than what
// the owner counts up to.
func (e *Engine) layerOf(owner, name string) *writable {
	return &writable{name: name, dir: e.root.layerDir(owner, name)}
}

// ready are the root filesystems that suit the container.
func (o *own) ready() *readyRoots {
	if o.config.Security.UserNamespace == UserNamespacePrivate {
		return &o.hold.mapped
	}
	return &o.hold.ready
}

// overlay is a container's root filesystem with w at the top.
func (w *writable) overlay(lowers []runtime.Lower) *runtime.Overlay {
	return &runtime.Overlay{Lower: lowers, Upper: w.upper(), Work: w.work(), Volatile: true}
}

// readyNext has a root filesystem made for the container of the same image that
// may come next. The container's own start has made all that it takes.
func (c *Container) readyNext() {
	x := c.own.hold
	c.own.ready().refill(&c.engine.spares, x.root, x.lowers)
}

// giveLayer gives up the writable layer of a container that is no more; unless
// again is false, another container may have it, if this one left it blank.
func (c *Container) giveLayer(w *writable, again bool) {
	w.spent = !again || c.own.exposed.Load()
	c.own.ready().back(&c.engine.spares, w)
}

// layers gives what a container's overlay stands on, topmost first, mounted
// until the hold is freed.
func (h *holds) layers(ctx context.Context, x *hold, img *image.Image) ([]runtime.Lower, error) {
	done, err := x.takeTurn(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if x.lowers != nil {
		return x.lowers, nil
	}
	layers, err := img.Layers()
	if err != nil {
		return nil, fmt.Errorf("find layers of image: %w", err)
	}
	var mounts []*layer.Mount
	fail := func(err error) ([]runtime.Lower, error) {
		for _, m := range mounts {
			err = errors.Join(err, m.Close())
		}
		return nil, err
	}
	root := unnamedRoot
	for _, l := range slices.Backward(layers) {
		m, err := l.Mount(ctx)
		if err == nil {
			mounts = append(mounts, m)
			// The topmost layer that says how the root is counts.
			if root == unnamedRoot {
				root, err = rootOf(m)
			}
			err = errors.Join(err, ctx.Err())
		}
		if err != nil {
			return fail(fmt.Errorf("mount layer %s: %w", l.DiffID(), err))
		}
		if l.Opaque() {
			break // it hides all below it
		}
	}
	cover, err := layer.Cover(ctx, mounts)
	if err != nil {
		return fail(err)
	}
	if cover != nil {
		mounts = slices.Insert(mounts, 0, cover)
	}
	var lowers []runtime.Lower
	for _, m := range mounts {
		lower := runtime.Lower{Path: m.Path()}
		if lower.Path == "" {
			lower.File = m.File()
		}
		lowers = append(lowers, lower)
	}
	x.mounts, x.lowers, x.root = mounts, append(lowers, h.bottom), root
	return x.lowers, nil
}

func rootOf(m *layer.Mount) (rootAttr, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(int(m.File().Fd()), "", &st, unix.AT_EMPTY_PATH); err != nil {
		return rootAttr{}, os.NewSyscallError("fstatat", err)
	}
	return rootAttrOf(&st), nil
}
