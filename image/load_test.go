package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/inboard/engine/enginetest"
)

// sameAs checks that an image is another one: by its ID, its config, and layers
// that can be used.
func (b *built) sameAs(t *testing.T, i *Image) {
	t.Helper()
	if i.ID() != b.config {
		t.Errorf("ID %s, not %s", i.ID(), b.config)
	}
	var config ocispec.Image
	mustUnmarshal(t, b.blobs[b.config], &config)
	if got := i.Config(); !reflect.DeepEqual(got, config) {
		t.Errorf("config %+v, not %+v", got, config)
	}
	layers, err := i.Layers()
	if err != nil || len(layers) != len(b.diffIDs) {
		t.Fatalf("%v, %v", layers, err)
	}
	for n, l := range layers {
		if l.DiffID() != b.diffIDs[n] {
			t.Errorf("layer %d is %s, not %s", n, l.DiffID(), b.diffIDs[n])
		}
	}
}

// TestLoad loads an image from each kind of archive, and again. Nothing more than
// the image is there, and nothing when it has been removed.
func TestLoad(t *testing.T) {
	twice := gzipLayer(t, "twice", bulk(1, 100<<10))
	i := imageOf(t, []string{"app:v1", "registry.example:5000/app:v2"}, twice, gzipLayer(t, "own", bulk(2, 300<<10)), twice)
	served := named(i.desc(), annotationImageName, "docker.io/library/app:v1", ocispec.AnnotationRefName, "v1")
	second := named(i.desc(), ocispec.AnnotationRefName, "registry.example:5000/app:v2")
	oci := ociArchive(t, []ocispec.Descriptor{served, second}, all(i.built)...)
	reversed := slices.Clone(oci)
	slices.Reverse(reversed)
	for name, members := range map[string][]packed{
		"skopeo":               skopeoArchive(t, i),
		"docker before 25":     oldDockerArchive(t, i),
		"docker since 25":      newDockerArchive(t, i),
		"go-containerregistry": deduplicated(compressedArchive(t, i)),
		"oci":                  oci,
		"oci, backwards":       reversed,
	} {
		t.Run(name, func(t *testing.T) {
			archive := pack(t, members...)
			s := newStore(t)
			loaded := s.mustLoad(t, archive, LoadOptions{})
			if got := names(loaded); got != "app:v1 registry.example:5000/app:v2" {
				t.Errorf("loaded %s", got)
			}
			for _, l := range loaded {
				i.sameAs(t, l.Image)
				if want := []string{"app:v1", "registry.example:5000/app:v2"}; !slices.Equal(l.Image.Names(), want) {
					t.Errorf("names %v", l.Image.Names())
				}
			}
			if d := loaded[0].Image.Digest(); strings.HasPrefix(name, "oci") && d != digest.FromBytes(i.manifest) {
				t.Errorf("digest %s", d)
			}
			// Two different layers, each as a blob and as a layer, config and manifest.
			contents := s.contents(t)
			if len(contents) != 6 {
				t.Errorf("%d things: %v", len(contents), contents)
			}
			again := s.mustLoad(t, archive, LoadOptions{})
			if after := s.contents(t); !slices.Equal(after, contents) || again[0].Image.Digest() != loaded[0].Image.Digest() {
				t.Errorf("loaded again: %v, %v", again, after)
			}
			for _, l := range loaded {
				if _, err := s.Remove(t.Context(), l.Name, RemoveOptions{}); err != nil {
					t.Error(err)
				}
			}
			s.mustBeEmpty(t)
		})
	}
}

// deduplicated has each member once.
func deduplicated(members []packed) (kept []packed) {
	for _, m := range members {
		if !slices.ContainsFunc(kept, func(k packed) bool { return k.name == m.name }) {
			kept = append(kept, m)
		}
	}
	return kept
}

// TestLoadRepeated: a member that comes twice with the same content is no harm.
func TestLoadRepeated(t *testing.T) {
	i := imageOf(t, []string{"app:v1"}, gzipLayer(t, "a", "b"))
	members := append(skopeoArchive(t, i), skopeoArchive(t, i)...)
	s := newStore(t)
	i.sameAs(t, s.mustLoad(t, pack(t, members...), LoadOptions{})[0].Image)
	if c := s.contents(t); len(c) != 4 {
		t.Errorf("%v", c)
	}
}

