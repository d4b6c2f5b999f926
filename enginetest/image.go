package enginetest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"runtime"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is an image of any shape, as a literal:
//
//	enginetest.Image{
//		Layers: []enginetest.Layer{enginetest.NewLayer(enginetest.File("etc/motd", "hello"))},
//		Config: ocispec.ImageConfig{Cmd: []string{"cat", "/etc/motd"}},
//	}
type Image struct {
	// Layers are from the lowest to the highest.
	Layers []Layer
	// Config is what a container of the image starts with.
	Config ocispec.ImageConfig
	// Platform is Linux on this machine's architecture if it is empty.
	Platform ocispec.Platform
	// Author tells apart images that are alike otherwise.
	Author string
	// Docker gives the image Docker's media types instead of the OCI's.
	Docker bool
	// RawConfig, if it is not nil, is the configuration as it is served; Config,
	// Platform and Author are not used.
	RawConfig []byte
}

// Index is an image of several platforms.
type Index struct {
	Images []Image
	// Docker gives the index Docker's media type instead of the OCI's.
	Docker bool
}

// Built is an image or an index as the bytes that a registry serves. Tests may
// spoil them: what is pushed, archived or laid out is what they are then.
type Built struct {
	MediaType string
	// Manifest is the manifest, or the index.
	Manifest []byte
	// Config is the digest of an image's configuration.
	Config digest.Digest
	// Layers are an image's, as its manifest lists them.
	Layers []*BuiltLayer
	// Blobs are an image's configuration and its layers.
	Blobs map[digest.Digest][]byte
	// Images are an index's.
	Images []*Built
	// Platform is an image's.
	Platform ocispec.Platform
}

// Fixture is an [Image], an [Index], or one that is [Built].
type Fixture interface {
	// Build gives the bytes, the same ones for the same literal.
	Build() (*Built, error)
}

// Build gives the receiver.
func (b *Built) Build() (*Built, error) { return b, nil }

// Build makes the image's layers, configuration and manifest.
func (i Image) Build() (*Built, error) {
	b := &Built{MediaType: ocispec.MediaTypeImageManifest, Blobs: make(map[digest.Digest][]byte), Platform: i.Platform}
	if i.Docker {
		b.MediaType = dockerManifest
	}
	if b.Platform.OS == "" {
		b.Platform = ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}
	}
	config := ocispec.Image{Platform: b.Platform, Author: i.Author, Config: i.Config, RootFS: ocispec.RootFS{Type: "layers"}}
	for n, l := range i.Layers {
		if l.MediaType == "" && i.Docker {
			l.MediaType = l.Compression.mediaType(true)
		}
		built, err := l.Build()
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", n, err)
		}
		b.Layers = append(b.Layers, built)
		b.Blobs[built.Descriptor.Digest] = built.Blob
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, built.DiffID())
	}
	raw := i.RawConfig
	if raw == nil {
		var err error
		if raw, err = json.Marshal(config); err != nil {
			return nil, err
		}
	}
	return b, b.Seal(raw)
}

// Seal gives an image another configuration, and makes its manifest anew.
func (b *Built) Seal(config []byte) error {
	delete(b.Blobs, b.Config)
	b.Config = digest.FromBytes(config)
	b.Blobs[b.Config] = config
	manifest := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: b.MediaType,
		Config:    ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: b.Config, Size: int64(len(config))},
		Layers:    []ocispec.Descriptor{},
	}
	if b.MediaType == dockerManifest {
		manifest.Config.MediaType = dockerConfig
	}
	for _, l := range b.Layers {
		manifest.Layers = append(manifest.Layers, l.Descriptor)
	}
	var err error
	b.Manifest, err = json.Marshal(manifest)
	return err
}

// Build makes the index and its images.
func (x Index) Build() (*Built, error) {
	b := &Built{MediaType: ocispec.MediaTypeImageIndex}
	if x.Docker {
		b.MediaType = dockerList
	}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: b.MediaType, Manifests: []ocispec.Descriptor{}}
	for _, i := range x.Images {
		built, err := i.Build()
		if err != nil {
			return nil, err
		}
		b.Images = append(b.Images, built)
		index.Manifests = append(index.Manifests, built.Descriptor())
	}
	var err error
	b.Manifest, err = json.Marshal(index)
	return b, err
}

// Descriptor is the manifest's or index's.
func (b *Built) Descriptor() ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: b.MediaType, Digest: b.Digest(), Size: int64(len(b.Manifest))}
	if b.Platform.OS != "" {
		d.Platform = &b.Platform
	}
	return d
}

// Digest is the manifest's or index's.
func (b *Built) Digest() digest.Digest { return digest.FromBytes(b.Manifest) }

// Image gives an image to go-containerregistry, as engine.Import takes one. The
// layers have the media types, the compression and the bytes of b.
func (b *Built) Image() (v1.Image, error) { return partial.CompressedToImage(served{b}) }

// served is a Built image in the way that package partial wants it.
type served struct{ *Built }

func (s served) RawManifest() ([]byte, error)        { return s.Manifest, nil }
func (s served) RawConfigFile() ([]byte, error)      { return s.Blobs[s.Config], nil }
func (s served) MediaType() (types.MediaType, error) { return types.MediaType(s.Built.MediaType), nil }
func (s served) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	for _, l := range s.Layers {
		if string(l.Descriptor.Digest) == h.String() {
			return servedLayer{l}, nil
		}
	}
	return nil, fmt.Errorf("no layer %s", h)
}

// servedLayer is a BuiltLayer as a v1.Layer.
type servedLayer struct{ *BuiltLayer }

func (l servedLayer) Digest() (v1.Hash, error) { return v1.NewHash(string(l.Descriptor.Digest)) }
func (l servedLayer) DiffID() (v1.Hash, error) { return v1.NewHash(string(l.BuiltLayer.DiffID())) }
func (l servedLayer) Size() (int64, error)     { return l.Descriptor.Size, nil }
func (l servedLayer) MediaType() (types.MediaType, error) {
	return types.MediaType(l.Descriptor.MediaType), nil
}
func (l servedLayer) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(l.Blob)), nil
}
func (l servedLayer) Uncompressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(l.Tar)), nil
}
