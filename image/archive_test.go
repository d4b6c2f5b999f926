package image

import (
	"archive/tar"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// hostile is an archive that must not be loaded.
type hostile struct {
	members []packed
	err     error
	text    string // of the error
}

// replaced has another member in place of one of the same name.
func replaced(members []packed, by packed) []packed {
	members = slices.Clone(members)
	for n := range members {
		if members[n].name == by.name {
			members[n] = by
			return members
		}
	}
	panic(by.name)
}

// lacking has no member of a name.
func lacking(members []packed, name string) []packed {
	return slices.DeleteFunc(slices.Clone(members), func(m packed) bool { return m.name == name })
}

func hostileDockerArchives(t testing.TB) map[string]hostile {
	layers := []layerOf{gzipLayer(t, "a", bulk(1, 5000)), gzipLayer(t, "b", "c")}
	i := imageOf(t, []string{"app:v1"}, layers...)
	good := slices.Clip(oldDockerArchive(t, i))
	first := good[3].name // layer.tar of the first layer
	config := i.config.Encoded() + ".json"
	second := good[7].name
	manifest := func(change func(item map[string]any)) packed {
		item := i.item(config, []string{first, second})
		change(item)
		return file("manifest.json", marshal(t, []any{item}))
	}
	seal := func(change func(c *ocispec.Image)) []packed {
		var c ocispec.Image
		if err := json.Unmarshal(i.blobs[i.config], &c); err != nil {
			t.Fatal(err)
		}
		change(&c)
		raw := marshal(t, c)
		name := digest.FromBytes(raw).Encoded() + ".json"
		return append(replaced(good, manifest(func(m map[string]any) { m["Config"] = name })), file(name, raw))
	}
	swapped := []string{second, first}
	link := func(name, target string, kind byte) packed { return packed{name: name, kind: kind, link: target} }
	return map[string]hostile{
		"a name with ..":           {append(good, file("x/../../etc/passwd", nil)), errdefs.ErrInvalidArgument, "passwd"},
		"a name with .. inside":    {append(good, file("x/../manifest.json", nil)), errdefs.ErrInvalidArgument, "x/../manifest.json"},
		"an absolute name":         {append(good, file("/etc/passwd", nil)), errdefs.ErrInvalidArgument, "/etc/passwd"},
		"a name without end":       {append(good, file(strings.Repeat("n/", 400)+"n", nil)), errdefs.ErrInvalidArgument, "801"},
		"a device":                 {append(good, packed{name: "null", kind: tar.TypeChar}), errdefs.ErrInvalidArgument, "null"},
		"a FIFO":                   {append(good, packed{name: "fifo", kind: tar.TypeFifo}), errdefs.ErrInvalidArgument, "fifo"},
		"a link to outside":        {append(good, link("x/layer.tar", "../../etc/passwd", tar.TypeSymlink)), errdefs.ErrInvalidArgument, "../../etc/passwd"},
		"an absolute link":         {append(good, link("x/layer.tar", "/etc/passwd", tar.TypeSymlink)), errdefs.ErrInvalidArgument, "/etc/passwd"},
		"a hard link to outside":   {append(good, link("x/layer.tar", "../etc/passwd", tar.TypeLink)), errdefs.ErrInvalidArgument, "../etc/passwd"},
		"links in a circle":        {replaced(replaced(good, link(first, "../"+second, tar.TypeSymlink)), link(second, "../"+first, tar.TypeSymlink)), errdefs.ErrDataLoss, "links"},
		"a link to nothing":        {replaced(good, link(first, "../none", tar.TypeSymlink)), errdefs.ErrDataLoss, first},
		"a link to itself":         {replaced(good, link(config, config, tar.TypeSymlink)), errdefs.ErrDataLoss, config},
		"two manifests":            {append(good, file("manifest.json", []byte("[]"))), errdefs.ErrDataLoss, "twice"},
		"two layers of one name":   {append(good, file("./"+first, layers[1].tar)), errdefs.ErrDataLoss, "twice"},
		"a link and a file":        {append(good, link(first, "../"+second, tar.TypeSymlink)), errdefs.ErrDataLoss, "twice"},
		"no manifest":              {lacking(lacking(good, "manifest.json"), "repositories"), errdefs.ErrInvalidArgument, "manifest.json"},
		"Docker before 1.10":       {lacking(good, "manifest.json"), errdefs.ErrNotImplemented, "1.10"},
		"no members":               {nil, errdefs.ErrInvalidArgument, "manifest.json"},
		"an empty manifest":        {replaced(good, file("manifest.json", nil)), errdefs.ErrDataLoss, "manifest.json"},
		"no images":                {replaced(good, file("manifest.json", []byte("[]"))), errdefs.ErrNotFound, "no image"},
		"a manifest that is null":  {replaced(good, file("manifest.json", []byte("null"))), errdefs.ErrNotFound, "no image"},
		"an image that is null":    {replaced(good, file("manifest.json", []byte("[null]"))), errdefs.ErrDataLoss, "image 1"},
		"a manifest of other type": {replaced(good, file("manifest.json", []byte(`{"Config":"x"}`))), errdefs.ErrDataLoss, "manifest.json"},
		"half a manifest":          {replaced(good, file("manifest.json", []byte(`[{"Config":"x"}`))), errdefs.ErrDataLoss, "manifest.json"},
		"a field twice":            {replaced(good, file("manifest.json", []byte(`[{"Config":"x","config":"y","Layers":[]}]`))), errdefs.ErrDataLoss, "twice"},
		"a large manifest":         {replaced(good, file("manifest.json", append([]byte("["), bytes.Repeat([]byte(" "), maxConfig)...))), errdefs.ErrDataLoss, "manifest.json"},
		"images without end":       {replaced(good, file("manifest.json", []byte("["+strings.Repeat("{},", maxImages)+"{}]"))), errdefs.ErrDataLoss, "1001 images"},
		"names without end":        {replaced(good, manifest(func(m map[string]any) { m["RepoTags"] = slices.Repeat([]string{"app:v1"}, maxNames+1) })), errdefs.ErrDataLoss, "names"},
		"names without end, of many": {replaced(good, file("manifest.json", marshal(t, slices.Repeat([]any{func() any {
			item := i.item(config, []string{first, second})
			item["RepoTags"] = slices.Repeat([]string{"app:v1"}, maxNames/8)
			return item
		}()}, 9)))), errdefs.ErrDataLoss, "names"},
		"no such config":              {replaced(good, manifest(func(m map[string]any) { m["Config"] = "none.json" })), errdefs.ErrDataLoss, "none.json"},
		"a config outside":            {replaced(good, manifest(func(m map[string]any) { m["Config"] = "../../../etc/passwd" })), errdefs.ErrDataLoss, "passwd"},
		"no config":                   {replaced(good, manifest(func(m map[string]any) { delete(m, "Config") })), errdefs.ErrDataLoss, "config"},
		"no such layer":               {replaced(good, manifest(func(m map[string]any) { m["Layers"] = []string{first, "none/layer.tar"} })), errdefs.ErrDataLoss, "none/layer.tar"},
		"a layer outside":             {replaced(good, manifest(func(m map[string]any) { m["Layers"] = []string{first, "/etc/passwd"} })), errdefs.ErrDataLoss, "/etc/passwd"},
		"a layer that is a directory": {replaced(good, manifest(func(m map[string]any) { m["Layers"] = []string{first, strings.TrimSuffix(second, "/layer.tar")} })), errdefs.ErrDataLoss, "layer 2"},
		"a layer less":                {replaced(good, manifest(func(m map[string]any) { m["Layers"] = []string{first} })), errdefs.ErrDataLoss, "2 diff IDs for 1"},
		"a layer twice":               {replaced(good, manifest(func(m map[string]any) { m["Layers"] = []string{first, first} })), errdefs.ErrDataLoss, "two diff IDs"},
		"layers in another order":     {replaced(good, manifest(func(m map[string]any) { m["Layers"] = swapped })), errdefs.ErrDataLoss, "digest"},
		"a layer that is no tar":      {replaced(good, file(first, []byte(strings.Repeat("no tar ", 200)))), errdefs.ErrInvalidArgument, "layer"},
		"another layer":               {replaced(good, file(first, tarOf(t, "x", "y"))), errdefs.ErrDataLoss, digest.FromBytes(tarOf(t, "x", "y")).Encoded()},
		"a layer in xz":               {replaced(good, file(first, []byte("\xfd7zXZ\x00"+bulk(3, 1000)))), errdefs.ErrInvalidArgument, "xz"},
		"another config":              {replaced(good, file(config, []byte(`{"rootfs":{"type":"layers"}}`))), errdefs.ErrDataLoss, config},
		"a config that is a layer":    {replaced(good, manifest(func(m map[string]any) { m["Config"] = first })), errdefs.ErrDataLoss, "config"},
		"a diff ID that is malformed": {seal(func(c *ocispec.Image) { c.RootFS.DiffIDs[0] = "sha256:../../../../etc" }), errdefs.ErrDataLoss, "diff ID"},
		"a diff ID of sha512":         {seal(func(c *ocispec.Image) { c.RootFS.DiffIDs[0] = digest.SHA512.FromString("x") }), errdefs.ErrNotImplemented, "sha512"},
		"a tag that is malformed":     {replaced(good, manifest(func(m map[string]any) { m["RepoTags"] = []string{"../../x"} })), errdefs.ErrInvalidArgument, "../../x"},
		"a tag without end":           {replaced(good, manifest(func(m map[string]any) { m["RepoTags"] = []string{"app:" + strings.Repeat("x", 5000)} })), errdefs.ErrInvalidArgument, "5004"},
		"a digest for a tag":          {replaced(good, manifest(func(m map[string]any) { m["RepoTags"] = []string{"app@" + string(i.config)} })), errdefs.ErrInvalidArgument, "no tag"},
	}
}

func hostileLayouts(t testing.TB) map[string]hostile {
	i := imageOf(t, nil, gzipLayer(t, "a", bulk(1, 5000)), gzipLayer(t, "b", "c"))
	good := slices.Clip(ociArchive(t, []ocispec.Descriptor{i.desc()}, all(i.built)...))
	blob := func(d digest.Digest) string { return blobName(d) }
	manifest := func(change func(m *ocispec.Manifest)) []packed {
		var m ocispec.Manifest
		if err := json.Unmarshal(i.manifest, &m); err != nil {
			t.Fatal(err)
		}
		change(&m)
		b := built{mediaType: i.mediaType, manifest: marshal(t, m), platform: i.platform}
		return ociArchive(t, []ocispec.Descriptor{b.desc()}, append(all(i.built)[1:], b.manifest)...)
	}
	desc := func(change func(d *ocispec.Descriptor)) []packed {
		d := i.desc()
		change(&d)
		return ociArchive(t, []ocispec.Descriptor{d}, all(i.built)...)
	}
	deep := i.desc()
	var indexes [][]byte
	for range maxIndexDepth + 2 {
		raw := indexOf(t, deep)
		indexes = append(indexes, raw)
		deep = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	}
	large := append(slices.Clone(i.manifest), bytes.Repeat([]byte(" "), maxDocument)...)
	both := marshal(t, map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageIndex, "manifests": []any{}, "layers": []any{}})
	of := func(mediaType string, raw []byte) ocispec.Descriptor {
		return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	}
	return map[string]hostile{
		"a blob that is a link":                         {replaced(good, packed{name: blob(i.layers[0].Digest), kind: tar.TypeSymlink, link: blob(i.config)[len("blobs/sha256/"):]}), errdefs.ErrInvalidArgument, "link"},
		"a blob that is a hard link":                    {replaced(good, packed{name: blob(i.layers[0].Digest), kind: tar.TypeLink, link: blob(i.config)}), errdefs.ErrInvalidArgument, "link"},
		"another layer":                                 {replaced(good, file(blob(i.layers[0].Digest), []byte("other"))), errdefs.ErrDataLoss, i.layers[0].Digest.Encoded()},
		"another manifest":                              {replaced(good, file(blob(digest.FromBytes(i.manifest)), []byte("{}"))), errdefs.ErrDataLoss, digest.FromBytes(i.manifest).Encoded()},
		"a blob nobody wants":                           {append(good, file(blob(digest.FromString("x")), []byte("y"))), errdefs.ErrDataLoss, digest.FromString("x").Encoded()},
		"no such manifest":                              {lacking(good, blob(digest.FromBytes(i.manifest))), errdefs.ErrDataLoss, digest.FromBytes(i.manifest).Encoded()},
		"no such config":                                {lacking(good, blob(i.config)), errdefs.ErrDataLoss, i.config.Encoded()},
		"no such layer":                                 {lacking(good, blob(i.layers[1].Digest)), errdefs.ErrDataLoss, i.layers[1].Digest.Encoded()},
		"no index":                                      {lacking(good, "index.json"), errdefs.ErrDataLoss, "index.json"},
		"no oci-layout":                                 {lacking(good, "oci-layout"), errdefs.ErrInvalidArgument, "oci-layout"},
		"another version":                               {replaced(good, file("oci-layout", []byte(`{"imageLayoutVersion":"2.0.0"}`))), errdefs.ErrNotImplemented, "2.0.0"},
		"no version":                                    {replaced(good, file("oci-layout", []byte(`{}`))), errdefs.ErrNotImplemented, "version"},
		"an empty oci-layout":                           {replaced(good, file("oci-layout", nil)), errdefs.ErrDataLoss, "oci-layout"},
		"an empty index":                                {replaced(good, file("index.json", nil)), errdefs.ErrDataLoss, "index.json"},
		"an index that is a list":                       {replaced(good, file("index.json", []byte(`[]`))), errdefs.ErrDataLoss, "index.json"},
		"a large index":                                 {replaced(good, file("index.json", large)), errdefs.ErrDataLoss, "index.json"},
		"images without end":                            {ociArchive(t, slices.Repeat([]ocispec.Descriptor{i.desc()}, maxImages+1), all(i.built)...), errdefs.ErrDataLoss, "images"},
		"indexes without end":                           {ociArchive(t, []ocispec.Descriptor{deep}, append(all(i.built), indexes...)...), errdefs.ErrDataLoss, "inside each other"},
		"CVE-2024-3727, a digest that is a path":        {desc(func(d *ocispec.Descriptor) { d.Digest = "sha256:../../../../../etc/passwd" }), errdefs.ErrDataLoss, "malformed digest"},
		"CVE-2024-3727, a layer's digest":               {manifest(func(m *ocispec.Manifest) { m.Layers[0].Digest = "../../etc" }), errdefs.ErrDataLoss, "malformed digest"},
		"CVE-2021-41190, index and manifest":            {ociArchive(t, []ocispec.Descriptor{of(ocispec.MediaTypeImageIndex, both)}, both), errdefs.ErrDataLoss, "CVE-2021-41190"},
		"CVE-2021-41190, a manifest listed as an index": {desc(func(d *ocispec.Descriptor) { d.MediaType = ocispec.MediaTypeImageIndex }), errdefs.ErrDataLoss, "media type"},
		"a digest of sha512":                            {desc(func(d *ocispec.Descriptor) { d.Digest = digest.SHA512.FromString("x") }), errdefs.ErrNotImplemented, "sha512"},
		"another size":                                  {desc(func(d *ocispec.Descriptor) { d.Size++ }), errdefs.ErrDataLoss, "listed with"},
		"a negative size":                               {desc(func(d *ocispec.Descriptor) { d.Size = -1 }), errdefs.ErrDataLoss, "-1"},
		"another media type":                            {desc(func(d *ocispec.Descriptor) { d.MediaType = "text/html" }), errdefs.ErrNotImplemented, "text/html"},
		"Docker's schema 1":                             {desc(func(d *ocispec.Descriptor) { d.MediaType = dockerSchema1Signed }), errdefs.ErrNotImplemented, dockerSchema1Signed},
		"a large manifest":                              {ociArchive(t, []ocispec.Descriptor{of(i.mediaType, large)}, append(all(i.built), large)...), errdefs.ErrDataLoss, "bytes"},
		"a layer of another size":                       {manifest(func(m *ocispec.Manifest) { m.Layers[0].Size-- }), errdefs.ErrDataLoss, i.layers[0].Digest.Encoded()},
		"a layer with two sizes":                        {manifest(func(m *ocispec.Manifest) { m.Layers[1] = m.Layers[0]; m.Layers[1].Size++ }), errdefs.ErrDataLoss, "listed with"},
		"a layer twice, two diff IDs":                   {manifest(func(m *ocispec.Manifest) { m.Layers[1] = m.Layers[0] }), errdefs.ErrDataLoss, "two diff IDs"},
		"a layer less":                                  {manifest(func(m *ocispec.Manifest) { m.Layers = m.Layers[:1] }), errdefs.ErrDataLoss, "2 diff IDs for 1"},
		"a foreign layer": {manifest(func(m *ocispec.Manifest) {
			m.Layers[0].MediaType, m.Layers[0].URLs = dockerForeign+".gzip", []string{"http://127.0.0.1/layer"}
		}), errdefs.ErrNotImplemented, "foreign"},
		"a layer that may not be distributed": {manifest(func(m *ocispec.Manifest) { m.Layers[0].MediaType = ociNondistributable + "+gzip" }), errdefs.ErrNotImplemented, "foreign"},
		"a layer that is a config":            {manifest(func(m *ocispec.Manifest) { m.Layers[0].Digest, m.Layers[0].Size = m.Config.Digest, m.Config.Size }), errdefs.ErrDataLoss, i.config.Encoded()},
		"a config that is a layer":            {manifest(func(m *ocispec.Manifest) { m.Config.Digest, m.Config.Size = m.Layers[0].Digest, m.Layers[0].Size }), errdefs.ErrDataLoss, "config"},
		"a config of another size":            {manifest(func(m *ocispec.Manifest) { m.Config.Size++ }), errdefs.ErrDataLoss, i.config.Encoded()},
		"an artifact":                         {manifest(func(m *ocispec.Manifest) { m.Config.MediaType = "application/vnd.example+json" }), errdefs.ErrNotImplemented, "artifact"},
	}
}