// TestLoadAhead: what can be known as a layer when it comes is made one then,
// and waits in no file; the outcome is the same.
func TestLoadAhead(t *testing.T) {
	i := imageOf(t, []string{"app:v1"}, gzipLayer(t, "a", bulk(1, 200<<10)))
	plain := i.plain(t)
	documents := func(b *built) []packed {
		return []packed{file(blobName(digest.FromBytes(b.manifest)), b.manifest), file(blobName(b.config), b.blobs[b.config])}
	}
	layer := func(b *built) packed { return file(blobName(b.layers[0].Digest), b.blobs[b.layers[0].Digest]) }
	foreign := build(t, ocispec.Platform{OS: "linux", Architecture: "s390x"}, i.tars...)
	lying := build(t, hostPlatform, i.tars...)
	lying.diffIDs[0] = digest.FromString("something else")
	lying.seal(t, ocispec.Image{Platform: hostPlatform, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: lying.diffIDs}})
	for name, c := range map[string]struct {
		members []packed
		ahead   bool
	}{
		"a tar by its name":               {skopeoArchive(t, i)[:1], true},
		"a tar among blobs":               {[]packed{layer(plain)}, true},
		"after manifest and config":       {append(documents(i.built), layer(i.built)), true},
		"after config and manifest":       {append([]packed{documents(i.built)[1], documents(i.built)[0]}, layer(i.built)), true},
		"before them":                     {append([]packed{layer(i.built)}, documents(i.built)...), false},
		"for another platform":            {append(documents(foreign), layer(foreign)), false},
		"with a config that is wrong":     {append(documents(lying), layer(lying)), false},
		"under a name that says nothing":  {[]packed{file("x/layer.tar", i.tars[0].tar)}, false},
		"under the name of another":       {[]packed{file(digest.FromString("other").Encoded()+".tar", i.tars[0].tar)}, false},
		"no tar under the name of one":    {[]packed{file(digest.FromString("no tar").Encoded()+".tar", []byte("no tar"))}, false},
		"half a tar under the right name": {[]packed{file(digest.FromBytes(i.tars[0].tar[:70<<10]).Encoded()+".tar", i.tars[0].tar[:70<<10])}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			claim, err := s.claimFor(t.Context(), claimed{})
			if err != nil {
				t.Fatal(err)
			}
			want, _ := parsePlatform("")
			a := newArchive(s.Store, claim, &reporter{}, want)
			if err := a.read(t.Context(), bytes.NewReader(pack(t, c.members...))); err != nil {
				t.Fatal(err)
			}
			last := c.members[0]
			for _, m := range c.members {
				if len(m.data) > 10<<10 {
					last = m
				}
			}
			m, err := a.find(last.name)
			if err != nil || m.digest != digest.FromString(last.data) || m.size != int64(len(last.data)) {
				t.Fatalf("%+v, %v", m, err)
			}
			if ahead := m.part == ""; ahead != c.ahead {
				t.Errorf("taken ahead: %t", ahead)
			}
			if raw, err := a.content(last.name, 1<<30); err != nil || string(raw) != last.data {
				t.Errorf("%d bytes, %v", len(raw), err)
			}
			if err := claim.abandon(t.Context()); err != nil {
				t.Error(err)
			}
			s.mustBeEmpty(t)
		})
	}
}

