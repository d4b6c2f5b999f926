package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// annotationImageName is what containerd, Docker and BuildKit call a whole
// reference in an image layout; its ref.name is the tag alone there.
const annotationImageName = "io.containerd.image.name"

// files are those of an image layout: an archive or a directory. Content of
// a file is an ErrDataLoss where it is longer than the limit or not there.
type files interface {
	content(name string, limit int64) ([]byte, error)
}

// layoutDocuments are the manifests and configs among a layout's blobs.
type layoutDocuments struct{ files }

func (l layoutDocuments) document(ctx context.Context, d string, expect *ocispec.Descriptor) (*document, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	raw, err := l.content(blobName(expect.Digest), maxDocument)
	if err != nil {
		return nil, err
	}
	doc, err := checkDocument("", raw, d, expect)
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", d, err)
	}
	return doc, nil
}

func (l layoutDocuments) config(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	raw, err := l.content(blobName(d.Digest), maxConfig)
	if err != nil {
		return nil, err
	}
	return raw, checkBlob(raw, d)
}

// checkBlob verifies a blob that is in memory.
func checkBlob(raw []byte, d ocispec.Descriptor) error {
	if got := digest.FromBytes(raw); got != d.Digest || int64(len(raw)) != d.Size {
		return fmt.Errorf("blob %s of %d bytes: content has digest %s and %d bytes: %w", d.Digest, d.Size, got, len(raw), errdefs.ErrDataLoss)
	}
	return nil
}

// layout chooses the images of a layout.
func (l *loader) layout(ctx context.Context, from files) error {
	raw, err := from.content(ocispec.ImageLayoutFile, maxDocument)
	if err != nil {
		return err
	}
	var head ocispec.ImageLayout
	if err := json.Unmarshal(raw, &head); err != nil {
		return fmt.Errorf("%s: %v: %w", ocispec.ImageLayoutFile, err, errdefs.ErrDataLoss)
	}
	if head.Version != ocispec.ImageLayoutVersion {
		return fmt.Errorf("image layout version %.20q, not %q: %w", head.Version, ocispec.ImageLayoutVersion, errdefs.ErrNotImplemented)
	}
	if raw, err = from.content(ocispec.ImageIndexFile, maxDocument); err != nil {
		return err
	}
	index, err := parseDocument(ocispec.MediaTypeImageIndex, raw)
	if err != nil {
		return fmt.Errorf("%s: %w", ocispec.ImageIndexFile, err)
	}
	tops, err := l.tops(index.index)
	if err != nil {
		return fmt.Errorf("%s: %w", ocispec.ImageIndexFile, err)
	}
	for _, top := range tops {
		if err := l.top(ctx, from, top); err != nil {
			return fmt.Errorf("%s: image %.100q: %w", ocispec.ImageIndexFile, string(top.Digest), err)
		}
	}
	return nil
}

// tops gives what index.json lists as images, each of which may be an index in
// turn. What has one name, or no name, for several platforms is one image: that
// for the wanted platform.
func (l *loader) tops(index *ocispec.Index) ([]candidate, error) {
	if n := len(index.Manifests); n > maxImages {
		return nil, fmt.Errorf("%d images, more than %d: %w", n, maxImages, errdefs.ErrDataLoss)
	}
	var names []string
	groups := make(map[string]*ocispec.Index)
	for _, d := range index.Manifests {
		if isAttestation(d) {
			continue
		}
		if !isIndexType(d.MediaType) && !isManifestType(d.MediaType) {
			return nil, fmt.Errorf("%.100q has media type %.100q: %w", string(d.Digest), d.MediaType, errdefs.ErrNotImplemented)
		}
		name := layoutName(d)
		if groups[name] == nil {
			names = append(names, name)
			groups[name] = new(ocispec.Index)
		}
		groups[name].Manifests = append(groups[name].Manifests, d)
	}
	var tops []candidate
	for _, name := range names {
		group := groups[name]
		some := candidates(group, l.want)
		for _, c := range some {
			// The best; several are images of their own.
			if !c.stated || platformRank(l.want, *c.Platform) == platformRank(l.want, *some[0].Platform) {
				tops = append(tops, c)
			}
		}
		switch {
		case len(some) > 0:
		case l.any && len(group.Manifests) == 1:
			tops = append(tops, candidate{group.Manifests[0], true})
		default:
			return nil, &noPlatform{want: l.want, have: platformsOf(group)}
		}
	}
	return tops, nil
}

