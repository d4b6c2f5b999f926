package image

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/inboard/engine/internal/atomicfile"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// claim is a pull, a load, an import or a removal at work. It names, before the
// first of them is touched, the blobs and layers that would be nobody's if its
// program died now. While the claim is locked nobody else removes what it names;
// once its lock is free, the next Open removes what of it no image needs.
type claim struct {
	store *Store
	dir   string
	lock  *fileLock
	claimed
}

// claimed is a claim's record.
type claimed struct {
	Blobs  []digest.Digest `json:"blobs"`
	Layers []digest.Digest `json:"layers"` // by diff ID
}

func (c *claimed) add(o claimed) {
	c.Blobs = append(c.Blobs, o.Blobs...)
	c.Layers = append(c.Layers, o.Layers...)
}

const (
	claimFile = "claim.json"
	// abandonPatience is how long the store's lock is waited for by who has given
	// up; others have it for milliseconds.
	abandonPatience = 5 * time.Second
)

// claim makes a claim. The caller holds the store's lock, exclusively.
func (s *Store) claim(what claimed) (*claim, error) {
	dir := s.path("claims", rand.Text())
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("claim: %w", err)
	}
	c := &claim{store: s, dir: dir, claimed: what}
	var err error
	if c.lock, err = tryLockFile(filepath.Join(dir, "lock")); err == nil { // nobody else knows it
		if err = atomicfile.WriteJSON(filepath.Join(dir, claimFile), what, atomicfile.Durable); err == nil {
			err = atomicfile.SyncDir(s.path("claims"))
		}
	}
	if err != nil {
		c.remove()
		return nil, fmt.Errorf("claim: %w", err)
	}
	return c, nil
}

// claimFor is claim under the store's lock.
func (s *Store) claimFor(ctx context.Context, what claimed) (*claim, error) {
	l, err := s.lock(ctx, exclusive)
	if err != nil {
		return nil, err
	}
	defer l.unlock()
	return s.claim(what)
}

// extend adds to what a claim names. What is found to be there after that,
// nobody removes.
func (c *claim) extend(ctx context.Context, what claimed) error {
	l, err := c.store.lock(ctx, exclusive)
	if err != nil {
		return err
	}
	defer l.unlock()
	return c.extendLocked(what)
}

// extendLocked is extend for a caller who holds the store's lock, exclusively.
func (c *claim) extendLocked(what claimed) error {
	all := claimed{slices.Clip(c.Blobs), slices.Clip(c.Layers)}
	all.add(what)
	if err := atomicfile.WriteJSON(filepath.Join(c.dir, claimFile), all, atomicfile.Durable); err != nil {
		return fmt.Errorf("claim: %w", err)
	}
	c.claimed = all
	return nil
}

// clear removes a claim's unfinished files.
func (c *claim) clear() error {
	names, err := os.ReadDir(c.dir)
	for _, n := range names {
		if n.Name() != claimFile && n.Name() != "lock" {
			err = errors.Join(err, os.Remove(filepath.Join(c.dir, n.Name())))
		}
	}
	return err
}

// remove forgets a claim with its unfinished files. The caller holds the store's
// lock, so that nobody sees half a claim. The record goes last.
func (c *claim) remove() error {
	err := c.clear()
	if c.lock != nil && err == nil {
		if e := os.Remove(filepath.Join(c.dir, claimFile)); !errors.Is(e, fs.ErrNotExist) {
			err = e
		}
		c.lock.remove()
	} else if c.lock != nil {
		c.lock.unlock()
	}
	return errors.Join(err, os.Remove(c.dir))
}

// abandon gives up what a claim has brought: all that no image and no other
// claim needs is removed. Most often ctx has ended. Where a program that is
// stopped has the store's lock, it is left for the next Open.
func (c *claim) abandon(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abandonPatience)
	defer cancel()
	l, err := c.store.lock(ctx, exclusive)
	if err != nil {
		c.lock.unlock()
		return err
	}
	defer l.unlock()
	_, err = c.finish()
	return err
}

// finish removes what of a claim nobody needs, and the claim. Where a damaged
// image makes it impossible to say what is needed, the claim stays for a later
// Open, without unfinished files. The caller holds the store's lock, exclusively.
func (c *claim) finish() (removed claimed, err error) {
	if removed, err = c.store.collect(c.claimed, []*claim{c}); err != nil {
		err = errors.Join(err, c.clear())
		c.lock.unlock()
		return removed, err
	}
	return removed, c.remove()
}

// claims gives the claims of other stores and pulls: those that are at work, and
// those whose program died, which are locked for the caller. The caller holds
// the store's lock, exclusively.
func (s *Store) claims(except []*claim) (live claimed, dead []*claim, err error) {
	names, err := os.ReadDir(s.path("claims"))
	if err != nil {
		return live, nil, err
	}
	for _, n := range names {
		if !n.IsDir() {
			continue
		}
		c := &claim{store: s, dir: s.path("claims", n.Name())}
		if slices.ContainsFunc(except, func(e *claim) bool { return e.dir == c.dir }) {
			continue
		}
		if c.lock, err = tryLockFile(filepath.Join(c.dir, "lock")); err != nil {
			break
		}
		err = atomicfile.ReadJSON(filepath.Join(c.dir, claimFile), &c.claimed)
		if c.lock == nil {
			if err != nil { // it may need anything
				if path := (*fs.PathError)(nil); !errors.As(err, &path) {
					err = fmt.Errorf("%w: %w", err, errdefs.ErrDataLoss)
				}
				break
			}
			live.add(c.claimed)
			continue
		}
		// A dead claim that was never written has brought nothing.
		err = nil
		dead = append(dead, c)
	}
	if err != nil {
		for _, c := range dead {
			c.lock.unlock()
		}
		return live, nil, fmt.Errorf("claims: %w", err)
	}
	return live, dead, nil
}

