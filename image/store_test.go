package image

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestDirectoriesAreClosed: what images hold is out of reach of other users
// (CVE-2021-41091, CVE-2024-25621).
func TestDirectoriesAreClosed(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no modes")
	}
	f := newFakeRegistry(t)
	s := newStore(t)
	s.mustPull(t, f.push("app", "v1", build(t, hostPlatform, gzipLayer(t, "a", "b"))))
	err := filepath.WalkDir(s.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err == nil && fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, fi.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestLayout(t *testing.T) {
	s := newStore(t)
	var layout ocispec.ImageLayout
	raw, err := os.ReadFile(s.path(ocispec.ImageLayoutFile))
	if err != nil {
		t.Fatal(err)
	}
	mustUnmarshal(t, raw, &layout)
	if layout.Version != ocispec.ImageLayoutVersion {
		t.Errorf("%+v", layout)
	}
	var x ocispec.Index
	if raw, err = os.ReadFile(s.path(ocispec.ImageIndexFile)); err != nil {
		t.Fatal(err)
	}
	mustUnmarshal(t, raw, &x)
	if x.SchemaVersion != 2 || x.MediaType != ocispec.MediaTypeImageIndex || x.Manifests == nil {
		t.Errorf("%s", raw)
	}
	for content, want := range map[string]error{`{"imageLayoutVersion":"9"}`: errdefs.ErrFailedPrecondition, `{"image`: errdefs.ErrDataLoss, ``: errdefs.ErrDataLoss, `[]`: errdefs.ErrDataLoss} {
		if err := os.WriteFile(s.path(ocispec.ImageLayoutFile), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), s.dir, s.layers); err == nil || !strings.Contains(err.Error(), s.path(ocispec.ImageLayoutFile)) || !errors.Is(err, want) {
			t.Errorf("%q: %v", content, err)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), file, s.layers); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a file as a directory: %v", err)
	}
}

