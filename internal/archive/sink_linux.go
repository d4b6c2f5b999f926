package archive

import (
	"context"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

const (
	// bufferSize is how much is written at once: a hundred small files, or a
	// good piece of a large one.
	bufferSize = 512 << 10
	// readSize is how little is left to be read into before it is written.
	readSize = 64 << 10
)

// sink collects what goes to a Writer.
type sink struct {
	ctx context.Context
	w   io.Writer
	buf []byte // cap is bufferSize, and more after large headers
}

func newSink(ctx context.Context, w io.Writer) *sink {
	return &sink{ctx: ctx, w: w, buf: make([]byte, 0, bufferSize)}
}

// flush writes what there is.
func (s *sink) flush() error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	n, err := s.w.Write(s.buf)
	if err == nil && n != len(s.buf) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	s.buf = s.buf[:0]
	return nil
}

// room makes room for a header or two.
func (s *sink) room() error {
	if cap(s.buf)-len(s.buf) < 4*blockSize {
		return s.flush()
	}
	return nil
}

// data takes size bytes of a file from off on. What the file does not have any
// more is zeros: the header has told its size.
func (s *sink) data(fd int, off, size int64) error {
	for size > 0 {
		if cap(s.buf)-len(s.buf) < int(min(size, readSize)) {
			if err := s.flush(); err != nil {
				return err
			}
		}
		free := s.buf[len(s.buf):cap(s.buf)]
		n, err := unix.Pread(fd, free[:min(int64(len(free)), size)], off)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		if n == 0 {
			return s.zeros(size)
		}
		s.buf = s.buf[:len(s.buf)+n]
		off, size = off+int64(n), size-int64(n)
	}
	return nil
}

func (s *sink) zeros(n int64) error {
	for n > 0 {
		if len(s.buf) == cap(s.buf) {
			if err := s.flush(); err != nil {
				return err
			}
		}
		free := s.buf[len(s.buf):cap(s.buf)]
		free = free[:min(int64(len(free)), n)]
		clear(free)
		s.buf = s.buf[:len(s.buf)+len(free)]
		n -= int64(len(free))
	}
	return nil
}
