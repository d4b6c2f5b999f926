package image

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestPull(t *testing.T) {
	f := newFakeRegistry(t)
	plain := tarOf(t, "plain", "tar")
	zst := tarOf(t, "zstd", bulk(1, 300<<10))
	layers := []layerOf{
		gzipLayer(t, "gzip", bulk(2, 200<<10)),
		{plain, plain, ocispec.MediaTypeImageLayer},
		{zst, zstded(t, zst), ocispec.MediaTypeImageLayerZstd},
	}
	for name, b := range map[string]*built{"oci": build(t, hostPlatform, layers...), "docker": build(t, hostPlatform, layers...).docker(t)} {
		s := newStore(t)
		i := s.mustPull(t, f.push(name, "v1", b))
		if i.ID() != b.config || i.Digest() != digest.FromBytes(b.manifest) || !slices.Equal(i.Names(), []string{f.host + "/" + name + ":v1"}) {
			t.Errorf("%s: %s %s %v", name, i.ID(), i.Digest(), i.Names())
		}
		if c := i.Config(); !slices.Equal(c.Config.Cmd, []string{"/hello"}) || !slices.Equal(c.RootFS.DiffIDs, b.diffIDs) || i.Created().Unix() != 1.2e9 {
			t.Errorf("%s: %+v", name, c)
		}
		if m := i.Manifest(); m.MediaType != ocispec.MediaTypeImageManifest || len(m.Layers) != 3 || m.Config.Digest != b.config {
			t.Errorf("%s: %+v", name, m)
		}
		got, err := i.Layers()
		if err != nil || len(got) != 3 {
			t.Fatalf("%s: %v, %v", name, got, err)
		}
		var size int64
		for n, l := range got {
			if l.DiffID() != b.diffIDs[n] {
				t.Errorf("%s: layer %d is %s", name, n, l.DiffID())
			}
			size += int64(len(layers[n].tar))
		}
		if i.Size() != size {
			t.Errorf("%s: size %d, want %d", name, i.Size(), size)
		}
		for d, raw := range b.blobs {
			if on, err := os.ReadFile(s.blobPath(d)); err != nil || string(on) != string(raw) {
				t.Errorf("%s: blob %s: %v", name, d, err)
			}
		}
		if on, err := os.ReadFile(s.blobPath(i.Digest())); err != nil || string(on) != string(b.manifest) {
			t.Errorf("%s: the manifest as it was served: %v", name, err)
		}
		// Another store on the directory finds the same.
		again, err := openStore(t, strings.TrimSuffix(s.dir, "/images")).Lookup(t.Context(), i.Names()[0])
		if err != nil || again.ID() != i.ID() || again.Digest() != i.Digest() || !reflect.DeepEqual(again.Config(), i.Config()) {
			t.Errorf("%s: %+v, %v", name, again, err)
		}
	}
}

// TestImageIsASnapshot changes what the methods return.
func TestImageIsASnapshot(t *testing.T) {
	f := newFakeRegistry(t)
	i := newStore(t).mustPull(t, f.push("app", "v1", build(t, hostPlatform, gzipLayer(t, "a", "b"))))
	config, manifest, names := i.Config(), i.Manifest(), i.Names()
	before := fmt.Sprint(config, manifest, names, i.Created())
	c, m, n := i.Config(), i.Manifest(), i.Names()
	c.Config.Cmd[0], c.Config.Labels["x"], c.RootFS.DiffIDs[0], n[0] = "evil", "y", "z", "w"
	*c.Created = c.Created.AddDate(1, 0, 0)
	m.Layers[0].Digest = "other"
	if after := fmt.Sprint(i.Config(), i.Manifest(), i.Names(), i.Created()); after != before {
		t.Errorf("%s\nbecame\n%s", before, after)
	}
}

// TestEmptyImage has no layers.
func TestEmptyImage(t *testing.T) {
	f := newFakeRegistry(t)
	i := newStore(t).mustPull(t, f.push("app", "v1", build(t, hostPlatform)))
	if l, err := i.Layers(); err != nil || len(l) != 0 || i.Size() != 0 {
		t.Errorf("%v, %v", l, err)
	}
}

