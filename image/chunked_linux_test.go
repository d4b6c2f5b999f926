package image

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestChunkedFromPrograms has podman and skopeo push an image as zstd:chunked to
// Debian's registry, and pulls it from there.
func TestChunkedFromPrograms(t *testing.T) {
	needRoom(t, "podman", "skopeo", "docker-registry")
	host := dockerRegistry(t)
	s := newSubject(t)
	dir := t.TempDir()
	in := filepath.Join(dir, "in.tar")
	s.copyTo(t, "docker-archive:"+in+":docker.io/some/app:v2")
	podman := func(t *testing.T, args ...string) {
		output(t, room(append([]string{"podman", "--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"),
			"--tmpdir", filepath.Join(dir, "tmp"), "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none"}, args...)...))
	}
	podman(t, "load", "--quiet", "--input", in)
	for tag, push := range map[string]func(t *testing.T, to string){
		"podman": func(t *testing.T, to string) {
			podman(t, "push", "--quiet", "--tls-verify=false", "--compression-format", "zstd:chunked", "docker.io/some/app:v2", to)
		},
		"skopeo": func(t *testing.T, to string) {
			skopeo(t, "copy", "--dest-tls-verify=false", "--dest-compress-format=zstd:chunked", "--format=oci", "docker-archive:"+in, "docker://"+to)
		},
	} {
		t.Run(tag, func(t *testing.T) {
			push(t, host+"/app:"+tag)
			into := newStore(t)
			i := into.mustPull(t, host+"/app:"+tag)
			if !slices.Equal(i.Config().RootFS.DiffIDs, s.diffIDs) {
				t.Errorf("diff IDs %v, not %v", i.Config().RootFS.DiffIDs, s.diffIDs)
			}
			if _, err := i.Layers(); err != nil {
				t.Error(err)
			}
			for _, l := range i.Manifest().Layers {
				raw, err := os.ReadFile(into.blobPath(l.Digest))
				if err != nil {
					t.Fatal(err)
				}
				if l.MediaType != ocispec.MediaTypeImageLayerZstd || !bytes.HasSuffix(raw, []byte("GnUlInUx")) { // its footer ends so
					t.Errorf("that is no zstd:chunked: %+v, %q", l, raw[len(raw)-40:])
				}
			}
		})
	}
}

// TestChunkedInDocker: what Docker shows of such layers in a container is what is
// shown here.
func TestChunkedInDocker(t *testing.T) {
	d := startDocker(t)
	zstd := !strings.HasPrefix(d.docker("version", "--format", "{{.Server.Version}}"), "20.")
	for name, c := range chunked {
		if c.mediaType == ocispec.MediaTypeImageLayerZstd && !zstd {
			continue // Docker has it since 23
		}
		i := imageOf(t, []string{"chunked:v1"}, chunkedLayer(t, name))
		archive := ociArchive(t, []ocispec.Descriptor{named(i.desc(), annotationImageName, "docker.io/library/chunked:v1")}, all(i.built)...)
		archive = append(archive, compressedArchive(t, i)...) // for a Docker that has no store of containerd's
		if err := os.WriteFile(d.path("in.tar"), pack(t, deduplicated(archive)...), 0o600); err != nil {
			t.Fatal(err)
		}
		d.docker("load", "--input", d.path("in.tar"))
		id := d.docker("create", "--network", "none", "chunked:v1", "/bin/tool")
		d.docker("export", "--output", d.path("out.tar"), id)
		out, err := exec.Command("tar", "-tf", d.path("out.tar")).Output()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for line := range bytes.Lines(out) {
			name := strings.Trim(strings.TrimSpace(string(line)), "/")
			top, _, _ := strings.Cut(name, "/")
			if slices.Contains([]string{".dockerenv", "dev", "proc", "sys"}, top) || slices.Contains([]string{"etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab"}, name) {
				continue // Docker's
			}
			got = append(got, name)
		}
		slices.Sort(got)
		want := append(slices.Clone(chunkedFiles), c.own...)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: Docker shows %v, not %v", name, got, want)
		}
		d.docker("rm", id)
		d.docker("rmi", "chunked:v1")
	}
}
