package layer

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/inboard/engine/internal/atomicfile"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// AddOptions are those of Store.Add. The zero value takes any layer.
type AddOptions struct {
	// Digest is of the compressed stream; checked when set. SHA-256.
	Digest digest.Digest
	// Size is that of the compressed stream in bytes; checked when above 0.
	Size int64
	// DiffID is the digest of the tar; checked when set. SHA-256.
	DiffID digest.Digest
	// Tee gets the compressed bytes as they are read; may be nil. What it
	// got is only good when Add returns without an error.
	Tee io.Writer
	// Progress is called with the compressed bytes read so far, by one
	// goroutine at a time; may be nil.
	Progress func(read int64)
}

func (o AddOptions) check() error {
	for _, d := range []digest.Digest{o.Digest, o.DiffID} {
		if d == "" {
			continue
		}
		if err := d.Validate(); err != nil || d.Algorithm() != digest.SHA256 {
			return invalidf("digest %s", quote(string(d)))
		}
	}
	return nil
}

func (o AddOptions) name() string {
	switch {
	case o.Digest != "":
		return " " + o.Digest.String()
	case o.DiffID != "":
		return " " + o.DiffID.String()
	}
	return ""
}

// Add reads a layer's stream (a tar, plain or compressed with gzip or zstd) to
// its end, and stores it in the store's form. When it returns, the layer is
// verified, synced to the disk, and visible; on error nothing is left. A layer
// that the store has already is found again, after r has been read and
// verified all the same.
//
// A stream that is not what the options say, cut off or corrupt gives
// errdefs.ErrDataLoss; an archive that a layer cannot be made of,
// errdefs.ErrInvalidArgument, and the error names the member. Memory is bounded
// whatever the archive holds; disk space is not.
//
// Add ends early when ctx does, except that it waits for a Read of r: r should
// end with ctx too, as an HTTP response's body does. Several Adds may run at
// once, also of the same layer and in several processes.
func (s *Store) Add(ctx context.Context, r io.Reader, o AddOptions) (*Layer, error) {
	l, err := s.add(ctx, r, o)
	if err != nil {
		return nil, fmt.Errorf("add layer%s: %w", o.name(), explain(err))
	}
	return l, nil
}

func (s *Store) add(ctx context.Context, r io.Reader, o AddOptions) (*Layer, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if o.DiffID != "" {
		l, err := s.sound(o.DiffID)
		if err == nil {
			return l, readThrough(ctx, r, o)
		}
		if !errors.Is(err, errdefs.ErrNotFound) && !errors.Is(err, errdefs.ErrDataLoss) {
			return nil, err
		}
	}
	w, err := s.begin()
	if err != nil {
		return nil, err
	}
	rec, err := w.build(ctx, s.Form(), r, o)
	if err == nil {
		err = s.commit(w, rec)
	}
	if e := w.end(); err == nil {
		err = e
	}
	if err != nil {
		return nil, err
	}
	return s.Get(rec.DiffID)
}

// readThrough verifies the stream of a layer that is there already.
func readThrough(ctx context.Context, r io.Reader, o AddOptions) error {
	g, ctx := errgroup.WithContext(ctx)
	in := newIntake(ctx, r, o)
	g.Go(in.run)
	g.Go(func() error {
		src, err := decompress(bufio.NewReaderSize(in, 128<<10))
		if err != nil {
			return err
		}
		defer src.Close()
		sum := sha256.New()
		if _, err := io.Copy(sum, src); err != nil {
			return err
		}
		return checkDigest(sum, o.DiffID)
	})
	return g.Wait()
}

// A builder makes one form of a layer, in a work's directory.
type builder interface {
	// start adds goroutines to the group, and returns those that want the
	// whole tar.
	start(ctx context.Context, g *errgroup.Group) []*blockReader
	// member takes a member of the tar; its data can be read from t, of
	// which in has the current block.
	member(t *tarReader, e *entry, in *blockReader) error
	// end is told that there are no more members.
	end(t *tarReader) error
	// finish syncs what was made. The tar's size is in the record already.
	// It is called when the stream has been verified.
	finish(rec *record) error
	// close frees what the builder holds, also after an error.
	close()
}

