package engine

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/inboard/engine/runtime"
)

const (
	// maxReady is how many root filesystems of one image are made ahead.
	maxReady = 2

	// maxKept bounds of how many root filesystems of one image that containers
	// have the engine keeps a mount, and how many wait for containers again.
	// Each mount is a descriptor.
	maxKept = 64

	// maxLoans is how many containers have one root filesystem, one after the
	// other. Names that they look for, in vain too, stay in the kernel's caches
	// of the overlay until it is unmounted, and of the writable layer as long as
	// its directory is there.
	maxLoans = 100
)

// readyRoot is a root filesystem: a writable layer, and a detached mount of the
// overlay with it at the top. To mount and to unmount an overlay is the dearest
// part of a container's life, as overlayfs makes and renames files to try the
// disk out. So it is done ahead; and where mounts like this one can be cloned,
// a container gets a clone, and if it leaves the writable layer blank the next
// one gets another clone, with nothing mounted or unmounted in between.
//
// Of the first container the next one finds nothing. No process of it is left,
// and nothing that one had open, see confined. It has made and changed no file:
// that would have changed the ctime of the upper directory. It could not change
// the superblock's options, which takes CAP_SYS_ADMIN. What is left is that the
// kernel has some names in its cache: the same that it has cached of the image's
// layers, which all of its containers share anyway.
type readyRoot struct {
	layer *writable
	mount *os.File
	loans int       // how many containers have had it
	since time.Time // when it was made, lent or given back
}

// readyRoots are those of one image. They are made after each start, while it
// is likely that another one follows.
type readyRoots struct {
	mu      sync.Mutex
	roots   []readyRoot // the last one put in is the first to be taken
	lent    []readyRoot // what containers have clones of
	making  bool
	stopped bool
	started time.Time   // the last container
	expiry  *time.Timer // drops what nobody takes
	armed   bool
	work    sync.WaitGroup
}

// cloneMount is runtime.CloneMount; tests take it away.
var cloneMount = runtime.CloneMount

// take gives a container a root filesystem, one that is ready or a new one:
// its writable layer, and its mount, for the container to own. There is no mount
// where the runtime has to make it, or to tell why it cannot be made.
func (r *readyRoots) take(p *writables, attr rootAttr, lowers []runtime.Lower) (*writable, *os.File, error) {
	for {
		root, ok := r.pop()
		if !ok {
			break
		}
		if root.sound() {
			w, m := r.lend(p, root)
			return w, m, nil
		}
		root.drop(p)
	}
	w, err := p.take(attr)
	if err != nil {
		return nil, nil, err
	}
	root, err := mountRoot(p, w, lowers)
	if w.spent {
		p.give(w)
		return nil, nil, err
	}
	if err != nil {
		return w, nil, nil
	}
	w, m := r.lend(p, root)
	return w, m, nil
}

func (r *readyRoots) pop() (readyRoot, bool) {
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

// lend gives a container a clone of a root, or the root itself, not to come
// back.
func (r *readyRoots) lend(p *writables, root readyRoot) (*writable, *os.File) {
	if root.layer.given.changed == (unix.Timespec{}) { // whether it is left blank would not be known for sure
		return root.layer, root.mount
	}
	clone, err := cloneMount(root.mount)
	if err != nil {
		return root.layer, root.mount
	}
	root.loans++
	root.since = time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped || len(r.lent) >= maxKept {
		root.mount.Close() // the clone keeps the overlay mounted
		return root.layer, clone
	}
	r.lent = append(r.lent, root)
	r.arm(p)
	return root.layer, clone
}

// again gives a container that has exited another clone of what it had, if that
// is kept still. If it is not, the overlay is not mounted any more.
func (r *readyRoots) again(w *writable) *os.File {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := r.lentTo(w)
	if i < 0 {
		return nil
	}
	root := &r.lent[i]
	if root.sound() {
		if clone, err := cloneMount(root.mount); err == nil {
			root.loans++
			root.since = time.Now()
			return clone
		}
	}
	root.mount.Close()
	r.lent = slices.Delete(r.lent, i, i+1)
	return nil
}

// lentTo finds a container's root by its writable layer; r.mu is held.
func (r *readyRoots) lentTo(w *writable) int {
	return slices.IndexFunc(r.lent, func(root readyRoot) bool { return root.layer == w })
}

// back takes the writable layer of a container that is no more. With the root
// that was lent it is ready for the next one, if the container has left it blank.
func (r *readyRoots) back(p *writables, w *writable) {
	r.mu.Lock()
	i := r.lentTo(w)
	if i < 0 {
		r.mu.Unlock()
		p.give(w)
		return
	}
	root := r.lent[i]
	r.lent = slices.Delete(r.lent, i, i+1)
	r.mu.Unlock()
	w.spent = w.spent || root.loans >= maxLoans || !w.blank(root.mount)
	if w.spent || !r.put(p, root) {
		w.mount = root.mount
		p.give(w)
	}
}

// put adds a root that is ready; false when it is not wanted.
func (r *readyRoots) put(p *writables, root readyRoot) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped || len(r.roots) >= maxKept {
		return false
	}
	root.since = time.Now()
	r.roots = append(r.roots, root)
	r.arm(p)
	return true
}

