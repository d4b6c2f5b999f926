package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/inboard/engine/image"
	"github.com/inboard/engine/layer"
	"github.com/inboard/engine/runtime"
)

// idleHold is how long an engine keeps an image that its containers no longer
// use, and that image's mounts: the next container is often of the same one.
const idleHold = time.Second

// imageHolder is the name under which an engine holds images. One name for all
// its containers, so that a sweep needs to know no more than the engine.
func imageHolder(engine string) string { return "engine-" + engine }

// holds are the images that an engine's containers use. Each is held on disk
// once, so that no program removes it, and mounted once, however many
// containers there are.
type holds struct {
	images *image.Store
	holder string
	bottom runtime.Lower // lowest layer of every container
	spares *writables
	ids    *idRanges
	log    *slog.Logger

	mu   sync.Mutex
	held map[digest.Digest]*hold
}

// hold is one image in use, or used a moment ago.
type hold struct {
	// Guarded by holds.mu:
	users int
	idle  *time.Timer // runs while there are no users

	turn    chan struct{} // holds a value while what follows is changed
	release func() error
	mounts  []*layer.Mount
	lowers  []runtime.Lower
	root    rootAttr
	ready   readyRoots
	mapped  readyRoots // for containers with user namespaces
}

// takeTurn lets one at a time change a hold, until the function it returns is
// called. Programs may be waited for meanwhile.
func (x *hold) takeTurn(ctx context.Context) (func(), error) {
	select {
	case x.turn <- struct{}{}:
		return func() { <-x.turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// take adds a user to an image. Each take wants one drop.
func (h *holds) take(ctx context.Context, id digest.Digest) (*hold, error) {
	h.mu.Lock()
	if h.held == nil {
		h.held = make(map[digest.Digest]*hold)
	}
	x := h.held[id]
	if x == nil {
		x = &hold{turn: make(chan struct{}, 1)}
		x.mapped.mapBy(h.ids)
		h.held[id] = x
	}
	x.users++
	if x.idle != nil {
		x.idle.Stop()
	}
	h.mu.Unlock()

	done, err := x.takeTurn(ctx)
	if err == nil {
		defer done()
		if x.release == nil {
			x.release, err = h.images.Hold(ctx, id, h.holder)
		}
	}
	if err != nil {
		h.drop(id, x)
		return nil, fmt.Errorf("hold image: %w", err)
	}
	return x, nil
}

// drop takes a user away. The last one's image is let go of after a while.
func (h *holds) drop(id digest.Digest, x *hold) {
	h.mu.Lock()
	defer h.mu.Unlock()
	x.users--
	if x.users > 0 {
		return
	}
	if x.idle == nil {
		x.idle = time.AfterFunc(h.spares.idle, func() {
			if err := h.free(id, x); err != nil {
				h.log.Warn("an image that is not used any more cannot be let go of", "image", string(id), "error", err)
			}
		})
		return
	}
	x.idle.Reset(h.spares.idle)
}

// free lets go of an image that has no users, so that it is nobody's turn.
func (h *holds) free(id digest.Digest, x *hold) error {
	h.mu.Lock()
	if x.users > 0 || h.held[id] != x {
		h.mu.Unlock()
		return nil
	}
	x.idle.Stop()
	delete(h.held, id)
	// Whoever takes the image next makes a new hold under the same name. It
	// must not do so before this one is gone, so the lock is kept.
	defer h.mu.Unlock()
	x.ready.stop(h.spares)
	x.mapped.stop(h.spares)
	var errs []error
	for _, m := range x.mounts {
		errs = append(errs, m.Close())
	}
	x.mounts, x.lowers, x.root = nil, nil, rootAttr{}
	if x.release != nil {
		errs = append(errs, x.release())
		x.release = nil
	}
	return errors.Join(errs...)
}

// freeIdle lets go of all images that have no users.
func (h *holds) freeIdle() error {
	h.mu.Lock()
	idle := make(map[digest.Digest]*hold)
	for id, x := range h.held {
		if x.users == 0 {
			idle[id] = x
		}
	}
	h.mu.Unlock()
	var errs []error
	for id, x := range idle {
		errs = append(errs, h.free(id, x))
	}
	return errors.Join(errs...)
}
