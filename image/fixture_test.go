package image

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/inboard/engine/enginetest"
	"github.com/inboard/engine/layer"
)

// tarOf makes a layer's tar of one file.
func tarOf(t testing.TB, name, content string) []byte {
	t.Helper()
	e := enginetest.File(name, content)
	e.ModTime = time.Unix(1e9, 0)
	b, err := enginetest.Tar(e)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// bulk is text that compresses badly enough to take many reads.
func bulk(seed, size int) string {
	b := make([]byte, size)
	x := uint64(seed)*2654435761 + 1
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x)
	}
	return string(b)
}

func gzipped(t testing.TB, b []byte) []byte { return compressed(t, enginetest.Gzip, b) }

func zstded(t testing.TB, b []byte) []byte { return compressed(t, enginetest.Zstd, b) }

func compressed(t testing.TB, c enginetest.Compression, b []byte) []byte {
	t.Helper()
	out, err := c.Compress(b)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// built is an image as a registry serves it.
type built struct {
	mediaType string
	manifest  []byte
	blobs     map[digest.Digest][]byte // config and layers
	config    digest.Digest
	layers    []ocispec.Descriptor
	diffIDs   []digest.Digest
	platform  ocispec.Platform
}

func (b *built) desc() ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: b.mediaType, Digest: digest.FromBytes(b.manifest), Size: int64(len(b.manifest)), Platform: &b.platform}
}

// layerOf is one layer to build with: a tar and how it is served.
type layerOf struct {
	tar       []byte
	packed    []byte
	mediaType string
}

func gzipLayer(t testing.TB, name, content string) layerOf {
	b := tarOf(t, name, content)
	return layerOf{b, gzipped(t, b), ocispec.MediaTypeImageLayerGzip}
}

var hostPlatform = func() ocispec.Platform {
	p, _ := parsePlatform("")
	p.Variant = ""
	return p
}()

// build makes an OCI image; docker changes it into Docker's form.
func build(t testing.TB, p ocispec.Platform, layers ...layerOf) *built {
	t.Helper()
	b := &built{mediaType: ocispec.MediaTypeImageManifest, blobs: map[digest.Digest][]byte{}, platform: p}
	config := ocispec.Image{Platform: p, RootFS: ocispec.RootFS{Type: "layers"}}
	created := time.Unix(1.2e9, 0).UTC()
	config.Created = &created
	config.Config.Cmd = []string{"/hello"}
	config.Config.Labels = map[string]string{"layers": fmt.Sprint(len(layers))}
	for _, l := range layers {
		d := digest.FromBytes(l.packed)
		b.blobs[d] = l.packed
		b.layers = append(b.layers, ocispec.Descriptor{MediaType: l.mediaType, Digest: d, Size: int64(len(l.packed))})
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(l.tar))
	}
	b.diffIDs = config.RootFS.DiffIDs
	b.seal(t, config)
	return b
}

// seal makes config and manifest anew.
func (b *built) seal(t testing.TB, config any) {
	t.Helper()
	raw := marshal(t, config)
	delete(b.blobs, b.config)
	b.config = digest.FromBytes(raw)
	b.blobs[b.config] = raw
	configType := ocispec.MediaTypeImageConfig
	if b.mediaType == dockerManifest {
		configType = dockerConfig
	}
	b.manifest = marshal(t, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: b.mediaType,
		Config:    ocispec.Descriptor{MediaType: configType, Digest: b.config, Size: int64(len(raw))},
		Layers:    b.layers,
	})
}

func (b *built) docker(t testing.TB) *built {
	t.Helper()
	b.mediaType = dockerManifest
	for i := range b.layers {
		b.layers[i].MediaType = map[string]string{
			ocispec.MediaTypeImageLayer:     dockerLayer,
			ocispec.MediaTypeImageLayerGzip: dockerLayerGzip,
			ocispec.MediaTypeImageLayerZstd: dockerLayerZstd,
		}[b.layers[i].MediaType]
	}
	b.seal(t, json.RawMessage(b.blobs[b.config]))
	return b
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// indexOf makes an OCI index.
func indexOf(t testing.TB, manifests ...ocispec.Descriptor) []byte {
	return marshal(t, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: manifests})
}

// fakeRegistry is a registry that a test can have answer in its stead.
type fakeRegistry struct {
	*enginetest.Registry
	t       testing.TB
	host    string
	backend http.Handler // answers rightly, and records nothing
}

func newFakeRegistry(t testing.TB) *fakeRegistry {
	t.Helper()
	r := enginetest.NewRegistry(t)
	return &fakeRegistry{r, t, r.Host, r.Handler()}
}

// answer has front answer the requests that it says it has, instead of what
// answered before, and forgets the requests so far.
func (f *fakeRegistry) answer(front func(w http.ResponseWriter, r *http.Request) bool) {
	f.Reset()
	if front != nil {
		f.Answer(enginetest.Any, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if !front(w, r) {
				next.ServeHTTP(w, r)
			}
		})
	}
}

// push serves an image under repository:tag and gives its reference.
func (f *fakeRegistry) push(repository, tag string, b *built) string {
	f.t.Helper()
	for _, raw := range b.blobs {
		f.PushBlob(f.t, repository, raw)
	}
	f.PushManifest(f.t, repository, tag, b.mediaType, b.manifest)
	return f.host + "/" + repository + ":" + tag
}

// testStore is a store with its layers, both in a directory of their own.
type testStore struct {
	*Store
	layers *layer.Store
}

func openStore(t testing.TB, dir string) testStore {
	t.Helper()
	layers, err := layer.Open(filepath.Join(dir, "layers"), layer.Options{Form: layer.FormDirectory})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { layers.Close() })
	s, err := Open(t.Context(), filepath.Join(dir, "images"), layers)
	if err != nil {
		t.Fatal(err)
	}
	s.patience = patience{attempts: 4, pause: time.Millisecond, stall: time.Minute}
	return testStore{s, layers}
}

func newStore(t testing.TB) testStore { return openStore(t, t.TempDir()) }

// anonymous keeps tests away from the credentials of whoever runs them.
var anonymous = PullOptions{Keychain: keychain{}}

// keychain knows registries by name.
type keychain map[string]authn.AuthConfig

func (k keychain) Resolve(r authn.Resource) (authn.Authenticator, error) {
	return authn.FromConfig(k[r.RegistryStr()]), nil
}

func (s testStore) mustPull(t testing.TB, ref string) *Image {
	t.Helper()
	i, err := s.Pull(t.Context(), ref, anonymous)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// contents lists what lies in a store, apart from its locks and empty
// directories: blobs, claims, holds, and layers by diff ID.
func (s testStore) contents(t testing.TB) []string {
	t.Helper()
	var names []string
	for _, d := range []string{".", "blobs/sha256", "claims", "fetching", "holds"} {
		entries, err := os.ReadDir(s.path(d))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if n := filepath.Join(d, e.Name()); !slices.Contains([]string{"blobs", "claims", "fetching", "holds", "lock", "index.json", "oci-layout"}, n) {
				names = append(names, n)
			}
		}
	}
	layers, err := s.layers.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		names = append(names, "layer "+string(l.DiffID()))
	}
	slices.Sort(names)
	return names
}

// mustBeEmpty checks that nothing is left of anything.
func (s testStore) mustBeEmpty(t testing.TB) {
	t.Helper()
	if left := s.contents(t); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	images, err := s.List(t.Context())
	if err != nil || len(images) > 0 {
		t.Errorf("images: %v, %v", images, err)
	}
}

func mustUnmarshal(t testing.TB, raw []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(raw, v); err != nil {
		t.Fatal(err)
	}
}
