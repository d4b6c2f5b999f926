package engine

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// maxDrafts bounds how many files wait to be records again. More than one is
// of use when several containers end at once.
const maxDrafts = 16

// drafts are files that will be records. On ext4, making a file or a directory
// takes longer than all else that Create does, so that of a removed container becomes the
// next one's, if nobody else has it open: one who waits reads the last state
// of a container from a file that has no name any more. The names of drafts
// tell whose they are, for a sweep.
type drafts struct {
	dir    records
	engine string

	mu     sync.Mutex
	next   uint64
	ready  []*os.File
	id     string          // the next container's
	places map[string]bool // directories that records have been given, or will be
	work   sync.WaitGroup
	closed bool
}

// nextID gives the ID of a container that is to be made. Where its record will be
// is known one container ahead, so that the directory is made meanwhile if it is
// missing.
func (d *drafts) nextID() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	id := first(d.id, newID())
	d.id = newID()
	place := filepath.Dir(d.dir.path(d.id))
	if d.places[place] || d.closed {
		return id
	}
	if d.places == nil {
		d.places = make(map[string]bool)
	}
	d.places[place] = true
	d.work.Go(func() { _ = os.Mkdir(place, 0o700) }) // else the record's own writer does it, or fails
	return id
}

// take gives a file, for the caller to write, close and rename.
func (d *drafts) take() (*os.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := len(d.ready); n > 0 {
		f := d.ready[n-1]
		d.ready = d.ready[:n-1]
		return f, nil
	}
	return os.OpenFile(d.path(), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

// path is a new draft's; d.mu is held.
func (d *drafts) path() string {
	d.next++
	return d.dir.draft(d.engine, strconv.FormatUint(d.next, 10))
}

// give takes the locked record of a removed container, which f has open, out
// of its place. What becomes no draft is gone.
func (d *drafts) give(f *os.File) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || len(d.ready) >= maxDrafts {
		return os.Remove(f.Name())
	}
	path := d.path()
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	if !openedOnce(f) {
		return os.Remove(path)
	}
	// Opened again, by its new name, and without the lock.
	draft, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return errors.Join(err, os.Remove(path))
	}
	d.ready = append(d.ready, draft)
	return nil
}

// close removes the drafts.
func (d *drafts) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	d.work.Wait()
	var errs []error
	for _, f := range d.ready {
		errs = append(errs, f.Close(), os.Remove(f.Name()))
	}
	d.ready = nil
	return errors.Join(errs...)
}
