package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/inboard/engine/layer"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// layer brings one layer into both stores: its blob as it comes, its content
// under the diff ID.
func (a *arrival) layer(ctx context.Context, d ocispec.Descriptor, diffID digest.Digest) error {
	f, err := a.fetching(ctx, d)
	if err != nil {
		return err
	}
	defer func() {
		f.end()
		<-a.slots
	}()
	err = a.bring(ctx, f, d, diffID)
	if err == nil {
		a.progress.finished(d.Digest, d.Size)
	}
	return err
}

// bring is layer for who has the right to. The error names the layer.
func (a *arrival) bring(ctx context.Context, f *fetching, d ocispec.Descriptor, diffID digest.Digest) error {
	err := fmt.Errorf("layer %s: not there, or not of %d bytes: %w", d.Digest, d.Size, errdefs.ErrDataLoss)
	if a.store.hasBlob(d) {
		if err = a.store.checkLayer(diffID); isNotFound(err) || errors.Is(err, errdefs.ErrDataLoss) {
			err = a.unpack(ctx, d, diffID)
		}
		if err == nil || errors.Is(err, errdefs.ErrNotImplemented) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	// Whatever the disk has done to the blob: brought again, it is right or its
	// error is that of where it comes from.
	if m := a.parts[d.Digest]; m != nil && m.part != "" {
		return a.adopt(ctx, m, d, diffID)
	}
	if a.blobs != nil {
		return a.download(ctx, f, d, diffID)
	}
	return err
}

// adopt makes a layer of a file of an archive, whose digest is known to be right.
func (a *arrival) adopt(ctx context.Context, m *member, d ocispec.Descriptor, diffID digest.Digest) error {
	f, err := os.OpenFile(m.part, os.O_RDWR, 0)
	if err == nil {
		err = a.store.place(f, d.Digest, nil)
	}
	if err != nil {
		return fmt.Errorf("layer %s: %w", d.Digest, err)
	}
	m.part = ""
	return a.unpack(ctx, d, diffID)
}

// unpack makes a layer of a blob that is there.
func (a *arrival) unpack(ctx context.Context, d ocispec.Descriptor, diffID digest.Digest) error {
	f, err := os.Open(a.store.blobPath(d.Digest))
	if err != nil {
		return fmt.Errorf("layer %s: %w", d.Digest, err)
	}
	defer f.Close()
	l, err := a.store.layers.Add(ctx, a.progress.reader(f, d), layer.AddOptions{Digest: d.Digest, Size: d.Size, DiffID: diffID})
	if err == nil {
		a.claim.linkTar(l, d.Digest)
	}
	return err
}

// linkTar has a blob that is a layer's tar be the same file, in place of one of its
// own if there is that. Where it cannot be it lies on the disk twice.
func (c *claim) linkTar(l *layer.Layer, blob digest.Digest) bool {
	if l.DiffID() != blob {
		return false
	}
	name := filepath.Join(c.dir, "tar-"+blob.Encoded())
	if l.LinkTar(name) != nil {
		return false
	}
	err := os.Rename(name, c.store.blobPath(blob))
	os.Remove(name) // it stays where the two are one file already
	return err == nil
}

// download fetches a blob, or what has not come of it yet, and makes a layer of
// it while it arrives. The blob gets its name after package layer has verified
// what both of them were made of.
func (a *arrival) download(ctx context.Context, f *fetching, d ocispec.Descriptor, diffID digest.Digest) error {
	part, err := os.OpenFile(f.part(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("layer %s: %w", d.Digest, err)
	}
	var l *layer.Layer
	have := f.came()
	if have > d.Size {
		have = 0
	}
	if have > 0 {
		l, err = a.receive(ctx, part, have, d, diffID)
	}
	if have == 0 || isBad(err) && ctx.Err() == nil {
		// What another one has left may have been at fault.
		if err = part.Truncate(0); err == nil {
			l, err = a.receive(ctx, part, 0, d, diffID)
		}
	}
	if err != nil && !isBad(err) {
		part.Close() // as far as it goes it may be right
		return err
	}
	if e := a.store.place(part, d.Digest, err); err == nil && e != nil {
		return fmt.Errorf("layer %s: %w", d.Digest, e)
	}
	if err == nil {
		a.claim.linkTar(l, d.Digest)
	}
	return err
}

// isBad tells an error of what has come from one of how it comes.
func isBad(err error) bool {
	return errors.Is(err, errdefs.ErrDataLoss) || errors.Is(err, errdefs.ErrInvalidArgument)
}

// receive makes a layer of the bytes of its blob that have come and of those that
// it fetches, which it adds to them.
func (a *arrival) receive(ctx context.Context, part *os.File, have int64, d ocispec.Descriptor, diffID digest.Digest) (*layer.Layer, error) {
	b, err := a.blobs.blob(ctx, d, have)
	if err != nil {
		return nil, fmt.Errorf("layer %s: %w", d.Digest, err)
	}
	defer b.Close()
	whole := io.MultiReader(io.NewSectionReader(part, 0, have), b)
	return a.store.layers.Add(ctx, a.progress.reader(whole, d), layer.AddOptions{
		Digest: d.Digest, Size: d.Size, DiffID: diffID, Tee: &appender{to: part, at: have},
	})
}

// appender writes what is not in a file yet.
type appender struct {
	to   io.WriterAt
	at   int64 // where the file ends
	seen int64
}

func (w *appender) Write(b []byte) (int, error) {
	old := min(max(w.at-w.seen, 0), int64(len(b)))
	w.seen += int64(len(b))
	n, err := w.to.WriteAt(b[old:], w.at)
	w.at += int64(n)
	return int(old) + n, err
}
