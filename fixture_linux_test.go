package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/inboard/engine/enginetest"
)

// shared is what most tests of containers use: a registry, and an engine.
var shared struct {
	sync.Mutex
	registry *enginetest.Registry
	engine   *Engine
	layer    v1.Layer // has the program
	images   int
}

// needRoot skips a test that starts containers.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to start containers")
	}
}

// sharedEngine is one engine for all tests that need none of their own.
func sharedEngine(t testing.TB) *Engine {
	t.Helper()
	needRoot(t)
	shared.Lock()
	defer shared.Unlock()
	if shared.engine == nil {
		e, err := Open(WithRoot(filepath.Join(os.TempDir(), "shared")), WithCgroupParent(cgroupParent))
		if err != nil {
			t.Fatal(err)
		}
		shared.engine = e
	}
	return shared.engine
}

func closeShared() {
	if shared.engine != nil {
		if err := shared.engine.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.RemoveAll(filepath.Join(os.TempDir(), "shared"))
	}
	if shared.registry != nil {
		shared.registry.Close()
	}
}

// staticSelf gives this test binary as one that needs no libraries: itself, or
// when the race detector has linked it with libc, one built without.
func staticSelf(t testing.TB) []byte {
	t.Helper()
	path := "/proc/self/exe"
	if file, err := elf.Open(path); err != nil {
		t.Fatal(err)
	} else {
		dynamic := file.Section(".interp") != nil
		file.Close()
		if dynamic {
			path = filepath.Join(t.TempDir(), "prog")
			cmd := exec.Command("go", "test", "-c", "-o", path, ".")
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Skipf("this test binary is not static, and there is no go command to build one that is: %v\n%s", err, out)
			}
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// few is n, or less with -short, where everything takes longer.
func few(n int) int {
	if testing.Short() {
		return max(n/4, 2)
	}
	return n
}

// tarFile is one entry of a test layer.
type tarFile struct {
	tar.Header
	data string
}

func tarLayer(t testing.TB, files ...tarFile) v1.Layer {
	t.Helper()
	var entries []enginetest.Entry
	for _, f := range files {
		if f.Mode == 0 {
			f.Mode = 0o644
		}
		entries = append(entries, enginetest.Entry{Header: f.Header, Data: f.data})
	}
	data, err := enginetest.Tar(entries...)
	if err != nil {
		t.Fatal(err)
	}
	return static.NewLayer(data, types.OCIUncompressedLayer)
}

func file(name, data string) tarFile {
	return tarFile{tar.Header{Name: name, Typeflag: tar.TypeReg}, data}
}

// programLayer has the program, users and a few directories.
func programLayer(t testing.TB) v1.Layer {
	t.Helper()
	if shared.layer == nil {
		prog := file("prog", string(staticSelf(t)))
		prog.Mode = 0o755
		shared.layer = tarLayer(t,
			prog,
			file("etc/passwd", "root:x:0:0::/root:/prog\napp:x:1000:1000::/home/app:/prog\n"),
			file("etc/group", "root:x:0:\napp:x:1000:\nextra:x:2000:app\n"),
			file("data/notexec", "text"),
			tarFile{tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}, ""},
		)
	}
	return shared.layer
}

// pushImage puts an image into the shared registry and gives its reference.
func pushImage(t testing.TB, change func(*v1.ConfigFile), extra ...v1.Layer) string {
	t.Helper()
	shared.Lock()
	program := programLayer(t)
	shared.Unlock()
	return pushLayers(t, change, append([]v1.Layer{program}, extra...)...)
}

// pushLayers is pushImage of the given layers alone.
func pushLayers(t testing.TB, change func(*v1.ConfigFile), layers ...v1.Layer) string {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.registry == nil {
		shared.registry = enginetest.StartRegistry()
	}
	shared.images++
	ref := fmt.Sprintf("%s/test/image%d:latest", shared.registry.Host, shared.images)
	img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), layers...)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.Entrypoint = []string{"/prog", programFlag}
	config.Author = ref // so that each image has an ID of its own
	if change != nil {
		change(config)
	}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, img, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	return ref
}

// pulled gives an image of an engine.
func pulled(t testing.TB, e *Engine, change func(*v1.ConfigFile), extra ...v1.Layer) *Image {
	t.Helper()
	img, err := e.Pull(t.Context(), pushImage(t, change, extra...), PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

var plain struct {
	sync.Mutex
	image *Image
}

// plainImage is the image with nothing special, of the shared engine.
func plainImage(t testing.TB) (*Engine, *Image) {
	t.Helper()
	e := sharedEngine(t)
	plain.Lock()
	defer plain.Unlock()
	if plain.image == nil {
		plain.image = pulled(t, e, nil)
	}
	return e, plain.image
}

// create makes a container, removed at the test's end.
func create(t testing.TB, e *Engine, img *Image, c Config) *Container {
	t.Helper()
	if c.Network == "" {
		c.Network = NetworkNone
	}
	made, err := e.Create(t.Context(), img, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The test's own context has ended.
		err := made.Remove(context.Background(), RemoveOptions{Force: true})
		if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrFailedPrecondition) {
			t.Errorf("remove: %v", err)
		}
	})
	return made
}

// started makes and starts a container.
func started(t testing.TB, e *Engine, img *Image, c Config) *Container {
	t.Helper()
	made := create(t, e, img, c)
	if err := made.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return made
}

// runs runs a program of the plain image to its end and gives its output.
func runs(t testing.TB, c Config, args ...string) (string, Status) {
	t.Helper()
	e, img := plainImage(t)
	var out bytes.Buffer
	c.Args, c.Stdout, c.Stderr = args, &out, &out
	made := started(t, e, img, c)
	status, err := made.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), status
}
