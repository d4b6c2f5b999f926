package engine

import (
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

// defaultLogSize is Config.LogSize's default.
const defaultLogSize = 8 << 20

// maxChunk is the most data that one entry of a log file has.
const maxChunk = 64 << 10

// timeLayout is RFC 3339 in UTC, always with nine digits of the second.
const timeLayout = "2006-01-02T15:04:05.000000000Z"

// logFile is where a container's output is kept: entries of what was read at
// once, each a line with time, stream and length, then that many bytes as they
// came:
//
//	2006-01-02T15:04:05.000000000Z stdout 6
//	hello
//
// Unlike Docker's JSON it keeps any bytes exactly, and costs no more than
// copying them. When the file has its size it is renamed to *.1, in the place
// of the one before. It is made at the first byte: most containers of a test
// write nothing, and making a file costs more than writing it.
type logFile struct {
	path string
	size int64

	mu      sync.Mutex
	file    *os.File
	written int64
	header  []byte
	made    bool
	err     error // the first; nothing is written after it
}

// logPath is where the log of an engine's container is.
func (r *root) logPath(engine, id string) string {
	return filepath.Join(r.engineDir(engine), "logs", id)
}

func newLogFile(path string, size int64) *logFile {
	if size == 0 {
		size = defaultLogSize
	}
	return &logFile{path: path, size: size}
}

// add appends what was read of a stream now.
func (l *logFile) add(s Stream, p []byte) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(p) > 0 && l.err == nil {
		n := min(len(p), maxChunk)
		l.err = l.write(now, s, p[:n])
		p = p[n:]
	}
}

func (l *logFile) write(t time.Time, s Stream, p []byte) error {
	if l.file != nil && l.written >= l.size {
		if err := errors.Join(l.file.Close(), os.Rename(l.path, l.path+".1")); err != nil {
			return err
		}
		l.file = nil
	}
	if l.file == nil {
		if err := l.open(); err != nil {
			return err
		}
	}
	l.header = t.UTC().AppendFormat(l.header[:0], timeLayout)
	l.header = fmt.Appendf(l.header, " %s %d\n", s, len(p))
	entry := append(l.header, p...)
	l.header = entry[:0]
	if _, err := l.file.Write(entry); err != nil {
		// A part of an entry would spoil what follows.
		return errors.Join(err, l.file.Truncate(l.written))
	}
	l.written += int64(len(entry))
	return nil
}

func (l *logFile) open() error {
	const flags = os.O_WRONLY | os.O_CREATE | os.O_APPEND
	f, err := os.OpenFile(l.path, flags, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(l.path), 0o700); err == nil {
			f, err = os.OpenFile(l.path, flags, 0o600)
		}
	}
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	l.file, l.written, l.made = f, st.Size(), true
	return nil
}

// close closes the file until the next byte, and tells what went wrong since
// the last close.
func (l *logFile) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.err
	l.err = nil
	if l.file != nil {
		err = errors.Join(err, l.file.Close())
		l.file = nil
	}
	return err
}

// remove removes the files, if any were made.
func (l *logFile) remove() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.made {
		return nil
	}
	return removeLog(l.path)
}

func removeLog(path string) error {
	var errs []error
	for _, p := range []string{path, path + ".1"} {
		if err := os.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