// TestLoadCompressed loads archives that are compressed as a whole.
func TestLoadCompressed(t *testing.T) {
	i := imageOf(t, []string{"app:v1"}, gzipLayer(t, "a", bulk(1, 100<<10)))
	archive := pack(t, skopeoArchive(t, i)...)
	half := len(archive) / 2
	for name, packed := range map[string][]byte{
		"gzip":             gzipped(t, archive),
		"two gzip members": append(gzipped(t, archive[:half]), gzipped(t, archive[half:])...),
		"zstd":             zstded(t, archive),
		"zstd, skippable":  append([]byte{0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4}, zstded(t, archive)...),
	} {
		s := newStore(t)
		i.sameAs(t, s.mustLoad(t, packed, LoadOptions{})[0].Image)
		if _, err := s.Load(t.Context(), bytes.NewReader(packed[:len(packed)-3]), LoadOptions{}); !errors.Is(err, errdefs.ErrDataLoss) {
			t.Errorf("%s, cut off: %v", name, err)
		}
		if _, err := s.Load(t.Context(), bytes.NewReader(append(slices.Clone(packed), "garbage"...)), LoadOptions{}); !errors.Is(err, errdefs.ErrDataLoss) {
			t.Errorf("%s, with more behind it: %v", name, err)
		}
		damaged := slices.Clone(packed)
		damaged[len(damaged)/2] ^= 0x55
		if _, err := s.Load(t.Context(), bytes.NewReader(damaged), LoadOptions{}); !errors.Is(err, errdefs.ErrDataLoss) {
			t.Errorf("%s, damaged: %v", name, err)
		}
	}
}

// TestLoadLayerForms: a docker-archive's layers may be compressed, whatever they
// are called.
func TestLoadLayerForms(t *testing.T) {
	a, b, c := tarOf(t, "a", "1"), tarOf(t, "b", "2"), pack(t)
	for name, i := range map[string]tagged{
		"gzip":     imageOf(t, nil, layerOf{a, gzipped(t, a), ocispec.MediaTypeImageLayerGzip}),
		"zstd":     imageOf(t, nil, layerOf{a, zstded(t, a), ocispec.MediaTypeImageLayerZstd}, layerOf{b, b, ocispec.MediaTypeImageLayer}),
		"empty":    imageOf(t, nil, layerOf{c, c, ocispec.MediaTypeImageLayer}, layerOf{c, c, ocispec.MediaTypeImageLayer}),
		"no bytes": imageOf(t, nil, layerOf{nil, nil, ocispec.MediaTypeImageLayer}),
		"none":     imageOf(t, nil),
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			var members []packed
			layers := []string{}
			for n, l := range i.tars {
				layers = append(layers, fmt.Sprint("layers/", n))
				members = append(members, file("./layers/"+fmt.Sprint(n), l.packed))
			}
			members = append(members, file("config.json", i.blobs[i.config]), file("manifest.json", marshal(t, []any{i.item("config.json", layers)})))
			loaded := s.mustLoad(t, pack(t, members...), LoadOptions{})
			i.sameAs(t, loaded[0].Image)
			if got := loaded[0].Image.Manifest().Layers; !slices.EqualFunc(got, i.layers, func(a, b ocispec.Descriptor) bool {
				return a.Digest == b.Digest && a.Size == b.Size && a.MediaType == b.MediaType
			}) {
				t.Errorf("%v, not %v", got, i.layers)
			}
			if len(loaded) != 1 || loaded[0].Name != "" {
				t.Errorf("%+v", loaded)
			}
			if got, err := s.Lookup(t.Context(), i.config.Encoded()[:12]); err != nil || len(got.Names()) != 0 {
				t.Errorf("by ID: %v, %v", got, err)
			}
			if _, err := s.Remove(t.Context(), string(i.config), RemoveOptions{}); err != nil {
				t.Error(err)
			}
			s.mustBeEmpty(t)
		})
	}
}

// TestLoadSeveral: images share layers, and of two with one name the last one
// has it.
func TestLoadSeveral(t *testing.T) {
	shared := gzipLayer(t, "shared", "layer")
	one := imageOf(t, []string{"app:v1", "app:latest"}, shared, gzipLayer(t, "own", "1"))
	two := imageOf(t, []string{"other/app:latest", "app:latest"}, shared, gzipLayer(t, "own", "2"))
	three := imageOf(t, nil, gzipLayer(t, "own", "3"))
	for name, members := range map[string][]packed{
		"old": oldDockerArchive(t, one, two, three),
		"new": newDockerArchive(t, one, two, three),
	} {
		s := newStore(t)
		loaded := s.mustLoad(t, pack(t, deduplicated(members)...), LoadOptions{})
		want := "app:v1 other/app:latest app:latest " + string(three.config)
		if name == "new" { // where an image is listed once for each name
			want = "app:v1 " + string(one.config) + " app:latest other/app:latest " + string(three.config)
		}
		if got := names(loaded); got != want {
			t.Errorf("%s: %s, not %s", name, got, want)
		}
		for ref, i := range map[string]tagged{"app:v1": one, "app": two, "other/app": two, string(three.config): three} {
			got, err := s.Lookup(t.Context(), ref)
			if err != nil {
				t.Fatalf("%s: %s: %v", name, ref, err)
			}
			i.sameAs(t, got)
		}
		if images := must(s.List(t.Context())); len(images) != 3 {
			t.Errorf("%s: %d images", name, len(images))
		}
	}
}

