//go:build linux

package realimage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"
)

// Tag is the image's name in its layout, as skopeo and umoci take it.
const Tag = "latest"

// recipe changes with what an image holds, so that an older one is not taken
// from the cache for it.
const recipe = "1"

const suite = "bookworm"

// Image is an image in an OCI image layout.
type Image struct {
	// Layout is the directory. It is shared with other processes: read only.
	Layout string
}

// Missing names the programs that Make needs and that are not installed, by
// the Debian packages that hold them.
func Missing() []string {
	var missing []string
	for _, program := range []string{"debootstrap", "tar", "go"} {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, program)
		}
	}
	return missing
}

// CacheDir is where Make keeps images: inboard-realimage in the user's cache
// directory.
func CacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find cache directory: %w", err)
	}
	return filepath.Join(dir, "inboard-realimage"), nil
}

// Cached gives the image if an earlier Make left it in dir, else nil.
func Cached(ctx context.Context, dir string) (*Image, error) {
	goroot, err := toolchain(ctx)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, key(goroot))
	if _, err := os.Stat(filepath.Join(path, "index.json")); err != nil {
		return nil, nil
	}
	return &Image{Layout: path}, nil
}

// Make gives the image, from dir or newly made. Processes that make it at once
// wait for the first. What debootstrap and tar have to say goes to log.
func Make(ctx context.Context, dir string, log io.Writer) (*Image, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("make image: needs root, for debootstrap and device nodes")
	}
	if missing := Missing(); len(missing) > 0 {
		return nil, fmt.Errorf("make image: not installed: %s", strings.Join(missing, ", "))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make image: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make image: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	if img, err := Cached(ctx, dir); img != nil || err != nil {
		return img, err
	}
	// What a killed Make left has no other owner: we hold the lock.
	stale, _ := filepath.Glob(filepath.Join(dir, "making-*"))
	for _, path := range stale {
		os.RemoveAll(path)
	}
	goroot, err := toolchain(ctx)
	if err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp(dir, "making-")
	if err != nil {
		return nil, fmt.Errorf("make image: %w", err)
	}
	defer os.RemoveAll(work)
	img, err := build(ctx, work, goroot, log)
	if err != nil {
		return nil, err
	}
	made := filepath.Join(work, "layout")
	if err := Write(made, img); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, key(goroot))
	if err := os.Rename(made, path); err != nil {
		return nil, fmt.Errorf("make image: %w", err)
	}
	return &Image{Layout: path}, nil
}

// Write makes an OCI image layout at dir, with img as Tag.
func Write(dir string, img v1.Image) error {
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return fmt.Errorf("write layout %s: %w", dir, err)
	}
	name := layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": Tag})
	if err := path.AppendImage(img, name); err != nil {
		return fmt.Errorf("write layout %s: %w", dir, err)
	}
	return nil
}

// Open reads the image's manifest; layers are read when they are asked for.
func (i *Image) Open() (v1.Image, error) {
	path, err := layout.FromPath(i.Layout)
	if err != nil {
		return nil, fmt.Errorf("open layout %s: %w", i.Layout, err)
	}
	index, err := path.ImageIndex()
	if err != nil {
		return nil, fmt.Errorf("open layout %s: %w", i.Layout, err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("open layout %s: %w", i.Layout, err)
	}
	for _, d := range manifest.Manifests {
		if d.Annotations["org.opencontainers.image.ref.name"] == Tag {
			return index.Image(d.Digest)
		}
	}
	return nil, fmt.Errorf("open layout %s: no image %q", i.Layout, Tag)
}

// key names the image in its cache by what goes into it.
func key(goroot string) string {
	version, _ := os.ReadFile(filepath.Join(goroot, "VERSION"))
	return fmt.Sprintf("%s-%s-%x", suite, runtime.GOARCH, sha256.Sum256(append(version, recipe...)))[:40]
}

func toolchain(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOROOT: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

func build(ctx context.Context, work, goroot string, log io.Writer) (v1.Image, error) {
	debian, err := debianLayer(ctx, work, log)
	if err != nil {
		return nil, err
	}
	extra, err := extraLayer(ctx, work, goroot, log)
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, path := range []string{debian, extra} {
		layer, err := tarball.LayerFromFile(path, tarball.WithMediaType(types.OCILayer))
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			return nil, fmt.Errorf("append %s: %w", path, err)
		}
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.Env = []string{"PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	config.Config.Cmd = []string{"bash"}
	return mutate.ConfigFile(img, config)
}

// run runs a program and gives the end of what it said if it fails.
func run(cmd *exec.Cmd, log io.Writer) error {
	var said bytes.Buffer
	cmd.Stdout = io.MultiWriter(&said, log)
	cmd.Stderr = cmd.Stdout
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(said.String())
		if len(text) > 500 {
			text = text[len(text)-500:]
		}
		return fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, text)
	}
	return nil
}

// debootstrap mounts proc in its target and starts processes of the new
// system: in namespaces of its own, neither outlives it.
func contained(cmd *exec.Cmd) *exec.Cmd {
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	return cmd
}
