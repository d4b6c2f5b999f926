package engine

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"strconv"
	"time"
)

// LogsOptions are those of Logs.
type LogsOptions struct{}

// LogEntry is a line that a container wrote, or a part of one.
type LogEntry struct {
	// Time is when its first byte was read.
	Time   time.Time
	Stream Stream
	// Data is the line with its newline. One of more than 64 KiB comes in
	// parts; the last line of a stream may lack its newline.
	Data []byte
}

// Logs gives what the container has written to its streams, over all its runs,
// as far as the log keeps it. Lines of one stream come in order; between
// streams the time of the line's end counts. A container of any program will
// do. After an error there is nothing more.
func (c *Container) Logs(ctx context.Context, _ LogsOptions) iter.Seq2[LogEntry, error] {
	const op = "read log of container"
	return func(yield func(LogEntry, error) bool) {
		files, err := c.openLog(ctx)
		if err != nil {
			yield(LogEntry{}, failed(op, c.id, err))
			return
		}
		defer func() {
			for _, f := range files {
				f.Close()
			}
		}()
		var lines lineJoiner
		for _, f := range files {
			for entry, err := range readEntries(f, f.Name()) {
				if err == nil {
					err = ctx.Err()
				}
				if err != nil {
					yield(LogEntry{}, failed(op, c.id, err))
					return
				}
				if !lines.add(entry, yield) {
					return
				}
			}
		}
		lines.end(yield)
	}
}

// openLog opens the files of the log, oldest first. One that is renamed
// meanwhile is read once.
func (c *Container) openLog(ctx context.Context) ([]*os.File, error) {
	ctx, leave, err := c.engine.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if _, err := c.engine.root.records().read(c.id); err != nil {
		return nil, err
	}
	path := c.engine.root.logPath(c.owner.Engine, c.id)
	now, err := openIfThere(path)
	if err != nil {
		return nil, err
	}
	before, err := openIfThere(path + ".1")
	if err != nil {
		if now != nil {
			now.Close()
		}
		return nil, err
	}
	var files []*os.File
	if before != nil {
		files = append(files, before)
	}
	if now != nil && (before == nil || !sameFile(now, before)) {
		return append(files, now), nil
	}
	if now != nil {
		now.Close()
	}
	return files, nil
}

func openIfThere(path string) (*os.File, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return f, err
}

func sameFile(a, b *os.File) bool {
	sa, err1 := a.Stat()
	sb, err2 := b.Stat()
	return err1 == nil && err2 == nil && os.SameFile(sa, sb)
}

// readEntries reads the entries of one log file. An entry that is cut off at
// the end is still being written, or its writer was killed: it is not there.
func readEntries(r io.Reader, name string) iter.Seq2[LogEntry, error] {
	return func(yield func(LogEntry, error) bool) {
		b := bufio.NewReaderSize(r, 64<<10)
		for {
			entry, err := readEntry(b)
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return
			}
			if err != nil {
				err = fmt.Errorf("%s: damaged: %w: %w", name, err, ErrDataLoss)
			}
			if !yield(entry, err) || err != nil {
				return
			}
		}
	}
}

func readEntry(b *bufio.Reader) (LogEntry, error) {
	header, err := b.ReadSlice('\n')
	if err != nil {
		return LogEntry{}, err
	}
	when, rest, _ := bytes.Cut(header[:len(header)-1], []byte(" "))
	stream, size, _ := bytes.Cut(rest, []byte(" "))
	var entry LogEntry
	if entry.Time, err = time.Parse(timeLayout, string(when)); err != nil {
		return LogEntry{}, fmt.Errorf("entry %.64q: no time", header)
	}
	switch string(stream) {
	case "stdout":
		entry.Stream = Stdout
	case "stderr":
		entry.Stream = Stderr
	default:
		return LogEntry{}, fmt.Errorf("entry %.64q: no stream", header)
	}
	n, err := strconv.ParseUint(string(size), 10, 32)
	if err != nil || n == 0 || n > maxChunk {
		return LogEntry{}, fmt.Errorf("entry %.64q: no length", header)
	}
	entry.Data = make([]byte, n)
	_, err = io.ReadFull(b, entry.Data)
	return entry, err
}

// lineJoiner makes lines of entries.
type lineJoiner struct {
	open [2]LogEntry // a line of each stream whose newline has not come
}

// add yields the lines that an entry ends. It returns what yield does.
func (j *lineJoiner) add(entry LogEntry, yield func(LogEntry, error) bool) bool {
	open := &j.open[entry.Stream-Stdout]
	for part := range bytes.Lines(entry.Data) {
		if len(open.Data) == 0 {
			*open = LogEntry{Time: entry.Time, Stream: entry.Stream}
		}
		open.Data = append(open.Data, part...)
		if part[len(part)-1] == '\n' || len(open.Data) >= maxChunk {
			line := *open
			*open = LogEntry{}
			if !yield(line, nil) {
				return false
			}
		}
	}
	return true
}

// end yields the lines that have no newline, the older one first.
func (j *lineJoiner) end(yield func(LogEntry, error) bool) {
	a, b := j.open[0], j.open[1]
	if len(a.Data) > 0 && len(b.Data) > 0 && b.Time.Before(a.Time) {
		a, b = b, a
	}
	for _, line := range []LogEntry{a, b} {
		if len(line.Data) > 0 && !yield(line, nil) {
			return
		}
	}
}
