// Hello needs nothing but Go, and root: it serves a registry in its own
// process, puts an image with one small program there, pulls it, and runs it
// in a container. It prints what each step took, and leaves nothing behind.
package main

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/inboard/engine"
)

// source is the program in the image.
const source = `package main

import (
	"fmt"
	"os"
)

func main() {
	name, _ := os.Hostname()
	fmt.Printf("hello from process %d on %s\n", os.Getpid(), name)
}
`

func main() {
	dir, err := os.MkdirTemp("", "inboard-hello-")
	if err == nil {
		err = hello(context.Background(), dir)
		os.RemoveAll(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "hello:", err)
		os.Exit(1)
	}
}

func hello(ctx context.Context, dir string) error {
	done := stopwatch()
	program, err := build(dir)
	if err != nil {
		return err
	}
	done("build a static program")

	ref, stop, err := serve(program)
	if err != nil {
		return err
	}
	defer stop()
	done("push it to a registry in this process, as " + ref)

	e, err := engine.Open(engine.WithRoot(filepath.Join(dir, "root")))
	if err != nil {
		return err
	}
	defer e.Close()
	done("open an engine")

	img, err := e.Pull(ctx, ref, engine.PullOptions{})
	if err != nil {
		return err
	}
	done("pull the image")

	for _, run := range []string{"first", "second"} {
		c, err := e.Create(ctx, img, engine.Config{Network: engine.NetworkNone, Stdout: os.Stdout, Stderr: os.Stderr})
		if err != nil {
			return err
		}
		if err := c.Start(ctx); err != nil {
			return err
		}
		status, err := c.Wait(ctx)
		if err != nil {
			return err
		}
		if err := c.Remove(ctx, engine.RemoveOptions{}); err != nil {
			return err
		}
		done(fmt.Sprintf("create, start, wait for and remove a container, the %s time: %v", run, status))
	}
	return nil
}

// stopwatch gives a function that prints what was done since the last call.
func stopwatch() func(what string) {
	last := time.Now()
	return func(what string) {
		fmt.Printf("%9.1f ms  %s\n", float64(time.Since(last).Microseconds())/1000, what)
		last = time.Now()
	}
}

// build makes an executable that needs no other file.
func build(dir string) ([]byte, error) {
	path := filepath.Join(dir, "hello.go")
	if err := os.WriteFile(path, []byte(source), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command("go", "build", "-o", "hello", path)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build: %w\n%s", err, out)
	}
	return os.ReadFile(filepath.Join(dir, "hello"))
}

// serve starts a registry that has one image with one file.
func serve(program []byte) (ref string, stop func() error, err error) {
	img, err := makeImage(program)
	if err != nil {
		return "", nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	go server.Serve(listener)
	ref = listener.Addr().String() + "/hello:latest"
	tag, err := name.NewTag(ref)
	if err == nil {
		err = remote.Write(tag, img)
	}
	if err != nil {
		server.Close()
	}
	return ref, server.Close, err
}

// makeImage makes an image whose only file is the program.
func makeImage(program []byte) (v1.Image, error) {
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := w.WriteHeader(&tar.Header{Name: "hello", Mode: 0o755, Size: int64(len(program))}); err != nil {
		return nil, err
	}
	if _, err := w.Write(program); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(layer.Bytes())), nil
	})
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.Entrypoint = []string{"/hello"}
	return mutate.ConfigFile(img, config)
}
