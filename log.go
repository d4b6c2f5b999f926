package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// Stream is one of a process's output streams.
type Stream uint8

const (
	// Stdout is file descriptor 1.
	Stdout Stream = 1
	// Stderr is file descriptor 2.
	Stderr Stream = 2
)

// String gives "stdout" or "stderr".
func (s Stream) String() string {
	switch s {
	case Stdout:
		return "stdout"
	case Stderr:
		return "stderr"
	}
	return "stream " + strconv.Itoa(int(s))
}

// Defaults and bounds of Config.LogSize and Config.LogFiles.
const (
	defaultLogSize  = 8 << 20
	defaultLogFiles = 4
	maxLogFiles     = 100
	minLogFile      = 4 << 10
)

const (
	// maxChunk is the most data that one chunk of a log has, and the most that
	// is read at once. Half of it costs a third more processor time for each
	// byte, twice as much saves a twentieth.
	maxChunk = 128 << 10
	// headerSize is what stands before the data.
	headerSize = 32
)

// A chunk is what was read of a stream at once. A log is chunks, each a header
// and the data as it came; in the header, least byte first:
//
//	 0  "IL", 1 for this version, then the stream
//	 4  bytes of data, 32 bits
//	 8  bytes of output since the container was made, before this chunk's
//	16  time: seconds since 1970, 64 bits, then nanoseconds, 32 bits
//	28  number of the run, 32 bits
//
// So any bytes are kept exactly, for the price of copying them; a reader knows
// how many are missing, whatever became of them; and a program that has no more
// than system calls can write it: what clock_gettime gives lies there as it is.
type chunk struct {
	time     time.Time
	stream   Stream
	run      int
	position int64
	data     []byte
}

// header puts a chunk's header at the beginning of b, for n bytes of data.
func (c *chunk) header(b []byte, n int) {
	copy(b, "IL\x01")
	b[3] = byte(c.stream)
	binary.LittleEndian.PutUint32(b[4:], uint32(n))
	binary.LittleEndian.PutUint64(b[8:], uint64(c.position))
	binary.LittleEndian.PutUint64(b[16:], uint64(c.time.Unix()))
	binary.LittleEndian.PutUint32(b[24:], uint32(c.time.Nanosecond()))
	binary.LittleEndian.PutUint32(b[28:], uint32(c.run))
}

// parseChunk reads the chunk at the beginning of b, and tells its size with the
// header: 0 if b is too short for that. Without all of its data in b it has
// none.
func parseChunk(b []byte) (c chunk, size int, err error) {
	if len(b) < headerSize {
		return chunk{}, 0, nil
	}
	length := binary.LittleEndian.Uint32(b[4:])
	position := binary.LittleEndian.Uint64(b[8:])
	nanoseconds := binary.LittleEndian.Uint32(b[24:])
	c = chunk{
		time:     time.Unix(int64(binary.LittleEndian.Uint64(b[16:])), int64(nanoseconds)).UTC(),
		stream:   Stream(b[3]),
		run:      int(binary.LittleEndian.Uint32(b[28:])),
		position: int64(position),
	}
	switch {
	case string(b[:3]) != "IL\x01":
		return chunk{}, 0, fmt.Errorf("%q is no header", b[:headerSize])
	case c.stream != Stdout && c.stream != Stderr:
		return chunk{}, 0, fmt.Errorf("header of %v", c.stream)
	case length == 0 || length > maxChunk:
		return chunk{}, 0, fmt.Errorf("header of %d bytes", length)
	case position > 1<<62 || nanoseconds >= 1e9 || c.run < 1:
		return chunk{}, 0, fmt.Errorf("header with position %d, %d ns, run %d", position, nanoseconds, c.run)
	}
	size = headerSize + int(length)
	if len(b) >= size {
		c.data = b[headerSize:size]
	}
	return c, size, nil
}

// logFile is where a container's output is kept, over all its runs: files in a
// directory of its own, with numbers that rise. When the last one is full, the
// oldest makes room for the next. No file is ever renamed or written again, so
// a reader that finds a later number knows that it has seen all of the one
// before.
//
// Nothing is made before the first byte: most containers of a test write
// nothing, and making a file costs more than writing it.
type logFile struct {
	dir   string
	limit int64 // bytes in one file
	keep  int   // files
	// begun tells others that dir is there now.
	begun func() error

	mu       sync.Mutex
	file     *os.File
	made     bool  // dir
	number   int   // of file, or of the one to open next
	oldest   int   // number of the oldest file
	written  int64 // bytes in file
	position int64 // bytes of output until now, also those that were lost
	err      error // the first since the last close
}

