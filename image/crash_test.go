package image

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestCrashChild is the program that TestKill kills.
func TestCrashChild(t *testing.T) {
	dir, ref := os.Getenv("INBOARD_TEST_CRASH_DIR"), os.Getenv("INBOARD_TEST_CRASH_REF")
	if dir == "" {
		t.Skip("run by TestKill")
	}
	openStore(t, dir).mustPull(t, ref)
}

// killDuring runs a pull in a process of its own that is killed when the registry
// gets the request with this number, counted from 1, and gives how many requests
// there were. After the last request the process ends by itself.
func killDuring(t *testing.T, f *fakeRegistry, dir, ref string, request int64) int64 {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrashChild$")
	cmd.Env = append(os.Environ(), "INBOARD_TEST_CRASH_DIR="+dir, "INBOARD_TEST_CRASH_REF="+ref)
	started := make(chan struct{})
	var seen atomic.Int64
	f.answer(func(w http.ResponseWriter, r *http.Request) bool {
		n := seen.Add(1)
		if n < request {
			return false
		}
		<-started
		if n == request {
			// Half of a layer is on its way when the process dies.
			if strings.Contains(r.URL.Path, "/blobs/") {
				io.WriteString(w, bulk(9, 64<<10))
				w.(http.Flusher).Flush()
			}
			cmd.Process.Kill()
		}
		<-r.Context().Done()
		return true
	})
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	close(started)
	err := cmd.Wait()
	f.answer(nil)
	if killed := seen.Load() >= request; killed == (err == nil) {
		t.Fatalf("request %d of %d: %v", request, seen.Load(), err)
	}
	return seen.Load()
}

// TestKill kills a pull at each of its requests. Before the next Open nothing of
// the image can be seen; after it nothing is left, and what was there is whole.
func TestKill(t *testing.T) {
	f := newFakeRegistry(t)
	shared := gzipLayer(t, "shared", bulk(1, 200<<10))
	base := build(t, hostPlatform, shared)
	b := build(t, hostPlatform, shared, gzipLayer(t, "one", bulk(2, 200<<10)), gzipLayer(t, "two", bulk(3, 200<<10)))
	baseRef, ref := f.push("base", "v1", base), f.pushIndex("app", "v1", b)
	dir := t.TempDir()
	s := openStore(t, dir)
	s.mustPull(t, baseRef)
	before := s.contents(t)
	for request := int64(1); ; request++ {
		seen := killDuring(t, f, dir, ref, request)
		if seen < request {
			if seen < 5 { // index, manifest, config, two layers
				t.Errorf("only %d requests", seen)
			}
			break
		}
		if _, err := s.Lookup(t.Context(), ref); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("killed at request %d: %v", request, err)
		}
		s = openStore(t, dir)
		if after := s.contents(t); !slices.Equal(after, before) {
			t.Errorf("killed at request %d: before %v, after %v", request, before, after)
		}
		i, err := s.Lookup(t.Context(), baseRef)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := i.Layers(); err != nil {
			t.Errorf("killed at request %d: %v", request, err)
		}
	}
	if i, err := s.Lookup(t.Context(), ref); err != nil || i.ID() != b.config {
		t.Errorf("the pull that was not killed: %v", err)
	}
}

// TestRemovalInterrupted stops a removal after each of its steps, as a kill would.
func TestRemovalInterrupted(t *testing.T) {
	f := newFakeRegistry(t)
	for step := range 3 {
		s := newStore(t)
		b := build(t, hostPlatform, gzipLayer(t, "a", "b"), gzipLayer(t, "c", "d"))
		ref := f.push("app", "v1", b)
		s.mustPull(t, ref)
		before := s.contents(t)
		x, err := readIndex(s.dir)
		if err != nil {
			t.Fatal(err)
		}
		dropped := x.entries
		x.entries = nil
		c, err := s.claimFor(t.Context(), s.candidates(x, dropped))
		if err != nil {
			t.Fatal(err)
		}
		if step > 0 {
			if err := x.write(s.dir); err != nil {
				t.Fatal(err)
			}
		}
		if step > 1 {
			if err := errors.Join(s.layers.Remove(b.diffIDs[1]), os.Remove(s.blobPath(b.config))); err != nil {
				t.Fatal(err)
			}
		}
		c.lock.unlock()
		s = openStore(t, filepath.Dir(s.dir))
		if step > 0 {
			s.mustBeEmpty(t)
		} else if after := s.contents(t); !slices.Equal(after, before) {
			t.Errorf("before %v, after %v", before, after)
		}
	}
}