// pushIndex serves images below an index.
func (f *fakeRegistry) pushIndex(repository, tag string, images ...*built) string {
	f.t.Helper()
	var descs []ocispec.Descriptor
	for _, b := range images {
		f.push(repository, b.config.Encoded()[:12], b)
		descs = append(descs, b.desc())
	}
	f.PushManifest(f.t, repository, tag, ocispec.MediaTypeImageIndex, indexOf(f.t, descs...))
	return f.host + "/" + repository + ":" + tag
}

func TestPullIndex(t *testing.T) {
	f := newFakeRegistry(t)
	byPlatform := map[string]*built{}
	var images []*built
	for _, p := range []string{"linux/amd64", "linux/arm64", "linux/arm/v6", "windows/amd64"} {
		parsed, err := parsePlatform(p)
		if err != nil {
			t.Fatal(err)
		}
		b := build(t, parsed, gzipLayer(t, "platform", p))
		byPlatform[p] = b
		images = append(images, b)
	}
	attestation := build(t, ocispec.Platform{OS: "unknown", Architecture: "unknown"}, gzipLayer(t, "in-toto", "{}"))
	images = append([]*built{attestation}, images...)
	ref := f.pushIndex("app", "v1", images...)
	s := newStore(t)
	for asked, got := range map[string]string{"": hostName(), "linux/arm64/v8": "linux/arm64", "linux/arm/v7": "linux/arm/v6", "windows/amd64": "windows/amd64"} {
		i, err := s.Pull(t.Context(), ref, PullOptions{Platform: asked, Keychain: keychain{}})
		if err != nil || i.ID() != byPlatform[got].config {
			t.Errorf("%q: %v, %v", asked, i, err)
		}
	}
	_, err := s.Pull(t.Context(), ref, PullOptions{Platform: "linux/s390x", Keychain: keychain{}})
	if !errors.Is(err, errdefs.ErrNotFound) || !strings.Contains(err.Error(), "linux/s390x") || !strings.Contains(err.Error(), "linux/arm64") || strings.Contains(err.Error(), "unknown") {
		t.Error(err)
	}
	if _, err := s.Pull(t.Context(), ref, PullOptions{Platform: "linux/", Keychain: keychain{}}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Error(err)
	}
	// A plain manifest for another platform is refused as well.
	_, err = s.Pull(t.Context(), f.push("app", "other", byPlatform["windows/amd64"]), anonymous)
	if !errors.Is(err, errdefs.ErrNotFound) || !strings.Contains(err.Error(), "only for windows/amd64") {
		t.Error(err)
	}
}

func hostName() string { return platformString(hostPlatform) }

// TestNestedIndex finds an image in an index of an index without platforms, and
// does not follow for ever.
func TestNestedIndex(t *testing.T) {
	f := newFakeRegistry(t)
	s := newStore(t)
	b := build(t, hostPlatform, gzipLayer(t, "a", "b"))
	other := build(t, ocispec.Platform{OS: "plan9", Architecture: "mips"}, gzipLayer(t, "a", "b"))
	f.push("app", "image", b)
	f.push("app", "other", other)
	desc, odesc := b.desc(), other.desc()
	desc.Platform, odesc.Platform = nil, nil
	raw := indexOf(t, odesc, desc)
	for depth := 1; depth <= maxIndexDepth+1; depth++ {
		f.PushManifest(t, "app", "v1", ocispec.MediaTypeImageIndex, raw)
		i, err := s.Pull(t.Context(), f.host+"/app:v1", anonymous)
		if (err == nil) != (depth <= maxIndexDepth) {
			t.Errorf("depth %d: %v", depth, err)
		}
		if err == nil && (i.ID() != b.config || i.Digest() != digest.FromBytes(raw)) {
			t.Errorf("depth %d: %s %s", depth, i.ID(), i.Digest())
		}
		raw = indexOf(t, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(raw), Size: int64(len(raw))})
	}
	// Many indexes side by side.
	var wide []ocispec.Descriptor
	for n := range 2 * maxDocuments {
		leaf := indexOf(t, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: anyDigest, Size: int64(n), Platform: &other.platform})
		f.PushManifest(t, "app", "leaf", ocispec.MediaTypeImageIndex, []byte(strings.Replace(string(leaf), "application/vnd.oci.image.manifest", "application/vnd.example", 1)))
		leaf = []byte(strings.Replace(string(leaf), "application/vnd.oci.image.manifest", "application/vnd.example", 1))
		wide = append(wide, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(leaf), Size: int64(len(leaf))})
	}
	f.PushManifest(t, "app", "wide", ocispec.MediaTypeImageIndex, indexOf(t, wide...))
	f.answer(nil)
	if _, err := s.Pull(t.Context(), f.host+"/app:wide", anonymous); !errors.Is(err, errdefs.ErrDataLoss) || len(f.Requests()) > maxDocuments {
		t.Errorf("%v after %d requests", err, len(f.Requests()))
	}
}