// TestLoadHostile: an error that says what is wrong, and nothing left.
func TestLoadHostile(t *testing.T) {
	cases := hostileDockerArchives(t)
	for name, c := range hostileLayouts(t) {
		cases["layout: "+name] = c
	}
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		t.Run(name, func(t *testing.T) {
			c, s := cases[name], newStore(t)
			_, err := s.Load(t.Context(), bytes.NewReader(pack(t, c.members...)), LoadOptions{})
			if !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.text) || len(err.Error()) > 1000 {
				t.Errorf("%v", err)
			}
			s.mustBeEmpty(t)
		})
	}
}

// TestLoadHostileStreams: what is no archive, or more than one.
func TestLoadHostileStreams(t *testing.T) {
	i := imageOf(t, []string{"app:v1"}, gzipLayer(t, "a", "b"))
	good := pack(t, skopeoArchive(t, i)...)
	many := make([]packed, 0, maxMembers+2)
	for n := range maxMembers + 2 {
		many = append(many, packed{name: fmt.Sprint(n), kind: tar.TypeSymlink, link: "x"})
	}
	damaged := slices.Clone(good)
	copy(damaged[bytes.Index(damaged, []byte("manifest.json")):], "manifest.jsoX")
	s := newStore(t)
	for name, c := range map[string]struct {
		stream []byte
		err    error
	}{
		"nothing":             {nil, errdefs.ErrInvalidArgument},
		"text":                {[]byte(strings.Repeat("not an archive\n", 100)), errdefs.ErrInvalidArgument},
		"a short text":        {[]byte("not an archive"), errdefs.ErrDataLoss},
		"zeros":               {make([]byte, 1<<20), errdefs.ErrInvalidArgument},
		"gzip of nothing":     {gzipped(t, nil), errdefs.ErrInvalidArgument},
		"xz":                  {[]byte("\xfd7zXZ\x00" + bulk(1, 100)), errdefs.ErrNotImplemented},
		"a start of gzip":     {[]byte{0x1f, 0x8b, 8}, errdefs.ErrDataLoss},
		"a start of zstd":     {zstdMagic, errdefs.ErrDataLoss},
		"a start of bzip2":    {[]byte("BZh9garbage"), errdefs.ErrDataLoss},
		"two archives":        {append(slices.Clone(good), good...), errdefs.ErrDataLoss},
		"garbage behind":      {append(slices.Clone(good), "x"...), errdefs.ErrDataLoss},
		"a damaged header":    {damaged, errdefs.ErrDataLoss},
		"members without end": {pack(t, many...), errdefs.ErrInvalidArgument},
	} {
		if _, err := s.Load(t.Context(), bytes.NewReader(c.stream), LoadOptions{}); !errors.Is(err, c.err) {
			t.Errorf("%s: %v", name, err)
		}
		s.mustBeEmpty(t)
	}
	// Zeros behind the end are what tar pads its records with.
	i.sameAs(t, s.mustLoad(t, append(slices.Clone(good), make([]byte, 10240)...), LoadOptions{})[0].Image)
}

