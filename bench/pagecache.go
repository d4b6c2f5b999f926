//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/inboard/engine"
)

// benchPageCache measures how much the machine's page cache has grown five
// seconds after 20 containers have read the same file of their image's. The
// limit is the file's size.
func benchPageCache(ctx context.Context, b *bench) (_ []Result, err error) {
	size, readers := 200_000_000, 20
	if b.short {
		size, readers = 40_000_000, 4
	}
	dir, id, err := b.bigFile(ctx, size)
	if err != nil {
		return nil, err
	}
	var grown []float64
	for range b.rounds(5) {
		bytes, err := b.cached(ctx, dir, id, readers)
		if err != nil {
			return nil, err
		}
		grown = append(grown, float64(bytes)/1e6)
	}
	slices.Sort(grown)
	return []Result{newResult("pagecache", "MB", grown[len(grown)/2], float64(size)/1e6, nil)}, nil
}

// bigFile makes an engine's directory that has an image with a large file.
func (b *bench) bigFile(ctx context.Context, size int) (dir, id string, err error) {
	small, err := b.image()
	if err != nil {
		return "", "", err
	}
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data) // never fails
	img, err := withFile(small.image, "big", data)
	if err != nil {
		return "", "", err
	}
	if dir, err = b.mkdir("pagecache"); err != nil {
		return "", "", err
	}
	e, err := openEngine(dir)
	if err != nil {
		return "", "", err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	imported, err := e.Import(ctx, img, engine.ImportOptions{})
	if err != nil {
		return "", "", err
	}
	return dir, imported.ID().String(), nil
}

// cached tells by how many bytes the page cache has grown a while (see calm) after
// all readers have read the file; they live on meanwhile. The engine is a new
// one, so that nothing is mounted yet.
func (b *bench) cached(ctx context.Context, dir, id string, readers int) (_ int, err error) {
	if err := uncache(dir); err != nil {
		return 0, err
	}
	before, err := pageCache()
	if err != nil {
		return 0, err
	}
	e, err := openEngine(dir)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	img, err := e.LookupImage(ctx, id)
	if err != nil {
		return 0, err
	}
	done := make(told, readers)
	const script = "/bin/busybox dd if=/big of=/dev/null bs=64k && echo read && exec /bin/busybox sleep 3600"
	for range readers {
		c, err := e.Create(ctx, img, engine.Config{
			Args:    []string{"/bin/sh", "-c", script},
			Stdout:  done,
			LogSize: -1,
			Network: engine.NetworkNone,
		})
		if err != nil {
			return 0, err
		}
		if err := c.Start(ctx); err != nil {
			return 0, err
		}
	}
	for range readers {
		select {
		case <-done:
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(time.Minute):
			return 0, errors.New("a reader has not read the file in a minute")
		}
	}
	if err := b.calm(ctx); err != nil {
		return 0, err
	}
	after, err := pageCache()
	return after - before, err
}

// told is a Writer that tells of each call.
type told chan struct{}

func (t told) Write(p []byte) (int, error) {
	t <- struct{}{}
	return len(p), nil
}

// uncache drops what the page cache has of the files below dir.
func uncache(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := f.Sync(); err != nil { // only what is on the disk can be dropped
			return err
		}
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	})
}

// pageCache is the size of the machine's, in bytes: of what files have, without
// filesystems in memory.
func pageCache() (int, error) {
	sum := 0
	for _, list := range []string{"Active(file):", "Inactive(file):"} {
		kib, err := field("/proc/meminfo", list)
		if err != nil {
			return 0, fmt.Errorf("size of the page cache: %w", err)
		}
		sum += kib << 10
	}
	return sum, nil
}
