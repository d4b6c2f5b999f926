package image

import (
	"archive/tar"
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// unpackTo makes a directory of an archive's members.
func unpackTo(t testing.TB, members []packed) string {
	t.Helper()
	dir := t.TempDir()
	for _, m := range members {
		path := filepath.Join(dir, m.name)
		err := os.MkdirAll(filepath.Dir(path), 0o700)
		if err == nil {
			switch m.kind {
			case tar.TypeDir:
				err = os.MkdirAll(path, 0o700)
			case tar.TypeSymlink:
				err = os.Symlink(m.link, path)
			case tar.TypeLink:
				err = os.Link(filepath.Join(dir, m.link), path)
			default:
				err = os.WriteFile(path, []byte(m.data), 0o600)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLoadLayout(t *testing.T) {
	one := imageOf(t, nil, gzipLayer(t, "a", bulk(1, 200<<10)), gzipLayer(t, "b", "c"))
	two := build(t, hostPlatform, gzipLayer(t, "own", "2"))
	dir := unpackTo(t, ociArchive(t, []ocispec.Descriptor{
		named(one.desc(), ocispec.AnnotationRefName, "docker.io/library/app:v1"),
		named(two.desc(), ocispec.AnnotationRefName, "v2"),
	}, all(one.built, two)...))
	s := newStore(t)
	ended := make(map[digest.Digest]int)
	loaded, err := s.LoadLayout(t.Context(), dir, LoadOptions{Repository: "repo", Progress: func(p Progress) {
		if p.Done == p.Total {
			ended[p.Layer]++
		}
	}})
	if err != nil || names(loaded) != "app:v1 repo:v2" {
		t.Fatalf("%v, %v", loaded, err)
	}
	one.sameAs(t, loaded[0].Image)
	two.sameAs(t, loaded[1].Image)
	if loaded[0].Image.Digest() != digest.FromBytes(one.manifest) {
		t.Errorf("digest %s", loaded[0].Image.Digest())
	}
	if len(ended) != 3 || ended[one.layers[0].Digest] != 1 {
		t.Errorf("%v", ended)
	}
	// The directory is as it was, and needed no more.
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	one.sameAs(t, must(s.Lookup(t.Context(), "app:v1")))
	// A store is a layout too.
	other := newStore(t)
	loaded, err = other.LoadLayout(t.Context(), s.dir, LoadOptions{})
	if err != nil || names(loaded) != "app:v1 repo:v2" {
		t.Fatalf("%v, %v", loaded, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := other.LoadLayout(ctx, s.dir, LoadOptions{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestLoadHostileLayout: the same as archives, where a directory can be such.
func TestLoadHostileLayout(t *testing.T) {
	cases := hostileLayouts(t)
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		c := cases[name]
		switch name {
		case "a blob that is a hard link": // is a file here
			c.err, c.text = errdefs.ErrDataLoss, "are expected"
		case "a blob nobody wants": // is not looked at
			continue
		case "a blob that is a link":
			c.text = "no regular file"
		}
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			_, err := s.LoadLayout(t.Context(), unpackTo(t, c.members), LoadOptions{})
			if !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%v", err)
			}
			s.mustBeEmpty(t)
		})
	}
}

// TestLoadLayoutStaysInside: what lies outside is as good as the image's, and is
// not taken.
func TestLoadLayoutStaysInside(t *testing.T) {
	i := imageOf(t, nil, gzipLayer(t, "a", "b"))
	members := ociArchive(t, []ocispec.Descriptor{i.desc()}, all(i.built)...)
	outside := unpackTo(t, members)
	for _, name := range []string{"index.json", "oci-layout", "blobs", "blobs/sha256", blobName(i.layers[0].Digest), blobName(i.config), blobName(digest.FromBytes(i.manifest))} {
		dir := unpackTo(t, members)
		path := filepath.Join(dir, name)
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(outside, name), path); err != nil {
			t.Skipf("no symlinks: %v", err)
		}
		s := newStore(t)
		if _, err := s.LoadLayout(t.Context(), dir, LoadOptions{}); err == nil {
			t.Errorf("%s lies outside, and was read", name)
		}
		s.mustBeEmpty(t)
	}
	s := newStore(t)
	for dir, want := range map[string]error{
		filepath.Join(outside, "none"):       errdefs.ErrNotFound,
		t.TempDir():                          errdefs.ErrInvalidArgument,
		filepath.Join(outside, "index.json"): nil, // not a directory: the system's own error
	} {
		if _, err := s.LoadLayout(t.Context(), dir, LoadOptions{}); err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: %v", dir, err)
		}
	}
	s.mustBeEmpty(t)
}