// logDir is where the log of an engine's container is.
func (r *root) logDir(engine, id string) string {
	return filepath.Join(r.engineDir(engine), "logs", id)
}

// newLogFile gives a log that takes size bytes in so many files; zero is for
// the defaults.
func newLogFile(dir string, size int64, files int, begun func() error) *logFile {
	if size == 0 {
		size = defaultLogSize
	}
	if files == 0 {
		files = defaultLogFiles
	}
	return &logFile{dir: dir, limit: size / int64(files), keep: files, begun: begun, number: 1, oldest: 1}
}

// checkLogSize refuses a size and number of files of which no log can be made.
func checkLogSize(size int64, files int) error {
	if files < 0 || files > maxLogFiles {
		return fmt.Errorf("log of %d files: not 1 to %d: %w", files, maxLogFiles, ErrInvalidArgument)
	}
	if l := newLogFile("", size, files, nil); size > 0 && l.limit < minLogFile {
		return fmt.Errorf("log of %d bytes: less than %d in each of %d files: %w", size, minLogFile, l.keep, ErrInvalidArgument)
	}
	return nil
}

// add appends what was read of a stream now: b, but for its first headerSize
// bytes, which are room for a header, so that header and data are one write.
// The rest of b is as it was when add returns.
//
// What cannot be written is lost, but counted, and the next chunk is tried
// again: a disk that was full for a while costs what came meanwhile.
func (l *logFile) add(run int, s Stream, b []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := chunk{time: time.Now(), stream: s, run: run}
	// In a small file a large chunk would leave too much of the last one empty.
	most := int(min(maxChunk, l.limit/8-headerSize))
	for len(b) > headerSize {
		n := min(len(b)-headerSize, most)
		c.position = l.position
		var under [headerSize]byte // the header of a later part lies on the part before
		copy(under[:], b)
		c.header(b, n)
		if err := l.write(b[:headerSize+n]); err != nil && l.err == nil {
			l.err = err
		}
		copy(b, under[:])
		l.position += int64(n)
		b = b[n:]
	}
}

// write appends a whole chunk, or nothing.
func (l *logFile) write(chunk []byte) error {
	if l.file != nil && l.written+int64(len(chunk)) > l.limit {
		if err := l.next(); err != nil {
			return err
		}
	}
	if l.file == nil {
		if err := l.open(); err != nil {
			return err
		}
	}
	if _, err := l.file.Write(chunk); err != nil {
		// A part of a chunk would spoil what follows.
		if bad := l.file.Truncate(l.written); bad != nil {
			return errors.Join(err, bad, l.next())
		}
		return err
	}
	l.written += int64(len(chunk))
	return nil
}

// next turns to the next file.
func (l *logFile) next() error {
	err := l.file.Close()
	l.file = nil
	l.number++
	return err
}

// open opens the file of the log's number, or makes it where the oldest was.
func (l *logFile) open() error {
	if !l.made {
		if err := os.MkdirAll(l.dir, 0o700); err != nil {
			return err
		}
		if err := l.begun(); err != nil {
			return errors.Join(err, os.Remove(l.dir))
		}
		l.made = true
	}
	for ; l.oldest <= l.number-l.keep; l.oldest++ {
		if err := os.Remove(l.path(l.oldest)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	f, err := os.OpenFile(l.path(l.number), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	l.file, l.written = f, st.Size()
	return nil
}

func (l *logFile) path(number int) string { return filepath.Join(l.dir, strconv.Itoa(number)) }

// close closes the file until the next byte. It tells how many bytes of output
// there have been, and what went wrong since the last close.
func (l *logFile) close() (position int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	err = l.err
	l.err = nil
	if l.file != nil {
		err = errors.Join(err, l.file.Close())
		l.file = nil
	}
	return l.position, err
}

// remove removes the files, if any were made.
func (l *logFile) remove() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.made {
		return nil
	}
	return os.RemoveAll(l.dir)
}
