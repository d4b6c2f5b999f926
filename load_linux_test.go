package engine

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// madeImage is an image of the test program, and a layer that author names.
func madeImage(t *testing.T, author string) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON), programLayer(t), tarLayer(t, file("author", author)))
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Author = "linux", runtime.GOARCH, author
	config.Config.Entrypoint = []string{"/prog", programFlag}
	config.Config.Cmd = []string{"read", "/author"}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	return img
}

// sameImage checks that an image is the one that was made, and runs it.
func sameImage(t *testing.T, e *Engine, got *Image, made v1.Image, author string) {
	t.Helper()
	id, err := made.ConfigName()
	if err != nil || string(got.ID()) != id.String() {
		t.Errorf("ID %s, not %s: %v", got.ID(), id, err)
	}
	info, err := got.Inspect(t.Context())
	if err != nil || info.Config.Author != author || len(info.Config.RootFS.DiffIDs) != 2 {
		t.Errorf("%+v, %v", info, err)
	}
	var out bytes.Buffer
	c := started(t, e, got, Config{Stdout: &out})
	if status, err := c.Wait(t.Context()); err != nil || status.Code != 0 || out.String() != author {
		t.Errorf("%+v, %v, %q", status, err, out.String())
	}
}

// TestLoadAndRun runs an image from archives of each kind, a directory, and as
// it was made; the layers of all are the same.
func TestLoadAndRun(t *testing.T) {
	e := sharedEngine(t)
	img := madeImage(t, "load")
	dir := t.TempDir()
	docker, oci := filepath.Join(dir, "docker.tar"), filepath.Join(dir, "layout")
	tag, err := name.NewTag("registry.example/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(docker, tag, img); err != nil {
		t.Fatal(err)
	}
	path, err := layout.Write(oci, empty.Index)
	if err == nil {
		err = path.AppendImage(img, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "v2"}))
	}
	if err != nil {
		t.Fatal(err)
	}
	load := func(t *testing.T, r io.Reader) {
		t.Helper()
		images, err := e.Load(t.Context(), r, LoadOptions{})
		if err != nil || len(images) != 1 || images[0].Reference() != "registry.example/app:v1" {
			t.Fatalf("%v, %v", images, err)
		}
		sameImage(t, e, images[0], img, "load")
		if _, err := images[0].Remove(t.Context(), RemoveImageOptions{Force: true}); err != nil {
			t.Error(err)
		}
	}
	// A shell's pipe, as of a program that loads from its standard input.
	through := func(t *testing.T, program, script string) {
		t.Helper()
		for _, p := range []string{"sh", program} {
			if _, err := exec.LookPath(p); err != nil {
				t.Skipf("%s is not installed", p)
			}
		}
		cmd := exec.Command("sh", "-c", script)
		cmd.Dir, cmd.Stderr = dir, os.Stderr
		pipe, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			pipe.Close()
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
		}()
		load(t, pipe)
	}
	t.Run("docker-archive", func(t *testing.T) { through(t, "gzip", "gzip -1 <docker.tar") })
	t.Run("layout", func(t *testing.T) {
		images, err := e.LoadLayout(t.Context(), oci, LoadOptions{Repository: "registry.example/app"})
		if err != nil || len(images) != 1 || images[0].Reference() != "registry.example/app:v2" {
			t.Fatalf("%v, %v", images, err)
		}
		sameImage(t, e, images[0], img, "load")
	})
	t.Run("import", func(t *testing.T) {
		got, err := e.Import(t.Context(), img, ImportOptions{Names: []string{"registry.example/app:v3", "app:v4"}})
		if err != nil || got.Reference() != "registry.example/app:v3" {
			t.Fatal(err)
		}
		sameImage(t, e, got, img, "load")
		if d, err := img.Digest(); err != nil || string(got.Digest()) != d.String() {
			t.Errorf("digest %s, not %s: %v", got.Digest(), d, err)
		}
	})
	for _, format := range []string{"docker-archive", "oci-archive"} {
		t.Run("skopeo "+format, func(t *testing.T) {
			through(t, "skopeo", "skopeo --insecure-policy copy --quiet oci:layout:v2 "+format+":skopeo-"+format+".tar:registry.example/app:v1 >&2 && cat skopeo-"+format+".tar")
		})
	}
}

// TestLoadEqualsPull: the same image from a registry and from an archive.
func TestLoadEqualsPull(t *testing.T) {
	original := pulled(t, sharedEngine(t), nil)
	info, err := original.Inspect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(original.Reference(), name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(tag, remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := tarball.Write(tag, img, &archive); err != nil {
		t.Fatal(err)
	}
	e := testEngine(t)
	images, err := e.Load(t.Context(), &archive, LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := images[0].Inspect(t.Context())
	if err != nil || got.ID != info.ID || !reflect.DeepEqual(got.Names, info.Names) || !reflect.DeepEqual(got.Config, info.Config) {
		t.Errorf("%+v\n%+v\n%v", got, info, err)
	}
	status, err := started(t, e, images[0], Config{Args: []string{"exit", "7"}}).Wait(t.Context())
	if err != nil || status.Code != 7 {
		t.Errorf("%+v, %v", status, err)
	}
}

// TestLoadFails with an Error that says what was to be done, and nothing left.
func TestLoadFails(t *testing.T) {
	e := testEngine(t)
	ctx := t.Context()
	img := madeImage(t, "unnamed")
	for what, f := range map[string]func() error{
		"load images": func() error {
			images, err := e.Load(ctx, bytes.NewReader(make([]byte, 10240)), LoadOptions{})
			if len(images) > 0 {
				t.Error("images and an error")
			}
			return err
		},
		"load images " + os.DevNull: func() error { _, err := e.LoadLayout(ctx, os.DevNull, LoadOptions{}); return err },
		"import image ../x":         func() error { _, err := e.Import(ctx, img, ImportOptions{Names: []string{"../x"}}); return err },
		"import image":              func() error { _, err := e.Import(ctx, nil, ImportOptions{}); return err },
	} {
		err := f()
		var failed *Error
		if !errors.As(err, &failed) || (failed.Op+" "+failed.ID != what && failed.Op != what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if images, err := e.Images(ctx); err != nil || len(images) != 0 {
		t.Errorf("%v, %v", images, err)
	}
}

// TestCloseEndsLoad, also one whose stream never ends.
func TestCloseEndsLoad(t *testing.T) {
	e := testEngine(t)
	r, w := io.Pipe()
	defer w.Close()
	done := make(chan error)
	go func() {
		_, err := e.Load(context.Background(), r, LoadOptions{})
		done <- err
	}()
	if _, err := w.Write(make([]byte, 512)); err != nil { // it is at work
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := e.Load(t.Context(), r, LoadOptions{}); !errors.Is(err, ErrFailedPrecondition) {
		t.Errorf("after Close: %v", err)
	}
}
