package enginetest

import (
	"encoding/json"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// annotationImageName is containerd's and Docker's for an image's whole name.
const annotationImageName = "io.containerd.image.name"

// Archive gives a tar archive of images as docker save writes it since version
// 25: an OCI image layout, with a manifest.json for readers of the older form.
// Images are by name, as "registry.example/app:v1"; names that begin with "@"
// give none.
func Archive(images map[string]Fixture) ([]byte, error) {
	files, err := layoutFiles(images)
	if err != nil {
		return nil, err
	}
	var entries []Entry
	for _, dir := range []string{"blobs", "blobs/sha256"} {
		entries = append(entries, Dir(dir))
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		entries = append(entries, File(name, string(files[name])))
	}
	return Tar(entries...)
}

// Layout writes an OCI image layout of images, by name as Archive has them, to a
// directory, which it makes.
func Layout(dir string, images map[string]Fixture) error {
	files, err := layoutFiles(images)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		return err
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, filepath.FromSlash(name)), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// layoutFiles are the files of a layout by name.
func layoutFiles(images map[string]Fixture) (map[string][]byte, error) {
	files := map[string][]byte{ocispec.ImageLayoutFile: []byte(`{"imageLayoutVersion":"` + ocispec.ImageLayoutVersion + `"}`)}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	type item struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	items := []item{}
	for _, name := range slices.Sorted(maps.Keys(images)) {
		b, err := images[name].Build()
		if err != nil {
			return nil, err
		}
		b.addTo(files)
		d := b.Descriptor()
		var tags []string
		if !strings.HasPrefix(name, "@") {
			tags = []string{name}
			d.Annotations = map[string]string{annotationImageName: name, ocispec.AnnotationRefName: tagOf(name)}
		}
		index.Manifests = append(index.Manifests, d)
		if len(b.Images) == 0 {
			i := item{Config: blobPath(b.Config), RepoTags: tags, Layers: []string{}}
			for _, l := range b.Layers {
				i.Layers = append(i.Layers, blobPath(l.Descriptor.Digest))
			}
			items = append(items, i)
		}
	}
	var err error
	if files[ocispec.ImageIndexFile], err = json.Marshal(index); err != nil {
		return nil, err
	}
	files["manifest.json"], err = json.Marshal(items)
	return files, err
}

// addTo adds the blobs of b, and of its images.
func (b *Built) addTo(files map[string][]byte) {
	files[blobPath(b.Digest())] = b.Manifest
	for d, data := range b.Blobs {
		files[blobPath(d)] = data
	}
	for _, i := range b.Images {
		i.addTo(files)
	}
}

func blobPath(d digest.Digest) string {
	return path.Join(ocispec.ImageBlobsDir, string(d.Algorithm()), d.Encoded())
}

// tagOf is what follows the last colon of a name, if that is behind the slashes.
func tagOf(name string) string {
	if at := strings.LastIndexByte(name, ':'); at > strings.LastIndexByte(name, '/') {
		return name[at+1:]
	}
	return "latest"
}
