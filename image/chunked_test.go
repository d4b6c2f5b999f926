package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/inboard/engine/layer"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// chunked are layers that can be fetched in pieces, as their own programs have
// written them; testdata/README.md says how. Here they are what they are for all
// who do not know of that: tars, compressed with gzip or zstd, with a table of
// contents at their end. Of eStargz the table and the landmark are members of the
// tar, so that a container sees them, with containerd and Docker too when those
// unpack the layer; of zstd:chunked they are frames that decompressors skip.
var chunked = map[string]struct {
	file, mediaType string
	own             []string // files that the format adds
}{
	"eStargz":               {"estargz.tar.gz", ocispec.MediaTypeImageLayerGzip, []string{".no.prefetch.landmark", "stargz.index.json"}},
	"eStargz with priority": {"estargz-prefetch.tar.gz", ocispec.MediaTypeImageLayerGzip, []string{".prefetch.landmark", "stargz.index.json"}},
	"eStargz, table apart":  {"estargz-external.tar.gz", ocispec.MediaTypeImageLayerGzip, []string{".no.prefetch.landmark"}},
	"containerd's zstd":     {"estargz.tar.zst", ocispec.MediaTypeImageLayerZstd, []string{".no.prefetch.landmark"}},
	"podman's zstd":         {"podman.tar.zst", ocispec.MediaTypeImageLayerZstd, nil},
}

// chunkedFiles is what each of them holds.
var chunkedFiles = []string{"bin", "bin/tool", "etc", "etc/conf", "etc/link", "large"}

// chunkedLayer reads one. Its tar is made by other decompressors.
func chunkedLayer(t testing.TB, name string) layerOf {
	t.Helper()
	packed, err := os.ReadFile(filepath.Join("testdata", chunked[name].file))
	if err != nil {
		t.Fatal(err)
	}
	var r io.Reader
	if chunked[name].mediaType == ocispec.MediaTypeImageLayerGzip {
		r, err = gzip.NewReader(bytes.NewReader(packed))
	} else {
		r, err = zstd.NewReader(bytes.NewReader(packed))
	}
	if err != nil {
		t.Fatal(err)
	}
	unpacked, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return layerOf{unpacked, packed, chunked[name].mediaType}
}

// TestChunked takes them in by each way that there is, verified like others.
func TestChunked(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: layers as directories")
	}
	f := newFakeRegistry(t)
	for name, c := range chunked {
		t.Run(name, func(t *testing.T) {
			l := chunkedLayer(t, name)
			want := append(slices.Clone(chunkedFiles), c.own...)
			slices.Sort(want)
			if got := tarNames(t, l.tar); !slices.Equal(got, want) {
				t.Fatalf("the tar has %v, not %v", got, want)
			}
			i := imageOf(t, []string{"app:v1"}, l)
			i.layers[0].Annotations = map[string]string{
				"containerd.io/snapshot/stargz/toc.digest":            string(digest.FromString("any")),
				"io.github.containers.zstd-chunked.manifest-checksum": string(digest.FromString("any")),
			}
			i.seal(t, mustImage(t, i.built))
			for way, bring := range map[string]func(s testStore) *Image{
				"pull": func(s testStore) *Image { return s.mustPull(t, f.push("app", "v1", i.built)) },
				"docker pull": func(s testStore) *Image {
					return s.mustPull(t, f.push("app", "v2", build(t, hostPlatform, l).docker(t)))
				},
				"load": func(s testStore) *Image {
					archive := ociArchive(t, []ocispec.Descriptor{named(i.desc(), annotationImageName, "app:v1")}, all(i.built)...)
					return s.mustLoad(t, pack(t, archive...), LoadOptions{})[0].Image
				},
				"load of a docker-archive": func(s testStore) *Image {
					return s.mustLoad(t, pack(t, compressedArchive(t, i)...), LoadOptions{})[0].Image
				},
			} {
				s := newStore(t)
				got := bring(s)
				if !slices.Equal(got.Config().RootFS.DiffIDs, i.diffIDs) {
					t.Errorf("%s: %v", way, got.Config().RootFS.DiffIDs)
				}
				if raw, err := os.ReadFile(s.blobPath(i.layers[0].Digest)); err != nil || !bytes.Equal(raw, l.packed) {
					t.Errorf("%s: the blob is not as it was: %v", way, err)
				}
				layers, err := got.Layers()
				if err != nil {
					t.Fatal(err)
				}
				if names := layerNames(t, layers[0]); !slices.Equal(names, want) {
					t.Errorf("%s: %v, not %v", way, names, want)
				}
			}
			// One bit of the table or the footer is not for decompressors to see.
			for _, at := range []int{len(l.packed) - 1, len(l.packed) - 20, len(l.packed) / 2} {
				bad := bytes.Clone(l.packed)
				bad[at] ^= 1
				s := newStore(t)
				ref := f.push("bad", "v1", i.built)
				f.answer(func(w http.ResponseWriter, r *http.Request) bool {
					if !isBlob(r, i.layers[0].Digest) {
						return false
					}
					w.Write(ranged(w, r, bad))
					return true
				})
				if _, err := s.Pull(t.Context(), ref, anonymous); err == nil || !strings.Contains(err.Error(), string(i.layers[0].Digest)) {
					t.Errorf("byte %d of %d changed: %v", at, len(bad), err)
				}
				f.answer(nil)
				s.mustBeEmpty(t)
			}
		})
	}
}

func mustImage(t testing.TB, b *built) (config ocispec.Image) {
	t.Helper()
	mustUnmarshal(t, b.blobs[b.config], &config)
	return config
}

// tarNames lists a tar without directories' slashes.
func tarNames(t testing.TB, raw []byte) (names []string) {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(raw)); ; {
		h, err := r.Next()
		if err == io.EOF {
			slices.Sort(names)
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, strings.TrimSuffix(h.Name, "/"))
	}
}

// layerNames lists the files of a layer.
func layerNames(t testing.TB, l *layer.Layer) (names []string) {
	t.Helper()
	m, err := l.Mount(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	err = filepath.WalkDir(m.Path(), func(path string, _ os.DirEntry, err error) error {
		if name, _ := filepath.Rel(m.Path(), path); name != "." {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}
