package layer

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxZstdWindow is what the zstd command accepts without being asked.
const maxZstdWindow = 128 << 20

// errTruncated is io.ErrUnexpectedEOF of a compressed stream; the bare one
// would be taken for the end of what is read here.
var errTruncated = fmt.Errorf("compressed stream ends too early: %w", errdefs.ErrDataLoss)

// An unpacker makes a tar of what is read.
type unpacker func(*bufio.Reader) (io.ReadCloser, error)

// plain is for a tar of this store's, whatever its first member is called.
func plain(in *bufio.Reader) (io.ReadCloser, error) { return io.NopCloser(in), nil }

// decompress returns the tar inside a layer's stream, by its first bytes:
// gzip, zstd, or the tar itself. Close it.
//
// Several gzip members or zstd frames one after the other are one stream.
// What follows the last one and is neither is ignored, as Docker ignores it.
func decompress(in *bufio.Reader) (io.ReadCloser, error) {
	magic, err := in.Peek(6)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, gzipMagic):
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, corrupt(err)
		}
		z.Multistream(false)
		return &gzipReader{in: in, z: z}, nil
	case isZstd(magic):
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			return nil, corrupt(err)
		}
		return &zstdReader{in: in, z: z}, nil
	case bytes.HasPrefix(magic, []byte("BZh")), bytes.Equal(magic, []byte("\xfd7zXZ\x00")):
		return nil, invalidf("layers compressed with bzip2 or xz are not supported")
	}
	return plain(in)
}

var gzipMagic = []byte{0x1f, 0x8b, 8}

// isZstd also knows skippable frames, which may come first.
func isZstd(b []byte) bool {
	return bytes.HasPrefix(b, []byte{0x28, 0xb5, 0x2f, 0xfd}) ||
		len(b) >= 4 && b[0]&0xf0 == 0x50 && b[1] == 0x2a && b[2] == 0x4d && b[3] == 0x18
}

type gzipReader struct {
	in *bufio.Reader
	z  *gzip.Reader
}

func (r *gzipReader) Read(p []byte) (int, error) {
	for {
		n, err := r.z.Read(p)
		if err != io.EOF {
			return n, corrupt(err)
		}
		if n > 0 {
			return n, nil
		}
		magic, err := r.in.Peek(len(gzipMagic))
		if err != nil && err != io.EOF {
			return 0, err
		}
		if !bytes.Equal(magic, gzipMagic) {
			return 0, skip(r.in)
		}
		if err := r.z.Reset(r.in); err != nil {
			return 0, corrupt(err)
		}
		r.z.Multistream(false)
	}
}

func (r *gzipReader) Close() error { return r.z.Close() }

type zstdReader struct {
	in *bufio.Reader
	z  *zstd.Decoder
}

func (r *zstdReader) Read(p []byte) (int, error) {
	n, err := r.z.Read(p)
	if errors.Is(err, zstd.ErrMagicMismatch) { // the first frame's was right
		return n, skip(r.in)
	}
	return n, corrupt(err)
}

func (r *zstdReader) Close() error {
	r.z.Close()
	return nil
}

// skip reads in to its end, and returns io.EOF.
func skip(in io.Reader) error {
	if _, err := io.Copy(io.Discard, in); err != nil {
		return err
	}
	return io.EOF
}

// corrupt says that the data is bad, unless reading it failed before.
func corrupt(err error) error {
	var read *readError
	switch {
	case err == nil || err == io.EOF || errors.As(err, &read):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errTruncated
	}
	return fmt.Errorf("corrupt compressed stream: %w: %w", err, errdefs.ErrDataLoss)
}
