package engine

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
)

// logReader reads the chunks of a log while it is written, by this program or
// another. It has the files open that it knows of and has still to read, so
// what is dropped from the log meanwhile is missing only if they were not known.
type logReader struct {
	dir    string
	parts  []logPart // the first is being read
	last   int       // number of the last file that was found
	shared bool      // the files are another's

	off      int64  // in the first part, of the window's first byte
	window   []byte // read and not given yet
	buf      []byte // which window is in
	damaged  bool   // the first part, at off
	torn     bool   // the last part ends within a chunk
	position int64  // after the last chunk given; -1: none was
}

// logPart is one file of a log.
type logPart struct {
	file  *os.File
	limit int64 // how far it is read; -1: as far as it goes
}

// readBuffers are of readers that have something to read. One that waits has
// none.
var readBuffers = sync.Pool{New: func() any {
	b := make([]byte, 2*(headerSize+maxChunk))
	return &b
}}

func (r *logReader) close() {
	r.dropWindow()
	if !r.shared {
		for _, p := range r.parts {
			p.file.Close()
		}
	}
	r.parts = nil
}

// find opens the files that have come since the last call, and tells whether
// there are any.
//
// A listing shows no file without those before it that are still there: it is
// one system call, which keeps files from coming and going meanwhile.
func (r *logReader) find() (bool, error) {
	found := false
	for !found {
		entries, err := os.ReadDir(r.dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		var numbers []int
		for _, entry := range entries {
			if n, err := strconv.Atoi(entry.Name()); err == nil && n > r.last {
				numbers = append(numbers, n)
			}
		}
		if len(numbers) == 0 {
			return false, nil
		}
		slices.Sort(numbers)
		for _, n := range numbers {
			f, err := os.Open(filepath.Join(r.dir, strconv.Itoa(n)))
			if err != nil && !errors.Is(err, fs.ErrNotExist) { // dropped just now
				return false, err
			}
			if err == nil {
				r.parts = append(r.parts, logPart{f, -1})
				found = true
			}
			r.last = n
		}
	}
	return true, nil
}

// asOfNow gives a reader of what r has found and not read, as far as it goes
// now. Its files are r's.
func (r *logReader) asOfNow() (*logReader, error) {
	now := &logReader{dir: r.dir, last: r.last, shared: true, position: r.position}
	for _, p := range r.parts {
		if p.limit < 0 {
			st, err := p.file.Stat()
			if err != nil {
				return nil, err
			}
			p.limit = st.Size()
		}
		now.parts = append(now.parts, p)
	}
	return now, nil
}

// skip passes over what there is.
func (r *logReader) skip() error {
	now, err := r.asOfNow()
	if err != nil {
		return err
	}
	for err == nil || errors.Is(err, ErrDataLoss) {
		_, err = now.next()
	}
	if err != io.EOF {
		now.close()
		return err
	}
	for len(r.parts) > len(now.parts) {
		r.parts[0].file.Close()
		r.parts = r.parts[1:]
	}
	r.off, r.damaged, r.position = now.off, now.damaged, now.position
	return nil
}

// next gives the next chunk, which is good until the call after. The error
// io.EOF tells that there is none yet. One that is ErrDataLoss tells of damage:
// the next call goes on behind it.
func (r *logReader) next() (chunk, error) {
	for len(r.parts) > 0 {
		if !r.damaged {
			c, size, err := parseChunk(r.window)
			if err == nil && size > 0 && c.position < r.position {
				err = fmt.Errorf("output goes on at %d after %d", c.position, r.position)
			}
			if err != nil {
				r.damaged = true
				return chunk{}, r.damage(err)
			}
			if size > 0 && size <= len(r.window) {
				r.window = r.window[size:]
				r.off += int64(size)
				r.position = c.position + int64(len(c.data))
				return c, nil
			}
			n, err := r.fill()
			if err != nil {
				r.damaged = true
				return chunk{}, err
			}
			if n > 0 {
				continue
			}
		}
		torn := len(r.window) > 0 && !r.damaged
		if len(r.parts) == 1 {
			// What is incomplete is read again: its writer may take it back.
			r.torn = torn
			r.dropWindow()
			break
		}
		err := r.damage(errTorn)
		if !r.shared {
			r.parts[0].file.Close()
		}
		r.parts = r.parts[1:]
		r.off, r.window, r.damaged = 0, nil, false
		if torn {
			return chunk{}, err
		}
	}
	return chunk{}, io.EOF
}

var errTorn = errors.New("ends in the middle of an entry")

// damage says what is wrong in the first part.
func (r *logReader) damage(err error) error {
	return fmt.Errorf("%s, at %d: damaged: %w: %w", r.parts[0].file.Name(), r.off, err, ErrDataLoss)
}

// fill reads on, and tells how much there was.
func (r *logReader) fill() (int, error) {
	if r.buf == nil {
		r.buf = *readBuffers.Get().(*[]byte)
	}
	p := r.parts[0]
	n := copy(r.buf, r.window)
	free := r.buf[n:]
	if p.limit >= 0 {
		free = free[:max(0, min(int64(len(free)), p.limit-r.off-int64(n)))]
	}
	more, err := p.file.ReadAt(free, r.off+int64(n))
	r.window = r.buf[:n+more]
	if err == io.EOF {
		err = nil
	}
	return more, err
}

func (r *logReader) dropWindow() {
	r.window = nil
	if b := r.buf; b != nil {
		r.buf = nil
		readBuffers.Put(&b)
	}
}
