package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// records are the files that say what containers there are: one for each,
// named by its ID. The first line is a JSON object; each later line is one
// whose members take the place of those before it. So a change of state costs
// one write and never loses members that this program does not know, and who
// holds the file open reads the last state even after the file is removed.
//
// A record is changed, and removed, under its lock (see lockFile). A line is
// whole once its newline is there; one that lacks it is still being written.
type records string

// maxRecord is where a record is cut down to one line again, and what a record
// may have at most before it is taken to be something else.
const (
	longRecord = 64 << 10
	maxRecord  = 16 << 20
)

func (d records) path(id string) string { return filepath.Join(string(d), id) }

// draft is the name of a file that will be a record. It tells whose it is.
func (d records) draft(engine, name string) string {
	return filepath.Join(string(d), "."+engine+"-"+name)
}

// create makes a container's record of a draft. It appears whole, or not at
// all.
func (d records) create(r *record, draft *os.File) error {
	data, err := json.Marshal(r)
	if err == nil {
		_, err = draft.WriteAt(append(data, '\n'), 0)
	}
	if err == nil {
		err = draft.Truncate(int64(len(data)) + 1) // what it was before
	}
	err = errors.Join(err, draft.Close())
	if err == nil {
		err = os.Rename(draft.Name(), d.path(r.ID))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write record: %w", err), os.Remove(draft.Name()))
	}
	return nil
}

// read gives the record of a container, or ErrNotFound.
func (d records) read(id string) (*record, error) {
	f, err := os.Open(d.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no such container: %w", ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r, err := decodeRecord(f, id)
	if err != nil && !d.current(f, id) {
		// Removed while it was opened: the file may be another's by now.
		return nil, fmt.Errorf("no such container: %w", ErrNotFound)
	}
	return r, err
}

// decodeRecord reads an open record from its beginning.
func decodeRecord(f *os.File, id string) (*record, error) {
	data, err := io.ReadAll(io.NewSectionReader(f, 0, maxRecord+1))
	if err != nil {
		return nil, err
	}
	r, err := parseRecord(data)
	if err != nil {
		return nil, fmt.Errorf("%s: damaged: %w: %w", f.Name(), err, ErrDataLoss)
	}
	return r, r.check(f.Name(), id)
}

func parseRecord(data []byte) (*record, error) {
	if len(data) > maxRecord {
		return nil, fmt.Errorf("more than %d bytes", maxRecord)
	}
	r := new(record)
	n := 0
	for line := range bytes.Lines(data) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break
		}
		n++
		if err := json.Unmarshal(line, r); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	if n == 0 {
		return nil, errors.New("has no whole line")
	}
	return r, nil
}

// open opens a record for a change and waits for its lock. ErrNotFound tells
// that another has removed it.
func (d records) open(id string) (*os.File, error) {
	for {
		f, err := os.OpenFile(d.path(id), os.O_RDWR|os.O_APPEND, 0)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("no such container: %w", ErrNotFound)
		}
		if err != nil {
			return nil, err
		}
		if err := waitLock(f); err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		if d.current(f, id) {
			return f, nil
		}
		f.Close() // removed or replaced while this waited
	}
}

// current tells whether f is still what the record's name leads to.
func (d records) current(f *os.File, id string) bool {
	open, err1 := f.Stat()
	named, err2 := os.Stat(d.path(id))
	return err1 == nil && err2 == nil && os.SameFile(open, named)
}

// change adds a line with the members of v to a container's record.
func (d records) change(id string, v any) error {
	f, err := d.open(id)
	if err != nil {
		return err
	}
	defer f.Close()
	return d.append(f, id, v)
}

// append is change for who has the record open and locked. It may be another
// file after that: f stays locked, but is not the record any more.
func (d records) append(f *os.File, id string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("change record: %w", err)
	}
	before, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("change record: %w", err)
	}
	switch v.(type) {
	case startChange, pauseChange, resourcesChange:
		data = withRoom(data, before)
	}
	if _, err := f.Write(append(data, '\n')); err != nil {
		// A part of a line would spoil the next one.
		return errors.Join(fmt.Errorf("change record: %w", err), f.Truncate(before))
	}
	if before > longRecord {
		if err := d.compact(f, id); !isDiskFull(err) {
			return err
		} // else it stays long: the change has been written
	}
	return nil
}

// withRoom is a line for a record of the size given. If the last block of the
// file would have little room after it, blanks lead into the next one: how the
// container ends can then be written down on a disk that has become full.
func withRoom(line []byte, size int64) []byte {
	const block, room = 1024, 256 // ext4's least block; more than an exitChange takes
	end := size + int64(len(line)) + 1
	if left := -end & (block - 1); left < room {
		line = append(line, bytes.Repeat([]byte(" "), int(left)+1)...)
	}
	return line
}

// compact replaces a locked record by one of a single line.
func (d records) compact(f *os.File, id string) error {
	data, err := io.ReadAll(io.NewSectionReader(f, 0, maxRecord))
	if err != nil {
		return err
	}
	members := make(map[string]json.RawMessage)
	for line := range bytes.Lines(data) {
		if err := json.Unmarshal(line, &members); err != nil {
			return fmt.Errorf("%s: damaged: %w: %w", f.Name(), err, ErrDataLoss)
		}
	}
	r, err := parseRecord(data)
	if err != nil {
		return err
	}
	if data, err = json.Marshal(members); err != nil {
		return err
	}
	part := d.draft(r.Owner.Engine, id)
	if err = os.WriteFile(part, append(withRoom(data, 0), '\n'), 0o600); err == nil {
		err = os.Rename(part, d.path(id))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("shorten record: %w", err), os.RemoveAll(part))
	}
	return nil
}

// list gives the IDs of all containers.
func (d records) list() ([]string, error) {
	dir, err := os.Open(string(d))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	entries, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	ids := entries[:0]
	for _, name := range entries {
		if isID(name) {
			ids = append(ids, name)
		}
	}
	return ids, nil
}

// sweep removes the records of the engines that dead tells of, and tells gone of
// each. One that cannot be read stays: whose it is is not known.
func (d records) sweep(dead func(engine string) bool, gone func(*record)) error {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		name := entry.Name()
		var engine string
		var swept *record
		if part, ok := strings.CutPrefix(name, "."); ok {
			engine, _, _ = strings.Cut(part, "-")
		} else if r, err := d.read(name); err == nil {
			engine, swept = r.Owner.Engine, r
		}
		if !dead(engine) {
			continue
		}
		err := os.Remove(filepath.Join(string(d), name))
		switch {
		case err == nil && swept != nil:
			gone(swept)
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