// refill makes roots in the background. An error is no matter here: the start
// that finds no root meets it.
func (r *readyRoots) refill(p *writables, attr rootAttr, lowers []runtime.Lower) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.started = time.Now()
	if r.stopped || r.making || len(r.roots) >= maxReady {
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
	if err == nil && !r.put(p, root) {
		root.drop(p)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if errors.Is(err, ErrNotImplemented) { // on this kernel a container's program mounts its overlay
		r.stopped = true
	}
	r.making = err == nil && !r.stopped && len(r.roots) < maxReady
	return r.making
}

func newReadyRoot(p *writables, attr rootAttr, lowers []runtime.Lower) (readyRoot, error) {
	w, err := p.take(attr)
	if err != nil {
		return readyRoot{}, err
	}
	root, err := mountRoot(p, w, lowers)
	if err != nil {
		p.give(w)
	}
	return root, err
}

// mountRoot mounts an overlay with w at the top. If w turns out to be not blank,
// it is spent.
func mountRoot(p *writables, w *writable, lowers []runtime.Lower) (readyRoot, error) {
	m, err := w.overlay(lowers).Mount()
	if err != nil {
		return readyRoot{}, err
	}
	if p.exactChanges() {
		if err := w.seal(); err != nil {
			m.Close()
			w.spent = true
			return readyRoot{}, fmt.Errorf("writable layer %s: %w", w.name, err)
		}
	}
	return readyRoot{layer: w, mount: m}, nil
}

// sound tells whether the overlay can be had by another container. A volatile
// one fails every fsync once the file system of its upper directory has met an
// error of writing, be it another's (overlayfs.rst, "Volatile mount"; it
// compares with what it has seen when it was mounted). syncfs tells, and has
// nothing else to do on a volatile mount.
func (r *readyRoot) sound() bool {
	fd, err := unix.Openat(int(r.mount.Fd()), ".", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.Syncfs(fd) == nil
}

func (r readyRoot) drop(p *writables) {
	r.mount.Close()
	p.give(r.layer)
}

// arm has what is there looked through after a while; r.mu is held.
func (r *readyRoots) arm(p *writables) {
	if r.armed || r.stopped {
		return
	}
	r.armed = true
	if r.expiry == nil {
		r.expiry = time.AfterFunc(idleHold, func() { r.expire(p, time.Now()) })
		return
	}
	r.expiry.Reset(idleHold)
}

// expire drops the roots that nobody has taken for a while, all but a few if
// containers are being started, and keeps no mount of what a container has had
// for as long: the mount is cheap, compared with such a container's life.
func (r *readyRoots) expire(p *writables, now time.Time) {
	old := func(root readyRoot) bool { return now.Sub(root.since) >= idleHold }
	r.mu.Lock()
	if r.stopped {
		r.mu.Unlock()
		return
	}
	r.work.Add(1)
	defer r.work.Done()
	n := len(r.roots)
	if now.Sub(r.started) < idleHold {
		n = max(0, n-maxReady)
	}
	for i, root := range r.roots[:n] {
		if !old(root) {
			n = i
			break
		}
	}
	dropped := slices.Clone(r.roots[:n])
	r.roots = slices.Delete(r.roots, 0, n)
	r.lent = slices.DeleteFunc(r.lent, func(root readyRoot) bool {
		if !old(root) {
			return false
		}
		root.mount.Close()
		return true
	})
	r.armed = false
	if len(r.roots)+len(r.lent) > 0 {
		r.arm(p)
	}
	r.mu.Unlock()
	for _, root := range dropped {
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
	r.mu.Lock()
	roots, lent := r.roots, r.lent
	r.roots, r.lent = nil, nil
	r.mu.Unlock()
	for _, root := range roots {
		root.drop(p)
	}
	for _, root := range lent {
		root.mount.Close()
	}
}
