package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const anyDigest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

func TestParseDocument(t *testing.T) {
	const (
		index    = ocispec.MediaTypeImageIndex
		manifest = ocispec.MediaTypeImageManifest
	)
	for _, c := range []struct {
		name, mediaType, raw string
		want                 error
	}{
		{"index", index, `{"schemaVersion":2,"manifests":[]}`, nil},
		{"manifest", manifest, `{"schemaVersion":2,"config":{},"layers":[]}`, nil},
		{"type only inside", "", `{"schemaVersion":2,"mediaType":"` + manifest + `","layers":[]}`, nil},
		{"Docker's", dockerManifest, `{"schemaVersion":2,"mediaType":"` + dockerManifest + `","layers":[]}`, nil},
		{"unknown fields", manifest, `{"schemaVersion":2,"layers":[],"future":{"a":1,"A":2}}`, nil},
		{"no type", "", `{"schemaVersion":2,"layers":[]}`, errdefs.ErrNotImplemented},
		{"other type", "application/vnd.example+json", `{"schemaVersion":2}`, errdefs.ErrNotImplemented},
		{"HTML", "text/html", `<html>`, errdefs.ErrDataLoss},
		{"empty", manifest, ``, errdefs.ErrDataLoss},
		{"array", manifest, `[{"schemaVersion":2}]`, errdefs.ErrDataLoss},
		{"null", manifest, `null`, errdefs.ErrDataLoss},
		{"trailing", manifest, `{"schemaVersion":2,"layers":[]} {}`, errdefs.ErrDataLoss},
		{"wrong shape", manifest, `{"schemaVersion":2,"layers":{}}`, errdefs.ErrDataLoss},
		{"no version", manifest, `{"layers":[]}`, errdefs.ErrDataLoss},
		{"type differs", manifest, `{"schemaVersion":2,"mediaType":"` + dockerManifest + `"}`, errdefs.ErrDataLoss},
		{"schema 1", manifest, `{"schemaVersion":1,"fsLayers":[]}`, errdefs.ErrNotImplemented},
		{"signed schema 1", dockerSchema1Signed, `{"schemaVersion":2}`, errdefs.ErrNotImplemented},
		{"field twice", manifest, `{"schemaVersion":2,"layers":[],"layers":[]}`, errdefs.ErrDataLoss},
		{"field twice in two cases", manifest, `{"schemaVersion":2,"layers":[],"Layers":[]}`, errdefs.ErrDataLoss},
		{"field twice with a long s", manifest, `{"schemaVersion":2,"layers":[],"layer` + "\u017f" + `":[]}`, errdefs.ErrDataLoss},
		{"inner field twice", manifest, `{"schemaVersion":2,"layers":[{"digest":"a","digest":"b"}]}`, errdefs.ErrDataLoss},
		{"deep", manifest, `{"schemaVersion":2,"x":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`, errdefs.ErrDataLoss},
	} {
		doc, err := parseDocument(c.mediaType, []byte(c.raw))
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		if err == nil && (doc.index == nil) == (doc.manifest == nil) {
			t.Errorf("%s: neither or both: %+v", c.name, doc)
		}
	}
}

// TestCVE202141190 has documents that are an index to one parser and a manifest
// to another.
func TestCVE202141190(t *testing.T) {
	for _, mediaType := range []string{ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, dockerList, dockerManifest} {
		for _, fields := range []string{
			`"manifests":[],"layers":[]`,
			`"manifests":[],"config":{}`,
			`"Manifests":[],"layers":[]`,
			`"manifests":null,"layers":null`,
			`"manifests":[],"fsLayers":[]`,
			`"layers":[],"fsLayers":[]`,
			`"layers":[],"history":[]`,
		} {
			_, err := parseDocument(mediaType, []byte(`{"schemaVersion":2,`+fields+`}`))
			if !errors.Is(err, errdefs.ErrDataLoss) {
				t.Errorf("%s with %s: %v", mediaType, fields, err)
			}
		}
	}
	for _, raw := range []string{`{"schemaVersion":2,"layers":[]}`, `{"schemaVersion":2,"config":{}}`} {
		if _, err := parseDocument(ocispec.MediaTypeImageIndex, []byte(raw)); !errors.Is(err, errdefs.ErrDataLoss) {
			t.Errorf("a manifest as an index: %v", err)
		}
	}
	if _, err := parseDocument(ocispec.MediaTypeImageManifest, []byte(`{"schemaVersion":2,"manifests":[]}`)); !errors.Is(err, errdefs.ErrDataLoss) {
		t.Errorf("an index as a manifest: %v", err)
	}
}

