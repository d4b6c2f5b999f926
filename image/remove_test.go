package image

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

func TestRemove(t *testing.T) {
	f := newFakeRegistry(t)
	s := newStore(t)
	shared := gzipLayer(t, "shared", "layer")
	a := build(t, hostPlatform, shared, gzipLayer(t, "a", "1"))
	b := build(t, hostPlatform, shared, gzipLayer(t, "b", "2")).docker(t)
	refA, refB := f.pushIndex("a", "v1", a), f.push("b", "v1", b)
	s.mustPull(t, refA)
	onlyA := s.contents(t)
	s.mustPull(t, refB)
	r, err := s.Remove(t.Context(), refB, RemoveOptions{})
	if err != nil || !slices.Equal(r.Untagged, []string{refB}) || !slices.Equal(r.Deleted, []digest.Digest{b.config, b.diffIDs[1]}) {
		t.Errorf("%+v, %v", r, err)
	}
	if now := s.contents(t); !slices.Equal(now, onlyA) {
		t.Errorf("%v, before %v", now, onlyA)
	}
	if _, err := s.Lookup(t.Context(), refB); !errors.Is(err, errdefs.ErrNotFound) {
		t.Error(err)
	}
	if i, err := s.Lookup(t.Context(), refA); err != nil {
		t.Error(err)
	} else if _, err := i.Layers(); err != nil {
		t.Error(err)
	}
	if _, err := s.Remove(t.Context(), refA, RemoveOptions{}); err != nil {
		t.Error(err)
	}
	s.mustBeEmpty(t)
	if _, err := s.Remove(t.Context(), refA, RemoveOptions{}); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("twice: %v", err)
	}
}

// TestUntag takes names one by one, as `docker rmi` does.
func TestUntag(t *testing.T) {
	f := newFakeRegistry(t)
	s := newStore(t)
	b := build(t, hostPlatform, gzipLayer(t, "a", "b"))
	one, two, other := f.push("app", "one", b), f.push("app", "two", b), f.push("other", "one", b)
	i := s.mustPull(t, one)
	byDigest := f.host + "/app@" + string(i.Digest())
	for _, ref := range []string{two, other, byDigest} {
		if s.mustPull(t, ref).ID() != i.ID() {
			t.Fatal("another image")
		}
	}
	if i, err := s.Lookup(t.Context(), one); err != nil || len(i.Names()) != 4 {
		t.Fatalf("%v, %v", i.Names(), err)
	}
	if r, err := s.Remove(t.Context(), string(i.ID()), RemoveOptions{}); !errors.Is(err, errdefs.ErrConflict) {
		t.Errorf("by ID: %+v, %v", r, err)
	}
	r, err := s.Remove(t.Context(), one, RemoveOptions{})
	if err != nil || !slices.Equal(r.Untagged, []string{one}) || len(r.Deleted) > 0 {
		t.Errorf("%+v, %v", r, err)
	}
	// The last tag in its repository takes the digest name there along.
	r, err = s.Remove(t.Context(), two, RemoveOptions{})
	if err != nil || len(r.Untagged) != 2 || r.Untagged[1] != byDigest || len(r.Deleted) > 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if i, err := s.Lookup(t.Context(), other); err != nil || !slices.Equal(i.Names(), []string{other}) {
		t.Errorf("%+v, %v", i, err)
	}
	r, err = s.Remove(t.Context(), i.ID().Encoded()[:12], RemoveOptions{})
	if err != nil || !slices.Equal(r.Untagged, []string{other}) || r.Deleted[0] != i.ID() {
		t.Errorf("%+v, %v", r, err)
	}
	s.mustBeEmpty(t)
	for _, ref := range []string{one, two} {
		s.mustPull(t, ref)
	}
	if r, err := s.Remove(t.Context(), string(i.ID()), RemoveOptions{Force: true}); err != nil || len(r.Untagged) != 2 {
		t.Errorf("by ID, forced: %+v, %v", r, err)
	}
	s.mustBeEmpty(t)
}

