package image

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/inboard/engine/layer"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// layer brings one layer into both stores: its blob as it comes, its content
// under the diff ID.
func (a *arrival) layer(ctx context.Context, d ocispec.Descriptor, diffID digest.Digest) error {
	l, err := a.store.lockFetching(ctx, d.Digest)
	if err != nil {
		return err
	}
	defer l.remove()
	err = fmt.Errorf("not there, or not of %d bytes: %w", d.Size, errdefs.ErrDataLoss)
	if a.store.hasBlob(d) {
		_, err = a.store.layers.Get(diffID)
		if isNotFound(err) {
			err = a.unpack(ctx, d, diffID)
		}
		if err == nil {
			a.progress.finished(d.Digest, d.Size)
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	// Whatever the disk has done to the blob: brought again, it is right or its
	// error is that of where it comes from.
	if m := a.parts[d.Digest]; m != nil && m.part != "" {
		err = a.adopt(ctx, m, d, diffID)
	} else if a.blobs != nil {
		err = a.download(ctx, d, diffID)
	}
	if err != nil {
		return fmt.Errorf("layer %s: %w", d.Digest, err)
	}
	a.progress.finished(d.Digest, d.Size)
	return nil
}

// adopt makes a layer of a file of an archive, whose digest is known to be right.
func (a *arrival) adopt(ctx context.Context, m *member, d ocispec.Descriptor, diffID digest.Digest) error {
	f, err := os.OpenFile(m.part, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := a.store.place(f, d.Digest, nil); err != nil {
		return err
	}
	m.part = ""
	return a.unpack(ctx, d, diffID)
}

// unpack makes a layer of a blob that is there.
func (a *arrival) unpack(ctx context.Context, d ocispec.Descriptor, diffID digest.Digest) error {
	f, err := os.Open(a.store.blobPath(d.Digest))
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = a.store.layers.Add(ctx, a.progress.reader(f, d), layer.AddOptions{Digest: d.Digest, Size: d.Size, DiffID: diffID})
	return err
}

// download fetches a blob and makes a layer of it while it arrives. The blob
// gets its name after package layer has verified what both of them were made of.
func (a *arrival) download(ctx context.Context, d ocispec.Descriptor, diffID digest.Digest) error {
	f, err := os.OpenFile(filepath.Join(a.claim.dir, d.Digest.Encoded()), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	b, err := a.blobs.blob(ctx, d)
	if err != nil {
		return a.store.place(f, d.Digest, err)
	}
	defer b.Close()
	_, err = a.store.layers.Add(ctx, a.progress.reader(b, d), layer.AddOptions{Digest: d.Digest, Size: d.Size, DiffID: diffID, Tee: f})
	if err == nil {
		var at int64
		if at, err = f.Seek(0, io.SeekCurrent); err == nil && at != d.Size {
			err = fmt.Errorf("%d of %d bytes: %w", at, d.Size, errdefs.ErrDataLoss)
		}
	}
	return a.store.place(f, d.Digest, err)
}

// lockFetching makes sure that one blob is brought by one at a time, of all
// programs. The others find it there when it is their turn.
func (s *Store) lockFetching(ctx context.Context, d digest.Digest) (*fileLock, error) {
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		l, err := tryLockFile(s.path("fetching", d.Encoded()))
		if l != nil || err != nil {
			return l, err
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, ctx.Err()
		}
	}
}
