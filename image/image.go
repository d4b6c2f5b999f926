package image

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/inboard/engine/layer"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is what the store knew of an image when it was asked. It does not change
// and may be used concurrently; the image itself may since have been renamed or
// removed. What its methods return belongs to the caller.
type Image struct {
	store   *Store
	id      digest.Digest
	digest  digest.Digest
	names   []string // familiar
	full    []string
	entries []*entry
	content *content
}

// of is a copy of an image of an index, for a store to load.
func (i *Image) of(s *Store) *Image {
	c := *i
	c.store = s
	return &c
}

// ID is the digest of the image's config.
func (i *Image) ID() digest.Digest { return i.id }

// Digest is what was pulled, loaded or imported: the digest of an index, or of a
// manifest where there is no index. [Store.Load] makes a manifest for an image
// that comes without one.
func (i *Image) Digest() digest.Digest { return i.digest }

// Names are the image's references, sorted, in the short form that Docker shows:
// "alpine:latest". An image that lost its last name has none.
func (i *Image) Names() []string { return slices.Clone(i.names) }

// Manifest is the image's manifest with OCI's media types.
func (i *Image) Manifest() ocispec.Manifest {
	m := i.content.manifest
	m.Layers = slices.Clone(m.Layers)
	m.Annotations = maps.Clone(m.Annotations)
	return m
}

// Config is the image's config. Nothing in it has been judged but that there is
// a diff ID for each layer.
func (i *Image) Config() ocispec.Image {
	c := i.content.config
	if c.Created != nil {
		t := *c.Created
		c.Created = &t
	}
	c.OSFeatures = slices.Clone(c.OSFeatures)
	c.RootFS.DiffIDs = slices.Clone(c.RootFS.DiffIDs)
	c.History = slices.Clone(c.History)
	r := &c.Config
	r.Env, r.Entrypoint, r.Cmd = slices.Clone(r.Env), slices.Clone(r.Entrypoint), slices.Clone(r.Cmd)
	r.ExposedPorts, r.Volumes, r.Labels = maps.Clone(r.ExposedPorts), maps.Clone(r.Volumes), maps.Clone(r.Labels)
	return c
}

// Created is the time that the config gives, zero when it gives none.
func (i *Image) Created() time.Time {
	if i.content.config.Created == nil {
		return time.Time{}
	}
	return *i.content.config.Created
}

// Layers are the image's layers, the lowest first. A layer that is gone gives
// ErrNotFound.
func (i *Image) Layers() ([]*layer.Layer, error) {
	layers := make([]*layer.Layer, 0, len(i.content.config.RootFS.DiffIDs))
	for _, d := range i.content.config.RootFS.DiffIDs {
		l, err := i.store.layers.Get(d)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", i.id, err)
		}
		layers = append(layers, l)
	}
	return layers, nil
}

// Size is the number of bytes in the tars of the image's layers, each counted
// once. Layers that are gone count nothing.
func (i *Image) Size() int64 {
	var size int64
	seen := make(map[digest.Digest]bool)
	for _, d := range i.content.config.RootFS.DiffIDs {
		if l, err := i.store.layers.Get(d); err == nil && !seen[d] {
			size += l.Size()
		}
		seen[d] = true
	}
	return size
}
