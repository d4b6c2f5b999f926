//go:build linux

package realimage

import (
	"archive/tar"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// TestExtraLayer reads the second layer's own files back from their archive.
func TestExtraLayer(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, for device nodes")
	}
	if _, err := exec.LookPath("tar"); err != nil {
		t.Skip("not installed: GNU tar")
	}
	dir := t.TempDir()
	root := filepath.Join(dir, "extra")
	if err := writeExtra(root); err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(dir, "extra.tar")
	if err := runTar(t.Context(), io.Discard, "--sparse", "-cf", archive, "-C", root, "."); err != nil {
		t.Fatal(err)
	}
	entries := readTar(t, archive)

	for name, typeflag := range map[string]byte{
		"etc/.wh.issue.net":                     tar.TypeReg,
		"usr/share/doc/.wh.bash":                tar.TypeReg,
		"usr/share/doc/base-files/.wh..wh..opq": tar.TypeReg,
		"usr/share/doc/sed/copyright/":          tar.TypeDir,
		"srv/extra/fifo":                        tar.TypeFifo,
		"srv/extra/null":                        tar.TypeChar,
		"srv/extra/disk":                        tar.TypeBlock,
		"srv/extra/dangling":                    tar.TypeSymlink,
		"srv/extra/three":                       tar.TypeLink,
		"srv/extra/" + strings.Repeat("n", 255): tar.TypeReg,
	} {
		h := entries["./"+name]
		if h == nil || h.Typeflag != typeflag {
			t.Errorf("%s: %+v, want type %q", name, h, typeflag)
		}
	}
	if h := entries["./srv/extra/capable"]; h.PAXRecords["SCHILY.xattr.security.capability"] != string(netRaw()) {
		t.Errorf("capabilities: %+v", h)
	}
	if h := entries["./srv/extra/set-uid"]; h.Mode != 0o4755 {
		t.Errorf("set-uid: mode %o", h.Mode)
	}
	if h := entries["./srv/extra/disk"]; h.Devmajor != 259 || h.Devminor != 70000 {
		t.Errorf("block device: %d:%d", h.Devmajor, h.Devminor)
	}
	if h := entries["./srv/extra/block-and-one"]; h.Uid != 2_000_000_000 || !h.ModTime.Equal(time.Unix(4_102_444_800, 999_999_999)) {
		t.Errorf("large numbers: %+v", h)
	}
	if h := entries["./srv/extra/sparse"]; h.Size != 8<<20 {
		t.Errorf("sparse file: size %d", h.Size)
	}
	if info, err := os.Stat(archive); err != nil || info.Size() > 4<<20 {
		t.Errorf("holes are in the archive: %v, %v", info.Size(), err)
	}
}

func readTar(t *testing.T, path string) map[string]*tar.Header {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	entries := map[string]*tar.Header{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return entries
		}
		if err != nil {
			t.Fatal(err)
		}
		entries[h.Name] = h
	}
}

func TestWriteOpen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "layout")
	want, err := random.Image(1000, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := Write(dir, want); err != nil {
		t.Fatal(err)
	}
	got, err := (&Image{Layout: dir}).Open()
	if err != nil {
		t.Fatal(err)
	}
	a, errA := want.Digest()
	b, errB := got.Digest()
	if a != b || errA != nil || errB != nil {
		t.Errorf("wrote %v, %v, read %v, %v", a, errA, b, errB)
	}
	if _, err := (&Image{Layout: t.TempDir()}).Open(); err == nil {
		t.Error("opened a directory that is no layout")
	}
}

// TestKey shows that another toolchain makes another image.
func TestKey(t *testing.T) {
	goroot := t.TempDir()
	keys := []string{key(goroot)}
	for _, version := range []string{"go1.26.8", "go1.26.9"} {
		if err := os.WriteFile(filepath.Join(goroot, "VERSION"), []byte(version), 0o644); err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key(goroot))
	}
	slices.Sort(keys)
	if len(slices.Compact(keys)) != 3 {
		t.Errorf("keys %q", keys)
	}
}

func TestRegistry(t *testing.T) {
	for _, program := range []string{"docker-registry", "skopeo"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip("not installed:", program)
		}
	}
	dir := t.TempDir()
	server, err := Serve(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	layout := filepath.Join(dir, "layout")
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	if err := Write(layout, image); err != nil {
		t.Fatal(err)
	}
	ref, err := server.Push(t.Context(), layout, "some/repository")
	if err != nil {
		t.Fatal(err)
	}
	if want := server.Addr + "/some/repository:" + Tag; ref != want {
		t.Errorf("reference %q, want %q", ref, want)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodHead, "http://"+server.Addr+"/v2/some/repository/manifests/"+Tag, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", string(types.OCIManifestSchema1))
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("manifest: %s", response.Status)
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	if _, err := http.Get("http://" + server.Addr + "/v2/"); err == nil {
		t.Error("still answers after Close")
	}
}

func TestServeError(t *testing.T) {
	if _, err := exec.LookPath("docker-registry"); err != nil {
		t.Skip("not installed: docker-registry")
	}
	if _, err := Serve(filepath.Join(t.TempDir(), "nowhere")); err == nil {
		t.Error("served from a directory that is not there")
	}
}
