package layer

import (
	"fmt"
	"io"

	"github.com/containerd/errdefs"
)

// stream reads from blocks and knows its position.
type stream struct {
	fill func() ([]byte, error) // the next bytes, valid until the next call
	buf  []byte
	pos  int64
	join []byte // for take across blocks
}

// chunk returns at least one and at most n bytes.
func (s *stream) chunk(n int64) ([]byte, error) {
	for len(s.buf) == 0 {
		var err error
		if s.buf, err = s.fill(); err != nil {
			return nil, err
		}
	}
	b := s.buf[:min(n, int64(len(s.buf)))]
	s.buf = s.buf[len(b):]
	s.pos += int64(len(b))
	return b, nil
}

// take returns exactly n bytes: io.EOF if there are none, and
// io.ErrUnexpectedEOF if there are less.
func (s *stream) take(n int) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	b, err := s.chunk(int64(n))
	if err != nil || len(b) == n {
		return b, err
	}
	s.join = append(s.join[:0], b...)
	for len(s.join) < n {
		b, err := s.chunk(int64(n - len(s.join)))
		if err != nil {
			return nil, unexpected(err)
		}
		s.join = append(s.join, b...)
	}
	return s.join, nil
}

// unexpected turns the end of a stream in the middle of something into
// io.ErrUnexpectedEOF, and says that data is missing.
func unexpected(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("%w: %w", errdefs.ErrDataLoss, io.ErrUnexpectedEOF)
	}
	return err
}

func padding(size int64) int64 { return -size & (tarBlock - 1) }