func TestCheckManifest(t *testing.T) {
	config := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: anyDigest, Size: 2}
	layer := func(d digest.Digest, size int64, mediaType string) ocispec.Descriptor {
		return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: size}
	}
	gz := ocispec.MediaTypeImageLayerGzip
	for _, c := range []struct {
		name   string
		config ocispec.Descriptor
		layers []ocispec.Descriptor
		want   error
	}{
		{"no layers", config, nil, nil},
		{"one layer twice", config, []ocispec.Descriptor{layer(anyDigest, 1, gz), layer(anyDigest, 1, gz)}, nil},
		{"no config", ocispec.Descriptor{}, nil, errdefs.ErrDataLoss},
		{"a chart", ocispec.Descriptor{MediaType: "application/vnd.cncf.helm.config.v1+json", Digest: anyDigest}, nil, errdefs.ErrNotImplemented},
		{"large config", ocispec.Descriptor{MediaType: config.MediaType, Digest: anyDigest, Size: 1 << 40}, nil, errdefs.ErrDataLoss},
		{"digest with a path", config, []ocispec.Descriptor{layer("sha256:../../../../etc/passwd", 1, gz)}, errdefs.ErrDataLoss},
		{"empty digest", config, []ocispec.Descriptor{layer("", 1, gz)}, errdefs.ErrDataLoss},
		{"unknown algorithm", config, []ocispec.Descriptor{layer("md5:aaaa", 1, gz)}, errdefs.ErrDataLoss},
		{"negative size", config, []ocispec.Descriptor{layer(anyDigest, -1, gz)}, errdefs.ErrDataLoss},
		{"two sizes", config, []ocispec.Descriptor{layer(anyDigest, 1, gz), layer(anyDigest, 2, gz)}, errdefs.ErrDataLoss},
		{"encrypted", config, []ocispec.Descriptor{layer(anyDigest, 1, gz+"+encrypted")}, errdefs.ErrNotImplemented},
		{"foreign", config, []ocispec.Descriptor{layer(anyDigest, 1, dockerForeign+".gzip")}, errdefs.ErrNotImplemented},
		{"nondistributable", config, []ocispec.Descriptor{layer(anyDigest, 1, ociNondistributable+"+zstd")}, errdefs.ErrNotImplemented},
	} {
		err := checkManifest(&ocispec.Manifest{Config: c.config, Layers: c.layers})
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

func TestParseConfig(t *testing.T) {
	one := `["` + anyDigest + `"]`
	for _, c := range []struct {
		name, raw string
		layers    int
		want      error
	}{
		{"plain", `{"rootfs":{"type":"layers","diff_ids":` + one + `}}`, 1, nil},
		{"no layers", `{"rootfs":{}}`, 0, nil},
		{"too few", `{"rootfs":{"type":"layers","diff_ids":[]}}`, 1, errdefs.ErrDataLoss},
		{"too many", `{"rootfs":{"type":"layers","diff_ids":` + one + `}}`, 0, errdefs.ErrDataLoss},
		{"other type", `{"rootfs":{"type":"tree","diff_ids":` + one + `}}`, 1, errdefs.ErrDataLoss},
		{"bad diff ID", `{"rootfs":{"type":"layers","diff_ids":["sha256:../x"]}}`, 1, errdefs.ErrDataLoss},
		{"two rootfs", `{"rootfs":{"type":"layers","diff_ids":` + one + `},"RootFS":{}}`, 1, errdefs.ErrDataLoss},
		{"labels in two cases", `{"config":{"Labels":{"a":"","A":""}},"rootfs":{}}`, 0, nil},
		{"wrong type", `{"config":{"Cmd":"sh"},"rootfs":{}}`, 0, errdefs.ErrDataLoss},
		{"nonsense", `%PDF`, 0, errdefs.ErrDataLoss},
	} {
		if _, err := parseConfig([]byte(c.raw), c.layers); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

func TestErrorsNameTheDigest(t *testing.T) {
	raw := []byte(`{"schemaVersion":2,"manifests":[],"layers":[]}`)
	if _, err := parseDocument("", raw); err == nil || !strings.Contains(err.Error(), string(digest.FromBytes(raw))) {
		t.Error(err)
	}
	if _, err := parseConfig(raw, 1); err == nil || !strings.Contains(err.Error(), string(digest.FromBytes(raw))) {
		t.Error(err)
	}
}

func TestOCIForm(t *testing.T) {
	tar := tarOf(t, "f", "x")
	b := build(t, hostPlatform,
		gzipLayer(t, "g", "y"),
		layerOf{tar, tar, ocispec.MediaTypeImageLayer},
		layerOf{tar, zstded(t, tar), ocispec.MediaTypeImageLayerZstd}).docker(t)
	doc, err := parseDocument(b.mediaType, b.manifest)
	if err != nil {
		t.Fatal(err)
	}
	oci, err := doc.ociForm()
	if err != nil {
		t.Fatal(err)
	}
	again, err := doc.ociForm()
	if err != nil || again.desc.Digest != oci.desc.Digest {
		t.Errorf("not the same twice: %v", err)
	}
	if oci.desc.MediaType != ocispec.MediaTypeImageManifest || oci.manifest.Config.MediaType != ocispec.MediaTypeImageConfig || oci.manifest.Config.Digest != b.config {
		t.Errorf("%+v", oci.manifest)
	}
	for i, want := range []string{ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerZstd} {
		if l := oci.manifest.Layers[i]; l.MediaType != want || l.Digest != b.layers[i].Digest || l.Size != b.layers[i].Size {
			t.Errorf("layer %d: %+v", i, l)
		}
	}
	if self, _ := oci.ociForm(); self != oci {
		t.Error("a manifest in OCI's form has another one")
	}
}

func FuzzParseDocument(f *testing.F) {
	b := build(f, hostPlatform, gzipLayer(f, "a", "b"))
	f.Add(b.mediaType, b.manifest)
	f.Add(dockerManifest, build(f, hostPlatform, gzipLayer(f, "a", "b")).docker(f).manifest)
	f.Add(ocispec.MediaTypeImageIndex, indexOf(f, b.desc()))
	f.Add("", []byte(`{"schemaVersion":2,"manifests":[{"digest":"sha256:0"}]}`))
	f.Fuzz(func(t *testing.T, mediaType string, raw []byte) {
		doc, err := parseDocument(mediaType, raw)
		if err != nil {
			return
		}
		if (doc.index == nil) == (doc.manifest == nil) {
			t.Fatal("neither an index nor a manifest, or both")
		}
		if doc.index != nil {
			candidates(doc.index, hostPlatform)
			platformsOf(doc.index)
			return
		}
		if checkManifest(doc.manifest) != nil {
			return
		}
		oci, err := doc.ociForm()
		if err != nil {
			t.Fatalf("a checked manifest has no OCI form: %v", err)
		}
		if err := checkManifest(oci.manifest); err != nil {
			t.Fatalf("its OCI form fails the check: %v", err)
		}
	})
}

func FuzzParseConfig(f *testing.F) {
	b := build(f, hostPlatform, gzipLayer(f, "a", "b"))
	f.Add(b.blobs[b.config], 1)
	f.Add([]byte(`{"rootfs":{"type":"layers","diff_ids":[]}}`), 0)
	f.Fuzz(func(t *testing.T, raw []byte, layers int) {
		c, err := parseConfig(raw, layers)
		if err != nil {
			return
		}
		if len(c.RootFS.DiffIDs) != layers {
			t.Fatalf("%d diff IDs for %d layers", len(c.RootFS.DiffIDs), layers)
		}
		for _, d := range c.RootFS.DiffIDs {
			if !isSHA256Hex(d.Encoded()) {
				t.Fatalf("diff ID %q", d)
			}
		}
		platformRank(hostPlatform, c.Platform)
		platformString(c.Platform)
	})
}

func FuzzParseIndexFile(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"manifests":[]}`))
	f.Add([]byte(fmt.Sprintf(`{"schemaVersion":2,"x":1,"manifests":[{"mediaType":"a","digest":%q,"size":1,"y":2}]}`, anyDigest)))
	chain, _ := json.Marshal([]ocispec.Descriptor{{Digest: anyDigest, Size: 1}})
	ours, _ := json.Marshal(ocispec.Index{Manifests: []ocispec.Descriptor{{Digest: anyDigest, Size: 1, Annotations: map[string]string{
		annotationChain: string(chain), annotationID: anyDigest, ocispec.AnnotationRefName: "docker.io/library/a:latest"}}}})
	f.Add([]byte(strings.Replace(string(ours), `"schemaVersion":0`, `"schemaVersion":2`, 1)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		x, err := parseIndexFile(raw)
		if err != nil {
			return
		}
		for _, i := range x.images() {
			if !isSHA256Hex(i.id.Encoded()) {
				t.Fatalf("image %q", i.id)
			}
		}
		out, err := x.marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseIndexFile(out)
		if err != nil || len(again.entries) != len(x.entries) || len(again.fields) < len(x.fields) {
			t.Fatalf("written back: %v\n%s\n%s", err, raw, out)
		}
	})
}