// TestLoadCutOff cuts archives everywhere: it is either whole, or an error and
// nothing.
func TestLoadCutOff(t *testing.T) {
	i := imageOf(t, []string{"app:v1"}, gzipLayer(t, "a", bulk(1, 5000)))
	for name, members := range map[string][]packed{"skopeo": skopeoArchive(t, i), "oci": ociArchive(t, []ocispec.Descriptor{i.desc()}, all(i.built)...)} {
		archive := pack(t, members...)
		s := newStore(t)
		whole := 0
		for at := 0; at < len(archive); at += 256 {
			loaded, err := s.Load(t.Context(), bytes.NewReader(archive[:at]), LoadOptions{})
			if err != nil {
				if !errors.Is(err, errdefs.ErrDataLoss) && !errors.Is(err, errdefs.ErrInvalidArgument) {
					t.Errorf("%s, %d bytes: %v", name, at, err)
				}
				s.mustBeEmpty(t)
				continue
			}
			whole++
			i.sameAs(t, loaded[0].Image)
			if _, err := s.Remove(t.Context(), string(i.config), RemoveOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if whole == 0 || whole > 12 {
			t.Errorf("%s: %d beginnings of %d bytes were enough", name, whole, len(archive))
		}
	}
}

// TestLoadDocumentsInBounds: large documents, each within its bound, are refused
// when there are too many.
func TestLoadDocumentsInBounds(t *testing.T) {
	var descs []ocispec.Descriptor
	var blobs [][]byte
	for n := range maxListed/(maxDocument-100) + 1 {
		b := build(t, hostPlatform)
		b.seal(t, ocispec.Image{Platform: hostPlatform, Author: fmt.Sprint(n), RootFS: ocispec.RootFS{Type: "layers"}})
		b.manifest = marshal(t, ocispec.Manifest{
			Versioned:   specs.Versioned{SchemaVersion: 2},
			MediaType:   ocispec.MediaTypeImageManifest,
			Config:      ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: b.config, Size: int64(len(b.blobs[b.config]))},
			Layers:      []ocispec.Descriptor{},
			Annotations: map[string]string{"x": strings.Repeat("y", maxDocument-1000)},
		})
		descs, blobs = append(descs, named(b.desc(), annotationImageName, fmt.Sprintf("app:v%d", n))), append(blobs, all(b)...)
	}
	s := newStore(t)
	_, err := s.Load(t.Context(), bytes.NewReader(pack(t, ociArchive(t, descs, blobs...)...)), LoadOptions{})
	if !errors.Is(err, errdefs.ErrDataLoss) || !strings.Contains(err.Error(), "manifests and configs") {
		t.Error(err)
	}
	s.mustBeEmpty(t)
}

// FuzzLoad reads foreign archives. What is loaded must be an image that can be
// used; of all else nothing is left.
func FuzzLoad(f *testing.F) {
	i := imageOf(f, []string{"app:v1", "app:v2"}, gzipLayer(f, "a", "b"), gzipLayer(f, "c", "d"))
	for _, members := range [][]packed{skopeoArchive(f, i), oldDockerArchive(f, i), newDockerArchive(f, i), compressedArchive(f, i), ociArchive(f, []ocispec.Descriptor{i.desc()}, all(i.built)...)} {
		f.Add(pack(f, members...))
	}
	f.Add(gzipped(f, pack(f, skopeoArchive(f, i)...)))
	f.Add(zstded(f, pack(f, skopeoArchive(f, i)...)))
	for _, cases := range []map[string]hostile{hostileDockerArchives(f), hostileLayouts(f)} {
		for _, c := range cases {
			if raw := pack(f, c.members...); len(raw) < 32<<10 { // the fuzzer works on small ones
				f.Add(raw)
			}
		}
	}
	s := newStore(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		loaded, err := s.Load(t.Context(), bytes.NewReader(raw), LoadOptions{Repository: "repo"})
		if err != nil && len(loaded) > 0 {
			t.Error("images and an error")
		}
		for _, l := range loaded {
			if _, err := l.Image.Layers(); err != nil {
				t.Error(err)
			}
			if got, err := s.Lookup(t.Context(), cmp.Or(l.Name, string(l.Image.ID()))); err != nil || got.ID() != l.Image.ID() {
				t.Errorf("%q: %v", l.Name, err)
			}
		}
		for _, l := range loaded {
			if _, err := s.Remove(t.Context(), string(l.Image.ID()), RemoveOptions{Force: true}); err != nil && !errors.Is(err, errdefs.ErrNotFound) {
				t.Error(err)
			}
		}
		s.mustBeEmpty(t)
	})
}
