package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// eventReader reads an eventLog from a place on.
type eventReader struct {
	log  *eventLog
	at   eventPosition
	file *os.File // of the generation; nil: not opened yet
	buf  []byte
	left []byte            // of buf, read and not given yet
	seen map[string]uint64 // last events of each Engine
}

func newEventReader(l *eventLog, from eventPosition) *eventReader {
	return &eventReader{log: l, at: from, buf: make([]byte, 64<<10), seen: make(map[string]uint64)}
}

func (r *eventReader) close() {
	if r.file != nil {
		r.file.Close()
	}
}

// next gives an event; io.EOF when there is none yet. An error with ErrDataLoss
// is of what comes before the next one.
func (r *eventReader) next() (Event, error) {
	for {
		line, err := r.line()
		if err != nil {
			return Event{}, err
		}
		if len(line) == 0 {
			continue
		}
		var l eventLine
		if err := json.Unmarshal(line, &l); err != nil {
			return Event{}, fmt.Errorf("%s: damaged: %w: %w", r.log.path(r.at.generation), err, ErrDataLoss)
		}
		if l.Number > r.seen[l.By] {
			r.seen[l.By] = l.Number
			return l.Event, nil
		}
	}
}

// line gives a line without its end.
func (r *eventReader) line() ([]byte, error) {
	sealed := false
	for {
		if i := bytes.IndexByte(r.left, '\n'); i >= 0 {
			line := r.left[:i]
			r.left = r.left[i+1:]
			r.at.offset += int64(i) + 1
			return line, nil
		}
		if err := r.open(); err != nil {
			return nil, err
		}
		if len(r.left) == len(r.buf) {
			r.buf = make([]byte, 2*len(r.buf)) // a line that long has many labels
		}
		n, err := r.file.ReadAt(r.buf, r.at.offset)
		if err != nil && err != io.EOF {
			return nil, err
		}
		more := n > len(r.left)
		r.left = r.buf[:n]
		switch {
		case more:
		case sealed:
			r.turn()
		default:
			if sealed, err = r.log.sealed(r.at.generation); err != nil {
				return nil, err
			}
			if !sealed {
				return nil, io.EOF
			}
			continue
		}
		sealed = false
	}
}

// sealed tells whether what is written from here on is in a later generation,
// too: there is one. It may be gone already, but then this one went before it.
func (l *eventLog) sealed(generation uint64) (bool, error) {
	next, err := exists(l.path(generation + 1))
	if next || err != nil {
		return next, err
	}
	this, err := exists(l.path(generation))
	return !this, err
}

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// turn goes on to the next generation.
func (r *eventReader) turn() {
	r.close()
	r.file, r.left = nil, nil
	r.at = eventPosition{generation: r.at.generation + 1}
}

// open opens the generation, or the oldest one that is kept after it.
func (r *eventReader) open() error {
	for r.file == nil {
		f, err := os.Open(r.log.path(r.at.generation))
		if err == nil {
			r.file = f
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		all, err := r.log.generations()
		if err != nil {
			return err
		}
		if len(all) == 0 || all[len(all)-1] < r.at.generation {
			return io.EOF // nothing has been written
		}
		lost := r.at.generation > 0
		r.at = eventPosition{generation: all[0]}
		if lost && all[0] > 1 {
			return errEventsLost
		}
	}
	return nil
}
