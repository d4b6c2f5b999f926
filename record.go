package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/inboard/engine/internal/atomicfile"
)

// records are the files that say what containers there are: one for each. The
// first line is a JSON object; each later line is one whose members take the
// place of those before it. So a change of state costs one write and never loses
// members that this program does not know, and who holds the file open reads the
// last state even after the file is removed.
//
// A record has the first shortID digits of its container's ID for a name, which
// no other one's ID begins with, and lies in a directory named by the first two
// of them: so who has that many digits finds it at once, however many there are,
// and who has fewer reads one directory of 256.
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

// dirDigits is how many digits name a directory of records.
const dirDigits = 2

// path is where the record of an ID is, or of its first shortID digits or more.
func (d records) path(id string) string {
	return filepath.Join(string(d), id[:dirDigits], id[:shortID])
}

// draft is the name of a file that will be a record. It tells whose it is.
func (d records) draft(engine, name string) string {
	return filepath.Join(string(d), "."+engine+"-"+name)
}

// errIDTaken tells that another container's ID begins with the same digits:
// among 10,000 containers the chance is one in 28 thousand million.
var errIDTaken = fmt.Errorf("another container's ID begins with the same %d digits: %w", shortID, ErrAlreadyExists)

// create makes a container's record of a draft, and gives its size. It appears
// whole, or not at all.
func (d records) create(r *record, draft *os.File) (size int64, err error) {
	data, err := json.Marshal(r)
	data = append(data, '\n')
	if err == nil {
		_, err = draft.WriteAt(data, 0)
	}
	if err == nil {
		err = draft.Truncate(int64(len(data))) // what it was before
	}
	err = errors.Join(err, draft.Close())
	if err == nil {
		err = d.place(draft.Name(), r.ID)
	}
	if err != nil {
		return 0, errors.Join(fmt.Errorf("write record: %w", err), os.Remove(draft.Name()))
	}
	return int64(len(data)), nil
}

// place gives a draft its place. The directory that it belongs in is made when it
// is first needed, and stays.
func (d records) place(draft, id string) error {
	path := d.path(id)
	dir, made := filepath.Dir(path), false
	for {
		err := atomicfile.RenameNew(draft, path)
		if errors.Is(err, fs.ErrExist) {
			return errIDTaken
		}
		if errors.Is(err, fs.ErrNotExist) {
			if _, gone := os.Lstat(draft); gone != nil {
				return err
			}
			if err = os.Mkdir(dir, 0o700); err == nil || errors.Is(err, fs.ErrExist) {
				made = made || err == nil
				continue
			}
		}
		if err != nil && made {
			_ = os.Remove(dir) // unless another has put something there
		}
		return err
	}
}

// read gives the record of a container by its ID, or by as many of its first
// digits as name a record; or ErrNotFound.
func (d records) read(id string) (*record, error) {
	f, err := os.Open(d.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNoContainer
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r, err := decodeRecord(f, id)
	if err != nil && !d.current(f, id) {
		// Removed while it was opened: the file may be another's by now.
		return nil, errNoContainer
	}
	return r, err
}

// find gives the record of the one container whose ID begins with some digits,
// or ErrNotFound, or ErrInvalidArgument if there are several.
func (d records) find(digits string) (*record, error) {
	if len(digits) >= shortID {
		return d.read(digits)
	}
	var found []string
	for _, dir := range dirsOf(digits) {
		names, err := d.names(dir)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if strings.HasPrefix(name, digits) {
				found = append(found, name)
			}
		}
		if len(found) > 1 {
			return nil, fmt.Errorf("IDs of several containers begin so: %w", ErrInvalidArgument)
		}
	}
	if len(found) == 0 {
		return nil, errNoContainer
	}
	return d.read(found[0])
}

// dirsOf names the directories that IDs may be in which begin with some digits.
func dirsOf(digits string) []string {
	if len(digits) >= dirDigits {
		return []string{digits[:dirDigits]}
	}
	var all []string
	for _, c := range "0123456789abcdef" {
		all = append(all, dirsOf(digits+string(c))...)
	}
	return all
}