// TestIndexIsTrustedOnPlatforms: many configs say the builder's platform.
func TestIndexIsTrustedOnPlatforms(t *testing.T) {
	f := newFakeRegistry(t)
	b := build(t, ocispec.Platform{OS: "linux", Architecture: "mips"}, gzipLayer(t, "a", "b"))
	b.platform = hostPlatform
	if i := newStore(t).mustPull(t, f.pushIndex("app", "v1", b)); i.ID() != b.config {
		t.Error(i.ID())
	}
}

// TestIndexLies: what an index says of a manifest must be so.
func TestIndexLies(t *testing.T) {
	f := newFakeRegistry(t)
	s := newStore(t)
	b := build(t, hostPlatform, gzipLayer(t, "a", "b"))
	f.push("app", "image", b)
	for name, change := range map[string]func(*ocispec.Descriptor){
		"size":      func(d *ocispec.Descriptor) { d.Size++ },
		"huge":      func(d *ocispec.Descriptor) { d.Size = 1 << 50 },
		"type":      func(d *ocispec.Descriptor) { d.MediaType = dockerManifest },
		"kind":      func(d *ocispec.Descriptor) { d.MediaType = ocispec.MediaTypeImageIndex },
		"digest":    func(d *ocispec.Descriptor) { d.Digest = "sha256:../../../index.json" },
		"no digest": func(d *ocispec.Descriptor) { d.Digest = "" },
	} {
		d := b.desc()
		change(&d)
		raw := indexOf(t, d)
		f.answer(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, "/manifests/v1") {
				return false
			}
			w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
			w.Write(raw)
			return true
		})
		if _, err := s.Pull(t.Context(), f.host+"/app:v1", anonymous); !errors.Is(err, errdefs.ErrDataLoss) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.mustBeEmpty(t)
}

// TestConfigLies: diff IDs that are not what the layers are.
func TestConfigLies(t *testing.T) {
	f := newFakeRegistry(t)
	s := newStore(t)
	for name, change := range map[string]func(*ocispec.Image){
		"another diff ID": func(c *ocispec.Image) { c.RootFS.DiffIDs[0] = anyDigest },
		"swapped":         func(c *ocispec.Image) { slices.Reverse(c.RootFS.DiffIDs) },
		"too few":         func(c *ocispec.Image) { c.RootFS.DiffIDs = c.RootFS.DiffIDs[:1] },
		"too many":        func(c *ocispec.Image) { c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, anyDigest) },
	} {
		b := build(t, hostPlatform, gzipLayer(t, "a", "b"), gzipLayer(t, "c", "d"))
		c := ocispec.Image{Platform: hostPlatform, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: slices.Clone(b.diffIDs)}}
		change(&c)
		b.seal(t, c)
		if _, err := s.Pull(t.Context(), f.push("app", "v1", b), anonymous); err == nil {
			t.Errorf("%s: no error", name)
		}
		s.mustBeEmpty(t)
	}
	one := gzipLayer(t, "a", "b")
	b := build(t, hostPlatform, one, one)
	b.seal(t, ocispec.Image{Platform: hostPlatform, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{b.diffIDs[0], anyDigest}}})
	if _, err := s.Pull(t.Context(), f.push("app", "v1", b), anonymous); !errors.Is(err, errdefs.ErrDataLoss) {
		t.Errorf("two diff IDs for one blob: %v", err)
	}
}

