package image

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// room runs a program in a mount namespace of its own, where what engines keep
// outside of the directories that they are given goes with it.
func room(args ...string) *exec.Cmd {
	const script = `mount -t tmpfs -o mode=0755 tmpfs /run && mount -t tmpfs tmpfs /dev/shm && exec "$@"`
	return exec.Command("unshare", append([]string{"--mount", "--propagation", "private", "sh", "-c", script, "sh"}, args...)...)
}

// needRoom skips a test where there can be no room, or a program is missing.
func needRoom(t *testing.T, programs ...string) {
	t.Helper()
	need(t, append(programs, "unshare")...)
	if out, err := room("true").CombinedOutput(); err != nil {
		t.Skipf("no private mount namespace: %v: %s", err, out)
	}
}

func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var problem strings.Builder
	cmd.Stderr = &problem
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, problem.String())
	}
	return strings.TrimSpace(string(out))
}

// subject is an image that was pulled, and that other programs are given.
type subject struct {
	*built
	store testStore
	name  string // in the store, as a layout
}

func newSubject(t *testing.T) subject {
	t.Helper()
	f := newFakeRegistry(t)
	twice := gzipLayer(t, "twice", bulk(1, 100<<10))
	b := build(t, hostPlatform, twice, gzipLayer(t, "own", bulk(2, 300<<10)), twice)
	s := newStore(t)
	s.mustPull(t, f.push("app", "v1", b))
	return subject{b, s, f.host + "/app:v1"}
}

// copyTo has skopeo write the image.
func (s subject) copyTo(t *testing.T, to string) {
	t.Helper()
	skopeo(t, "copy", "oci:"+s.store.dir+":"+s.name, to)
}

// loads checks that a file or a directory gives the image, under names.
func (s subject) loads(t *testing.T, path, want string) {
	t.Helper()
	into := newStore(t)
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	var loaded []Loaded
	if fi.IsDir() {
		loaded, err = into.LoadLayout(t.Context(), path, LoadOptions{})
	} else {
		f, e := os.Open(path)
		if e != nil {
			t.Fatal(e)
		}
		defer f.Close()
		loaded, err = into.Load(t.Context(), f, LoadOptions{})
	}
	if err != nil || names(loaded) != want {
		t.Fatalf("%s: %q, not %q: %v", path, names(loaded), want, err)
	}
	for _, l := range loaded {
		s.sameAs(t, l.Image)
	}
	if c := into.contents(t); len(c) != 6 { // two blobs and two layers, config and manifest
		t.Errorf("%s: %v", path, c)
	}
}

// TestLoadFromSkopeo: what skopeo writes, and pipes through compressors.
func TestLoadFromSkopeo(t *testing.T) {
	need(t, "skopeo")
	s := newSubject(t)
	dir := t.TempDir()
	docker, oci, layout := filepath.Join(dir, "docker.tar"), filepath.Join(dir, "oci.tar"), filepath.Join(dir, "layout")
	s.copyTo(t, "docker-archive:"+docker+":some/app:v2")
	s.loads(t, docker, "some/app:v2")
	s.copyTo(t, "oci-archive:"+oci+":registry.example/app:v3")
	s.loads(t, oci, "registry.example/app:v3")
	s.copyTo(t, "oci:"+layout+":v4")
	s.loads(t, layout, string(s.config))
	s.copyTo(t, "oci:"+filepath.Join(dir, "full")+":docker.io/library/app:v5")
	s.loads(t, filepath.Join(dir, "full"), "app:v5")
	nameless := filepath.Join(dir, "nameless.tar")
	s.copyTo(t, "docker-archive:"+nameless)
	s.loads(t, nameless, string(s.config))

	for _, compressor := range []string{"gzip", "bzip2", "zstd"} {
		t.Run(compressor, func(t *testing.T) {
			need(t, compressor)
			for _, archive := range []string{docker, oci} {
				cmd := exec.Command(compressor, "-c", archive)
				pipe, err := cmd.StdoutPipe()
				if err == nil {
					err = cmd.Start()
				}
				if err != nil {
					t.Fatal(err)
				}
				loaded, err := newStore(t).Load(t.Context(), pipe, LoadOptions{})
				if err != nil {
					t.Fatal(err)
				}
				s.sameAs(t, loaded[0].Image)
				if err := cmd.Wait(); err != nil { // also if it had not been read to its end
					t.Error(err)
				}
			}
		})
	}
	// And back: what was loaded is what skopeo would have read.
	into := newStore(t)
	f, err := os.Open(docker)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := into.Load(t.Context(), f, LoadOptions{}); err != nil {
		t.Fatal(err)
	}
	raw := skopeo(t, "inspect", "--config", "--raw", "oci:"+into.dir+":docker.io/some/app:v2")
	if digest.FromBytes(raw) != s.config {
		t.Errorf("skopeo sees config %s", digest.FromBytes(raw))
	}
	skopeo(t, "copy", "oci:"+into.dir+":docker.io/some/app:v2", "dir:"+t.TempDir())
}

