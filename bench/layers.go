//go:build linux

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/inboard/engine"
)

// benchLayers measures a start of an image with 100 layers, and of one with a
// single layer.
func benchLayers(ctx context.Context, b *bench) (_ []Result, err error) {
	o, err := b.open(ctx, "layers100")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, o.close()) }()
	img := b.small.image
	for i := range 99 {
		name := fmt.Sprintf("layers/%d", i)
		if img, err = withFile(img, name, []byte(name)); err != nil {
			return nil, err
		}
	}
	many := &ours{engine: o.engine}
	if many.image, err = o.engine.Import(ctx, img, engine.ImportOptions{}); err != nil {
		return nil, err
	}
	ours := &subject{name: "100 layers", every: 1, measure: timed(many.start)}
	limit := &subject{name: "one layer", every: 1, measure: timed(o.start)}
	if err := interleave(ctx, b.rounds(300), true, limit, ours); err != nil {
		return nil, err
	}
	return []Result{compare("layers100", "ms", (*subject).milliseconds, ours, limit, nil)}, nil
}

// withFile adds a layer that has one file.
func withFile(img v1.Image, name string, data []byte) (v1.Image, error) {
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return mutate.AppendLayers(img, static.NewLayer(layer.Bytes(), types.DockerUncompressedLayer))
}
