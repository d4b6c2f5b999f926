package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/stream"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"

	"github.com/inboard/engine/enginetest"
)

// importable makes an image of layers as go-containerregistry does.
func importable(t testing.TB, mediaType types.MediaType, layers ...v1.Layer) v1.Image {
	t.Helper()
	image, err := mutate.AppendLayers(mutate.MediaType(empty.Image, mediaType), layers...)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// tarLayer is a layer that go-containerregistry compresses.
func tarLayer(t testing.TB, b []byte) v1.Layer {
	t.Helper()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestImport(t *testing.T) {
	a, b := tarOf(t, "a", bulk(1, 200<<10)), tarOf(t, "c", "d")
	packed := static.NewLayer(b, types.OCIUncompressedLayer)
	for name, image := range map[string]v1.Image{
		"OCI":       importable(t, types.OCIManifestSchema1, tarLayer(t, a), packed, tarLayer(t, a)),
		"Docker":    importable(t, types.DockerManifestSchema2, tarLayer(t, a), static.NewLayer(b, types.DockerUncompressedLayer)),
		"random":    must(random.Image(1000, 3)),
		"no layers": empty.Image,
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			var ended int
			i, err := s.Import(t.Context(), image, ImportOptions{Names: []string{"app:v1", "other/app"}, Progress: func(p Progress) {
				if p.Done == p.Total {
					ended++
				}
			}})
			if err != nil {
				t.Fatal(err)
			}
			config, want := must(image.ConfigName()), must(image.Digest())
			if string(i.ID()) != config.String() || string(i.Digest()) != want.String() || !slices.Equal(i.Names(), []string{"app:v1", "other/app:latest"}) {
				t.Errorf("%s, %s, %v", i.ID(), i.Digest(), i.Names())
			}
			layers, err := i.Layers()
			if err != nil {
				t.Fatal(err)
			}
			different := make(map[digest.Digest]bool)
			for n, l := range must(image.Layers()) {
				if id := must(l.DiffID()); string(layers[n].DiffID()) != id.String() {
					t.Errorf("layer %d is %s, not %s", n, layers[n].DiffID(), id)
				}
				different[layers[n].DiffID()] = true
				// As it was there: compressed.
				if d := must(l.Digest()); i.Manifest().Layers[n].Digest.String() != d.String() {
					t.Errorf("blob %d is %s, not %s", n, i.Manifest().Layers[n].Digest, d)
				}
			}
			if ended != len(different) {
				t.Errorf("%d of %d layers were reported", ended, len(different))
			}
			again, err := s.Import(t.Context(), image, ImportOptions{})
			if err != nil || again.ID() != i.ID() || len(again.Names()) != 2 {
				t.Errorf("again: %v, %v", again, err)
			}
			if _, err := s.Remove(t.Context(), string(i.ID()), RemoveOptions{Force: true}); err != nil {
				t.Error(err)
			}
			s.mustBeEmpty(t)
			if i, err = s.Import(t.Context(), image, ImportOptions{}); err != nil || len(i.Names()) != 0 {
				t.Errorf("without a name: %v, %v", i, err)
			}
		})
	}
}

// TestImportFromElsewhere: from a registry, a tarball, a layout.
func TestImportFromElsewhere(t *testing.T) {
	image := importable(t, types.OCIManifestSchema1, tarLayer(t, tarOf(t, "a", bulk(1, 200<<10))))
	dir := t.TempDir()
	path := must(layout.Write(dir, empty.Index))
	if err := path.AppendImage(image); err != nil {
		t.Fatal(err)
	}
	s := newStore(t)
	i, err := s.Import(t.Context(), must(path.Image(must(image.Digest()))), ImportOptions{Names: []string{"app"}})
	if err != nil || string(i.Digest()) != must(image.Digest()).String() {
		t.Fatal(err)
	}
	// And what it writes is loaded.
	loaded, err := s.LoadLayout(t.Context(), dir, LoadOptions{})
	if err != nil || len(loaded) != 1 || loaded[0].Image.ID() != i.ID() || loaded[0].Image.Digest() != i.Digest() {
		t.Errorf("%v, %v", loaded, err)
	}
}

// lyingImage is not what it says it is.
type lyingImage struct {
	v1.Image
	config, manifest []byte
	mediaType        types.MediaType
	layer            v1.Layer
	err              error
}

func (l *lyingImage) RawConfigFile() ([]byte, error) {
	if l.config != nil {
		return l.config, nil
	}
	return l.Image.RawConfigFile()
}

