package engine

import (
	"context"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/inboard/engine/image"
)

// LoadOptions are those of Load and LoadLayout; the zero value is right.
type LoadOptions = image.LoadOptions

// ImportOptions are those of Import; the zero value is right.
type ImportOptions = image.ImportOptions

// Load is Default's Load.
func Load(ctx context.Context, r io.Reader, o LoadOptions) ([]*Image, error) {
	return Default().Load(ctx, r, o)
}

// LoadLayout is Default's LoadLayout.
func LoadLayout(ctx context.Context, dir string, o LoadOptions) ([]*Image, error) {
	return Default().LoadLayout(ctx, dir, o)
}

// Import is Default's Import.
func Import(ctx context.Context, img v1.Image, o ImportOptions) (*Image, error) {
	return Default().Import(ctx, img, o)
}

// Load reads an archive of images, as docker save, podman save, skopeo copy and
// BuildKit write it, from a stream that may be a pipe: all of its images or,
// with an error, none. It gives what docker load writes a line for: an image
// for each name that one was loaded with, which its Reference is, and one with
// an empty Reference for each image that has none. Privileges are as with Pull.
func (e *Engine) Load(ctx context.Context, r io.Reader, o LoadOptions) ([]*Image, error) {
	const op = "load images"
	ctx, leave, err := e.enter(ctx)
	if err != nil {
		return nil, failed(op, "", err)
	}
	defer leave()
	loaded, err := e.images.Load(ctx, r, o)
	images := e.loaded(loaded)
	e.publishImages(EventLoad, images...)
	return images, failed(op, "", err)
}

// LoadLayout is Load of an OCI image layout in a directory. The layout is
// copied, and nothing outside of the directory is opened.
func (e *Engine) LoadLayout(ctx context.Context, dir string, o LoadOptions) ([]*Image, error) {
	const op = "load images"
	ctx, leave, err := e.enter(ctx)
	if err != nil {
		return nil, failed(op, dir, err)
	}
	defer leave()
	loaded, err := e.images.LoadLayout(ctx, dir, o)
	images := e.loaded(loaded)
	e.publishImages(EventLoad, images...)
	return images, failed(op, dir, err)
}

func (e *Engine) loaded(loaded []image.Loaded) []*Image {
	var images []*Image
	for _, l := range loaded {
		images = append(images, &Image{e, l.Image, l.Name})
	}
	return images
}

// Import takes in an image of go-containerregistry's, wherever that has it: made
// in memory, in a registry, in a tarball. The image's Reference is the first of
// the names that it gets, if there are any. Privileges are as with Pull.
func (e *Engine) Import(ctx context.Context, img v1.Image, o ImportOptions) (*Image, error) {
	const op = "import image"
	ref := first(o.Names...)
	ctx, leave, err := e.enter(ctx)
	if err != nil {
		return nil, failed(op, ref, err)
	}
	defer leave()
	got, err := e.images.Import(ctx, img, o)
	if err != nil {
		return nil, failed(op, ref, err)
	}
	imported := &Image{e, got, ref}
	e.publishImages(EventImport, imported)
	return imported, nil
}