// TestBlobCannotBePlaced has something in the place of each blob in turn.
func TestBlobCannotBePlaced(t *testing.T) {
	f := newFakeRegistry(t)
	s := newStore(t)
	b := build(t, hostPlatform, gzipLayer(t, "a", "b"))
	ref := f.push("app", "v1", b)
	for _, d := range []digest.Digest{b.config, b.layers[0].Digest, digest.FromBytes(b.manifest)} {
		if err := os.MkdirAll(filepath.Join(s.blobPath(d), "x"), 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Pull(t.Context(), ref, anonymous); err == nil || !strings.Contains(err.Error(), d.Encoded()) {
			t.Errorf("%s: %v", d, err)
		}
		if err := os.RemoveAll(s.blobPath(d)); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), s.dir, s.layers); err != nil {
			t.Fatal(err)
		}
		s.mustBeEmpty(t)
	}
}

// TestLoadCrashChild is the program that TestLoadKill kills. It says a line
// whenever it has read something, or made some progress.
func TestLoadCrashChild(t *testing.T) {
	dir := os.Getenv("INBOARD_TEST_CRASH_LOAD")
	if dir == "" {
		t.Skip("run by TestLoadKill")
	}
	say := func() { os.Stdout.WriteString("on\n") }
	_, err := openStore(t, dir).Load(t.Context(), &pieces{&watched{os.Stdin, say}, 64 << 10}, LoadOptions{Progress: func(Progress) { say() }})
	if err != nil {
		t.Fatal(err)
	}
}

// killDuringLoad kills a load in a process of its own when that has said the
// line with this number, and tells how many it said.
func killDuringLoad(t *testing.T, dir string, archive []byte, line int) (lines int) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestLoadCrashChild$")
	cmd.Env = append(os.Environ(), "INBOARD_TEST_CRASH_LOAD="+dir)
	cmd.Stdin = bytes.NewReader(archive)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for said := bufio.NewScanner(out); said.Scan(); {
		if said.Text() != "on" {
			continue
		}
		if lines++; lines == line {
			cmd.Process.Kill()
		}
	}
	if err := cmd.Wait(); lines < line && err != nil {
		t.Fatalf("line %d of %d: %v", line, lines, err)
	}
	return lines
}

// TestLoadKill kills loads at each of their steps. After the next Open nothing
// is left, or the whole image.
func TestLoadKill(t *testing.T) {
	shared := gzipLayer(t, "shared", bulk(1, 200<<10))
	base := imageOf(t, []string{"base:v1"}, shared)
	i := imageOf(t, []string{"app:v1"}, shared, gzipLayer(t, "one", bulk(2, 200<<10)), gzipLayer(t, "two", bulk(3, 200<<10)))
	for name, members := range map[string][]packed{
		"while they arrive": skopeoArchive(t, i),
		"in files":          ociArchive(t, []ocispec.Descriptor{named(i.desc(), annotationImageName, "app:v1")}, all(i.built)...),
	} {
		archive := pack(t, members...)
		dir := t.TempDir()
		s := openStore(t, dir)
		s.mustLoad(t, pack(t, skopeoArchive(t, base)...), LoadOptions{})
		before := s.contents(t)
		for line := 1; ; line++ {
			if said := killDuringLoad(t, dir, archive, line); said < line {
				if said < 8 {
					t.Errorf("%s: only %d lines", name, said)
				}
				break
			}
			s = openStore(t, dir)
			after := s.contents(t)
			got, err := s.Lookup(t.Context(), "app:v1")
			if err == nil { // it was quicker
				i.sameAs(t, got)
				if _, err := s.Remove(t.Context(), "app:v1", RemoveOptions{}); err != nil {
					t.Fatal(err)
				}
				after = s.contents(t)
			}
			if !slices.Equal(after, before) {
				t.Errorf("%s, killed at line %d: before %v, after %v", name, line, before, after)
			}
			base.sameAs(t, must(s.Lookup(t.Context(), "base:v1")))
		}
		i.sameAs(t, must(s.Lookup(t.Context(), "app:v1")))
	}
}