// TestLoadFromPodman: what podman save writes, in each of its formats.
func TestLoadFromPodman(t *testing.T) {
	needRoom(t, "podman", "skopeo")
	s := newSubject(t)
	dir := t.TempDir()
	podman := func(args ...string) string {
		return output(t, room(append([]string{"podman", "--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"),
			"--tmpdir", filepath.Join(dir, "tmp"), "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none"}, args...)...))
	}
	path := func(name string) string { return filepath.Join(dir, name) }
	s.copyTo(t, "docker-archive:"+path("in.tar")+":docker.io/some/app:v2")
	podman("load", "--quiet", "--input", path("in.tar"))
	podman("tag", "docker.io/some/app:v2", "localhost/second:v3")
	if id := podman("inspect", "--format", "{{.Id}}", "localhost/second:v3"); id != s.config.Encoded() {
		t.Errorf("podman has %s", id)
	}
	podman("save", "--quiet", "--format", "docker-archive", "--output", path("docker.tar"), "docker.io/some/app:v2", "localhost/second:v3")
	s.loads(t, path("docker.tar"), "localhost/second:v3 some/app:v2")
	podman("save", "--quiet", "--multi-image-archive", "--output", path("multi.tar"), "docker.io/some/app:v2", "localhost/second:v3")
	s.loads(t, path("multi.tar"), "some/app:v2 localhost/second:v3")
	podman("save", "--quiet", "--format", "oci-archive", "--output", path("oci.tar"), "docker.io/some/app:v2")
	s.loads(t, path("oci.tar"), "some/app:v2")
	podman("save", "--quiet", "--format", "oci-archive", "--uncompressed", "--output", path("plain.tar"), "localhost/second:v3")
	s.loads(t, path("plain.tar"), "localhost/second:v3")
	podman("save", "--quiet", "--format", "oci-dir", "--output", path("layout"), "docker.io/some/app:v2")
	s.loads(t, path("layout"), "some/app:v2")
}

