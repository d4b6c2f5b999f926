package engine

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// PruneContainersOptions are those of PruneContainers; the zero value is right.
type PruneContainersOptions struct {
	// Until leaves containers that were created after it. Zero: none.
	Until time.Time
	// Labels ("key" or "key=value") are what containers must all have, those of
	// WithoutLabels what they must not have.
	Labels, WithoutLabels []string
}

// PrunedContainers says what PruneContainers did.
type PrunedContainers struct {
	// Deleted are the IDs of the containers.
	Deleted []string
	// Reclaimed is how many bytes of their writable layers and logs were freed.
	Reclaimed int64
}

// PruneImagesOptions are those of PruneImages; the zero value is right.
type PruneImagesOptions struct {
	// All removes images that have a tag too, as long as no container uses them.
	All bool
	// Until leaves images that were created after it, as their configuration
	// says. Zero: none.
	Until time.Time
	// Labels and WithoutLabels are as in PruneContainersOptions.
	Labels, WithoutLabels []string
}

// PrunedImages says what PruneImages did.
type PrunedImages struct {
	// Untagged are the names that were taken away, Deleted the images' IDs, and
	// the diff IDs of the layers that went with them.
	Untagged []string
	Deleted  []digest.Digest
	// Reclaimed is how many bytes these layers had, as blobs and on their own.
	Reclaimed int64
}

// PruneContainers is Default's PruneContainers.
func PruneContainers(ctx context.Context, o PruneContainersOptions) (PrunedContainers, error) {
	return Default().PruneContainers(ctx, o)
}

// PruneImages is Default's PruneImages.
func PruneImages(ctx context.Context, o PruneImagesOptions) (PrunedImages, error) {
	return Default().PruneImages(ctx, o)
}

// PruneContainers removes containers that do not run, also those that were never
// started: this Engine's, and those of programs that have ended. Of the latter,
// all are swept, whatever the options say: they cannot run any more. Containers
// of other programs that live are theirs to remove. What cannot be removed is
// named by the error, beside what was.
func (e *Engine) PruneContainers(ctx context.Context, o PruneContainersOptions) (PrunedContainers, error) {
	const op = "prune containers"
	ctx, leave, err := e.enter(ctx)
	if err != nil {
		return PrunedContainers{}, failed(op, "", err)
	}
	defer leave()
	pruned, err := e.pruneContainers(ctx, &o)
	e.publish(EventContainer, EventPrune, "", reclaimed(pruned.Reclaimed))
	return pruned, failed(op, "", err)
}

func reclaimed(n int64) map[string]string {
	return map[string]string{"reclaimed": strconv.FormatInt(n, 10)}
}

func (e *Engine) pruneContainers(ctx context.Context, o *PruneContainersOptions) (PrunedContainers, error) {
	var pruned PrunedContainers
	names, err := e.root.records().list()
	if err != nil {
		return pruned, err
	}
	var errs []error
	dead := false
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return pruned, errors.Join(append(errs, err)...)
		}
		r, err := e.root.records().read(name)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		alive, err := e.root.alive(r.Owner.Engine)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		size := e.sizeOf(r)
		if alive {
			if !o.wants(e.snapshot(r, alive)) {
				continue
			}
			e.mu.Lock()
			c := e.containers[r.ID]
			e.mu.Unlock()
			if c == nil {
				continue
			}
			if err := c.remove(ctx, RemoveOptions{}); err != nil {
				if !errors.Is(err, errRunning) && !errors.Is(err, ErrNotFound) { // it has changed since
					errs = append(errs, failed("remove container", r.ID, err))
				}
				continue
			}
		}
		dead = dead || !alive
		pruned.Deleted = append(pruned.Deleted, r.ID)
		pruned.Reclaimed += size
	}
	if dead {
		errs = append(errs, e.sweepNow(ctx))
	}
	return pruned, errors.Join(errs...)
}

