//go:build linux

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/inboard/engine/bench/realimage"
)

// unpackImage is the image that is unpacked, in all forms that engines want.
type unpackImage struct {
	layout, tag string // an OCI image layout
	archive     string // what `docker save` would write, but with compressed layers
	id          string // its configuration's digest
	layers      []unpackLayer
	blobs       map[string][]byte // manifest, configuration and layers by digest
	manifest    v1.Hash
	mediaType   types.MediaType
}

// unpackLayer is one compressed layer, in memory and as a file in the page cache.
type unpackLayer struct {
	data   []byte
	path   string
	digest v1.Hash
	diffID v1.Hash
}

// unpackName is fully qualified, so that docker takes it as it is.
const unpackName = "localhost/bench-unpack:" + realimage.Tag

// unpackInput gives the image at the first call, and says which it is.
func (b *bench) unpackInput(ctx context.Context) (*unpackImage, error) {
	if b.real != nil {
		return b.real, nil
	}
	dir, err := b.mkdir("unpack-image")
	if err != nil {
		return nil, err
	}
	layout := b.imagePath
	switch {
	case layout != "":
	case b.short:
		layout = filepath.Join(dir, "layout")
		if err := makeSynthetic(layout); err != nil {
			return nil, err
		}
	default:
		cache, err := realimage.CacheDir()
		if err != nil {
			return nil, err
		}
		fmt.Fprintln(b.log, "unpack: the image of debootstrap and a Go toolchain, made now if it is not in", cache)
		image, err := realimage.Make(ctx, cache, io.Discard)
		if err != nil {
			return nil, fmt.Errorf("%w (-image takes another, -short a small one)", err)
		}
		layout = image.Layout
	}
	b.real, err = readUnpackImage(layout, dir)
	if err != nil {
		return nil, err
	}
	size := 0
	for _, l := range b.real.layers {
		size += len(l.data)
	}
	fmt.Fprintf(b.log, "unpack: %s, %d layers, %.1f MB compressed\n", layout, len(b.real.layers), float64(size)/1e6)
	return b.real, nil
}

func readUnpackImage(layout, dir string) (*unpackImage, error) {
	img, err := (&realimage.Image{Layout: layout}).Open()
	if err != nil {
		return nil, err
	}
	u := &unpackImage{layout: layout, tag: realimage.Tag, archive: filepath.Join(dir, "image.tar"), blobs: map[string][]byte{}}
	manifest, err := img.RawManifest()
	if err != nil {
		return nil, err
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return nil, err
	}
	id, err := img.ConfigName()
	if err != nil {
		return nil, err
	}
	if u.manifest, err = img.Digest(); err != nil {
		return nil, err
	}
	if u.mediaType, err = img.MediaType(); err != nil {
		return nil, err
	}
	u.id = id.Hex
	u.blobs[u.manifest.String()], u.blobs[id.String()] = manifest, config
	layers, err := img.Layers()
	if err != nil {
		return nil, err
	}
	for _, l := range layers {
		layer, err := readUnpackLayer(layout, l)
		if err != nil {
			return nil, err
		}
		u.layers = append(u.layers, layer)
		u.blobs[layer.digest.String()] = layer.data
	}
	tag, err := name.NewTag(unpackName)
	if err != nil {
		return nil, err
	}
	return u, tarball.WriteToFile(u.archive, tag, img)
}

func readUnpackLayer(layout string, l v1.Layer) (u unpackLayer, err error) {
	if u.digest, err = l.Digest(); err != nil {
		return u, err
	}
	if u.diffID, err = l.DiffID(); err != nil {
		return u, err
	}
	u.path = filepath.Join(layout, "blobs", u.digest.Algorithm, u.digest.Hex)
	u.data, err = os.ReadFile(u.path)
	return u, err
}

// makeSynthetic writes an image of two layers, of 2,000 files and 20 MB in
// all: as compressible as programs are, and the same each time.
func makeSynthetic(layout string) error {
	random := rand.New(rand.NewPCG(1, 2))
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for i := range 2 {
		archive, err := syntheticLayer(fmt.Sprintf("layer-%d", i), random)
		if err != nil {
			return err
		}
		open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil }
		layer, err := tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer))
		if err != nil {
			return err
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			return err
		}
	}
	config, err := img.ConfigFile()
	if err != nil {
		return err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	if img, err = mutate.ConfigFile(img, config); err != nil {
		return err
	}
	return realimage.Write(layout, img)
}

func syntheticLayer(top string, random *rand.Rand) ([]byte, error) {
	var archive bytes.Buffer
	z := gzip.NewWriter(&archive)
	w := tar.NewWriter(z)
	for i := range 1000 {
		dir := fmt.Sprintf("%s/%d/", top, i/50)
		if i%50 == 0 {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}); err != nil {
				return nil, err
			}
		}
		text := words(random, random.IntN(20_000))
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("%sfile-%d", dir, i), Mode: 0o644, Size: int64(len(text))}); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(w, text); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	err := z.Close()
	return archive.Bytes(), err
}

func words(random *rand.Rand, size int) string {
	var text strings.Builder
	for text.Len() < size {
		fmt.Fprintf(&text, "word-%x ", random.IntN(1<<12))
	}
	return text.String()
}
