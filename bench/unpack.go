//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/inboard/engine"
	"github.com/inboard/engine/layer"
)

func benchUnpack(ctx context.Context, b *bench) ([]Result, error) {
	image, err := b.unpackInput(ctx)
	if err != nil {
		return nil, err
	}
	limit := &subject{name: "limit", every: 1, measure: timed(func(ctx context.Context) error { return digests(ctx, image.layers) })}
	return b.unpack(ctx, "unpack", layer.FormAuto, limit)
}

func benchUnpackDir(ctx context.Context, b *bench) ([]Result, error) {
	image, err := b.unpackInput(ctx)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(b.dir, "gnu-tar")
	limit := &subject{
		name:    "limit",
		every:   1,
		before:  quiet,
		measure: timed(func(ctx context.Context) error { return gnuTar(ctx, dir, image.layers) }),
		after:   func(context.Context) error { return os.RemoveAll(dir) },
	}
	return b.unpack(ctx, "unpack-dir", layer.FormDirectory, limit)
}

func (b *bench) unpack(ctx context.Context, name string, form layer.Form, limit *subject) (_ []Result, err error) {
	image, err := b.unpackInput(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := b.mkdir(name)
	if err != nil {
		return nil, err
	}
	e, err := openEngine(dir, engine.WithLayerForm(form))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	var pulled *engine.Image
	ours := &subject{name: "ours", every: 1, before: quiet}
	ours.measure = timed(func(ctx context.Context) error {
		var err error
		pulled, err = e.Pull(ctx, "registry.invalid/bench:"+image.tag, engine.PullOptions{Transport: &memory{image}})
		return errors.Join(err, syncDir(dir))
	})
	ours.after = func(ctx context.Context) error {
		_, err := pulled.Remove(ctx, engine.RemoveImageOptions{})
		return err
	}
	opened, err := b.peers(ctx)
	if err != nil {
		return nil, err
	}
	var peers []*subject
	for _, p := range only[unpacker](opened) {
		peers = append(peers, &subject{
			name:   p.Name(),
			every:  3,
			before: quiet,
			measure: func(ctx context.Context) (time.Duration, error) {
				took, err := p.Unpack(ctx, image)
				begin := time.Now()
				err = errors.Join(err, syncDir(dir))
				return took + time.Since(begin), err
			},
			after: func(ctx context.Context) error { return p.Forget(ctx, image) },
		})
	}
	all := append([]*subject{limit, ours}, peers...)
	// The image store's part, without which layers are of use as well, is the
	// same in both forms: one of them shows it.
	var layers *subject
	if form == layer.FormAuto {
		alone := filepath.Join(dir, "layers")
		layers = &subject{name: "layers", every: 1, before: quiet}
		layers.measure = timed(func(ctx context.Context) error { return addLayers(ctx, alone, form, image.layers) })
		layers.after = func(context.Context) error { return os.RemoveAll(alone) }
		all = append(all, layers)
	}
	if err := interleave(ctx, b.rounds(7), false, all...); err != nil {
		return nil, err
	}
	r := compare(name, "s", (*subject).seconds, ours, limit, peers)
	if layers != nil {
		r.Also = map[string]float64{
			"layers":            round(layers.seconds()),
			"over_limit_layers": round(layers.seconds() / limit.seconds()),
		}
	}
	return []Result{r}, nil
}

// quiet writes out what is dirty, so that nobody pays for another's.
func quiet(context.Context) error {
	unix.Sync()
	return nil
}

// syncDir writes out the filesystem of dir: all engines' data are on it.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

// digests does what nobody can leave out, one layer per core: read, check,
// decompress, check.
func digests(ctx context.Context, layers []unpackLayer) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, l := range layers {
		group.Go(func() error {
			compressed, plain := sha256.New(), sha256.New()
			z, err := gzip.NewReader(io.TeeReader(bytes.NewReader(l.data), compressed))
			if err != nil {
				return err
			}
			if _, err := io.Copy(plain, z); err != nil {
				return err
			}
			if fmt.Sprintf("%x", compressed.Sum(nil)) != l.digest.Hex || fmt.Sprintf("%x", plain.Sum(nil)) != l.diffID.Hex {
				return fmt.Errorf("layer %s: wrong digest", l.digest)
			}
			return ctx.Err()
		})
	}
	return group.Wait()
}

// gnuTar extracts each layer into a directory of its own and syncs.
func gnuTar(ctx context.Context, dir string, layers []unpackLayer) error {
	for _, l := range layers {
		to := filepath.Join(dir, l.digest.Hex)
		if err := os.MkdirAll(to, 0o755); err != nil {
			return err
		}
		cmd := exec.CommandContext(ctx, "tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpzf", l.path, "-C", to)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("tar: %w: %s", err, out)
		}
	}
	return syncDir(dir)
}

// addLayers gives the layers to a new store, all at once, as a pull does.
func addLayers(ctx context.Context, dir string, form layer.Form, layers []unpackLayer) (err error) {
	store, err := layer.Open(dir, layer.Options{Form: form})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	group, ctx := errgroup.WithContext(ctx)
	for _, l := range layers {
		group.Go(func() error {
			_, err := store.Add(ctx, bytes.NewReader(l.data), layer.AddOptions{
				Digest: digest.Digest(l.digest.String()),
				Size:   int64(len(l.data)),
				DiffID: digest.Digest(l.diffID.String()),
			})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return syncDir(dir)
}

// memory is a registry without a network: it answers from memory.
type memory struct{ image *unpackImage }

func (m *memory) RoundTrip(r *http.Request) (*http.Response, error) {
	response := &http.Response{
		StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, Body: http.NoBody, Request: r,
	}
	last := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	if last == "" { // /v2/
		return response, nil
	}
	if last == m.image.tag {
		last = m.image.manifest.String()
	}
	data, ok := m.image.blobs[last]
	if !ok {
		response.StatusCode = http.StatusNotFound
		return response, nil
	}
	response.Header.Set("Content-Type", "application/octet-stream")
	if last == m.image.manifest.String() {
		response.Header.Set("Content-Type", string(m.image.mediaType))
	}
	response.Header.Set("Docker-Content-Digest", last)
	response.ContentLength = int64(len(data))
	if r.Method != http.MethodHead {
		response.Body = io.NopCloser(bytes.NewReader(data))
	}
	return response, nil
}
