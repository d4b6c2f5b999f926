package image

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/inboard/engine/layer"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestPlainLayerLiesOnce: a blob that is a layer's tar is the same file, however
// it came, and each of the two can go without the other.
func TestPlainLayerLiesOnce(t *testing.T) {
	f := newFakeRegistry(t)
	tar := tarOf(t, "bulk", bulk(1, 300<<10))
	plain := layerOf{tar, tar, ocispec.MediaTypeImageLayer}
	i := imageOf(t, []string{"app:v1"}, plain)
	ref := f.push("app", "v1", i.built)
	layout := unpackTo(t, ociArchive(t, []ocispec.Descriptor{named(i.desc(), annotationImageName, "app:v1")}, all(i.built)...))
	for way, bring := range map[string]func(s testStore) error{
		"pull":              func(s testStore) error { s.mustPull(t, ref); return nil },
		"load, as it comes": func(s testStore) error { s.mustLoad(t, pack(t, skopeoArchive(t, i)...), LoadOptions{}); return nil },
		"load, at the end":  func(s testStore) error { s.mustLoad(t, pack(t, oldDockerArchive(t, i)...), LoadOptions{}); return nil },
		"load of a layout":  func(s testStore) error { _, err := s.LoadLayout(t.Context(), layout, LoadOptions{}); return err },
	} {
		s := indexStore(t)
		if err := bring(s); err != nil {
			t.Fatal(err)
		}
		id := digest.FromBytes(tar)
		blob, inLayer := s.blobPath(id), filepath.Join(filepath.Dir(s.dir), "layers", "sha256", id.Encoded(), "tar")
		once := func(what string) {
			t.Helper()
			a, err1 := os.Stat(blob)
			b, err2 := os.Stat(inLayer)
			if err := errors.Join(err1, err2); err != nil || !os.SameFile(a, b) {
				t.Errorf("%s, %s: two files, %v", way, what, err)
			}
			if raw, err := os.ReadFile(blob); err != nil || !bytes.Equal(raw, tar) {
				t.Errorf("%s, %s: %d bytes, %v", way, what, len(raw), err)
			}
			if left := s.contents(t); len(left) != 4 { // manifest, config, blob and layer
				t.Errorf("%s, %s: %v", way, what, left)
			}
		}
		once("at first")
		got, err := s.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		name := got[0].Names()[0]
		for what, harm := range map[string]func() error{
			"layer gone":  func() error { return s.layers.Remove(id) },
			"blob gone":   func() error { return os.Remove(blob) },
			"both cut":    func() error { return os.Truncate(blob, 1000) },
			"nothing":     func() error { return nil },
			"layer empty": func() error { return os.Truncate(filepath.Join(filepath.Dir(inLayer), "layer.json"), 0) },
		} {
			if err := harm(); err != nil {
				t.Fatal(err)
			}
			if err := bring(s); err != nil {
				t.Fatal(err)
			}
			once(what)
		}
		if _, err := s.Remove(t.Context(), name, RemoveOptions{}); err != nil {
			t.Error(err)
		}
		s.mustBeEmpty(t)
	}
}

// indexStore is newStore with layers as tars and indexes.
func indexStore(t testing.TB) testStore {
	t.Helper()
	dir := t.TempDir()
	layers, err := layer.Open(filepath.Join(dir, "layers"), layer.Options{Form: layer.FormIndex})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { layers.Close() })
	s, err := Open(t.Context(), filepath.Join(dir, "images"), layers)
	if err != nil {
		t.Fatal(err)
	}
	return testStore{s, layers}
}