// sweep removes what dead programs have left. It is quick when there is nothing.
func (s *Store) sweep(ctx context.Context) error {
	claims, err := os.ReadDir(s.path("claims"))
	if err != nil {
		return err
	}
	if err := s.sweepFetching(); err != nil {
		return err
	}
	torn, _ := filepath.Glob(s.path(".tmp-*"))
	if len(claims) == 0 && len(torn) == 0 {
		return nil
	}
	l, err := s.lock(ctx, exclusive)
	if err != nil {
		return err
	}
	defer l.unlock()
	// Files here are written under the lock: these writers are dead.
	torn, _ = filepath.Glob(s.path(".tmp-*"))
	for _, t := range torn {
		if err := os.Remove(t); err != nil {
			return err
		}
	}
	_, dead, err := s.claims(nil)
	if err != nil {
		return err
	}
	var all claimed
	for _, c := range dead {
		all.add(c.claimed)
	}
	_, err = s.collect(all, dead)
	for _, c := range dead {
		// What fails stays for a later Open, and does not prevent this one.
		if err != nil {
			c.lock.unlock()
		} else {
			c.remove()
		}
	}
	return nil
}

// collect removes those of the candidates that no image and no claim but those
// in except needs, and gives what it removed. The caller holds the store's lock, exclusively.
func (s *Store) collect(candidates claimed, except []*claim) (removed claimed, err error) {
	x, err := s.index()
	if err != nil {
		return removed, err
	}
	return s.collectBeside(x, candidates, except)
}

// collectBeside is collect for an index that may not be written yet.
func (s *Store) collectBeside(x *index, candidates claimed, except []*claim) (removed claimed, err error) {
	needed, dead, err := s.claims(except)
	if err != nil {
		return removed, err
	}
	for _, c := range dead {
		needed.add(c.claimed) // each is collected by its own sweep
		c.lock.unlock()
	}
	if err := s.mark(x, &needed); err != nil {
		return removed, err
	}
	var errs []error
	for _, d := range without(candidates.Layers, needed.Layers) {
		switch err := s.layers.Remove(d); {
		case err == nil:
			removed.Layers = append(removed.Layers, d)
		case !isNotFound(err):
			errs = append(errs, err)
		}
	}
	for _, d := range without(candidates.Blobs, needed.Blobs) {
		switch err := os.Remove(s.blobPath(d)); {
		case err == nil:
			removed.Blobs = append(removed.Blobs, d)
		case !errors.Is(err, fs.ErrNotExist):
			errs = append(errs, err)
		}
	}
	return removed, errors.Join(errs...)
}

// without gives the valid digests of a that are not in b, each once.
func without(a, b []digest.Digest) []digest.Digest {
	keep := make(map[digest.Digest]bool, len(a))
	for _, d := range a {
		keep[d] = d.Validate() == nil && d.Algorithm() == digest.SHA256
	}
	for _, d := range b {
		delete(keep, d)
	}
	maps.DeleteFunc(keep, func(_ digest.Digest, ok bool) bool { return !ok })
	return slices.Sorted(maps.Keys(keep))
}

// mark adds all that the entries of an index need.
func (s *Store) mark(x *index, needed *claimed) error {
	for i := range x.entries {
		e := &x.entries[i]
		if e.chain == nil {
			if err := s.markForeign(e.desc, needed, 0); err != nil {
				return err
			}
			continue
		}
		c, err := s.content(e)
		if err != nil {
			return fmt.Errorf("image %s: %w", e.id, err)
		}
		needed.add(e.needs(c))
	}
	return nil
}

// needs is what an image consists of.
func (e *entry) needs(c *content) claimed {
	n := e.documents()
	for _, l := range c.manifest.Layers {
		n.Blobs = append(n.Blobs, l.Digest)
	}
	n.Layers = c.config.RootFS.DiffIDs
	return n
}

// documents is what of an image's blobs is known without reading one.
func (e *entry) documents() claimed {
	n := claimed{Blobs: []digest.Digest{e.desc.Digest, e.id}}
	for _, d := range e.chain {
		n.Blobs = append(n.Blobs, d.Digest)
	}
	return n
}

const maxForeignDepth = 8

// markForeign walks what another program has put into the layout, as far as it
// is there and looks like manifests.
func (s *Store) markForeign(d ocispec.Descriptor, needed *claimed, depth int) error {
	if d.Digest.Validate() != nil || depth > maxForeignDepth {
		return nil
	}
	needed.Blobs = append(needed.Blobs, d.Digest)
	if !strings.HasSuffix(d.MediaType, "+json") || d.Size > maxDocument {
		return nil
	}
	raw, err := s.readBlob(d.Digest, maxDocument)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	doc, err := parseDocument(d.MediaType, raw)
	if err != nil {
		return nil // a config, or something else that leads nowhere
	}
	if doc.manifest != nil {
		needed.Blobs = append(needed.Blobs, doc.manifest.Config.Digest)
		for _, l := range doc.manifest.Layers {
			needed.Blobs = append(needed.Blobs, l.Digest)
		}
		return nil
	}
	for _, m := range doc.index.Manifests {
		if err := s.markForeign(m, needed, depth+1); err != nil {
			return err
		}
	}
	return nil
}