// TestNothingIsFetchedTwice pulls again, and an image that shares a layer.
func TestNothingIsFetchedTwice(t *testing.T) {
	f := newFakeRegistry(t)
	s := newStore(t)
	shared, own := gzipLayer(t, "shared", "layer"), gzipLayer(t, "own", "layer")
	ref := f.pushIndex("app", "v1", build(t, hostPlatform, shared, shared, own))
	f.answer(nil)
	first := s.mustPull(t, ref)
	if n := f.Count("/blobs/"); n != 3 {
		t.Errorf("%d blobs fetched for one config and two layers", n)
	}
	f.answer(nil)
	var seen []Progress
	again, err := s.Pull(t.Context(), ref, PullOptions{Keychain: keychain{}, Progress: func(p Progress) { seen = append(seen, p) }})
	if err != nil || again.ID() != first.ID() || len(f.Requests()) != 1 {
		t.Errorf("again: %v, %+v", err, f.Requests())
	}
	for _, p := range seen {
		if p.Done != p.Total || p.Total == 0 {
			t.Errorf("a layer that is there: %+v", p)
		}
	}
	f.answer(nil)
	byDigest := s.mustPull(t, strings.TrimSuffix(ref, ":v1")+"@"+string(first.Digest()))
	if len(f.Requests()) != 0 || byDigest.ID() != first.ID() || len(byDigest.Names()) != 2 {
		t.Errorf("by digest: %+v, %v", f.Requests(), byDigest.Names())
	}
	other := f.push("other", "v1", build(t, hostPlatform, shared, gzipLayer(t, "new", "layer")))
	f.answer(nil)
	s.mustPull(t, other)
	if n := f.Count("/blobs/"); n != 2 {
		t.Errorf("%d blobs fetched for a config and a layer", n)
	}
}

