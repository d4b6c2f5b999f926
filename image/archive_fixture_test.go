package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// packed is a member of an archive to make: a file, or what kind says.
type packed struct {
	name, data string
	kind       byte
	link       string
}

func file(name string, data []byte) packed { return packed{name: name, data: string(data)} }

func pack(t testing.TB, members ...packed) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		h := &tar.Header{Name: m.name, Typeflag: m.kind, Linkname: m.link, Mode: 0o644, Size: int64(len(m.data))}
		if m.kind == 0 {
			h.Typeflag = tar.TypeReg
		}
		err := w.WriteHeader(h)
		if err == nil {
			_, err = io.WriteString(w, m.data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// tagged is an image with the names that an archive gives it.
type tagged struct {
	*built
	tars []layerOf
	tags []string
}

func imageOf(t testing.TB, tags []string, layers ...layerOf) tagged {
	return tagged{build(t, hostPlatform, layers...), layers, tags}
}

// item is the image in a manifest.json.
func (i tagged) item(config string, layers []string) map[string]any {
	return map[string]any{"Config": config, "RepoTags": i.tags, "Layers": layers}
}

// skopeoArchive are the members of a docker-archive as skopeo and podman write
// it: layers by their diff IDs, directories of links for old readers.
func skopeoArchive(t testing.TB, images ...tagged) (members []packed) {
	var items []map[string]any
	for n, i := range images {
		var names []string
		for at, l := range i.tars {
			name := digest.FromBytes(l.tar).Encoded() + ".tar"
			names = append(names, name)
			if !slices.ContainsFunc(members, func(m packed) bool { return m.name == name }) {
				members = append(members, file(name, l.tar))
			}
			members = append(members, packed{name: fmt.Sprintf("old%d-%d/layer.tar", n, at), kind: tar.TypeSymlink, link: "../" + name})
		}
		config := i.config.Encoded() + ".json"
		members = append(members, file(config, i.blobs[i.config]))
		items = append(items, i.item(config, names))
	}
	return append(members, file("manifest.json", marshal(t, items)), file("repositories", []byte("{}")))
}

// oldDockerArchive is as Docker 1.10 to 24 writes it: a directory for each
// layer, and links to those that were written before.
func oldDockerArchive(t testing.TB, images ...tagged) (members []packed) {
	var items []map[string]any
	first := make(map[digest.Digest]string)
	for n, i := range images {
		var names []string
		for at, l := range i.tars {
			dir := digest.FromString(fmt.Sprint(n, at)).Encoded()
			members = append(members, packed{name: dir + "/", kind: tar.TypeDir}, file(dir+"/VERSION", []byte("1.0")), file(dir+"/json", []byte("{}")))
			m := file(dir+"/layer.tar", l.tar)
			id := digest.FromBytes(l.tar)
			if of, ok := first[id]; ok {
				m = packed{name: m.name, kind: tar.TypeSymlink, link: "../" + of}
			} else {
				first[id] = m.name
			}
			members, names = append(members, m), append(names, m.name)
		}
		config := i.config.Encoded() + ".json"
		members = append(members, file(config, i.blobs[i.config]))
		items = append(items, i.item(config, names))
	}
	return append(members, file("manifest.json", marshal(t, items)), file("repositories", []byte("{}")))
}

// compressedArchive is as go-containerregistry's tarball package writes it.
func compressedArchive(t testing.TB, images ...tagged) (members []packed) {
	var items []map[string]any
	for _, i := range images {
		var names []string
		for _, l := range i.layers {
			name := l.Digest.Encoded() + ".tar.gz"
			names = append(names, name)
			members = append(members, file(name, i.blobs[l.Digest]))
		}
		members = append(members, file(string(i.config), i.blobs[i.config]))
		items = append(items, i.item(string(i.config), names))
	}
	return append(members, file("manifest.json", marshal(t, items)))
}

const layoutHead = `{"imageLayoutVersion":"1.0.0"}`

// ociArchive has the blobs by name, as tools that tar a directory write it.
func ociArchive(t testing.TB, descs []ocispec.Descriptor, blobs ...[]byte) []packed {
	byName := make(map[string][]byte)
	for _, b := range blobs {
		byName[blobName(digest.FromBytes(b))] = b
	}
	members := []packed{{name: "blobs/", kind: tar.TypeDir}, {name: "blobs/sha256/", kind: tar.TypeDir}}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		members = append(members, file(name, byName[name]))
	}
	index := marshal(t, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: descs})
	return append(members, file("index.json", index), file("oci-layout", []byte(layoutHead)))
}

// all are the blobs of images: manifests, configs and layers.
func all(images ...*built) (blobs [][]byte) {
	for _, b := range images {
		blobs = append(blobs, b.manifest)
		for _, d := range slices.Sorted(maps.Keys(b.blobs)) {
			blobs = append(blobs, b.blobs[d])
		}
	}
	return blobs
}

// named is a descriptor with annotations, given as name, value, name, value.
func named(d ocispec.Descriptor, annotations ...string) ocispec.Descriptor {
	d.Annotations = make(map[string]string)
	for n := 0; n < len(annotations); n += 2 {
		d.Annotations[annotations[n]] = annotations[n+1]
	}
	return d
}

// newDockerArchive is as Docker writes it since version 25: an OCI layout of
// plain tars, and a manifest.json that points into it.
func newDockerArchive(t testing.TB, images ...tagged) []packed {
	var descs []ocispec.Descriptor
	var blobs [][]byte
	var items []map[string]any
	for _, i := range images {
		plain := i.plain(t)
		var names []string
		for _, l := range plain.layers {
			names = append(names, blobName(l.Digest))
		}
		items = append(items, i.item(blobName(plain.config), names))
		blobs = append(blobs, all(plain)...)
		for _, tag := range i.tags {
			ref, err := ParseReference(tag)
			if err != nil {
				t.Fatal(err)
			}
			descs = append(descs, named(plain.desc(), annotationImageName, ref.String(), ocispec.AnnotationRefName, ref.Tag()))
		}
		if len(i.tags) == 0 {
			descs = append(descs, plain.desc())
		}
	}
	return append(ociArchive(t, descs, blobs...), file("manifest.json", marshal(t, items)))
}

// plain is the same image with layers that are not compressed.
func (i tagged) plain(t testing.TB) *built {
	var layers []layerOf
	for _, l := range i.tars {
		layers = append(layers, layerOf{l.tar, l.tar, ocispec.MediaTypeImageLayer})
	}
	return build(t, i.platform, layers...)
}

func (s testStore) mustLoad(t testing.TB, archive []byte, o LoadOptions) []Loaded {
	t.Helper()
	loaded, err := s.Load(t.Context(), bytes.NewReader(archive), o)
	if err != nil {
		t.Fatal(err)
	}
	return loaded
}

// names are what docker load would print.
func names(loaded []Loaded) string {
	var lines []string
	for _, l := range loaded {
		if l.Name == "" {
			lines = append(lines, string(l.Image.ID()))
		} else {
			lines = append(lines, l.Name)
		}
	}
	return strings.Join(lines, " ")
}