// build makes a layer in the work's directory, all but its record's rename.
func (w *work) build(ctx context.Context, form Form, r io.Reader, o AddOptions) (record, error) {
	rec, err := w.stream(ctx, form, r, decompress, o)
	if form == FormIndex && errors.Is(err, errTooLarge) {
		tar, e := os.Open(filepath.Join(w.dir, tarName))
		if e != nil {
			return rec, e
		}
		defer tar.Close()
		form = FormDirectory
		rec, err = w.stream(ctx, form, io.LimitReader(tar, rec.Size), plain, AddOptions{DiffID: rec.DiffID})
		for _, name := range []string{tarName, indexName, dataName} {
			if e := os.Remove(filepath.Join(w.dir, name)); e != nil && !errors.Is(e, fs.ErrNotExist) {
				return rec, errors.Join(err, e)
			}
		}
	}
	if err != nil {
		return rec, err
	}
	rec.Version, rec.Form = recordVersion, form.String()
	return rec, atomicfile.WriteJSON(filepath.Join(w.dir, recordName), rec, atomicfile.Durable)
}

func (w *work) builder(form Form) (builder, error) {
	if form == FormDirectory {
		return newDirectoryBuilder(w.dir)
	}
	return newIndexBuilder(w.dir), nil
}

// stream runs the stages of an Add, each in a goroutine: read and hash the
// compressed bytes, unpack them, hash the tar, parse it, and what the builder
// adds.
func (w *work) stream(ctx context.Context, form Form, r io.Reader, unpack unpacker, o AddOptions) (record, error) {
	b, err := w.builder(form)
	if err != nil {
		return record{}, err
	}
	defer b.close()
	g, gctx := errgroup.WithContext(ctx)
	in := newIntake(gctx, r, o)
	pool := newBlockPool()
	hashing, parsing := newBlockReader(gctx), newBlockReader(gctx)
	readers := append(b.start(gctx, g), hashing, parsing)
	rec := record{}
	sum := sha256.New()
	g.Go(in.run)
	g.Go(func() error {
		src, err := unpack(bufio.NewReaderSize(in, 128<<10))
		if err != nil {
			return err
		}
		return errors.Join(pump(gctx, pool, src, readers...), src.Close())
	})
	g.Go(func() (err error) {
		rec.Size, err = hashBlocks(sum, hashing)
		return err
	})
	g.Go(func() error { return parse(b, parsing) })
	if err = g.Wait(); err == nil {
		pool.close()
		rec.DiffID = digest.NewDigest(digest.SHA256, sum)
		if o.DiffID != "" {
			err = checkDigest(sum, o.DiffID)
		}
	}
	if err == nil {
		err = b.finish(&rec)
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return rec, err
}

// explain gives errors of the disk their class.
func explain(err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%w: %w", err, errdefs.ErrResourceExhausted)
	case errors.Is(err, syscall.EFBIG):
		return fmt.Errorf("%w: %w", err, errdefs.ErrOutOfRange)
	case errors.Is(err, fs.ErrPermission) && !errors.Is(err, errdefs.ErrPermissionDenied):
		return fmt.Errorf("%w: %w", err, errdefs.ErrPermissionDenied)
	}
	return err
}

func hashBlocks(sum hash.Hash, in *blockReader) (int64, error) {
	size := int64(0)
	for {
		b, err := in.next()
		if err == io.EOF {
			return size, nil
		}
		if err != nil {
			return size, err
		}
		sum.Write(b.data)
		size += int64(len(b.data))
	}
}

// parse feeds a builder with the members of the tar. An archive that is at
// fault is called so only when the stream has been read and verified to its
// end: what unpacks to nonsense is most often a damaged stream.
func parse(b builder, in *blockReader) error {
	err := parseMembers(b, in)
	if errors.Is(err, errdefs.ErrInvalidArgument) {
		if e := in.drain(); e != nil {
			return e
		}
	}
	return err
}

func parseMembers(b builder, in *blockReader) error {
	t := newTarReader(in.fill)
	for {
		e, err := t.next()
		if err == io.EOF {
			if err := b.end(t); err != nil {
				return err
			}
			return in.drain() // behind the end marker
		}
		if err != nil {
			return err
		}
		if err := b.member(t, e, in); err != nil {
			return err
		}
	}
}

// commit makes a layer visible. If another Add was faster, its layer stands.
func (s *Store) commit(w *work, rec record) error {
	dir, err := s.path(rec.DiffID)
	if err != nil {
		return err
	}
	err = os.Rename(w.dir, dir)
	if err != nil {
		if _, e := os.Lstat(dir); e != nil {
			return err
		}
		_, e := s.sound(rec.DiffID)
		if e == nil || !errors.Is(e, errdefs.ErrDataLoss) {
			return e
		}
		// What is there is damaged.
		if err := s.Remove(rec.DiffID); err != nil && !errors.Is(err, errdefs.ErrNotFound) {
			return err
		}
		if err := os.Rename(w.dir, dir); err != nil {
			return err
		}
	}
	return atomicfile.SyncDir(filepath.Dir(dir))
}