func (l *lyingImage) RawManifest() ([]byte, error) {
	if l.manifest != nil || l.err != nil {
		return l.manifest, l.err
	}
	return l.Image.RawManifest()
}

func (l *lyingImage) MediaType() (types.MediaType, error) {
	if l.mediaType != "" {
		return l.mediaType, nil
	}
	return l.Image.MediaType()
}

func (l *lyingImage) LayerByDigest(h v1.Hash) (v1.Layer, error) {
	if l.layer != nil {
		return l.layer, nil
	}
	return l.Image.LayerByDigest(h)
}

// blockedLayer never comes.
type blockedLayer struct {
	v1.Layer
	*io.PipeReader
	reading, closed chan struct{}
}

func (b *blockedLayer) Compressed() (io.ReadCloser, error) {
	close(b.reading)
	return b, nil
}

func (b *blockedLayer) Close() error {
	close(b.closed)
	return b.PipeReader.Close()
}

func TestImportHostile(t *testing.T) {
	image := importable(t, types.OCIManifestSchema1, tarLayer(t, tarOf(t, "a", "b")))
	other := importable(t, types.OCIManifestSchema1, tarLayer(t, tarOf(t, "c", "d")))
	broken := errors.New("no such thing")
	unwritten := importable(t, types.OCIManifestSchema1, stream.NewLayer(io.NopCloser(bytes.NewReader(tarOf(t, "a", "b")))))
	wrongDiffID := must(mutate.ConfigFile(image, must(other.ConfigFile()).DeepCopy()))
	foreign := importable(t, types.DockerManifestSchema2, static.NewLayer(tarOf(t, "a", "b"), types.DockerForeignLayer))
	otherLayer := must(other.Layers())[0]
	for name, c := range map[string]struct {
		image v1.Image
		names []string
		err   error
	}{
		"none":                    {nil, nil, errdefs.ErrInvalidArgument},
		"a malformed name":        {image, []string{"../x"}, errdefs.ErrInvalidArgument},
		"another's digest":        {image, []string{"app@sha256:" + strings.Repeat("0", 64)}, errdefs.ErrDataLoss},
		"another config":          {&lyingImage{Image: image, config: must(other.RawConfigFile())}, nil, errdefs.ErrDataLoss},
		"a large manifest":        {&lyingImage{Image: image, manifest: make([]byte, maxDocument+1)}, nil, errdefs.ErrDataLoss},
		"no manifest":             {&lyingImage{Image: image, manifest: []byte{}}, nil, errdefs.ErrDataLoss},
		"a manifest that fails":   {&lyingImage{Image: image, err: broken}, nil, broken},
		"an index":                {&lyingImage{Image: image, manifest: must(empty.Index.RawManifest()), mediaType: types.OCIImageIndex}, nil, errdefs.ErrInvalidArgument},
		"another media type":      {&lyingImage{Image: image, mediaType: types.DockerManifestSchema2}, nil, errdefs.ErrDataLoss},
		"another layer":           {&lyingImage{Image: image, layer: otherLayer}, nil, errdefs.ErrDataLoss},
		"a layer to be written":   {unwritten, nil, stream.ErrNotComputed},
		"a diff ID that is wrong": {wrongDiffID, nil, errdefs.ErrDataLoss},
		"a foreign layer":         {foreign, nil, errdefs.ErrNotImplemented},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			if _, err := s.Import(t.Context(), c.image, ImportOptions{Names: c.names}); !errors.Is(err, c.err) {
				t.Errorf("%v", err)
			}
			s.mustBeEmpty(t)
		})
	}
}

// TestImportIsCancelled while a layer is read that never comes.
func TestImportIsCancelled(t *testing.T) {
	enginetest.Leaks(t)
	image := importable(t, types.OCIManifestSchema1, tarLayer(t, tarOf(t, "a", "b")))
	r, w := io.Pipe()
	blocked := &blockedLayer{must(image.Layers())[0], r, make(chan struct{}), make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-blocked.reading
		cancel()
	}()
	s := newStore(t)
	if _, err := s.Import(ctx, &lyingImage{Image: image, layer: blocked}, ImportOptions{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	s.mustBeEmpty(t)
	w.Close()
	select {
	case <-blocked.closed:
	case <-time.After(time.Minute):
		t.Error("the layer was not closed")
	}
	if _, err := s.Import(ctx, image, ImportOptions{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