// TestLoadFromUmoci: umoci calls images by tags.
func TestLoadFromUmoci(t *testing.T) {
	need(t, "umoci")
	if os.Geteuid() != 0 {
		t.Skip("umoci needs root to unpack as it is done here")
	}
	dir := t.TempDir()
	layout, bundle := filepath.Join(dir, "layout"), filepath.Join(dir, "bundle")
	umoci := func(args ...string) { output(t, exec.Command("umoci", args...)) }
	umoci("init", "--layout", layout)
	umoci("new", "--image", layout+":v1")
	umoci("unpack", "--image", layout+":v1", bundle)
	for _, name := range []string{"one", "two"} {
		if err := os.WriteFile(filepath.Join(bundle, "rootfs", name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
		umoci("repack", "--refresh-bundle", "--image", layout+":v1", bundle)
	}
	umoci("config", "--image", layout+":v1", "--tag", "v2", "--config.cmd", "/one")
	s := newStore(t)
	loaded, err := s.LoadLayout(t.Context(), layout, LoadOptions{Repository: "registry.example/umoci"})
	if err != nil || names(loaded) != "registry.example/umoci:v1 registry.example/umoci:v2" {
		t.Fatalf("%v, %v", names(loaded), err)
	}
	for _, l := range loaded {
		if layers, err := l.Image.Layers(); err != nil || len(layers) != 2 {
			t.Errorf("%v, %v", layers, err)
		}
	}
	if c := loaded[1].Image.Config().Config.Cmd; !slices.Equal(c, []string{"/one"}) {
		t.Errorf("%v", c)
	}
}

// TestLoadSparse: GNU tar makes a terabyte of holes of a few bytes.
func TestLoadSparse(t *testing.T) {
	need(t, "tar")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "holes"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "holes"), 1<<40); err != nil {
		t.Skipf("the filesystem has no such files: %v", err)
	}
	s := newStore(t)
	for _, format := range []string{"--format=gnu", "--format=pax", "--sparse-version=0.0", "--sparse-version=0.1"} {
		archive := output(t, exec.Command("tar", "--create", "--sparse", format, "--directory", dir, "holes"))
		_, err := s.Load(t.Context(), strings.NewReader(archive), LoadOptions{})
		if !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), "holes") {
			t.Errorf("%s: %v", format, err)
		}
		s.mustBeEmpty(t)
	}
}

// dockerd is a daemon of Docker's with socket, data and state of its own.
type dockerd struct {
	t   *testing.T
	dir string
}

func startDocker(t *testing.T) dockerd {
	t.Helper()
	needRoom(t, "dockerd", "containerd", "docker", "skopeo")
	// Sockets have short names.
	dir, err := os.MkdirTemp("", "docker")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	d := dockerd{t, dir}
	if err := os.WriteFile(d.path("none.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := room("dockerd", "--host", "unix://"+d.path("socket"), "--data-root", d.path("data"), "--exec-root", d.path("exec"),
		"--pidfile", d.path("pid"), "--config-file", d.path("none.json"), "--storage-driver", "vfs",
		"--exec-opt", "native.cgroupdriver=cgroupfs", "--bridge", "none", "--iptables=false", "--ip6tables=false")
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	log, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	listens, ended := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(ended)
		last := ""
		for lines := bufio.NewScanner(log); lines.Scan(); {
			if last = lines.Text(); strings.Contains(last, "API listen on") {
				listens <- nil
				break
			}
		}
		io.Copy(io.Discard, log)
		cmd.Wait()
		listens <- errors.New(last)
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(time.Minute):
			t.Error("dockerd does not end")
			cmd.Process.Kill()
			<-ended
		}
	})
	if err := <-listens; err != nil {
		t.Skipf("dockerd does not run here: %v", err)
	}
	return d
}

func (d dockerd) path(name string) string { return filepath.Join(d.dir, name) }

func (d dockerd) docker(args ...string) string {
	d.t.Helper()
	cmd := exec.Command("docker", args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+d.path("socket"), "DOCKER_CONFIG="+d.path("config"))
	return output(d.t, cmd)
}