// names lists the records in a directory of records, which may be missing.
func (d records) names(dir string) ([]string, error) {
	names, err := dirNames(filepath.Join(string(d), dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return slices.DeleteFunc(names, func(n string) bool { return !isShortID(n) }), err
}

// dirNames lists a directory.
func dirNames(path string) ([]string, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return dir.Readdirnames(-1)
}

// errNoContainer is for a container that is not there, or not any more.
var errNoContainer = fmt.Errorf("no such container: %w", ErrNotFound)

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

// open opens a record for a change and waits for its lock, until ctx ends.
// ErrNotFound tells that another has removed it.
func (d records) open(ctx context.Context, id string) (*os.File, error) {
	for {
		f, err := os.OpenFile(d.path(id), os.O_RDWR|os.O_APPEND, 0)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, errNoContainer
		}
		if err != nil {
			return nil, err
		}
		if err := waitLock(ctx, f); err != nil {
			f.Close()
			return nil, err
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
func (d records) change(ctx context.Context, id string, v any) error {
	f, err := d.open(ctx, id)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = d.append(f, id, v)
	return err
}

// append is change for who has the record open and locked, and tells how long it
// was before. It may be another file after that: f stays locked, and says the
// same, but is not the record any more.
func (d records) append(f *os.File, id string, v any) (before int64, err error) {
	data, err := json.Marshal(v)
	if err != nil {
		return 0, fmt.Errorf("change record: %w", err)
	}
	before, err = f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("change record: %w", err)
	}
	switch v.(type) {
	case startChange, pauseChange, resourcesChange:
		data = withRoom(data, before)
	}
	if _, err := f.Write(append(data, '\n')); err != nil {
		// A part of a line would spoil the next one.
		return before, errors.Join(fmt.Errorf("change record: %w", err), f.Truncate(before))
	}
	if before > longRecord {
		if err := d.compact(f, id); !isDiskFull(err) {
			return before, err
		} // else it stays long: the change has been written
	}
	return before, nil
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

// list names the records of all containers.
func (d records) list() ([]string, error) {
	top, err := dirNames(string(d))
	if err != nil {
		return nil, err
	}
	var all []string
	for _, dir := range top {
		if len(dir) != dirDigits {
			continue // a draft
		}
		names, err := d.names(dir)
		if err != nil {
			return nil, err
		}
		all = append(all, names...)
	}
	return all, nil
}

// sweep removes the records and drafts of the engines that dead tells of, and
// tells gone of each record. One that cannot be read stays: whose it is is not
// known.
func (d records) sweep(dead func(engine string) bool, gone func(*record)) error {
	top, err := dirNames(string(d))
	if err != nil {
		return err
	}
	var errs []error
	remove := func(path string) bool {
		err := os.Remove(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		return err == nil
	}
	for _, name := range top {
		if draft, ok := strings.CutPrefix(name, "."); ok {
			if engine, _, _ := strings.Cut(draft, "-"); dead(engine) {
				remove(filepath.Join(string(d), name))
			}
		}
	}
	all, err := d.list()
	errs = append(errs, err)
	for _, name := range all {
		if r, err := d.read(name); err == nil && dead(r.Owner.Engine) && remove(d.path(name)) {
			gone(r)
		}
	}
	return errors.Join(errs...)
}

// clear removes all records and drafts, what is damaged included, and gives the
// records that could be read. The directories stay for the next ones.
func (d records) clear() ([]*record, error) {
	var gone []*record
	err := d.sweep(func(string) bool { return true }, func(r *record) { gone = append(gone, r) })
	if err != nil {
		return gone, err
	}
	top, err := dirNames(string(d))
	for _, name := range top {
		if path := filepath.Join(string(d), name); len(name) == dirDigits {
			err = errors.Join(err, clearDir(path))
		} else {
			err = errors.Join(err, os.RemoveAll(path))
		}
	}
	return gone, err
}
