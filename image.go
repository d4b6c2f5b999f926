package engine

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/inboard/engine/image"
)

// PullOptions are those of Pull; the zero value is right.
type PullOptions = image.PullOptions

// Progress is how far one layer of a Pull, a Load or an Import has come.
type Progress = image.Progress

// RemoveImageOptions are those of Image.Remove.
type RemoveImageOptions = image.RemoveOptions

// RemovedImage says what Image.Remove did.
type RemovedImage = image.Removed

// Image is an image of an Engine's root, as it was when it was looked up.
// Its methods may be called by several goroutines at once.
type Image struct {
	engine *Engine
	image  *image.Image
	ref    string // see Reference
}

// ImageInfo is what is known of an image.
type ImageInfo struct {
	// ID is the digest of its configuration, Digest that of what was
	// pulled, loaded or imported: an index, or a manifest.
	ID, Digest digest.Digest
	// Names are the references that lead to it.
	Names []string
	// Size is in bytes, compressed as it was pulled.
	Size    int64
	Created time.Time
	// Config is the image specification's, Manifest too.
	Config   ocispec.Image
	Manifest ocispec.Manifest
}

// Pull is Default's Pull.
func Pull(ctx context.Context, ref string, o PullOptions) (*Image, error) {
	return Default().Pull(ctx, ref, o)
}

// LookupImage is Default's LookupImage.
func LookupImage(ctx context.Context, ref string) (*Image, error) {
	return Default().LookupImage(ctx, ref)
}

// Images is Default's Images.
func Images(ctx context.Context) ([]*Image, error) { return Default().Images(ctx) }

// Pull fetches an image from a registry, unless the root has it. References
// are Docker's: "alpine" is docker.io/library/alpine:latest. A layer that several
// calls want at once, also those of other programs, is fetched by one of them, and
// what has come of it taken over by the next should that one end early. It needs
// root only where layers are asked to be directories.
func (e *Engine) Pull(ctx context.Context, ref string, o PullOptions) (*Image, error) {
	const op = "pull image"
	ctx, leave, err := e.enter(ctx)
	if err != nil {
		return nil, failed(op, ref, err)
	}
	defer leave()
	img, err := e.images.Pull(ctx, ref, o)
	if err != nil {
		return nil, failed(op, ref, err)
	}
	pulled := &Image{e, img, ref}
	e.publishImages(EventPull, pulled)
	return pulled, nil
}

// LookupImage finds an image by a reference, an ID, or the first digits of an
// ID that no other has.
func (e *Engine) LookupImage(ctx context.Context, ref string) (*Image, error) {
	const op = "look up image"
	ctx, leave, err := e.enter(ctx)
	if err != nil {
		return nil, failed(op, ref, err)
	}
	defer leave()
	img, err := e.images.Lookup(ctx, ref)
	if err != nil {
		return nil, failed(op, ref, err)
	}
	return &Image{e, img, ref}, nil
}

// Images lists the images of the root.
func (e *Engine) Images(ctx context.Context) ([]*Image, error) {
	const op = "list images"
	ctx, leave, err := e.enter(ctx)
	if err != nil {
		return nil, failed(op, "", err)
	}
	defer leave()
	list, err := e.images.List(ctx)
	if err != nil {
		return nil, failed(op, "", err)
	}
	images := make([]*Image, len(list))
	for i, img := range list {
		images[i] = &Image{engine: e, image: img}
	}
	return images, nil
}

// ID is the digest of the image's configuration.
func (i *Image) ID() digest.Digest { return i.image.ID() }

// Digest is the digest of what was pulled, loaded or imported: an index, or a
// manifest, which Load makes for an image that comes without one.
func (i *Image) Digest() digest.Digest { return i.image.Digest() }

// Reference is what the image was pulled, loaded, imported or looked up by, and
// what Remove removes; empty: its ID.
func (i *Image) Reference() string { return i.ref }

// Names are the references that led to the image when it was looked up.
func (i *Image) Names() []string { return i.image.Names() }

// Inspect gives what is known of the image.
func (i *Image) Inspect(ctx context.Context) (ImageInfo, error) {
	if err := ctx.Err(); err != nil {
		return ImageInfo{}, failed("inspect image", string(i.ID()), err)
	}
	return ImageInfo{
		ID:       i.image.ID(),
		Digest:   i.image.Digest(),
		Names:    i.image.Names(),
		Size:     i.image.Size(),
		Created:  i.image.Created(),
		Config:   i.image.Config(),
		Manifest: i.image.Manifest(),
	}, nil
}

// Remove does what docker rmi does with the image's Reference: a name is taken
// away, and with the last one the image goes, with those of its layers that no
// other image has. An image that a container uses, or has used within the last
// second, stays, with ErrConflict.
func (i *Image) Remove(ctx context.Context, o RemoveImageOptions) (*RemovedImage, error) {
	const op = "remove image"
	ref := first(i.ref, string(i.ID()))
	ctx, leave, err := i.engine.enter(ctx)
	if err != nil {
		return nil, failed(op, ref, err)
	}
	defer leave()
	if err := i.engine.holds.freeIdle(); err != nil {
		return nil, failed(op, ref, err)
	}
	removed, err := i.engine.images.Remove(ctx, ref, o)
	i.engine.publishRemoved(string(i.ID()), removed)
	return removed, failed(op, ref, err)
}

// checkPlatform refuses an image whose program this machine cannot run. What
// an image leaves out is taken to fit.
func checkPlatform(p ocispec.Platform) error {
	if (p.OS == "" || p.OS == "linux") && (p.Architecture == "" || p.Architecture == runtime.GOARCH) {
		return nil
	}
	if p.OS != "linux" {
		return fmt.Errorf("image is for %s, containers are linux: %w", p.OS, ErrFailedPrecondition)
	}
	return fmt.Errorf("image is for linux/%s, this machine is linux/%s: %w", p.Architecture, runtime.GOARCH, ErrFailedPrecondition)
}
