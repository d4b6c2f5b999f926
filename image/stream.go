package image

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A readError comes from the caller's reader, not from what was read.
type readError struct{ err error }

func (e *readError) Error() string { return "read: " + e.err.Error() }
func (e *readError) Unwrap() error { return e.err }

// detached reads from another reader, until ctx ends.
type detached struct {
	*io.PipeReader
	stop func() bool
}

// detach reads r in a goroutine of its own, so that a Read of it that blocks
// keeps nobody who has ended. The goroutine closes r when that Read returns.
func detach(ctx context.Context, r io.ReadCloser) *detached {
	out, in := io.Pipe()
	go func() {
		defer r.Close()
		// Not by r's own way to copy, which may have no end.
		_, err := io.CopyBuffer(in, struct{ io.Reader }{r}, make([]byte, 256<<10))
		if err != nil {
			err = &readError{err}
		}
		in.CloseWithError(err)
	}()
	return &detached{out, context.AfterFunc(ctx, func() { in.CloseWithError(&readError{context.Cause(ctx)}) })}
}

func (d *detached) Close() error {
	d.stop()
	return d.PipeReader.Close()
}

// maxZstdWindow is what the zstd command accepts without being asked.
const maxZstdWindow = 128 << 20

var (
	gzipMagic  = []byte{0x1f, 0x8b, 8}
	zstdMagic  = []byte{0x28, 0xb5, 0x2f, 0xfd}
	bzip2Magic = []byte("BZh")
	xzMagic    = []byte("\xfd7zXZ\x00")
)

// isZstd also knows skippable frames, which may come first.
func isZstd(b []byte) bool {
	return bytes.HasPrefix(b, zstdMagic) || len(b) >= 4 && b[0]&0xf0 == 0x50 && b[1] == 0x2a && b[2] == 0x4d && b[3] == 0x18
}

// decompress gives the tar of an image archive, by its first bytes. Of what
// docker load takes, xz is left out.
func decompress(r io.Reader) (io.ReadCloser, error) {
	in := bufio.NewReaderSize(r, 128<<10)
	magic, err := in.Peek(len(xzMagic))
	switch {
	case err != nil && err != io.EOF:
		return nil, err
	case bytes.HasPrefix(magic, gzipMagic):
		return gzip.NewReader(in)
	case isZstd(magic):
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case bytes.HasPrefix(magic, bzip2Magic):
		return io.NopCloser(bzip2.NewReader(in)), nil
	case bytes.Equal(magic, xzMagic):
		return nil, fmt.Errorf("the archive is compressed with xz; decompress it before it is loaded: %w", errdefs.ErrNotImplemented)
	}
	return io.NopCloser(in), nil
}

// broken says of an error in reading an archive that the archive is at fault,
// unless its reader is.
func broken(err error) error {
	var read *readError
	switch {
	case err == nil, err == io.EOF, errors.As(err, &read), errors.Is(err, errdefs.ErrNotImplemented), errors.Is(err, errdefs.ErrDataLoss):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the archive ends too early: %w", errdefs.ErrDataLoss)
	}
	return fmt.Errorf("corrupt archive: %w: %w", err, errdefs.ErrDataLoss)
}

// unbroken passes on what is read, and errors as broken has them.
type unbroken struct{ r io.Reader }

func (u unbroken) Read(p []byte) (int, error) {
	n, err := u.r.Read(p)
	return n, broken(err)
}

// blobType is the media type of a layer's blob, by its first bytes. What is
// neither gzip nor zstd is taken for a tar, which package layer finds out.
func blobType(head []byte) string {
	switch {
	case bytes.HasPrefix(head, gzipMagic):
		return ocispec.MediaTypeImageLayerGzip
	case isZstd(head):
		return ocispec.MediaTypeImageLayerZstd
	}
	return ocispec.MediaTypeImageLayer
}

// isTar tells a tar by its first header: POSIX's or GNU's, or none in an empty
// one.
func isTar(head []byte) bool {
	return len(head) >= 512 && (string(head[257:262]) == "ustar" || bytes.Count(head[:512], []byte{0}) == 512)
}
