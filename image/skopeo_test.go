package image

import (
	"bufio"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// need skips a test on a machine that lacks a program.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s is not installed", p)
		}
	}
}

func skopeo(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("skopeo", append([]string{"--insecure-policy"}, args...)...)
	var problem strings.Builder
	cmd.Stderr = &problem
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("skopeo %s: %v\n%s", strings.Join(args, " "), err, problem.String())
	}
	return out
}

// inspect checks that skopeo reads an image from our layout.
func inspect(t *testing.T, s testStore, name string, b *built) {
	t.Helper()
	var got struct{ Layers []digest.Digest }
	mustUnmarshal(t, skopeo(t, "inspect", "oci:"+s.dir+":"+name), &got)
	var want []digest.Digest
	for _, l := range b.layers {
		want = append(want, l.Digest)
	}
	if !slices.Equal(got.Layers, want) {
		t.Errorf("%s: skopeo sees layers %v, not %v", name, got.Layers, want)
	}
	if raw := skopeo(t, "inspect", "--config", "--raw", "oci:"+s.dir+":"+name); digest.FromBytes(raw) != b.config {
		t.Errorf("%s: skopeo sees config %s, not %s", name, digest.FromBytes(raw), b.config)
	}
}

// TestSkopeoReadsTheLayout, under every kind of name that an image here can have.
func TestSkopeoReadsTheLayout(t *testing.T) {
	need(t, "skopeo")
	f := newFakeRegistry(t)
	s := newStore(t)
	hub := PullOptions{Keychain: keychain{}, Transport: &recorder{to: f.backend}}
	oci := build(t, hostPlatform, gzipLayer(t, "a", "b"), gzipLayer(t, "c", "d"))
	docker := build(t, hostPlatform, gzipLayer(t, "e", "f")).docker(t)
	foreign := build(t, ocispec.Platform{OS: "linux", Architecture: "s390x"}, gzipLayer(t, "g", "h"))
	f.push("library/alpine", "3.22", oci)
	f.push("some-user/some_app", "V1.0", docker)
	f.pushIndex("other/arch", "latest", foreign)
	for ref, b := range map[string]*built{"alpine:3.22": oci, "some-user/some_app:V1.0": docker, "registry.example:5000/some-user/some_app:V1.0": docker} {
		if _, err := s.Pull(t.Context(), ref, hub); err != nil {
			t.Fatal(err)
		}
		full, _ := ParseReference(ref)
		inspect(t, s, full.String(), b)
	}
	hub.Platform = "linux/s390x"
	if _, err := s.Pull(t.Context(), "other/arch", hub); err != nil {
		t.Fatal(err)
	}
	inspect(t, s, "docker.io/other/arch:latest", foreign)
	hub.Platform = ""
	byDigest := "docker.io/library/alpine@" + string(digest.FromBytes(oci.manifest))
	if _, err := s.Pull(t.Context(), byDigest, hub); err != nil {
		t.Fatal(err)
	}
	inspect(t, s, byDigest, oci)
	// And copies all of it, checking each blob.
	for _, i := range must(s.List(t.Context())) {
		for _, name := range i.full {
			skopeo(t, "copy", "--all", "oci:"+s.dir+":"+name, "dir:"+t.TempDir())
		}
	}
	// What skopeo adds to the layout survives, and is not ours.
	skopeo(t, "copy", "oci:"+s.dir+":docker.io/library/alpine:3.22", "oci:"+s.dir+":theirs")
	if _, err := s.Remove(t.Context(), "some-user/some_app:V1.0", RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Remove(t.Context(), "alpine:3.22", RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	skopeo(t, "copy", "oci:"+s.dir+":theirs", "dir:"+t.TempDir())
	if l := must(s.List(t.Context())); len(l) != 2 {
		t.Errorf("%d images", len(l))
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// dockerRegistry runs Debian's registry on a loopback port of its own.
func dockerRegistry(t *testing.T) (host string) {
	t.Helper()
	need(t, "docker-registry")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host = l.Addr().String()
	l.Close()
	config := filepath.Join(t.TempDir(), "config.yml")
	yml := "version: 0.1\nlog: {level: info}\nstorage: {filesystem: {rootdirectory: " + t.TempDir() + "}}\nhttp: {addr: '" + host + "'}\n"
	if err := os.WriteFile(config, []byte(yml), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("docker-registry", "serve", config)
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = nil
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	drained := make(chan struct{})
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-drained
		cmd.Wait()
	})
	listening := make(chan struct{})
	go func() {
		defer close(drained)
		for lines := bufio.NewScanner(log); lines.Scan(); {
			if strings.Contains(lines.Text(), "listening on") {
				close(listening)
			}
		}
	}()
	select {
	case <-listening:
	case <-drained:
		t.Fatal("docker-registry did not start")
	}
	return host
}

// TestDockerRegistry has skopeo push images in both formats to Debian's registry
// and pulls them from there.
func TestDockerRegistry(t *testing.T) {
	need(t, "skopeo")
	host := dockerRegistry(t)
	f := newFakeRegistry(t)
	source := newStore(t)
	b := build(t, hostPlatform, gzipLayer(t, "a", bulk(1, 2<<20)), gzipLayer(t, "c", bulk(2, 300<<10)))
	source.mustPull(t, f.push("app", "v1", b))
	for _, format := range []string{"oci", "v2s2"} {
		skopeo(t, "copy", "--dest-tls-verify=false", "--format="+format, "oci:"+source.dir+":"+f.host+"/app:v1", "docker://"+host+"/app:"+format)
		s := newStore(t)
		i := s.mustPull(t, host+"/app:"+format)
		if !slices.Equal(i.Config().RootFS.DiffIDs, b.diffIDs) {
			t.Errorf("%s: %v", format, i.Config().RootFS.DiffIDs)
		}
		var served struct {
			MediaType string `json:"mediaType"`
		}
		raw, err := os.ReadFile(s.blobPath(i.Digest()))
		if err != nil || json.Unmarshal(raw, &served) != nil || (served.MediaType == dockerManifest) != (format == "v2s2") {
			t.Errorf("%s: %s, %v", format, raw, err)
		}
		skopeo(t, "inspect", "oci:"+s.dir+":"+i.full[0])
		byDigest := s.mustPull(t, host+"/app@"+string(i.Digest()))
		if byDigest.ID() != i.ID() {
			t.Errorf("%s: by digest: %s", format, byDigest.ID())
		}
		for _, name := range byDigest.Names() {
			if _, err := s.Remove(t.Context(), name, RemoveOptions{}); err != nil && len(must(s.List(t.Context()))) > 0 {
				t.Error(err)
			}
		}
		s.mustBeEmpty(t)
	}
}
