package image

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestLookup(t *testing.T) {
	f := newFakeRegistry(t)
	s := newStore(t)
	b := build(t, hostPlatform, gzipLayer(t, "a", "b"))
	ref := f.pushIndex("app", "latest", b)
	i := s.mustPull(t, ref)
	repository := f.host + "/app"
	for _, r := range []string{
		ref,
		repository,
		repository + "@" + string(i.Digest()),
		repository + ":latest@" + string(i.Digest()),
		repository + "@" + string(digest.FromBytes(b.manifest)),
		string(i.ID()),
		i.ID().Encoded(),
		i.ID().Encoded()[:12],
		i.ID().Encoded()[:1],
		"sha256:" + i.ID().Encoded()[:5],
	} {
		got, err := s.Lookup(t.Context(), r)
		if err != nil || got.ID() != i.ID() || got.Digest() != i.Digest() {
			t.Errorf("%s: %+v, %v", r, got, err)
		}
	}
	for r, want := range map[string]error{
		"":                               errdefs.ErrInvalidArgument,
		"%":                              errdefs.ErrInvalidArgument,
		"app":                            errdefs.ErrNotFound,
		repository + ":v2":               errdefs.ErrNotFound,
		repository + "@" + anyDigest:     errdefs.ErrNotFound,
		"other@" + string(i.Digest()):    errdefs.ErrNotFound,
		anyDigest:                        errdefs.ErrNotFound,
		"sha256:" + "ffffffffffffffffff": errdefs.ErrNotFound,
		string(i.Digest()):               errdefs.ErrNotFound, // a digest is no ID
	} {
		if got, err := s.Lookup(t.Context(), r); !errors.Is(err, want) {
			t.Errorf("%q: %+v, %v", r, got, err)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Lookup(ended, ref); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := s.List(ended); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestAmbiguousPrefix needs two images whose IDs begin alike: of 17, two do.
func TestAmbiguousPrefix(t *testing.T) {
	f := newFakeRegistry(t)
	s := newStore(t)
	first := map[byte]digest.Digest{}
	for n := range 17 {
		b := build(t, hostPlatform)
		b.seal(t, ocispec.Image{Platform: hostPlatform, Author: fmt.Sprint(n)})
		i := s.mustPull(t, f.push("app", fmt.Sprint("v", n), b))
		hex := i.ID().Encoded()
		if other, ok := first[hex[0]]; ok {
			_, err := s.Lookup(t.Context(), "sha256:"+hex[:1])
			if !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Errorf("%s and %s: %v", other, hex, err)
			}
			if got, err := s.Lookup(t.Context(), hex); err != nil || got.ID() != i.ID() {
				t.Errorf("%v, %v", got, err)
			}
			return
		}
		first[hex[0]] = i.ID()
	}
	t.Error("no two alike")
}

// TestNameBeforePrefix: a repository called like an ID's start is found first.
func TestNameBeforePrefix(t *testing.T) {
	f := newFakeRegistry(t)
	s := newStore(t)
	i := s.mustPull(t, f.push("app", "v1", build(t, hostPlatform)))
	named := build(t, hostPlatform, gzipLayer(t, "a", "b"))
	f.push("library/"+i.ID().Encoded()[:6], "latest", named)
	o := PullOptions{Keychain: keychain{}, Transport: &recorder{to: f.backend}}
	if _, err := s.Pull(t.Context(), i.ID().Encoded()[:6], o); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Lookup(t.Context(), i.ID().Encoded()[:6]); err != nil || got.ID() != named.config {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := s.Lookup(t.Context(), "sha256:"+i.ID().Encoded()[:6]); err != nil || got.ID() != i.ID() {
		t.Errorf("%v, %v", got, err)
	}
}

func TestList(t *testing.T) {
	f := newFakeRegistry(t)
	s := newStore(t)
	if l, err := s.List(t.Context()); err != nil || len(l) != 0 {
		t.Errorf("%v, %v", l, err)
	}
	old := build(t, hostPlatform)
	old.seal(t, ocispec.Image{Platform: hostPlatform}) // without a time
	s.mustPull(t, f.push("old", "v1", old))
	b := build(t, hostPlatform, gzipLayer(t, "a", "b"))
	s.mustPull(t, f.push("new", "v1", b))
	s.mustPull(t, f.push("new", "v2", b))
	l, err := s.List(t.Context())
	if err != nil || len(l) != 2 || l[0].ID() != b.config || len(l[0].Names()) != 2 || l[1].ID() != old.config || !l[1].Created().IsZero() {
		t.Errorf("%+v, %v", l, err)
	}
}
