package image

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Bounds on what an archive or a layout may list.
const (
	maxImages = 1000
	maxNames  = 4000
	maxName   = 512      // bytes; the grammar ends before
	maxListed = 64 << 20 // bytes of the images' manifests and configs
)

// LoadOptions change how [Store.Load] and [Store.LoadLayout] work. The zero
// value is right for most.
type LoadOptions struct {
	// Platform is os/arch or os/arch/variant, as in [PullOptions]: of an index
	// the image for it is loaded, and an image for another gives ErrNotFound.
	// Empty is, for an index, Linux on this machine's architecture; an image that
	// is no choice of several is loaded whatever it is for, as docker load has it.
	Platform string
	// Repository is for images in OCI's format that are called by a tag alone, as
	// umoci has it: they become Repository:tag. Empty: they get no name.
	Repository string
	// Progress, when not nil, is called as layers are made, from one goroutine at
	// a time, and not any more when the call has returned. A layer that is there
	// already is reported once, as done.
	Progress func(Progress)
}

// Loaded is what docker load writes a line for: an image by one of the names
// that it was loaded with, or without one.
type Loaded struct {
	Image *Image
	Name  string // in the short form that Docker shows; empty: there is only the ID
}

// Load reads an image archive and gives its images their names, as docker load
// does: an image that had one keeps its digest as name, and of two images in
// the archive with one name the last one has it. It takes what docker save,
// podman save, skopeo copy and BuildKit write: docker-archives and OCI archives,
// plain or compressed with gzip, zstd or bzip2. Of an archive that is both, the
// OCI layout counts, because it keeps the digests of manifests. An image of a
// docker-archive has the ID that it has with Docker, and as Digest that of a
// manifest which is made for it; one that the store has keeps the manifest that
// it has.
//
// r is read once, to its end, and may be a pipe: members are taken in as they
// come, in bounded memory. A layer that can be told as such goes into the stores
// while it arrives; the others wait in a file of the store, so that the disk
// needs room for the whole archive. When Load returns early, a Read of r may go
// on until it returns, and what it read is lost.
//
// Load lists the images when all of them are verified and on the disk. Before
// that, when it fails or ctx ends, it removes all that it has brought.
//
// Errors: ErrInvalidArgument for a malformed platform, repository or name, for
// what is no archive of images, and for members that have no business in one
// (names with "..", links that lead outside, devices); ErrNotFound when there is
// no image, or none for the platform; ErrNotImplemented for the format of Docker
// before 1.10, for xz, and for images of an unsupported format; ErrDataLoss for
// an archive that is cut off, lacks something, has too much of something, or is
// not what its digests, sizes and types promise. The text names the member.
func (s *Store) Load(ctx context.Context, r io.Reader, o LoadOptions) ([]Loaded, error) {
	loaded, err := s.loadArchive(ctx, r, o)
	if err != nil {
		return nil, &Error{"load", "", ended(ctx, err)}
	}
	return loaded, nil
}

// LoadLayout is Load of an OCI image layout in a directory, such as umoci's, or
// skopeo's oci:DIR. Its blobs are copied. What the directory has as links is
// refused, and nothing outside of it is opened. A directory that is not there
// gives ErrNotFound.
func (s *Store) LoadLayout(ctx context.Context, dir string, o LoadOptions) ([]Loaded, error) {
	loaded, err := s.loadDirectory(ctx, dir, o)
	if err != nil {
		return nil, &Error{"load", dir, ended(ctx, err)}
	}
	return loaded, nil
}

var errNoImage = fmt.Errorf("there is no image in it: %w", errdefs.ErrNotFound)

func (s *Store) loadArchive(ctx context.Context, r io.Reader, o LoadOptions) ([]Loaded, error) {
	if r == nil {
		return nil, fmt.Errorf("no archive: %w", errdefs.ErrInvalidArgument)
	}
	l, err := s.loader(o)
	if err != nil {
		return nil, err
	}
	c, err := s.claimFor(ctx, claimed{})
	if err != nil {
		return nil, err
	}
	in := detach(ctx, io.NopCloser(r))
	defer in.Close()
	a := newArchive(s, c, &reporter{call: o.Progress}, l.want)
	if err = a.read(ctx, in); err == nil {
		err = l.archive(ctx, a)
	}
	if err == nil && len(l.images) == 0 {
		err = errNoImage
	}
	if err == nil {
		err = a.keep(ctx, l.images)
	}
	if err == nil {
		err = (&arrival{store: s, parts: a.byDigest, claim: c, progress: a.progress}).take(ctx, l.images)
	}
	if err != nil {
		return nil, errors.Join(err, c.abandon(ctx))
	}
	return s.loaded(l.images), nil
}

