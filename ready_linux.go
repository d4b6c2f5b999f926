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
//
// For a container with a user namespace of its own, the mount shows the layers
// with the ids of one range, which stays with it.
type readyRoot struct {
	layer *writable
	mount *os.File
	ids   *idRange               // nil: the host's own
	user  *runtime.UserNamespace // of ids, for the next container; nil: to be made
	claim *claim                 // of the container that has it, if it is lent
	loans int                    // how many containers have had it
	since time.Time              // when it was made, lent or given back
}

// A loan is what a container gets of a readyRoot: all of it is his to give back,
// or to close.
type loan struct {
	layer *writable
	mount *os.File // nil: for the runtime to make, or to tell why it cannot be made
	ids   *idRange
	user  *runtime.UserNamespace // nil: for the runtime to make
}

// readyRoots are those of one image. They are made after each start, while it
// is likely that another one follows.
type readyRoots struct {
	ranges *idRanges // nil: the containers have the host's ids

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

// mapBy makes them those of containers with user namespaces. It comes first.
func (r *readyRoots) mapBy(ranges *idRanges) { r.ranges = ranges }

// take gives a container a root filesystem, one that is ready or a new one.
func (r *readyRoots) take(p *writables, attr rootAttr, lowers []runtime.Lower, claim *claim) (loan, error) {
	for {
		root, ok := r.pop()
		if !ok {
			break
		}
		if root.sound() {
			return r.lend(p, root, claim), nil
		}
		r.drop(p, root)
	}
	root, err := r.newRoot(p, attr)
	if err != nil {
		return loan{}, err
	}
	err = r.mount(p, &root, lowers)
	if root.layer.spent {
		r.drop(p, root)
		return loan{}, err
	}
	if err != nil {
		return loan{root.layer, nil, root.ids, root.user}, nil
	}
	return r.lend(p, root, claim), nil
}

// pop takes the last root that lacks nothing, or the last one.
func (r *readyRoots) pop() (readyRoot, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := len(r.roots) - 1
	if i < 0 {
		return readyRoot{}, false
	}
	for i > 0 && r.lacksUser(&r.roots[i]) {
		i--
	}
	if r.lacksUser(&r.roots[i]) {
		i = len(r.roots) - 1
	}
	root := r.roots[i]
	r.roots = slices.Delete(r.roots, i, i+1)
	return root, true
}

func (r *readyRoots) lacksUser(root *readyRoot) bool { return r.ranges != nil && root.user == nil }

// lend gives a container a clone of a root, or the root itself, not to come
// back.
func (r *readyRoots) lend(p *writables, root readyRoot, claim *claim) loan {
	l := loan{root.layer, root.mount, root.ids, root.user}
	if root.layer.given.changed == (unix.Timespec{}) { // whether it is left blank would not be known for sure
		return l
	}
	clone, err := cloneMount(root.mount)
	if err != nil {
		return l
	}
	l.mount = clone
	root.user = nil
	root.loans++
	root.since = time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped || len(r.lent) >= maxKept {
		root.mount.Close() // the clone keeps the overlay mounted
		return l
	}
	r.ranges.share(root.ids)
	root.claim = claim
	claim.hold()
	r.lent = append(r.lent, root)
	r.arm(p)
	return l
}

// again gives a container that has exited another clone of what it had, if that
// is kept still. If it is not, the overlay is not mounted any more.
func (r *readyRoots) again(w *writable) (loan, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := r.lentTo(w)
	if i < 0 {
		return loan{}, false
	}
	root := &r.lent[i]
	if root.sound() {
		if clone, err := cloneMount(root.mount); err == nil {
			root.loans++
			root.since = time.Now()
			return loan{w, clone, r.ranges.share(root.ids), nil}, true
		}
	}
	r.unlend(root)
	r.lent = slices.Delete(r.lent, i, i+1)
	return loan{}, false
}

// unlend gives up the mount of a root that a container has.
func (r *readyRoots) unlend(root *readyRoot) {
	root.mount.Close()
	root.claim.release()
	r.ranges.release(root.ids)
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
	root.claim.release() // of a container that nobody finds any more
	root.claim = nil
	w.spent = w.spent || root.loans >= maxLoans || !w.blank(root.mount)
	if w.spent || !r.put(p, root) {
		w.mount = root.mount
		r.ranges.release(root.ids)
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
	if r.stopped || r.making || r.complete() >= maxReady {
		return
	}
	r.making = true
	r.work.Go(func() {
		for r.makeOne(p, attr, lowers) {
		}
	})
}

// complete counts the roots that lack nothing; r.mu is held.
func (r *readyRoots) complete() (n int) {
	for i := range r.roots {
		if !r.lacksUser(&r.roots[i]) {
			n++
		}
	}
	return n
}

// makeOne makes one root, or what one lacks; false when no more are wanted.
func (r *readyRoots) makeOne(p *writables, attr rootAttr, lowers []runtime.Lower) bool {
	tried, err := r.makeUser()
	if !tried {
		err = r.makeRoot(p, attr, lowers)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if errors.Is(err, ErrNotImplemented) { // on this kernel a container's program mounts its overlay
		r.stopped = true
	}
	r.making = err == nil && !r.stopped && r.complete() < maxReady
	return r.making
}

// makeUser makes the next user namespace of a root that lacks it, if there is
// one. The root can be taken meanwhile.
func (r *readyRoots) makeUser() (tried bool, err error) {
	r.mu.Lock()
	i := slices.IndexFunc(r.roots, func(root readyRoot) bool { return r.lacksUser(&root) })
	if i < 0 {
		r.mu.Unlock()
		return false, nil
	}
	ids := r.ranges.share(r.roots[i].ids)
	r.mu.Unlock()
	defer r.ranges.release(ids)
	user, err := r.ranges.namespace(ids)
	if err != nil {
		return true, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	i = slices.IndexFunc(r.roots, func(root readyRoot) bool { return root.ids == ids && root.user == nil })
	if i < 0 || r.stopped {
		return true, user.Close()
	}
	r.roots[i].user = user
	return true, nil
}

func (r *readyRoots) makeRoot(p *writables, attr rootAttr, lowers []runtime.Lower) error {
	root, err := r.newRoot(p, attr)
	if err != nil {
		return err
	}
	if err = r.mount(p, &root, lowers); err != nil || !r.put(p, root) {
		r.drop(p, root)
	}
	return err
}

// newRoot gathers what a root is mounted of.
func (r *readyRoots) newRoot(p *writables, attr rootAttr) (root readyRoot, err error) {
	if r.ranges != nil {
		if root.ids, err = r.ranges.take(); err != nil {
			return root, err
		}
		if root.user, err = r.ranges.namespace(root.ids); err != nil {
			r.ranges.release(root.ids)
			return root, err
		}
	}
	if root.layer, err = p.take(attr); err != nil {
		r.dropIDs(root)
	}
	return root, err
}

// mount mounts a root's overlay. If its layer turns out to be not blank, that
// is spent.
func (r *readyRoots) mount(p *writables, root *readyRoot, lowers []runtime.Lower) (err error) {
	w := root.layer
	var m *os.File
	if root.user != nil {
		m, err = w.overlay(lowers).MountIn(root.user)
	} else {
		m, err = w.overlay(lowers).Mount()
	}
	if err != nil {
		return err
	}
	if p.exactChanges() {
		if err := w.seal(); err != nil {
			m.Close()
			w.spent = true
			return fmt.Errorf("writable layer %s: %w", w.name, err)
		}
	}
	root.mount = m
	return nil
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

func (r *readyRoots) drop(p *writables, root readyRoot) {
	if root.mount != nil {
		root.mount.Close()
	}
	r.dropIDs(root)
	p.give(root.layer)
}

func (r *readyRoots) dropIDs(root readyRoot) {
	if root.user != nil {
		root.user.Close()
	}
	r.ranges.release(root.ids)
}

// arm has what is there looked through after a while; r.mu is held.
func (r *readyRoots) arm(p *writables) {
	if r.armed || r.stopped {
		return
	}
	r.armed = true
	if r.expiry == nil {
		r.expiry = time.AfterFunc(p.idle, func() { r.expire(p, time.Now()) })
		return
	}
	r.expiry.Reset(p.idle)
}

// expire drops the roots that nobody has taken for a while, all but a few if
// containers are being started, and keeps no mount of what a container has had
// for as long: the mount is cheap, compared with such a container's life.
func (r *readyRoots) expire(p *writables, now time.Time) {
	old := func(root readyRoot) bool { return now.Sub(root.since) >= p.idle }
	r.mu.Lock()
	if r.stopped {
		r.mu.Unlock()
		return
	}
	r.work.Add(1)
	defer r.work.Done()
	n := len(r.roots)
	if now.Sub(r.started) < p.idle {
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
		r.unlend(&root)
		return true
	})
	r.armed = false
	if len(r.roots)+len(r.lent) > 0 {
		r.arm(p)
	}
	r.mu.Unlock()
	for _, root := range dropped {
		r.drop(p, root)
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
		r.drop(p, root)
	}
	for i := range lent {
		r.unlend(&lent[i])
	}
}
