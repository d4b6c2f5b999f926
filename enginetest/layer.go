package enginetest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Layer is one layer of an [Image].
type Layer struct {
	Entries []Entry
	// Tar, if it is not nil, is the archive itself, and Entries are not used.
	Tar []byte
	// Compression is how the layer is served. Gzip is the zero value.
	Compression Compression
	// MediaType is empty for what Compression and Image.Docker say.
	MediaType string
}

// Compression is a layer's on its way.
type Compression int

// The compressions of the OCI image specification.
const (
	Gzip Compression = iota
	Zstd
	Uncompressed
)

// NewLayer is a layer of the entries, with gzip.
func NewLayer(entries ...Entry) Layer { return Layer{Entries: entries} }

// BuiltLayer is a layer's archive, and what a registry serves of it.
type BuiltLayer struct {
	// Tar is what the layer's DiffID is of.
	Tar []byte
	// Blob is what is served: Tar, compressed.
	Blob []byte
	// Descriptor is Blob's.
	Descriptor ocispec.Descriptor
}

// DiffID is the digest of the layer's archive.
func (l *BuiltLayer) DiffID() digest.Digest { return digest.FromBytes(l.Tar) }

// Build packs the layer. It fails for an entry that archive/tar cannot write;
// Entry.Raw writes such ones.
func (l Layer) Build() (*BuiltLayer, error) {
	b := &BuiltLayer{Tar: l.Tar}
	var err error
	if b.Tar == nil {
		if b.Tar, err = Tar(l.Entries...); err != nil {
			return nil, err
		}
	}
	if b.Blob, err = l.Compression.Compress(b.Tar); err != nil {
		return nil, err
	}
	mediaType := l.MediaType
	if mediaType == "" {
		mediaType = l.Compression.mediaType(false)
	}
	b.Descriptor = ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b.Blob), Size: int64(len(b.Blob))}
	return b, nil
}

// Tar packs entries into an archive.
func Tar(entries ...Entry) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if e.Raw != nil {
			if err := w.Flush(); err != nil {
				return nil, err
			}
			b.Write(e.Raw)
			continue
		}
		e.Size = int64(len(e.Data))
		err := w.WriteHeader(&e.Header)
		if err == nil {
			_, err = io.WriteString(w, e.Data)
		}
		if err != nil {
			return nil, fmt.Errorf("entry %q: %w", e.Name, err)
		}
	}
	err := w.Close()
	return b.Bytes(), err
}

// Compress gives the data compressed, the same for the same data.
func (c Compression) Compress(data []byte) ([]byte, error) {
	switch c {
	case Gzip:
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, err := w.Write(data)
		if err == nil {
			err = w.Close()
		}
		return b.Bytes(), err
	case Zstd:
		w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		defer w.Close()
		return w.EncodeAll(data, nil), nil
	}
	return data, nil
}

// mediaType is the OCI image specification's, or Docker's.
func (c Compression) mediaType(docker bool) string {
	kinds := [][2]string{
		Gzip:         {ocispec.MediaTypeImageLayerGzip, dockerLayer + ".gzip"},
		Zstd:         {ocispec.MediaTypeImageLayerZstd, dockerLayer + ".zstd"},
		Uncompressed: {ocispec.MediaTypeImageLayer, dockerLayer},
	}
	if docker {
		return kinds[c][1]
	}
	return kinds[c][0]
}

// Docker's media types (distribution's manifest schema 2).
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
	dockerLayer    = "application/vnd.docker.image.rootfs.diff.tar"
)
