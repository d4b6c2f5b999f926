package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/inboard/engine/internal/atomicfile"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

const (
	// parallelLayers is how many layers are fetched at a time, as Docker has it.
	parallelLayers = 3
	// waitingLayers is how many more may wait for others who fetch them.
	waitingLayers = 29
)

// listing is an image that is going to be listed.
type listing struct {
	refs      []Reference // none: it is found by its ID
	entry     entry
	content   *content
	selection *selection // nil: the store has all of it
}

func (sel *selection) listing(refs ...Reference) (listing, error) {
	chain := make([]ocispec.Descriptor, len(sel.chain))
	for i, doc := range sel.chain {
		chain[i] = doc.desc
	}
	desc := sel.oci.desc
	if p := sel.parsed.Platform; p.OS != "" && p.Architecture != "" {
		desc.Platform = &ocispec.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}
	}
	e, err := newEntry(desc, chain, sel.oci.manifest.Config.Digest)
	return listing{refs, e, &content{*sel.oci.manifest, *sel.parsed}, sel}, err
}

// image is one that was just listed. It may have more names.
func (s *Store) image(l listing) *Image {
	if _, i, err := s.find(func(i *Image) bool { return i.id == l.entry.id }); err == nil {
		i.content, i.digest = l.content, l.entry.pulled()
		return i
	}
	i := &Image{store: s, id: l.entry.id, digest: l.entry.pulled(), content: l.content}
	for _, r := range l.refs {
		i.names = append(i.names, r.Familiar())
	}
	return i
}

// lists tells whether the store lists just this under the name.
func (s *Store) lists(ref Reference, e *entry) bool {
	x, err := s.index()
	return err == nil && slices.ContainsFunc(x.entries, func(o entry) bool {
		return o.name() == ref.String() && o.desc.Digest == e.desc.Digest && o.id == e.id &&
			slices.EqualFunc(o.chain, e.chain, func(a, b ocispec.Descriptor) bool { return a.Digest == b.Digest })
	})
}

// whole tells whether all of an image is in the stores.
func (s *Store) whole(e *entry, c *content) bool {
	for _, l := range c.manifest.Layers {
		if !s.hasBlob(l) {
			return false
		}
	}
	for _, d := range e.documents().Blobs { // small enough to be verified
		if _, err := s.readBlob(d, maxConfig); err != nil {
			return false
		}
	}
	for _, id := range c.config.RootFS.DiffIDs {
		if s.checkLayer(id) != nil {
			return false
		}
	}
	return true
}

// checkLayer tells what is wrong with a layer, as far as that can be told at once.
func (s *Store) checkLayer(id digest.Digest) error {
	l, err := s.layers.Get(id)
	if err != nil {
		return err
	}
	return l.Check()
}

// blobs is where layers are fetched from: a registry, an image layout, or an image of
// go-containerregistry's.
type blobs interface {
	// blob gives what follows the first bytes, of which so many are there.
	blob(ctx context.Context, d ocispec.Descriptor, have int64) (io.ReadCloser, error)
}

// arrival is a pull, a load or an import at work, once it is known what it
// brings. Its claim names all that.
type arrival struct {
	store    *Store
	blobs    blobs                     // nil: all that can come has come
	parts    map[digest.Digest]*member // of an archive
	claim    *claim
	progress *reporter
	// slots has one for each layer that is brought now. It is filled before the
	// right to bring one is asked for: then nobody has that and waits.
	slots chan struct{}
}

// take brings images into the stores and lists them. On error the caller
// abandons the claim; without one, it is gone.
func (a *arrival) take(ctx context.Context, images []listing) error {
	for _, i := range images {
		if i.selection == nil {
			continue
		}
		if err := a.fetch(ctx, i.selection); err != nil {
			return err
		}
	}
	return a.commit(ctx, images)
}

// fetch brings all blobs and layers of an image into the stores.
func (a *arrival) fetch(ctx context.Context, sel *selection) error {
	docs := map[digest.Digest][]byte{
		sel.oci.desc.Digest:            sel.oci.raw,
		sel.oci.manifest.Config.Digest: sel.config,
	}
	for _, doc := range sel.chain {
		docs[doc.desc.Digest] = doc.raw
	}
	for d, raw := range docs {
		if err := a.put(d, raw); err != nil {
			return fmt.Errorf("blob %s: %w", d, err)
		}
	}
	// The first failure ends the others; they were asked to stop, so theirs is
	// not the error to show.
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelLayers + waitingLayers)
	a.slots = make(chan struct{}, parallelLayers)
	seen := make(map[digest.Digest]bool)
	for n, l := range sel.oci.manifest.Layers {
		if seen[l.Digest] {
			continue
		}
		seen[l.Digest] = true
		g.Go(func() error { return a.layer(ctx, l, sel.parsed.RootFS.DiffIDs[n]) })
	}
	return g.Wait()
}

// put stores a small blob, unless it is there, whole.
func (a *arrival) put(d digest.Digest, raw []byte) error {
	if _, err := a.store.readBlob(d, int64(len(raw))); err == nil {
		return nil
	}
	f, err := os.OpenFile(filepath.Join(a.claim.dir, d.Encoded()), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	return a.store.place(f, d, err)
}

// place gives a blob that is written, and verified, its name. It closes the file
// and removes it when err or anything else failed.
func (s *Store) place(f *os.File, d digest.Digest, err error) error {
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), s.blobPath(d))
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// commit lists the images, each under its names: where two want one, the last
// one has it.
func (a *arrival) commit(ctx context.Context, images []listing) error {
	s := a.store
	if err := atomicfile.SyncDir(s.path("blobs", "sha256")); err != nil {
		return err
	}
	l, err := s.lock(ctx, exclusive)
	if err != nil {
		return err
	}
	defer l.unlock()
	x, err := readIndex(s.dir)
	if err != nil {
		return err
	}
	var dropped []entry
	var needed claimed
	for _, i := range images {
		needed.add(i.entry.needs(i.content))
		if len(i.refs) == 0 {
			x.keep(i.entry)
		}
		for _, ref := range i.refs {
			dropped = append(dropped, x.setName(ref, i.entry)...)
		}
	}
	// The names' last images may have blobs that these have not, such as their
	// index. They go when the images are listed, and should that fail, later.
	if stale := s.candidates(x, dropped); len(stale.Blobs) > 0 {
		if err := a.claim.extendLocked(stale); err != nil {
			return err
		}
	}
	if err := x.write(s.dir); err != nil {
		return err
	}
	if len(without(a.claim.Blobs, needed.Blobs))+len(without(a.claim.Layers, needed.Layers)) == 0 {
		a.claim.remove()
		return nil
	}
	a.claim.finish()
	return nil
}