// TestLoadFromDocker: what docker save writes, and what docker load would have
// made of an archive.
func TestLoadFromDocker(t *testing.T) {
	s := newSubject(t)
	d := startDocker(t)
	s.copyTo(t, "docker-archive:"+d.path("in.tar")+":some/app:v2")
	if out := d.docker("load", "--input", d.path("in.tar")); !strings.HasSuffix(out, "Loaded image: some/app:v2") {
		t.Errorf("docker says %q", out)
	}
	d.docker("tag", "some/app:v2", "localhost:5000/second:v3")
	if id := d.docker("inspect", "--format", "{{.Id}}", "some/app:v2"); id != string(s.config) {
		t.Errorf("docker has %s", id)
	}
	d.docker("save", "--output", d.path("named.tar"), "some/app:v2", "localhost:5000/second:v3")
	loads := func(name string, want ...string) {
		t.Helper()
		f, err := os.Open(d.path(name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		loaded, err := newStore(t).Load(t.Context(), f, LoadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Fields(names(loaded))
		slices.Sort(got) // docker save has no order
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, not %v", name, got, want)
		}
		for _, l := range loaded {
			s.sameAs(t, l.Image)
		}
	}
	loads("named.tar", "localhost:5000/second:v3", "some/app:v2")
	d.docker("save", "--output", d.path("nameless.tar"), s.config.Encoded())
	loads("nameless.tar", string(s.config))

	// Docker agrees on who has a name that two images want.
	one, two := imageOf(t, []string{"app:v1", "app:latest"}, gzipLayer(t, "own", "1")), imageOf(t, []string{"app:latest"}, gzipLayer(t, "own", "2"))
	archive := pack(t, oldDockerArchive(t, one, two)...)
	if err := os.WriteFile(d.path("two.tar"), archive, 0o600); err != nil {
		t.Fatal(err)
	}
	d.docker("load", "--input", d.path("two.tar"))
	into := newStore(t)
	into.mustLoad(t, archive, LoadOptions{})
	for _, name := range []string{"app:v1", "app:latest"} {
		if id := d.docker("inspect", "--format", "{{.Id}}", name); id != string(must(into.Lookup(t.Context(), name)).ID()) {
			t.Errorf("with docker, %s is %s", name, id)
		}
	}

	// A pipe between the two.
	cmd := exec.Command("sh", "-c", "docker save some/app:v2 | gzip")
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+d.path("socket"), "DOCKER_CONFIG="+d.path("config"))
	pipe, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := newStore(t).Load(t.Context(), pipe, LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.sameAs(t, loaded[0].Image)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// TestLoadFromContainerd: what its exporter writes, which Docker and BuildKit
// share: an index for several platforms, and a manifest.json for one.
func TestLoadFromContainerd(t *testing.T) {
	need(t, "ctr")
	d := startDocker(t)
	host := build(t, hostPlatform, gzipLayer(t, "a", bulk(1, 50<<10)))
	other := build(t, ocispec.Platform{OS: "linux", Architecture: "s390x"}, gzipLayer(t, "b", bulk(2, 50<<10)))
	index := indexOf(t, host.desc(), other.desc())
	top := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(index), Size: int64(len(index))}
	in := pack(t, ociArchive(t, []ocispec.Descriptor{named(top, annotationImageName, "registry.example/app:v1")}, append(all(host, other), index)...)...)
	if err := os.WriteFile(d.path("in.tar"), in, 0o600); err != nil {
		t.Fatal(err)
	}
	ctr := func(args ...string) {
		output(t, exec.Command("ctr", append([]string{"--address", d.path("exec/containerd/containerd.sock"), "--namespace", "test", "images"}, args...)...))
	}
	ctr("import", "--all-platforms", "--no-unpack", d.path("in.tar"))
	ctr("export", "--all-platforms", d.path("out.tar"), "registry.example/app:v1")
	if list := output(t, exec.Command("tar", "-tf", d.path("out.tar"))); !strings.Contains(list, "manifest.json") || !strings.Contains(list, "index.json") {
		t.Errorf("it is no archive of both kinds: %s", list)
	}
	for platform, b := range map[string]*built{"": host, "linux/s390x": other} {
		f, err := os.Open(d.path("out.tar"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		loaded, err := newStore(t).Load(t.Context(), f, LoadOptions{Platform: platform})
		if err != nil || names(loaded) != "registry.example/app:v1" {
			t.Fatalf("%v, %v", names(loaded), err)
		}
		b.sameAs(t, loaded[0].Image)
		if loaded[0].Image.Digest() != top.Digest {
			t.Errorf("digest %s, not %s", loaded[0].Image.Digest(), top.Digest)
		}
	}
}