func TestRemoveBadArguments(t *testing.T) {
	s := newStore(t)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Remove(ended, "a", RemoveOptions{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	for ref, want := range map[string]error{"": errdefs.ErrInvalidArgument, "A B": errdefs.ErrInvalidArgument, "none": errdefs.ErrNotFound, anyDigest: errdefs.ErrNotFound} {
		if _, err := s.Remove(t.Context(), ref, RemoveOptions{Force: true}); !errors.Is(err, want) {
			t.Errorf("%q: %v", ref, err)
		}
	}
}

// TestHold: what is held stays, in every store on the directory.
func TestHold(t *testing.T) {
	f := newFakeRegistry(t)
	s := newStore(t)
	b := build(t, hostPlatform, gzipLayer(t, "a", "b"))
	ref := f.push("app", "v1", b)
	i := s.mustPull(t, ref)
	release, err := s.Hold(t.Context(), i.ID(), "container-1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Hold(t.Context(), i.ID(), "container-2"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Hold(t.Context(), i.ID(), "container-2"); err != nil {
		t.Errorf("twice: %v", err)
	}
	if h, err := s.Holders(); err != nil || !slices.Equal(h[i.ID()], []string{"container-1", "container-2"}) || len(h) != 1 {
		t.Errorf("%v, %v", h, err)
	}
	other := openStore(t, filepath.Dir(s.dir))
	for _, c := range []struct {
		ref   string
		force bool
	}{{ref, false}, {string(i.ID()), false}, {string(i.ID()), true}} {
		_, err := other.Remove(t.Context(), c.ref, RemoveOptions{Force: c.force})
		if !errors.Is(err, errdefs.ErrConflict) || !strings.Contains(err.Error(), "container-1, container-2") {
			t.Errorf("%s, force %v: %v", c.ref, c.force, err)
		}
	}
	// By force only the name goes; the image stays, with all it has.
	r, err := other.Remove(t.Context(), ref, RemoveOptions{Force: true})
	if err != nil || len(r.Untagged) != 1 || len(r.Deleted) > 0 {
		t.Errorf("%+v, %v", r, err)
	}
	nameless, err := s.Lookup(t.Context(), string(i.ID()))
	if err != nil || len(nameless.Names()) > 0 || nameless.Digest() != i.Digest() {
		t.Fatalf("%+v, %v", nameless, err)
	}
	if _, err := nameless.Layers(); err != nil {
		t.Error(err)
	}
	// Pulled again it has a name again, and once.
	if again := s.mustPull(t, ref); len(again.Names()) != 1 {
		t.Errorf("%v", again.Names())
	}
	if x, err := readIndex(s.dir); err != nil || len(x.entries) != 1 {
		t.Errorf("%+v, %v", x, err)
	}
	if err := release(); err != nil {
		t.Error(err)
	}
	if err := release(); err != nil {
		t.Errorf("twice: %v", err)
	}
	if _, err := s.Remove(t.Context(), ref, RemoveOptions{}); !errors.Is(err, errdefs.ErrConflict) {
		t.Errorf("held by the second: %v", err)
	}
	for range 2 {
		if err := other.Release("container-2"); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Remove(t.Context(), ref, RemoveOptions{}); err != nil {
		t.Error(err)
	}
	s.mustBeEmpty(t)
}

func TestHoldErrors(t *testing.T) {
	f := newFakeRegistry(t)
	s := newStore(t)
	i := s.mustPull(t, f.push("app", "v1", build(t, hostPlatform)))
	for _, holder := range []string{"", ".", "..", "../x", "a/b", "-a", "a\x00", strings.Repeat("a", 129)} {
		if _, err := s.Hold(t.Context(), i.ID(), holder); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q: %v", holder, err)
		}
		if err := s.Release(holder); err != nil {
			t.Errorf("%q: %v", holder, err)
		}
	}
	for _, id := range []digest.Digest{"", "x", anyDigest, "sha256:../../x"} {
		if _, err := s.Hold(t.Context(), id, "holder"); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("%q: %v", id, err)
		}
	}
	if h, err := s.Holders(); err != nil || len(h) > 0 {
		t.Errorf("%v, %v", h, err)
	}
	// What is not a hold is nobody's.
	if err := os.WriteFile(s.path("holds", "notes.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if h, err := s.Holders(); err != nil || len(h) > 0 {
		t.Errorf("%v, %v", h, err)
	}
}

// TestHoldOutlivesMovedTag: a container's image keeps its layers when its tag is
// pulled anew.
func TestHoldOutlivesMovedTag(t *testing.T) {
	f := newFakeRegistry(t)
	s := newStore(t)
	ref := f.push("app", "v1", build(t, hostPlatform, gzipLayer(t, "a", "1")))
	i := s.mustPull(t, ref)
	if _, err := s.Hold(t.Context(), i.ID(), "container"); err != nil {
		t.Fatal(err)
	}
	f.push("app", "v1", build(t, hostPlatform, gzipLayer(t, "a", "2")))
	s.mustPull(t, ref)
	if _, err := s.Remove(t.Context(), ref, RemoveOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := i.Layers(); err != nil {
		t.Error(err)
	}
	if _, err := s.Remove(t.Context(), string(i.ID()), RemoveOptions{Force: true}); !errors.Is(err, errdefs.ErrConflict) {
		t.Error(err)
	}
}