// TestLoadMovesName: an image that had the name keeps its digest as name.
func TestLoadMovesName(t *testing.T) {
	s := newStore(t)
	first, second := imageOf(t, []string{"app:v1"}, gzipLayer(t, "a", "1")), imageOf(t, []string{"app:v1"}, gzipLayer(t, "a", "2"))
	s.mustLoad(t, pack(t, skopeoArchive(t, first)...), LoadOptions{})
	s.mustLoad(t, pack(t, skopeoArchive(t, second)...), LoadOptions{})
	old, err := s.Lookup(t.Context(), string(first.config))
	if err != nil || !slices.Equal(old.Names(), []string{"app@" + string(old.Digest())}) {
		t.Errorf("%v, %v", old.Names(), err)
	}
	second.sameAs(t, must(s.Lookup(t.Context(), "app:v1")))
}

// TestLoadOfPulled: an image that was pulled and then saved as a docker-archive
// keeps the manifest that it has, and its layers their one form.
func TestLoadOfPulled(t *testing.T) {
	f := newFakeRegistry(t)
	s := newStore(t)
	i := imageOf(t, []string{"app:v1"}, gzipLayer(t, "a", bulk(1, 100<<10)), gzipLayer(t, "b", "c"))
	ref := f.pushIndex("app", "v1", i.built)
	pulled := s.mustPull(t, ref)
	before := s.contents(t)
	for _, members := range [][]packed{skopeoArchive(t, i), oldDockerArchive(t, i)} {
		loaded := s.mustLoad(t, pack(t, members...), LoadOptions{})
		i.sameAs(t, loaded[0].Image)
		if got := loaded[0].Image; got.Digest() != pulled.Digest() || !slices.Equal(got.Names(), []string{ref, "app:v1"}) {
			t.Errorf("%s, %v", got.Digest(), got.Names())
		}
		if after := s.contents(t); !slices.Equal(after, before) {
			t.Errorf("before %v, after %v", before, after)
		}
	}
	// One that is damaged is mended.
	if err := os.Remove(s.blobPath(i.layers[0].Digest)); err != nil {
		t.Fatal(err)
	}
	loaded := s.mustLoad(t, pack(t, skopeoArchive(t, i)...), LoadOptions{})
	if got := loaded[0].Image.Manifest().Layers[0].Digest; got != i.diffIDs[0] || !s.hasBlob(loaded[0].Image.Manifest().Layers[0]) {
		t.Errorf("layer %s", got)
	}
}

// TestLoadProvesLayers: a blob that comes for a layer which the store has must
// unpack to it all the same.
func TestLoadProvesLayers(t *testing.T) {
	i := imageOf(t, []string{"app:v1"}, gzipLayer(t, "a", "b"))
	for _, from := range []string{"archive", "directory"} {
		s := newStore(t)
		s.mustLoad(t, pack(t, skopeoArchive(t, i)...), LoadOptions{})
		before := s.contents(t)
		other := gzipLayer(t, "c", "d")
		lying := build(t, hostPlatform, layerOf{i.tars[0].tar, other.packed, ocispec.MediaTypeImageLayerGzip})
		members := ociArchive(t, []ocispec.Descriptor{lying.desc()}, all(lying)...)
		var err error
		if from == "archive" {
			_, err = s.Load(t.Context(), bytes.NewReader(pack(t, members...)), LoadOptions{})
		} else {
			_, err = s.LoadLayout(t.Context(), unpackTo(t, members), LoadOptions{})
		}
		if !errors.Is(err, errdefs.ErrDataLoss) || !strings.Contains(err.Error(), i.diffIDs[0].Encoded()) {
			t.Errorf("%s: %v", from, err)
		}
		if after := s.contents(t); !slices.Equal(after, before) {
			t.Errorf("%s: before %v, after %v", from, before, after)
		}
	}
}

