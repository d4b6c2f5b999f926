package enginetest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// allKinds has an entry of each kind.
var allKinds = []Entry{
	Dir("d").WithMode(0o1777), File("d/f", "data").WithOwner(5, 6).WithXattr("user.a", "1").WithXattr("user.b", "2"),
	Program("p", []byte("\x7fELF")).WithMode(0o4755), Symlink("s", "d/f"), Link("l", "d/f"), CharDevice("c", 1, 3), BlockDevice("b", 7, 0),
	Fifo("pipe"), Whiteout("d/gone"), Opaque("d"), {Header: tar.Header{Typeflag: tar.TypeReg, Name: "../../etc/passwd"}, Data: "hostile"},
}

func TestEntries(t *testing.T) {
	data, err := Tar(allKinds...)
	if err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(bytes.NewReader(data))
	var got []string
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, h.Name)
		content, _ := io.ReadAll(r)
		switch h.Name {
		case "d/f":
			if string(content) != "data" || h.Uid != 5 || h.Gid != 6 || h.PAXRecords["SCHILY.xattr.user.a"] != "1" || h.PAXRecords["SCHILY.xattr.user.b"] != "2" {
				t.Errorf("%+v, %q", h, content)
			}
		case "c":
			if h.Typeflag != tar.TypeChar || h.Devmajor != 1 || h.Devminor != 3 {
				t.Errorf("%+v", h)
			}
		case "p":
			if h.Mode != 0o4755 {
				t.Errorf("%+v", h)
			}
		}
	}
	want := []string{"d/", "d/f", "p", "s", "l", "c", "b", "pipe", "d/.wh.gone", "d/.wh..wh..opq", "../../etc/passwd"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	raw := bytes.Repeat([]byte("x"), 1000)
	if data, err := Tar(File("a", "b"), Entry{Raw: raw}, File("c", "d")); err != nil || !bytes.Equal(data[1024:2024], raw) {
		t.Errorf("a raw entry is not where it should be: %v", err)
	}
	if _, err := Tar(Entry{Header: tar.Header{Name: "n", Typeflag: tar.TypeReg, Uid: -1, Format: tar.FormatUSTAR}}); err == nil {
		t.Error("an entry that cannot be written gives no error")
	}
}

func TestImage(t *testing.T) {
	for _, docker := range []bool{false, true} {
		b, err := Image{
			Layers: []Layer{
				{Entries: []Entry{File("a", "1")}}, {Entries: []Entry{File("b", "2")}, Compression: Zstd}, {Entries: []Entry{File("c", "3")}, Compression: Uncompressed},
			},
			Config: ocispec.ImageConfig{Cmd: []string{"x"}}, Platform: ocispec.Platform{OS: "plan9", Architecture: "mips"}, Docker: docker,
		}.Build()
		if err != nil {
			t.Fatal(err)
		}
		img, err := b.Image()
		if err != nil {
			t.Fatal(err)
		}
		config, err := img.ConfigFile()
		if err != nil || config.OS != "plan9" || config.Config.Cmd[0] != "x" || len(config.RootFS.DiffIDs) != 3 {
			t.Errorf("%+v, %v", config, err)
		}
		for n, unpack := range []func([]byte) ([]byte, error){gunzip, unzstd, func(data []byte) ([]byte, error) { return data, nil }} {
			l := b.Layers[n]
			if data, err := unpack(l.Blob); err != nil || !bytes.Equal(data, l.Tar) || config.RootFS.DiffIDs[n].String() != string(l.DiffID()) {
				t.Errorf("layer %d: %v", n, err)
			}
			if l.Descriptor.MediaType != Compression(n).mediaType(docker) || l.Descriptor.Digest != digest.FromBytes(l.Blob) {
				t.Errorf("layer %d: %+v", n, l.Descriptor)
			}
		}
		again, err := img.RawManifest()
		if err != nil || !bytes.Equal(again, b.Manifest) {
			t.Errorf("%v: %s", err, again)
		}
		if err := b.Seal([]byte(`{"os":"inferno"}`)); err != nil {
			t.Fatal(err)
		}
		if len(b.Blobs) != 4 || string(b.Blobs[b.Config]) != `{"os":"inferno"}` {
			t.Errorf("%d blobs", len(b.Blobs))
		}
	}
	// What go-containerregistry itself makes of the layers.
	b, err := Image{Layers: []Layer{NewLayer(allKinds...), {Entries: allKinds[:1], Compression: Zstd}}}.Build()
	if err != nil {
		t.Fatal(err)
	}
	img, err := b.Image()
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil || len(layers) != 2 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	for n, l := range layers {
		id, err := l.DiffID()
		if err != nil || id.String() != string(b.Layers[n].DiffID()) {
			t.Errorf("layer %d: %s, %v", n, id, err)
		}
		r, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(data, b.Layers[n].Tar) {
			t.Errorf("layer %d: %d bytes, %v", n, len(data), err)
		}
		r.Close()
	}
}

func gunzip(data []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func unzstd(data []byte) ([]byte, error) {
	r, err := zstd.NewReader(nil)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return r.DecodeAll(data, nil)
}

// TestLayout has the layout and the archive of an image and of an index.
func TestLayout(t *testing.T) {
	image := Image{Layers: []Layer{NewLayer(File("a", "b"))}}
	other := image
	other.Platform = ocispec.Platform{OS: "linux", Architecture: "riscv64"}
	images := map[string]Fixture{"registry.example/app:v1": image, "registry.example/all:v2": Index{Images: []Image{image, other}}, "@nameless": other}
	dir := filepath.Join(t.TempDir(), "layout")
	if err := Layout(dir, images); err != nil {
		t.Fatal(err)
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	if list, err := index.IndexManifest(); err != nil || len(list.Manifests) != 3 || list.Manifests[1].Annotations[ocispec.AnnotationRefName] != "v2" {
		t.Errorf("%+v, %v", list, err)
	}
	data, err := Archive(images)
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	var manifest []struct {
		Config           string
		RepoTags, Layers []string
	}
	r := tar.NewReader(bytes.NewReader(data))
	for h, err := r.Next(); err == nil; h, err = r.Next() {
		files = append(files, h.Name)
		if h.Name == "manifest.json" {
			if err := json.NewDecoder(r).Decode(&manifest); err != nil {
				t.Error(err)
			}
		}
	}
	if len(manifest) != 2 || len(manifest[1].RepoTags) != 1 || manifest[1].RepoTags[0] != "registry.example/app:v1" || len(manifest[0].RepoTags) != 0 {
		t.Errorf("%+v", manifest)
	}
	for _, m := range manifest {
		for _, name := range append(m.Layers, m.Config) {
			if !slices.Contains(files, name) {
				t.Errorf("%s is not in the archive", name)
			}
		}
	}
	var laid int
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			laid++
		}
		return nil
	})
	if laid != len(files)-2 {
		t.Errorf("%d files in the layout, %q in the archive", laid, files)
	}
	if _, err := Archive(map[string]Fixture{"a:b": failing{}}); !errors.Is(err, fs.ErrInvalid) {
		t.Error(err)
	}
}

type failing struct{}

func (failing) Build() (*Built, error) { return nil, fs.ErrInvalid }
