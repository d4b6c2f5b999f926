package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
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
				release, err := s.Hold(t.Context(), i.ID(), fmt.Sprint("worker", worker))
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
		if n := f.Count(string(l.Digest)); n != 1 {
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

// TestLoadAtOnce has two stores on one directory load and pull images that share
// layers, and remove them, all at once. In the end nothing is left.
func TestLoadAtOnce(t *testing.T) {
	f := newFakeRegistry(t)
	shared := gzipLayer(t, "shared", bulk(1, 100<<10))
	one := imageOf(t, []string{"app:one"}, shared, gzipLayer(t, "own", "1"))
	two := imageOf(t, []string{"app:two"}, shared, gzipLayer(t, "own", "2"))
	ref := f.push("app", "one", one.built)
	archives := [][]byte{
		pack(t, skopeoArchive(t, one)...),
		pack(t, oldDockerArchive(t, one, two)...),
		pack(t, newDockerArchive(t, two)...),
		pack(t, ociArchive(t, []ocispec.Descriptor{named(one.desc(), annotationImageName, "app:oci")}, all(one.built)...)...),
	}
	dir := t.TempDir()
	stores := []testStore{openStore(t, dir), openStore(t, dir)}
	var workers sync.WaitGroup
	for worker := range 6 {
		s := stores[worker%2]
		workers.Go(func() {
			for round := range 5 {
				which := (worker + round) % (len(archives) + 1)
				var err error
				if which < len(archives) {
					_, err = s.Load(t.Context(), bytes.NewReader(archives[which]), LoadOptions{})
				} else {
					_, err = s.Pull(t.Context(), ref, anonymous)
				}
				if err != nil {
					t.Errorf("%d: %v", which, err)
					return
				}
				if _, err := s.List(t.Context()); err != nil {
					t.Errorf("list: %v", err)
				}
				id := []digest.Digest{one.config, two.config}[round%2]
				if _, err = s.Remove(t.Context(), string(id), RemoveOptions{Force: true}); err != nil && !errors.Is(err, errdefs.ErrNotFound) {
					t.Errorf("remove: %v", err)
				}
			}
		})
	}
	workers.Wait()
	s := openStore(t, dir)
	for _, i := range must(s.List(t.Context())) {
		if _, err := i.Layers(); err != nil {
			t.Errorf("left and not whole: %v", err)
		}
		if _, err := s.Remove(t.Context(), string(i.ID()), RemoveOptions{Force: true}); err != nil {
			t.Error(err)
		}
	}
	s.mustBeEmpty(t)
}

// TestLoadSharesWithPull: a load that brings a layer which a pull is fetching
// waits for that, and a pull for a load; neither makes it again.
func TestLoadSharesWithPull(t *testing.T) {
	f := newFakeRegistry(t)
	shared := gzipLayer(t, "shared", bulk(1, 300<<10))
	b := build(t, hostPlatform, shared)
	other := build(t, hostPlatform, shared)
	other.seal(t, ocispec.Image{Platform: hostPlatform, Author: "another", RootFS: ocispec.RootFS{Type: "layers", DiffIDs: other.diffIDs}})
	archive := pack(t, ociArchive(t, []ocispec.Descriptor{other.desc()}, all(other)...)...)
	ref := f.push("app", "v1", b)
	dir := t.TempDir()
	one, two := openStore(t, dir), openStore(t, dir)

	reached, released := make(chan struct{}), make(chan struct{})
	f.answer(func(w http.ResponseWriter, r *http.Request) bool {
		if isBlob(r, shared.digest()) {
			close(reached)
			<-released
		}
		return false
	})
	var both sync.WaitGroup
	both.Go(func() {
		if _, err := one.Pull(t.Context(), ref, anonymous); err != nil {
			t.Errorf("pull: %v", err)
		}
	})
	<-reached
	fetched, err := os.Stat(one.path("fetching", shared.digest().Encoded()+partSuffix))
	if err != nil {
		t.Fatal(err)
	}
	both.Go(func() {
		// Reading the archive to its end waits for nobody: all of it has come when
		// the pull is let go.
		r := &signalled{Reader: bytes.NewReader(archive), end: func() { close(released) }}
		loaded, err := two.Load(t.Context(), r, LoadOptions{})
		if err != nil || loaded[0].Image.ID() != other.config {
			t.Errorf("load: %v", err)
		}
	})
	both.Wait()
	if blob, err := os.Stat(one.blobPath(shared.digest())); err != nil || !os.SameFile(blob, fetched) {
		t.Errorf("the layer was made again: %v", err)
	}
	f.answer(nil)
	for _, id := range []digest.Digest{b.config, other.config} {
		if _, err := one.Remove(t.Context(), string(id), RemoveOptions{}); err != nil {
			t.Error(err)
		}
	}
	one.mustBeEmpty(t)

	// The other way round: the load is in the middle of the layer.
	plain := tagged{other, []layerOf{shared}, nil}.plain(t)
	archive = pack(t, skopeoArchive(t, tagged{plain, []layerOf{{shared.tar, shared.tar, ocispec.MediaTypeImageLayer}}, nil})...)
	ref = f.push("plain", "v1", plain)
	f.answer(nil)
	r, w := io.Pipe()
	begun := make(chan struct{})
	begin := sync.OnceFunc(func() { close(begun) })
	both.Go(func() {
		if _, err := one.Load(t.Context(), r, LoadOptions{Progress: func(Progress) { begin() }}); err != nil {
			t.Errorf("load: %v", err)
		}
	})
	if _, err := w.Write(archive[:200<<10]); err != nil {
		t.Fatal(err)
	}
	<-begun
	both.Go(func() {
		i, err := two.Pull(t.Context(), ref, anonymous)
		if err != nil {
			t.Errorf("pull: %v", err)
			return
		}
		plain.sameAs(t, i)
	})
	// The pull has the manifest and the config, and then asks for nothing more.
	for f.Count(plain.config.Encoded()) == 0 {
		time.Sleep(time.Millisecond)
	}
	w.Write(archive[200<<10:])
	w.Close()
	both.Wait()
	if n := f.Count(string(plain.layers[0].Digest)); n != 0 {
		t.Errorf("the layer was fetched %d times", n)
	}
}

// signalled calls end when all has been read.
type signalled struct {
	io.Reader
	end func()
}

func (s *signalled) Read(b []byte) (int, error) {
	n, err := s.Reader.Read(b)
	if err == io.EOF {
		s.end()
	}
	return n, err
}
