package image

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ImportOptions change how [Store.Import] works. The zero value is right for
// most.
type ImportOptions struct {
	// Names are the references that the image gets, as ParseReference reads them.
	// With none it is found by its ID.
	Names []string
	// Progress is as in [LoadOptions].
	Progress func(Progress)
}

// Import takes in an image of go-containerregistry's, from wherever that has it,
// with its manifest as it is: its layers are asked for as they are there, which
// most often is compressed. Manifest, config and layers are verified against the
// digests that lead to them, layers against their diff IDs too. An image for any
// platform is taken. Names are given as [Store.Load] gives them.
//
// Import lists the image when everything is verified and on the disk. Before
// that, when it fails or ctx ends, it removes what it has brought. A method of
// the image that blocks, other than reading a layer, ends by itself.
//
// Errors are those of Load, and the image's own.
func (s *Store) Import(ctx context.Context, image v1.Image, o ImportOptions) (*Image, error) {
	i, err := s.importImage(ctx, image, o)
	if err != nil {
		return nil, &Error{"import", "", ended(ctx, err)}
	}
	return i, nil
}

func (s *Store) importImage(ctx context.Context, image v1.Image, o ImportOptions) (*Image, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if image == nil {
		return nil, fmt.Errorf("no image: %w", errdefs.ErrInvalidArgument)
	}
	from := imported{image}
	doc, err := from.document(ctx, "", nil)
	if err != nil {
		return nil, err
	}
	var refs []Reference
	for _, name := range o.Names {
		ref, err := ParseReference(name)
		if err == nil {
			err = checkName(ref, doc.desc.Digest)
		}
		if err != nil {
			return nil, err
		}
		refs = append(refs, ref)
	}
	sel, err := (&resolver{store: s, from: from}).leaf(ctx, doc, true)
	if err != nil {
		return nil, err
	}
	i, err := sel.listing(refs...)
	if err != nil {
		return nil, err
	}
	c, err := s.claimFor(ctx, needs([]listing{i}))
	if err != nil {
		return nil, err
	}
	a := &arrival{store: s, blobs: from, claim: c, progress: &reporter{call: o.Progress}}
	if err := a.take(ctx, []listing{i}); err != nil {
		return nil, errors.Join(err, c.abandon(ctx))
	}
	return s.image(i), nil
}

// imported is an image of go-containerregistry's as something that images come
// from.
type imported struct{ v1.Image }

// document gives the manifest, the only document that there is.
func (i imported) document(context.Context, string, *ocispec.Descriptor) (*document, error) {
	mediaType, err := i.MediaType()
	if err != nil {
		return nil, fmt.Errorf("media type: %w", err)
	}
	raw, err := i.RawManifest()
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if len(raw) > maxDocument {
		return nil, fmt.Errorf("a manifest of %d bytes, more than %d: %w", len(raw), maxDocument, errdefs.ErrDataLoss)
	}
	doc, err := parseDocument(string(mediaType), raw)
	if err == nil && doc.manifest == nil {
		err = fmt.Errorf("manifest %s is an index: %w", doc.desc.Digest, errdefs.ErrInvalidArgument)
	}
	return doc, err
}

func (i imported) config(_ context.Context, d ocispec.Descriptor) ([]byte, error) {
	raw, err := i.RawConfigFile()
	if err != nil {
		return nil, err
	}
	return raw, checkBlob(raw, d)
}

func (i imported) blob(ctx context.Context, d ocispec.Descriptor, have int64) (io.ReadCloser, error) {
	l, err := i.LayerByDigest(v1.Hash{Algorithm: string(d.Digest.Algorithm()), Hex: d.Digest.Encoded()})
	if err != nil {
		return nil, err
	}
	r, err := l.Compressed()
	if err != nil {
		return nil, err
	}
	b := detach(ctx, r)
	if _, err := io.CopyN(io.Discard, b, have); err != nil && err != io.EOF {
		b.Close()
		return nil, err
	}
	return b, nil
}