// TestUnknownFieldsSurvive writes what this version does not know into
// index.json, and an entry of another program.
func TestUnknownFieldsSurvive(t *testing.T) {
	f := newFakeRegistry(t)
	s := newStore(t)
	ref := f.push("app", "v1", build(t, hostPlatform, gzipLayer(t, "a", "b")))
	s.mustPull(t, ref)
	foreign := `{"mediaType":"application/vnd.example","digest":"sha512:` + strings.Repeat("ab", 64) + `","size":7,"annotations":{"org.opencontainers.image.ref.name":"theirs","n":"1"},"future":{"b":[1.0,2]}}`
	x := readRaw(t, s)
	x["future"] = json.RawMessage(`{"a":12345678901234567890}`)
	var manifests []map[string]json.RawMessage
	mustUnmarshal(t, x["manifests"], &manifests)
	manifests[0]["later"] = json.RawMessage(`"kept"`)
	x["manifests"] = marshal(t, append([]any{json.RawMessage(foreign)}, manifests[0]))
	if err := os.WriteFile(s.path(ocispec.ImageIndexFile), marshal(t, x), 0o600); err != nil {
		t.Fatal(err)
	}
	other := f.push("other", "v1", build(t, hostPlatform, gzipLayer(t, "c", "d")))
	s.mustPull(t, other)
	if _, err := s.Pull(t.Context(), f.push("app", "v1", build(t, hostPlatform, gzipLayer(t, "e", "f"))), anonymous); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Remove(t.Context(), other, RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	x = readRaw(t, s)
	if string(x["future"]) != `{"a":12345678901234567890}` {
		t.Errorf("%s", x["future"])
	}
	var now []json.RawMessage
	mustUnmarshal(t, x["manifests"], &now)
	if len(now) != 3 || !sameJSON(t, now[0], []byte(foreign)) || !strings.Contains(string(now[1]), `"later":"kept"`) {
		t.Errorf("%s", x["manifests"])
	}
	if images, err := s.List(t.Context()); err != nil || len(images) != 2 {
		t.Errorf("%v, %v", images, err)
	}
	if _, err := s.Lookup(t.Context(), "theirs"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Error(err)
	}
}

func readRaw(t *testing.T, s testStore) map[string]json.RawMessage {
	t.Helper()
	raw, err := os.ReadFile(s.path(ocispec.ImageIndexFile))
	if err != nil {
		t.Fatal(err)
	}
	var x map[string]json.RawMessage
	mustUnmarshal(t, raw, &x)
	return x
}

func sameJSON(t *testing.T, a, b []byte) bool {
	t.Helper()
	var x, y any
	mustUnmarshal(t, a, &x)
	mustUnmarshal(t, b, &y)
	return string(marshal(t, x)) == string(marshal(t, y))
}

// TestDamagedIndex: each call gives an error that names the file, and nothing of
// what it may list is removed.
func TestDamagedIndex(t *testing.T) {
	f := newFakeRegistry(t)
	s := newStore(t)
	ref := f.push("app", "v1", build(t, hostPlatform, gzipLayer(t, "a", "b")))
	s.mustPull(t, ref)
	path := s.path(ocispec.ImageIndexFile)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before := s.contents(t)
	chain := `"annotations":{"` + annotationChain + `":`
	for _, damage := range []string{
		"", "{", "[]", "null", `"x"`, `{"manifests":[]}`, `{"schemaVersion":2,"manifests":{}}`, `{"schemaVersion":2,"manifests":[null]}`,
		`{"schemaVersion":2,"manifests":[7]}`, string(good[:len(good)/2]), `{"schemaVersion":3,"manifests":[]}`,
		`{"schemaVersion":2,"manifests":[{` + chain + `"[]"}}]}`,
		`{"schemaVersion":2,"manifests":[{` + chain + `"x"}}]}`,
		`{"schemaVersion":2,"manifests":[{"digest":"` + anyDigest + `",` + chain + `"[{\"digest\":\"sha256:../..\"}]"}}]}`,
		`{"schemaVersion":2,"manifests":[{"digest":"` + anyDigest + `",` + chain + `"[{\"digest\":\"` + anyDigest + `\"}]"}}]}`,
	} {
		if err := os.WriteFile(path, []byte(damage), 0o600); err != nil {
			t.Fatal(err)
		}
		_, lookup := s.Lookup(t.Context(), ref)
		_, list := s.List(t.Context())
		_, remove := s.Remove(t.Context(), ref, RemoveOptions{})
		_, pull := s.Pull(t.Context(), ref, anonymous)
		_, hold := s.Hold(t.Context(), anyDigest, "x")
		for verb, err := range map[string]error{"lookup": lookup, "list": list, "remove": remove, "pull": pull, "hold": hold} {
			if !errors.Is(err, errdefs.ErrDataLoss) || !strings.Contains(err.Error(), path) {
				t.Errorf("%.40q, %s: %v", damage, verb, err)
			}
		}
		if _, err := Open(t.Context(), s.dir, s.layers); err != nil {
			t.Errorf("%.40q: open: %v", damage, err)
		}
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), s.dir, s.layers); err != nil { // sweeps what the pulls had to leave
		t.Fatal(err)
	}
	if after := s.contents(t); !slices.Equal(after, before) {
		t.Errorf("before %v, after %v", before, after)
	}
	s.mustPull(t, ref)
}

// TestDamagedBlobs: one damaged image does not take the others along, and can be
// removed.
func TestDamagedBlobs(t *testing.T) {
	f := newFakeRegistry(t)
	for name, damage := range map[string]func(path string) error{
		"gone":     os.Remove,
		"empty":    func(path string) error { return os.Truncate(path, 0) },
		"nonsense": func(path string) error { return os.WriteFile(path, []byte("{}"), 0o600) },
		"huge":     func(path string) error { return os.Truncate(path, 1<<32) },
	} {
		for _, which := range []string{"manifest", "config"} {
			s := newStore(t)
			bad, good := build(t, hostPlatform, gzipLayer(t, "a", "b")), build(t, hostPlatform, gzipLayer(t, "c", "d"))
			badRef, goodRef := f.push("bad", "v1", bad), f.push("good", "v1", good)
			s.mustPull(t, badRef)
			s.mustPull(t, goodRef)
			path := s.blobPath(bad.config)
			if which == "manifest" {
				path = s.blobPath(digest.FromBytes(bad.manifest))
			}
			if err := damage(path); err != nil {
				t.Fatal(err)
			}
			fresh := openStore(t, filepath.Dir(s.dir)) // without what was read before
			if _, err := fresh.Lookup(t.Context(), badRef); !errors.Is(err, errdefs.ErrDataLoss) || !strings.Contains(err.Error(), path) {
				t.Errorf("%s %s: lookup: %v", name, which, err)
			}
			images, err := fresh.List(t.Context())
			if !errors.Is(err, errdefs.ErrDataLoss) || !strings.Contains(err.Error(), path) || len(images) != 1 || images[0].ID() != good.config {
				t.Errorf("%s %s: list: %v, %v", name, which, images, err)
			}
			if i, err := fresh.Lookup(t.Context(), goodRef); err != nil || i.ID() != good.config {
				t.Errorf("%s %s: the other image: %v, %v", name, which, i, err)
			}
			if r, err := fresh.Remove(t.Context(), badRef, RemoveOptions{}); err != nil || r.Deleted[0] != bad.config {
				t.Errorf("%s %s: remove: %v, %v", name, which, r, err)
			}
			if images, err := fresh.List(t.Context()); err != nil || len(images) != 1 {
				t.Errorf("%s %s: list: %v, %v", name, which, images, err)
			}
		}
	}
}

