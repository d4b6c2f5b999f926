package layer

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

const (
	intakeBytes = 256 << 10
	intakeCount = 8
)

// An intake reads a layer's compressed stream in a goroutine of its own
// (run), which hashes it and copies it to the Tee, while Read hands it on to
// the decompressor.
type intake struct {
	ctx  context.Context
	r    io.Reader
	o    AddOptions
	sum  hash.Hash
	read int64

	full, free chan []byte
	cur, rest  []byte
}

// A readError comes from the caller's reader, not from a decompressor.
type readError struct{ err error }

func (e *readError) Error() string { return "read: " + e.err.Error() }
func (e *readError) Unwrap() error { return e.err }

func newIntake(ctx context.Context, r io.Reader, o AddOptions) *intake {
	in := &intake{ctx: ctx, r: r, o: o, full: make(chan []byte, intakeCount), free: make(chan []byte, intakeCount)}
	if o.Digest != "" {
		in.sum = sha256.New()
	}
	return in
}

// run reads to the end, and checks size and digest there: before the
// decompressor sees the end, so that a stream that was cut off is called that.
func (in *intake) run() error {
	for made := 0; ; {
		var b []byte
		select {
		case b = <-in.free:
		default:
			if made < intakeCount {
				made++
				b = make([]byte, intakeBytes)
				break
			}
			select {
			case b = <-in.free:
			case <-in.ctx.Done():
				return context.Cause(in.ctx)
			}
		}
		n, err := in.fill(b)
		if n > 0 {
			in.full <- b[:n] // has room for all buffers there are
		}
		if err == io.EOF {
			if err := in.check(); err != nil {
				return err
			}
			close(in.full)
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// fill reads one buffer.
func (in *intake) fill(b []byte) (int, error) {
	if in.ctx.Err() != nil {
		return 0, context.Cause(in.ctx)
	}
	// Not io.ReadFull: a body that was cut off ends with ErrUnexpectedEOF,
	// which that uses for its own ends.
	n, err := 0, error(nil)
	for n < len(b) && err == nil {
		var m int
		m, err = in.r.Read(b[n:])
		n += m
	}
	if err != nil && err != io.EOF {
		return 0, &readError{err}
	}
	b = b[:n]
	if in.read += int64(n); in.o.Size > 0 && in.read > in.o.Size {
		return 0, fmt.Errorf("more than the %d bytes that are expected: %w", in.o.Size, errdefs.ErrDataLoss)
	}
	if in.sum != nil {
		in.sum.Write(b)
	}
	if in.o.Tee != nil && n > 0 {
		if _, err := in.o.Tee.Write(b); err != nil {
			return 0, fmt.Errorf("write a copy: %w", err)
		}
	}
	if in.o.Progress != nil && n > 0 {
		in.o.Progress(in.read)
	}
	return n, err
}

func (in *intake) check() error {
	if in.o.Size > 0 && in.read != in.o.Size {
		return fmt.Errorf("%d bytes where %d are expected: %w", in.read, in.o.Size, errdefs.ErrDataLoss)
	}
	if in.sum == nil {
		return nil
	}
	return checkDigest(in.sum, in.o.Digest)
}

func checkDigest(sum hash.Hash, want digest.Digest) error {
	if got := digest.NewDigest(digest.SHA256, sum); got != want {
		return fmt.Errorf("digest is %s where %s is expected: %w", got, want, errdefs.ErrDataLoss)
	}
	return nil
}

// Read is for the decompressor's goroutine.
func (in *intake) Read(p []byte) (int, error) {
	for len(in.rest) == 0 {
		if in.cur != nil {
			in.free <- in.cur[:cap(in.cur)]
			in.cur = nil
		}
		select {
		case b, ok := <-in.full:
			if !ok {
				return 0, io.EOF
			}
			in.cur, in.rest = b, b
		case <-in.ctx.Done():
			return 0, &readError{context.Cause(in.ctx)}
		}
	}
	n := copy(p, in.rest)
	in.rest = in.rest[n:]
	return n, nil
}