// TestLoadNames in image layouts.
func TestLoadNames(t *testing.T) {
	b := build(t, hostPlatform, gzipLayer(t, "a", "b"))
	byDigest := "docker.io/library/app@" + string(digest.FromBytes(b.manifest))
	const full, ref = annotationImageName, ocispec.AnnotationRefName
	for _, c := range []struct {
		annotations []string
		repository  string
		want        string // empty: none
		err         error
	}{
		{nil, "", "", nil},
		{nil, "repo", "", nil},
		{[]string{ref, "v1"}, "", "", nil},
		{[]string{ref, "v1"}, "localhost:5000/repo", "localhost:5000/repo:v1", nil},
		{[]string{ref, "alpine:3.22"}, "repo", "alpine:3.22", nil},
		{[]string{ref, "some/app"}, "", "some/app:latest", nil},
		{[]string{ref, "ghcr.io/some/app:v1"}, "", "ghcr.io/some/app:v1", nil},
		{[]string{full, "docker.io/library/app:v2", ref, "v2"}, "repo", "app:v2", nil},
		{[]string{full, "registry.example/app:v2", ref, "other:v3"}, "", "registry.example/app:v2", nil},
		{[]string{full, byDigest}, "", byDigest[len("docker.io/library/"):], nil},
		{[]string{full, "app@" + string(digest.FromString("other"))}, "", "", errdefs.ErrDataLoss},
		{[]string{full, "app@sha512:1234"}, "", "", errdefs.ErrNotImplemented},
		{[]string{full, "../../etc/passwd"}, "", "", errdefs.ErrInvalidArgument},
		{[]string{ref, "Upper/Case"}, "", "", errdefs.ErrInvalidArgument},
		{[]string{ref, "v1+2"}, "repo", "", errdefs.ErrInvalidArgument},
		{[]string{full, "app:" + strings.Repeat("x", 200)}, "", "", errdefs.ErrInvalidArgument},
		{nil, "repo:tag", "", errdefs.ErrInvalidArgument},
		{nil, "Upper", "", errdefs.ErrInvalidArgument},
		{nil, "repo@" + string(b.config), "", errdefs.ErrInvalidArgument},
	} {
		s := newStore(t)
		archive := pack(t, ociArchive(t, []ocispec.Descriptor{named(b.desc(), c.annotations...)}, all(b)...)...)
		loaded, err := s.Load(t.Context(), bytes.NewReader(archive), LoadOptions{Repository: c.repository})
		if !errors.Is(err, c.err) {
			t.Errorf("%v: %v", c, err)
		}
		if err != nil {
			s.mustBeEmpty(t)
			continue
		}
		if loaded[0].Name != c.want || len(loaded) != 1 {
			t.Errorf("%v: %q", c, loaded[0].Name)
		}
		b.sameAs(t, must(s.Lookup(t.Context(), string(b.config))))
	}
}