// top chooses one image from what index.json lists.
func (l *loader) top(ctx context.Context, from files, top candidate) error {
	if err := checkDescriptor("manifest", top.Descriptor); err != nil {
		return err
	}
	refs, err := l.layoutRefs(top.Descriptor)
	if err != nil {
		return err
	}
	r := &resolver{store: l.store, from: layoutDocuments{from}, want: l.want}
	doc, err := r.document(ctx, string(top.Digest), &top.Descriptor)
	if err != nil {
		return err
	}
	sel, err := r.choose(ctx, doc, top.stated || l.any && doc.manifest != nil, 0)
	if err != nil {
		return err
	}
	return l.add(sel, refs)
}

// layoutName is what a layout calls an image: a reference, a tag, or nothing.
func layoutName(d ocispec.Descriptor) string {
	if name := d.Annotations[annotationImageName]; name != "" {
		return name
	}
	return d.Annotations[ocispec.AnnotationRefName]
}

// layoutRefs makes a reference of an image's name. A tag alone gives one only
// with a repository from the caller: to guess none is better than to take over
// a name.
func (l *loader) layoutRefs(d ocispec.Descriptor) ([]Reference, error) {
	name := layoutName(d)
	if name != "" && !strings.ContainsAny(name, "/:@") {
		if l.repository == "" {
			return nil, nil
		}
		name = l.repository + ":" + name
	}
	if name == "" {
		return nil, nil
	}
	ref, err := parseName(name)
	if err != nil {
		return nil, err
	}
	return []Reference{ref}, checkName(ref, d.Digest)
}

// checkName refuses to call an image by the digest of another.
func checkName(ref Reference, d digest.Digest) error {
	if have := ref.Digest(); have != "" && have != d {
		return fmt.Errorf("%s is called %s: %w", d, ref, errdefs.ErrDataLoss)
	}
	return nil
}

// directory is an image layout in a directory. Nothing outside of it is opened,
// whatever links are in it, and no blob that is a link.
type directory struct{ root *os.Root }

// openDirectory opens a directory that the caller names.
func openDirectory(dir string) (*directory, error) {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	if _, err := root.Lstat(ocispec.ImageLayoutFile); errors.Is(err, fs.ErrNotExist) {
		root.Close()
		return nil, fmt.Errorf("no image layout: it has no %s: %w", ocispec.ImageLayoutFile, errdefs.ErrInvalidArgument)
	}
	return &directory{root}, nil
}

// open opens a regular file, and nothing that blocks where it was one before.
func (d *directory) open(name string) (*os.File, error) {
	before, err := d.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is not there: %w", name, errdefs.ErrDataLoss)
	}
	if err != nil {
		return nil, err
	}
	if !before.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file (%s): %w", name, before.Mode(), errdefs.ErrInvalidArgument)
	}
	f, err := d.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	after, err := f.Stat()
	if err == nil && !os.SameFile(before, after) {
		err = fmt.Errorf("%s was exchanged while it was opened: %w", name, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (d *directory) content(name string, limit int64) ([]byte, error) {
	f, err := d.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(raw)) > limit {
		err = fmt.Errorf("%s has more than %d bytes: %w", name, limit, errdefs.ErrDataLoss)
	}
	return raw, err
}

func (d *directory) blob(_ context.Context, desc ocispec.Descriptor, have int64) (io.ReadCloser, error) {
	f, err := d.open(blobName(desc.Digest))
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(have, io.SeekStart); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