// TestForeignImages have been put into the layout by another program. Their blobs
// stay, whatever is removed.
func TestForeignImages(t *testing.T) {
	f := newFakeRegistry(t)
	s := newStore(t)
	b := build(t, hostPlatform, gzipLayer(t, "a", "b"))
	ref := f.push("app", "v1", b)
	i := s.mustPull(t, ref)
	// The same blobs, listed through an index of their own.
	foreign := indexOf(t, b.desc())
	if err := os.WriteFile(s.blobPath(digest.FromBytes(foreign)), foreign, 0o600); err != nil {
		t.Fatal(err)
	}
	x, err := readIndex(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	x.entries = append(x.entries, entry{fields: map[string]json.RawMessage{
		"mediaType": marshal(t, ocispec.MediaTypeImageIndex), "digest": marshal(t, digest.FromBytes(foreign)), "size": marshal(t, len(foreign)),
	}})
	if err := x.write(s.dir); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Remove(t.Context(), ref, RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, d := range []digest.Digest{i.Digest(), b.config, b.layers[0].Digest, digest.FromBytes(foreign)} {
		if _, err := os.Stat(s.blobPath(d)); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.layers.Get(b.diffIDs[0]); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("the layer, which the other program cannot know: %v", err)
	}
}

// TestSweep has what a dead program leaves.
func TestSweep(t *testing.T) {
	f := newFakeRegistry(t)
	s := newStore(t)
	b := build(t, hostPlatform, gzipLayer(t, "a", "b"))
	ref := f.push("app", "v1", b)
	s.mustPull(t, ref)
	before := s.contents(t)
	write := func(path, content string) {
		t.Helper()
		os.MkdirAll(filepath.Dir(path), 0o700)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	orphan := digest.FromString("orphan")
	write(s.blobPath(orphan), "orphan")
	write(s.path("claims", "A", "lock"), "")
	write(s.path("claims", "A", claimFile), string(marshal(t, claimed{Blobs: []digest.Digest{orphan, b.config, "sha256:../../index.json", ""}, Layers: []digest.Digest{b.diffIDs[0], anyDigest}})))
	write(s.path("claims", "A", orphan.Encoded()), "unfinished")
	write(s.path("claims", "B", "lock"), "")
	write(s.path("claims", "C", claimFile), "torn")
	write(s.path("claims", "D", ".tmp-claim.json-1"), "x")
	write(s.path(".tmp-index.json-123"), "half")
	write(s.path("fetching", orphan.Encoded()), "")
	openStore(t, filepath.Dir(s.dir))
	if after := s.contents(t); !slices.Equal(after, before) {
		t.Errorf("before %v, after %v", before, after)
	}
	if again := s.mustPull(t, ref); again.ID() != b.config {
		t.Error(again.ID())
	}
}

// TestSweepLeavesTheLivingAlone opens a store while another pulls.
func TestSweepLeavesTheLivingAlone(t *testing.T) {
	s := newStore(t)
	what := claimed{Blobs: []digest.Digest{digest.FromString("x")}}
	c, err := s.claimFor(t.Context(), what)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.blobPath(what.Blobs[0]), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	right, err := s.tryFetching(ocispec.Descriptor{Digest: what.Blobs[0]})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(right.part(), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := s.contents(t)
	other := openStore(t, filepath.Dir(s.dir))
	// Nor does a pull or removal of another take what this one claims.
	dead, err := other.claimFor(t.Context(), what)
	if err != nil {
		t.Fatal(err)
	}
	if err := dead.abandon(t.Context()); err != nil {
		t.Error(err)
	}
	if after := s.contents(t); !slices.Equal(after, before) {
		t.Errorf("before %v, after %v", before, after)
	}
	right.end()
	if err := c.abandon(t.Context()); err != nil {
		t.Error(err)
	}
	s.mustBeEmpty(t)
}