// TestLostLayerAndBlob: what is gone or damaged comes back with the next pull.
func TestLostLayerAndBlob(t *testing.T) {
	f := newFakeRegistry(t)
	s := newStore(t)
	b := build(t, hostPlatform, gzipLayer(t, "a", bulk(1, 100<<10)))
	ref := f.push("app", "v1", b)
	i := s.mustPull(t, ref)
	blob := s.blobPath(b.layers[0].Digest)
	whole := b.blobs[b.layers[0].Digest]
	for name, harm := range map[string]func() error{
		"layer":      func() error { return s.layers.Remove(b.diffIDs[0]) },
		"blob":       func() error { return os.Remove(blob) },
		"short blob": func() error { return os.Truncate(blob, 10) },
		"both":       func() error { return errors.Join(s.layers.Remove(b.diffIDs[0]), os.Remove(blob)) },
		"damaged blob": func() error {
			return errors.Join(s.layers.Remove(b.diffIDs[0]), os.WriteFile(blob, make([]byte, len(whole)), 0o600))
		},
		"config":       func() error { return os.Remove(s.blobPath(b.config)) },
		"manifest":     func() error { return os.Remove(s.blobPath(i.Digest())) },
		"dirty config": func() error { return os.WriteFile(s.blobPath(b.config), []byte("{}"), 0o600) },
		"same size": func() error {
			return os.WriteFile(s.blobPath(b.config), bytes.Repeat([]byte("x"), len(b.blobs[b.config])), 0o600)
		},
		"everything so": func() error { return os.RemoveAll(s.path("blobs", "sha256")) },
	} {
		if err := harm(); err != nil {
			t.Fatal(name, err)
		}
		if name == "everything so" {
			os.Mkdir(s.path("blobs", "sha256"), 0o700)
		}
		again := s.mustPull(t, ref)
		if _, err := again.Layers(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for d, raw := range b.blobs {
			if on, err := os.ReadFile(s.blobPath(d)); err != nil || string(on) != string(raw) {
				t.Errorf("%s: blob %s: %v", name, d, err)
			}
		}
	}
}

// TestLayerIsUnpackedFromItsBlob fetches nothing when only the layer is gone.
func TestLayerIsUnpackedFromItsBlob(t *testing.T) {
	f := newFakeRegistry(t)
	s := newStore(t)
	b := build(t, hostPlatform, gzipLayer(t, "a", "b"))
	ref := f.push("app", "v1", b)
	i := s.mustPull(t, ref)
	if err := s.layers.Remove(b.diffIDs[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := i.Layers(); !errors.Is(err, errdefs.ErrNotFound) {
		t.Error(err)
	}
	f.answer(nil)
	s.mustPull(t, ref)
	if f.Count("/blobs/") != 0 {
		t.Errorf("%+v", f.Requests())
	}
}

// TestDamagedLayerIsMadeFromItsBlob: nothing is fetched for a layer that the disk
// has harmed, while its blob is there.
func TestDamagedLayerIsMadeFromItsBlob(t *testing.T) {
	f := newFakeRegistry(t)
	s := newStore(t)
	b := build(t, hostPlatform, gzipLayer(t, "a", "b"))
	ref := f.push("app", "v1", b)
	i := s.mustPull(t, ref)
	dir := filepath.Join(filepath.Dir(s.dir), "layers", "sha256", b.diffIDs[0].Encoded())
	for what, harm := range map[string]func() error{
		"a cut record": func() error { return os.Truncate(filepath.Join(dir, "layer.json"), 10) },
		"no record":    func() error { return os.Remove(filepath.Join(dir, "layer.json")) },
		"no files":     func() error { return os.RemoveAll(filepath.Join(dir, "tree")) },
		"nothing":      func() error { return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)) },
	} {
		if err := harm(); err != nil {
			t.Fatal(err)
		}
		f.answer(nil)
		s.mustPull(t, ref)
		if n := f.Count("/blobs/"); n != 0 {
			t.Errorf("%s: %d blobs fetched", what, n)
		}
		layers, err := i.Layers()
		if err == nil {
			err = layers[0].Check()
		}
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	// One of a later program is not touched.
	record := filepath.Join(dir, "layer.json")
	raw, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	newer := strings.Replace(string(raw), `"version":1`, `"version":2`, 1)
	if err := os.WriteFile(record, []byte(newer), 0o600); err != nil {
		t.Fatal(err)
	}
	f.answer(nil)
	if _, err := s.Pull(t.Context(), ref, anonymous); !errors.Is(err, errdefs.ErrNotImplemented) || !strings.Contains(err.Error(), record) {
		t.Errorf("a newer record: %v", err)
	}
	if n := f.Count("/blobs/"); n != 0 {
		t.Errorf("a newer record: %d blobs fetched", n)
	}
	if now, err := os.ReadFile(record); err != nil || string(now) != newer {
		t.Errorf("%s, %v", now, err)
	}
}

// TestErrorsNameThingsOnce: what was asked for, and the layer that fails.
func TestErrorsNameThingsOnce(t *testing.T) {
	f := newFakeRegistry(t)
	l := gzipLayer(t, "a", bulk(1, 100<<10))
	b := build(t, hostPlatform, l)
	ref := f.push("app", "v1", b)
	cut := gzipLayer(t, "a", bulk(1, 100<<10))
	cut.packed = cut.packed[:len(cut.packed)/2]
	broken := build(t, hostPlatform, cut)
	for what, c := range map[string]struct {
		ref    string
		answer func(w http.ResponseWriter, r *http.Request) bool
		names  []digest.Digest // that are in the text, once
	}{
		"a corrupt layer": {f.push("broken", "v1", broken), nil, []digest.Digest{broken.layers[0].Digest}},
		"a wrong layer": {ref, func(w http.ResponseWriter, r *http.Request) bool {
			if !isBlob(r, l.digest()) {
				return false
			}
			w.Write(make([]byte, len(l.packed)))
			return true
		}, nil},
		"no such tag": {f.host + "/app:v2", nil, nil},
	} {
		f.answer(c.answer)
		s := newStore(t)
		_, err := s.Pull(t.Context(), c.ref, anonymous)
		var typed *Error
		if !errors.As(err, &typed) || typed.Op != "pull" || typed.Name != c.ref {
			t.Fatalf("%s: %v", what, err)
		}
		for _, name := range append([]string{c.ref}, asStrings(c.names)...) {
			if n := strings.Count(err.Error(), name); n != 1 {
				t.Errorf("%s: %s is there %d times: %v", what, name, n, err)
			}
		}
		if _, err := s.Lookup(t.Context(), c.ref); !errors.Is(err, errdefs.ErrNotFound) || err.Error() != "look up image "+c.ref+": not found" {
			t.Errorf("%v", err)
		}
		if _, err := s.Remove(t.Context(), c.ref, RemoveOptions{}); err.Error() != "remove image "+c.ref+": not found" {
			t.Errorf("%v", err)
		}
	}
}

func asStrings(all []digest.Digest) (s []string) {
	for _, d := range all {
		s = append(s, string(d))
	}
	return s
}

// TestTagMoves keeps the image that had the tag under its digest.
func TestTagMoves(t *testing.T) {
	f := newFakeRegistry(t)
	s := newStore(t)
	one, two := build(t, hostPlatform, gzipLayer(t, "one", "1")), build(t, hostPlatform, gzipLayer(t, "two", "2"))
	ref := f.push("app", "v1", one)
	first := s.mustPull(t, ref)
	f.push("app", "v1", two)
	second := s.mustPull(t, ref)
	if second.ID() == first.ID() {
		t.Fatal("the same image")
	}
	byDigest := f.host + "/app@" + string(first.Digest())
	old, err := s.Lookup(t.Context(), byDigest)
	if err != nil || old.ID() != first.ID() || !slices.Equal(old.Names(), []string{byDigest}) {
		t.Errorf("%v, %v", old.Names(), err)
	}
	if now, err := s.Lookup(t.Context(), ref); err != nil || now.ID() != second.ID() {
		t.Errorf("%v, %v", now, err)
	}
	// And back: each has one name, and the first got its tag again.
	f.push("app", "v1", one)
	if i := s.mustPull(t, ref); i.ID() != first.ID() || !slices.Contains(i.Names(), ref) {
		t.Errorf("%v", i.Names())
	}
	if i, err := s.Lookup(t.Context(), string(second.ID())); err != nil || len(i.Names()) != 1 {
		t.Errorf("%v, %v", i.Names(), err)
	}
}

// TestIndexMoves: the same image below a new index leaves no old index behind.
func TestIndexMoves(t *testing.T) {
	f := newFakeRegistry(t)
	s := newStore(t)
	b := build(t, hostPlatform, gzipLayer(t, "a", "b"))
	ref := f.pushIndex("app", "v1", b)
	first := s.mustPull(t, ref)
	f.pushIndex("app", "v1", b, build(t, ocispec.Platform{OS: "plan9", Architecture: "mips"}))
	second := s.mustPull(t, ref)
	if second.ID() != first.ID() || second.Digest() == first.Digest() || len(second.Names()) != 1 {
		t.Errorf("%s %s %v", second.ID(), second.Digest(), second.Names())
	}
	if _, err := os.Stat(s.blobPath(first.Digest())); !os.IsNotExist(err) {
		t.Errorf("the old index: %v", err)
	}
	if _, err := s.Remove(t.Context(), ref, RemoveOptions{}); err != nil {
		t.Error(err)
	}
	s.mustBeEmpty(t)
}

// TestPlatformsOfOneTag pulls a tag for two platforms in turn.
func TestPlatformsOfOneTag(t *testing.T) {
	f := newFakeRegistry(t)
	s := newStore(t)
	a := build(t, ocispec.Platform{OS: "linux", Architecture: "amd64"}, gzipLayer(t, "a", "1"))
	b := build(t, ocispec.Platform{OS: "linux", Architecture: "arm64"}, gzipLayer(t, "b", "2"))
	ref := f.pushIndex("app", "v1", a, b)
	for range 2 {
		for _, p := range []string{"linux/amd64", "linux/arm64"} {
			if _, err := s.Pull(t.Context(), ref, PullOptions{Platform: p, Keychain: keychain{}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	images, err := s.List(t.Context())
	if err != nil || len(images) != 2 {
		t.Fatalf("%v, %v", images, err)
	}
	for _, i := range images {
		// The tag is the second's; the first's may have lost and got it.
		if n := i.Names(); slices.Contains(n, ref) != (i.ID() == b.config) || len(n) == 0 {
			t.Errorf("%s: %v", i.ID(), n)
		}
		if i.ID() == a.config && !slices.Contains(i.Names(), f.host+"/app@"+string(digest.FromBytes(a.manifest))) {
			t.Errorf("%v", i.Names())
		}
	}
}

func TestProgress(t *testing.T) {
	f := newFakeRegistry(t)
	s := newStore(t)
	var layers []layerOf
	for n := range 6 {
		layers = append(layers, gzipLayer(t, "bulk", bulk(n+1, 500<<10)))
	}
	b := build(t, hostPlatform, layers...)
	ref := f.push("app", "v1", b)
	busy := make(chan struct{}, 1)
	last := map[digest.Digest]Progress{}
	reports := 0
	_, err := s.Pull(t.Context(), ref, PullOptions{Keychain: keychain{}, Progress: func(p Progress) {
		select {
		case busy <- struct{}{}:
		default:
			t.Error("two calls at a time")
		}
		before, seen := last[p.Layer]
		if p.Done < before.Done || p.Done > p.Total || seen && p.Total != before.Total || !seen && p.Done != 0 {
			t.Errorf("%+v after %+v", p, before)
		}
		last[p.Layer] = p
		reports++
		<-busy
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range b.layers {
		if p := last[l.Digest]; p.Done != l.Size || p.Total != l.Size {
			t.Errorf("%s ended with %+v", l.Digest, p)
		}
	}
	if reports < 3*len(layers) {
		t.Errorf("%d reports", reports)
	}
}

// TestLayersAreFetchedInParallel answers no layer until three are asked for.
func TestLayersAreFetchedInParallel(t *testing.T) {
	f := newFakeRegistry(t)
	var layers []layerOf
	for n := range parallelLayers {
		layers = append(layers, gzipLayer(t, "f", fmt.Sprint(n)))
	}
	b := build(t, hostPlatform, layers...)
	ref := f.push("app", "v1", b)
	var all sync.WaitGroup
	all.Add(parallelLayers)
	f.answer(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") && !isBlob(r, b.config) {
			all.Done()
			all.Wait()
		}
		return false
	})
	newStore(t).mustPull(t, ref)
}

func TestUnknownImage(t *testing.T) {
	f := newFakeRegistry(t)
	f.push("app", "v1", build(t, hostPlatform))
	s := newStore(t)
	for _, ref := range []string{"/app:v2", "/none:v1", "/app@" + anyDigest} {
		if _, err := s.Pull(t.Context(), f.host+ref, anonymous); !errors.Is(err, errdefs.ErrNotFound) || !strings.Contains(err.Error(), ref) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	for ref, want := range map[string]error{"": errdefs.ErrInvalidArgument, "A:b:c": errdefs.ErrInvalidArgument, "a@sha512:" + strings.Repeat("a", 128): errdefs.ErrNotImplemented} {
		if _, err := s.Pull(t.Context(), ref, anonymous); !errors.Is(err, want) {
			t.Errorf("%q: %v", ref, err)
		}
	}
	s.mustBeEmpty(t)
}

// TestDigestIsChecked serves something else under a digest that was asked for
// (podman CVE-2026-111361).
func TestDigestIsChecked(t *testing.T) {
	f := newFakeRegistry(t)
	b, evil := build(t, hostPlatform), build(t, hostPlatform, gzipLayer(t, "evil", "x"))
	f.push("app", "v1", b)
	f.push("app", "evil", evil)
	f.answer(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/manifests/") {
			w.Header().Set("Content-Type", evil.mediaType)
			w.Header().Set("Docker-Content-Digest", string(digest.FromBytes(b.manifest)))
			w.Write(evil.manifest)
			return true
		}
		return false
	})
	s := newStore(t)
	_, err := s.Pull(t.Context(), f.host+"/app@"+string(digest.FromBytes(b.manifest)), anonymous)
	if !errors.Is(err, errdefs.ErrDataLoss) || !strings.Contains(err.Error(), string(digest.FromBytes(evil.manifest))) {
		t.Error(err)
	}
	s.mustBeEmpty(t)
}

// TestHostileLabels: what an image says about itself decides nothing here, not
// even where index.json's annotations are kept.
func TestHostileLabels(t *testing.T) {
	f := newFakeRegistry(t)
	s := newStore(t)
	b := build(t, hostPlatform, gzipLayer(t, "a", "b"))
	hostile := map[string]string{annotationChain: "[]", annotationID: "sha256:../..", ocispec.AnnotationRefName: "docker.io/library/alpine:latest"}
	b.seal(t, ocispec.Image{Platform: hostPlatform, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: b.diffIDs}, Config: ocispec.ImageConfig{Labels: hostile}})
	var m ocispec.Manifest
	mustUnmarshal(t, b.manifest, &m)
	m.Annotations = hostile
	m.Layers[0].Annotations = hostile
	b.manifest = marshal(t, m)
	f.push("app", "m", b)
	d := b.desc()
	d.Annotations = hostile
	f.PushManifest(t, "app", "v1", ocispec.MediaTypeImageIndex, indexOf(t, d))
	i := s.mustPull(t, f.host+"/app:v1")
	if n := i.Names(); len(n) != 1 || n[0] != f.host+"/app:v1" {
		t.Errorf("%v", n)
	}
	if _, err := s.Lookup(t.Context(), "alpine"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Error(err)
	}
	if _, err := s.Remove(t.Context(), f.host+"/app:v1", RemoveOptions{}); err != nil {
		t.Error(err)
	}
	s.mustBeEmpty(t)
}