func (s *Store) loadDirectory(ctx context.Context, dir string, o LoadOptions) ([]Loaded, error) {
	l, err := s.loader(o)
	if err != nil {
		return nil, err
	}
	d, err := openDirectory(dir)
	if err != nil {
		return nil, err
	}
	defer d.root.Close()
	if err := l.layout(ctx, d); err != nil {
		return nil, err
	}
	if len(l.images) == 0 {
		return nil, errNoImage
	}
	c, err := s.claimFor(ctx, needs(l.images))
	if err != nil {
		return nil, err
	}
	a := &arrival{store: s, blobs: d, claim: c, progress: &reporter{call: o.Progress}}
	if err := a.take(ctx, l.images); err != nil {
		return nil, errors.Join(err, c.abandon(ctx))
	}
	return s.loaded(l.images), nil
}

// loader finds the images of an archive or a layout.
type loader struct {
	store      *Store
	want       ocispec.Platform
	any        bool // the caller has said nothing about platforms
	repository string
	images     []listing
	names      int
	bytes      int
}

func (s *Store) loader(o LoadOptions) (*loader, error) {
	want, err := parsePlatform(o.Platform)
	if err != nil {
		return nil, err
	}
	if o.Repository != "" {
		if _, err := ParseReference(o.Repository + ":latest"); err != nil {
			return nil, fmt.Errorf("repository %q: %w", o.Repository, errdefs.ErrInvalidArgument)
		}
	}
	return &loader{store: s, want: want, any: o.Platform == "", repository: o.Repository}, nil
}

// archive finds the images of an archive that has been read.
func (l *loader) archive(ctx context.Context, a *archive) error {
	switch {
	case a.members[ocispec.ImageLayoutFile] != nil:
		return l.layout(ctx, a)
	case a.members[dockerManifestFile] != nil:
		return l.docker(a)
	case a.members[dockerRepositoriesFile] != nil:
		return fmt.Errorf("an archive of Docker before 1.10, with %s and no %s: %w", dockerRepositoriesFile, dockerManifestFile, errdefs.ErrNotImplemented)
	}
	return fmt.Errorf("no archive of images: it has neither %s nor %s: %w", ocispec.ImageLayoutFile, dockerManifestFile, errdefs.ErrInvalidArgument)
}

// add adds an image to what is loaded.
func (l *loader) add(sel *selection, refs []Reference) error {
	l.bytes += len(sel.config)
	for _, doc := range sel.chain {
		l.bytes += len(doc.raw)
	}
	if l.bytes > maxListed {
		return fmt.Errorf("more than %d bytes of manifests and configs: %w", maxListed, errdefs.ErrDataLoss)
	}
	if l.names += len(refs); l.names > maxNames {
		return fmt.Errorf("more than %d names: %w", maxNames, errdefs.ErrDataLoss)
	}
	i, err := sel.listing(refs...)
	if err != nil {
		return err
	}
	l.images = append(l.images, i)
	return nil
}

// parseName reads a name that an archive or a layout gives an image.
func parseName(name string) (Reference, error) {
	if len(name) > maxName {
		return Reference{}, fmt.Errorf("name %.100q... has %d bytes: %w", name, len(name), errdefs.ErrInvalidArgument)
	}
	return ParseReference(name)
}

// needs is what images consist of.
func needs(images []listing) (all claimed) {
	for _, i := range images {
		all.add(i.entry.needs(i.content))
	}
	return all
}

// loaded gives the images by the names that are theirs now.
func (s *Store) loaded(images []listing) (all []Loaded) {
	last := make(map[string]int)
	for n, i := range images {
		for _, r := range i.refs {
			last[r.String()] = n
		}
	}
	for n, i := range images {
		image, named := s.image(i), false
		for _, r := range i.refs {
			if owner, ok := last[r.String()]; ok && owner == n {
				delete(last, r.String()) // it may be given twice
				all = append(all, Loaded{image, r.Familiar()})
				named = true
			}
		}
		if !named {
			all = append(all, Loaded{image, ""})
		}
	}
	return all
}