// TestLoadPlatforms chooses from indexes as a pull does, with attestations beside
// the images as BuildKit puts them there.
func TestLoadPlatforms(t *testing.T) {
	images := make(map[string]*built)
	var descs []ocispec.Descriptor
	var blobs [][]byte
	for _, p := range []string{"linux/amd64", "linux/arm64", "linux/arm/v6"} {
		b := build(t, must(parsePlatform(p)), gzipLayer(t, "platform", p))
		images[p] = b
		descs, blobs = append(descs, b.desc()), append(blobs, all(b)...)
	}
	about := build(t, ocispec.Platform{OS: "unknown", Architecture: "unknown"}, gzipLayer(t, "in-toto", "{}"))
	attestation := named(about.desc(), "vnd.docker.reference.type", "attestation-manifest", "vnd.docker.reference.digest", string(descs[0].Digest))
	index := indexOf(t, append(slices.Clone(descs), attestation)...)
	of := func(raw []byte) ocispec.Descriptor {
		return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	}
	outer := indexOf(t, of(index))
	s390x := build(t, ocispec.Platform{OS: "linux", Architecture: "s390x"}, gzipLayer(t, "platform", "s390x"))
	s390xIndex := indexOf(t, s390x.desc(), attestation)
	silent := s390x.desc()
	silent.Platform = nil
	blobs = append(append(blobs, index, outer, s390xIndex), append(all(about), all(s390x)...)...)
	host := platformString(hostPlatform)
	for name, c := range map[string]struct {
		tops     []ocispec.Descriptor
		platform string
		want     *built // nil: ErrNotFound
	}{
		"index":                                {[]ocispec.Descriptor{of(index)}, "", images[host]},
		"index, another platform":              {[]ocispec.Descriptor{of(index)}, "linux/arm64", images["linux/arm64"]},
		"index, older variant":                 {[]ocispec.Descriptor{of(index)}, "linux/arm/v7", images["linux/arm/v6"]},
		"index in an index":                    {[]ocispec.Descriptor{of(outer)}, "", images[host]},
		"index, none":                          {[]ocispec.Descriptor{of(index)}, "windows/amd64", nil},
		"index of one other":                   {[]ocispec.Descriptor{of(s390xIndex)}, "", nil},
		"index of one other, asked for":        {[]ocispec.Descriptor{of(s390xIndex)}, "linux/s390x", s390x},
		"listed for several":                   {descs, "", images[host]},
		"listed for several, another":          {descs, "linux/arm/v7", images["linux/arm/v6"]},
		"listed for several, none":             {descs, "linux/s390x", nil},
		"listed for several, with attestation": {append([]ocispec.Descriptor{attestation}, descs...), "", images[host]},
		"alone, for another":                   {[]ocispec.Descriptor{s390x.desc()}, "", s390x},
		"alone, for another, silent":           {[]ocispec.Descriptor{silent}, "", s390x},
		"alone, not what is asked for":         {[]ocispec.Descriptor{s390x.desc()}, host, nil},
		"alone, silent, not asked for":         {[]ocispec.Descriptor{silent}, host, nil},
		"attestation alone":                    {[]ocispec.Descriptor{attestation}, "", nil},
		"nothing":                              {nil, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			loaded, err := s.Load(t.Context(), bytes.NewReader(pack(t, ociArchive(t, c.tops, blobs...)...)), LoadOptions{Platform: c.platform})
			if c.want == nil {
				if !errors.Is(err, errdefs.ErrNotFound) {
					t.Error(err)
				}
				s.mustBeEmpty(t)
				return
			}
			if err != nil || len(loaded) != 1 {
				t.Fatalf("%v, %v", loaded, err)
			}
			c.want.sameAs(t, loaded[0].Image)
			if len(c.tops) == 1 && loaded[0].Image.Digest() != c.tops[0].Digest {
				t.Errorf("digest %s, not %s", loaded[0].Image.Digest(), c.tops[0].Digest)
			}
			// What is for other platforms has left nothing.
			if _, err := s.Remove(t.Context(), string(c.want.config), RemoveOptions{}); err != nil {
				t.Error(err)
			}
			s.mustBeEmpty(t)
		})
	}
}

// TestLoadPlatformOfDockerArchive is only asked about when the caller does.
func TestLoadPlatformOfDockerArchive(t *testing.T) {
	b := build(t, ocispec.Platform{OS: "linux", Architecture: "s390x"}, gzipLayer(t, "a", "b"))
	i := tagged{b, []layerOf{gzipLayer(t, "a", "b")}, []string{"app:v1"}}
	archive := pack(t, skopeoArchive(t, i)...)
	s := newStore(t)
	if _, err := s.Load(t.Context(), bytes.NewReader(archive), LoadOptions{Platform: platformString(hostPlatform)}); !errors.Is(err, errdefs.ErrNotFound) || !strings.Contains(err.Error(), "s390x") {
		t.Error(err)
	}
	s.mustBeEmpty(t)
	b.sameAs(t, s.mustLoad(t, archive, LoadOptions{})[0].Image)
	b.sameAs(t, s.mustLoad(t, archive, LoadOptions{Platform: "s390x"})[0].Image)
}

