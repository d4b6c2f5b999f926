package image

import (
	"bytes"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/inboard/engine/enginetest"
)

// TestNothingStaysOpen looks for goroutines and descriptors after pulls, with the
// default transport, loads and imports, of which some fail.
func TestNothingStaysOpen(t *testing.T) {
	f := newFakeRegistry(t)
	s := newStore(t)
	b := build(t, hostPlatform, gzipLayer(t, "a", "b"))
	ref := f.push("app", "v1", b)
	loadable := imageOf(t, []string{"loaded:v1"}, gzipLayer(t, "c", bulk(1, 100<<10)))
	archive := gzipped(t, pack(t, skopeoArchive(t, loadable)...))
	dir := unpackTo(t, ociArchive(t, []ocispec.Descriptor{loadable.desc()}, all(loadable.built)...))
	image := importable(t, types.OCIManifestSchema1, tarLayer(t, tarOf(t, "d", "e")))
	lying := &lyingImage{Image: image, layer: tarLayer(t, tarOf(t, "f", "g"))}
	round := func() {
		i := s.mustPull(t, ref)
		release, err := s.Hold(t.Context(), i.ID(), "holder")
		if err != nil {
			t.Fatal(err)
		}
		s.Remove(t.Context(), ref, RemoveOptions{})
		release()
		if _, err := s.Pull(t.Context(), f.host+"/none", anonymous); err == nil {
			t.Error("no error")
		}
		if _, err := s.Remove(t.Context(), ref, RemoveOptions{}); err != nil {
			t.Error(err)
		}
		s.mustLoad(t, archive, LoadOptions{})
		for _, cut := range []int{100, len(archive) / 2, len(archive) - 1} {
			if _, err := s.Load(t.Context(), bytes.NewReader(archive[:cut]), LoadOptions{}); err == nil {
				t.Error("no error")
			}
		}
		if _, err := s.LoadLayout(t.Context(), dir, LoadOptions{}); err != nil {
			t.Error(err)
		}
		if _, err := s.LoadLayout(t.Context(), dir, LoadOptions{Platform: "windows/amd64"}); err == nil {
			t.Error("no error")
		}
		if _, err := s.Import(t.Context(), lying, ImportOptions{}); err == nil {
			t.Error("no error")
		}
		imported, err := s.Import(t.Context(), image, ImportOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range []digest.Digest{loadable.config, imported.ID()} {
			if _, err := s.Remove(t.Context(), string(id), RemoveOptions{}); err != nil {
				t.Error(err)
			}
		}
	}
	round()
	// The first round may leave what all others share.
	f.Disconnect()
	enginetest.Leaks(t)
	for range 20 {
		round()
	}
	f.Disconnect()
	s.mustBeEmpty(t)
}
