package image

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// TestRace has two stores on one directory pull, hold, look up and remove images
// that share layers, all at once. What is held stays whole; in the end nothing is
// left.
func TestRace(t *testing.T) {
	f := newFakeRegistry(t)
	shared := gzipLayer(t, "shared", bulk(1, 50<<10))
	var refs []string
	for n := range 3 {
		b := build(t, hostPlatform, shared, gzipLayer(t, "own", fmt.Sprint(n)))
		refs = append(refs, f.pushIndex(fmt.Sprint("app", n), "v1", b))
	}
	refs = append(refs, f.push("app0", "moving", build(t, hostPlatform, shared)))
	dir := t.TempDir()
	stores := []testStore{openStore(t, dir), openStore(t, dir)}
	var all sync.WaitGroup
	for worker := range 6 {
		s := stores[worker%2]
		all.Go(func() {
			for round := range 6 {
				ref := refs[(worker+round)%len(refs)]
				i, err := s.Pull(t.Context(), ref, anonymous)
				if err != nil {
					t.Errorf("pull: %v", err)
					return
				}
				release, err := s.Hold(i.ID(), fmt.Sprint("worker", worker))
				switch {
				case errors.Is(err, errdefs.ErrNotFound): // removed by another
				case err != nil:
					t.Errorf("hold: %v", err)
				default:
					if _, err := i.Layers(); err != nil {
						t.Errorf("held: %v", err)
					}
					if got, err := s.Lookup(t.Context(), string(i.ID())); err != nil || got.Config().RootFS.DiffIDs[0] != i.Config().RootFS.DiffIDs[0] {
						t.Errorf("held: %v", err)
					}
					if err := release(); err != nil {
						t.Error(err)
					}
				}
				if _, err := s.List(t.Context()); err != nil {
					t.Errorf("list: %v", err)
				}
				_, err = s.Remove(t.Context(), ref, RemoveOptions{Force: round%2 == 0})
				if err != nil && !errors.Is(err, errdefs.ErrNotFound) && !errors.Is(err, errdefs.ErrConflict) {
					t.Errorf("remove: %v", err)
				}
			}
		})
	}
	all.Wait()
	s := openStore(t, dir)
	images, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range images {
		if _, err := i.Layers(); err != nil {
			t.Errorf("left and not whole: %v", err)
		}
		if _, err := s.Remove(t.Context(), string(i.ID()), RemoveOptions{Force: true}); err != nil {
			t.Error(err)
		}
	}
	s.mustBeEmpty(t)
}

// TestSamePullAtOnce: of many pulls of one image, in two stores, each blob is
// fetched by one.
func TestSamePullAtOnce(t *testing.T) {
	f := newFakeRegistry(t)
	b := build(t, hostPlatform, gzipLayer(t, "one", bulk(1, 100<<10)), gzipLayer(t, "two", bulk(2, 100<<10)))
	ref := f.push("app", "v1", b)
	dir := t.TempDir()
	stores := []testStore{openStore(t, dir), openStore(t, dir)}
	f.answer(nil)
	var all sync.WaitGroup
	for n := range 6 {
		all.Go(func() {
			if i, err := stores[n%2].Pull(t.Context(), ref, anonymous); err != nil || i.ID() != b.config {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for _, l := range b.layers {
		if n := f.count(string(l.Digest)); n != 1 {
			t.Errorf("layer %s was fetched %d times", l.Digest, n)
		}
	}
}

// TestFailureSparesOthers: a pull that fails takes nothing from one that goes on
// with the same layer.
func TestFailureSparesOthers(t *testing.T) {
	f := newFakeRegistry(t)
	shared := gzipLayer(t, "shared", bulk(1, 100<<10))
	bad, good := build(t, hostPlatform, shared, gzipLayer(t, "bad", "x")), build(t, hostPlatform, shared, gzipLayer(t, "good", "y"))
	badRef, goodRef := f.push("bad", "v1", bad), f.push("good", "v1", good)
	failed, waiting := make(chan struct{}), make(chan struct{})
	var once sync.Once
	var sharedFetched atomic.Int64
	isOwn := func(r *http.Request, b *built) bool { return isBlob(r, b.layers[1].Digest) }
	f.answer(func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case isBlob(r, shared.digest()):
			sharedFetched.Add(1)
		case isOwn(r, good): // waits until the other has failed and cleaned up
			once.Do(func() { close(waiting) })
			<-failed
		case isOwn(r, bad): // fails when the good one is in the middle
			<-waiting
			w.WriteHeader(http.StatusNotFound)
			return true
		}
		return false
	})
	dir := t.TempDir()
	one, two := openStore(t, dir), openStore(t, dir)
	go func() {
		defer close(failed)
		if _, err := one.Pull(t.Context(), badRef, anonymous); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("%v", err)
		}
	}()
	i, err := two.Pull(t.Context(), goodRef, anonymous)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Layers(); err != nil {
		t.Error(err)
	}
	if n := sharedFetched.Load(); n != 1 {
		t.Errorf("the shared layer was fetched %d times", n)
	}
	if left := two.contents(t); slices.ContainsFunc(left, func(n string) bool {
		return strings.HasPrefix(n, "claims") || strings.HasPrefix(n, "fetching") || strings.Contains(n, bad.config.Encoded())
	}) {
		t.Errorf("%v", left)
	}
}

func (l layerOf) digest() digest.Digest { return digest.FromBytes(l.packed) }