// TestLoadProgress reports each layer to its end, once.
func TestLoadProgress(t *testing.T) {
	i := imageOf(t, nil, gzipLayer(t, "a", bulk(1, 300<<10)), gzipLayer(t, "b", bulk(2, 200<<10)))
	for name, members := range map[string][]packed{
		"ahead": skopeoArchive(t, i),
		"after": oldDockerArchive(t, i),
		"oci":   ociArchive(t, []ocispec.Descriptor{i.desc()}, all(i.built)...),
	} {
		s := newStore(t)
		for _, again := range []bool{false, true} {
			ended, steps := make(map[digest.Digest]int), 0
			s.mustLoad(t, pack(t, members...), LoadOptions{Progress: func(p Progress) {
				steps++
				if ended[p.Layer] > 0 || p.Done > p.Total || p.Total < 200<<10 {
					t.Errorf("%s: %+v", name, p)
				}
				if p.Done == p.Total {
					ended[p.Layer]++
				}
			}})
			if len(ended) != 2 || again && steps != 2 || !again && steps < 4 {
				t.Errorf("%s, again %t: %d reports, %v", name, again, steps, ended)
			}
		}
	}
}

// TestLoadFromPipe ends with its context, also while nothing comes through the
// pipe.
func TestLoadFromPipe(t *testing.T) {
	enginetest.Leaks(t)
	i := imageOf(t, []string{"app:v1"}, gzipLayer(t, "a", bulk(1, 300<<10)), gzipLayer(t, "b", "c"))
	archive := pack(t, skopeoArchive(t, i)...)
	s := newStore(t)
	for _, at := range []int{0, 100, 100 << 10, len(archive)} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		wrote := make(chan error)
		go func() {
			_, err := w.Write(archive[:at])
			cancel()
			wrote <- err
		}()
		if _, err := s.Load(ctx, r, LoadOptions{}); !errors.Is(err, context.Canceled) {
			t.Errorf("after %d bytes: %v", at, err)
		}
		s.mustBeEmpty(t)
		// The Read that is under way returns, and with it the last goroutine.
		w.Close()
		if err := <-wrote; err != nil {
			t.Error(err)
		}
		r.Close()
	}
	r, w := io.Pipe()
	go func() {
		for n := range archive { // as slowly as it goes
			if n%1000 == 0 {
				w.Write(archive[n:min(n+1000, len(archive))])
			}
		}
		w.Close()
	}()
	loaded, err := s.Load(t.Context(), r, LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	i.sameAs(t, loaded[0].Image)
	broken := errors.New("the cable was cut")
	if _, err := s.Load(t.Context(), io.MultiReader(bytes.NewReader(archive[:5000]), &cut{broken}), LoadOptions{}); !errors.Is(err, broken) || errors.Is(err, errdefs.ErrDataLoss) {
		t.Error(err)
	}
}

type cut struct{ err error }

func (c *cut) Read([]byte) (int, error) { return 0, c.err }

// TestLoadInBoundedMemory has an archive of many members and of large ones.
func TestLoadInBoundedMemory(t *testing.T) {
	r, w := io.Pipe()
	block := make([]byte, 1<<20)
	zeros := digest.SHA256.Digester()
	for range 40 {
		zeros.Hash().Write(block)
	}
	go func() {
		out := tar.NewWriter(w)
		for n := range 3000 {
			out.WriteHeader(&tar.Header{Name: fmt.Sprintf("%064d/layer.tar", n), Typeflag: tar.TypeSymlink, Linkname: "../x"})
		}
		for _, name := range []string{"large", digest.FromString("other").Encoded() + ".tar", blobName(zeros.Digest())} {
			out.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Size: 40 << 20})
			for range 40 {
				out.Write(block)
			}
		}
		out.Close()
		w.Close()
	}()
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	most := uint64(0)
	s := newStore(t)
	_, err := s.Load(t.Context(), &watched{r, func() {
		runtime.ReadMemStats(&now)
		most = max(most, now.HeapAlloc)
	}}, LoadOptions{})
	if !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Error(err)
	}
	s.mustBeEmpty(t)
	if most == 0 || most > before.HeapAlloc+32<<20 {
		t.Errorf("%d MiB of heap, before %d", most>>20, before.HeapAlloc>>20)
	}
}

// watched calls at from time to time as it is read.
type watched struct {
	r  io.Reader
	at func()
}

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.r.Read(b)
	if n >= 64<<10 {
		w.at()
	}
	return n, err
}