func (o *PruneContainersOptions) wants(info ContainerInfo) bool {
	return info.Owner.Self && info.State != StateRunning &&
		(o.Until.IsZero() || info.Created.Before(o.Until)) &&
		labelsMatch(info.Process.Labels, o.Labels, o.WithoutLabels)
}

// labelsMatch tells whether labels have all of some, and none of others.
func labelsMatch(labels map[string]string, with, without []string) bool {
	has := func(l string) bool {
		key, value, hasValue := strings.Cut(l, "=")
		got, ok := labels[key]
		return ok && (!hasValue || got == value)
	}
	return !slices.ContainsFunc(with, func(l string) bool { return !has(l) }) && !slices.ContainsFunc(without, has)
}

// sizeOf is how many bytes the files of a container's writable layer and log
// have.
func (e *Engine) sizeOf(r *record) int64 {
	size := treeSize(e.root.logDir(r.Owner.Engine, r.ID))
	if r.Layer != "" {
		size += treeSize(e.root.layerDir(r.Owner.Engine, r.Layer))
	}
	return size
}

// treeSize adds up the files below a directory, which a container may have
// written: os.Root goes down by descriptors, and follows no link.
func treeSize(dir string) (size int64) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0
	}
	defer root.Close()
	_ = fs.WalkDir(root.FS(), ".", func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // it may be going away
		}
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
			size += info.Size()
		}
		return nil
	})
	return size
}

// PruneImages removes images that no container, of any program, uses: those
// without a tag, or with All others too, and the layers that no other image
// has. Images that the Engine's containers used within the last second go too. A
// Create that comes in between keeps its image, or finds it gone.
func (e *Engine) PruneImages(ctx context.Context, o PruneImagesOptions) (PrunedImages, error) {
	const op = "prune images"
	ctx, leave, err := e.enter(ctx)
	if err != nil {
		return PrunedImages{}, failed(op, "", err)
	}
	defer leave()
	pruned, err := e.pruneImages(ctx, &o)
	e.publish(EventImage, EventPrune, "", reclaimed(pruned.Reclaimed))
	return pruned, failed(op, "", err)
}

func (e *Engine) pruneImages(ctx context.Context, o *PruneImagesOptions) (PrunedImages, error) {
	var pruned PrunedImages
	if err := e.holds.freeIdle(); err != nil {
		return pruned, err
	}
	images, err := e.images.List(ctx)
	errs := []error{err}
	for _, img := range images {
		i := &Image{engine: e, image: img}
		if !o.wants(i) {
			continue
		}
		sizes := i.layerSizes()
		removed, err := e.images.Remove(ctx, string(i.ID()), RemoveImageOptions{Force: true})
		if err != nil {
			if !errors.Is(err, ErrConflict) && !errors.Is(err, ErrNotFound) {
				errs = append(errs, failed("remove image", string(i.ID()), err))
			}
			continue
		}
		e.publishRemoved(string(i.ID()), removed)
		pruned.Untagged = append(pruned.Untagged, removed.Untagged...)
		pruned.Deleted = append(pruned.Deleted, removed.Deleted...)
		for _, d := range removed.Deleted {
			pruned.Reclaimed += sizes[d]
		}
	}
	return pruned, errors.Join(errs...)
}

func (o *PruneImagesOptions) wants(i *Image) bool {
	tagged := slices.ContainsFunc(i.Names(), func(name string) bool { return !strings.Contains(name, "@") })
	created := i.image.Created()
	return (o.All || !tagged) && (o.Until.IsZero() || created.Before(o.Until)) &&
		labelsMatch(i.image.Config().Config.Labels, o.Labels, o.WithoutLabels)
}

// layerSizes are the bytes that each layer takes: as it was pulled, and as the
// store has it.
func (i *Image) layerSizes() map[digest.Digest]int64 {
	sizes := make(map[digest.Digest]int64)
	layers, err := i.image.Layers()
	if err != nil {
		return sizes
	}
	blobs := i.image.Manifest().Layers
	for n, l := range layers {
		if n < len(blobs) {
			sizes[l.DiffID()] = l.Size() + blobs[n].Size
		}
	}
	return sizes
}
