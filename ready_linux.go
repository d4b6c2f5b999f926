package engine

import (
	"errors"
	"os"
	"sync"
	"time"

	"github.com/inboard/engine/runtime"
)

// maxReady is how many root filesystems of one image wait for a container.
const maxReady = 2

// readyRoot is a root filesystem made ahead: a writable layer, and the mount of
// the overlay with it at the top. Making that mount is the dearest part of a
// start, as overlayfs makes and renames files to try the disk out.
type readyRoot struct {
	layer *writable
	mount *os.File
}

// readyRoots are those of one image, made after each start while it is likely
// that another one follows.
type readyRoots struct {
	mu      sync.Mutex
	roots   []readyRoot
	making  bool
	stopped bool
	expiry  *time.Timer // drops what nobody takes
	work    sync.WaitGroup
}

// take gives a root filesystem, if there is one.
func (r *readyRoots) take() (readyRoot, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.roots)
	if n == 0 {
		return readyRoot{}, false
	}
	root := r.roots[n-1]
	r.roots = r.roots[:n-1]
	return root, true
}

// refill makes roots in the background. An error is no matter here: the start
// that finds no root meets it.
func (r *readyRoots) refill(p *writables, attr rootAttr, lowers []runtime.Lower) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return
	}
	if r.expiry == nil {
		r.expiry = time.AfterFunc(idleHold, func() { r.drop(p) })
	}
	r.expiry.Reset(idleHold)
	if r.making || len(r.roots) >= maxReady {
		return
	}
	r.making = true
	r.work.Go(func() {
		for r.makeOne(p, attr, lowers) {
		}
	})
}

// makeOne makes one root; false when no more are wanted.
func (r *readyRoots) makeOne(p *writables, attr rootAttr, lowers []runtime.Lower) bool {
	root, err := newReadyRoot(p, attr, lowers)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case errors.Is(err, ErrNotImplemented): // on this kernel a container's program mounts its overlay
		r.stopped = true
	case err == nil && !r.stopped:
		r.roots = append(r.roots, root)
	case err == nil:
		root.drop(p)
	}
	r.making = err == nil && !r.stopped && len(r.roots) < maxReady
	return r.making
}

func newReadyRoot(p *writables, attr rootAttr, lowers []runtime.Lower) (readyRoot, error) {
	w, err := p.take(attr)
	if err != nil {
		return readyRoot{}, err
	}
	m, err := w.overlay(lowers).Mount()
	if err != nil {
		p.give(w)
		return readyRoot{}, err
	}
	return readyRoot{w, m}, nil
}

func (r readyRoot) drop(p *writables) {
	r.mount.Close()
	p.give(r.layer)
}

// drop lets go of the roots that there are.
func (r *readyRoots) drop(p *writables) {
	r.mu.Lock()
	roots := r.roots
	r.roots = nil
	r.mu.Unlock()
	for _, root := range roots {
		root.drop(p)
	}
}

// stop ends the background work and lets go of all roots.
func (r *readyRoots) stop(p *writables) {
	r.mu.Lock()
	r.stopped = true
	if r.expiry != nil {
		r.expiry.Stop()
	}
	r.mu.Unlock()
	r.work.Wait()
	r.drop(p)
}
