package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// waitForeign waits for the end of a run of another Engine's container: of the
// one given, or if that is 0 of the one that goes on, the last one, or the next.
func (e *Engine) waitForeign(ctx context.Context, id string, run int) (Status, error) {
	w := foreignWait{engine: e, id: id, run: run}
	defer w.close()
	for {
		if err := w.open(); err != nil {
			return Status{}, err
		}
		status, done, err := w.look()
		if done || err != nil {
			return status, err
		}
		if w.record == nil {
			continue
		}
		if _, err := w.sleep(ctx, nil); err != nil {
			return Status{}, err
		}
	}
}

// foreignWait is one wait for another Engine's container.
type foreignWait struct {
	engine *Engine
	id     string
	run    int

	record, lock *os.File
	watch        *watch
	pause        time.Duration // until the next look without an event; 0: none

	seen *record // what look saw
	dead bool    // its owner has ended
}

// open opens and watches the container's record and its owner's lock.
func (w *foreignWait) open() (err error) {
	if w.record != nil {
		return nil
	}
	w.record, err = os.Open(w.engine.root.records().path(w.id))
	if errors.Is(err, fs.ErrNotExist) {
		return errNoContainer
	}
	if err != nil {
		return err
	}
	r, err := decodeRecord(w.record, w.id)
	if err != nil {
		if !w.engine.root.records().current(w.record, w.id) {
			// Removed while it was opened: the file may be another's by now.
			err = errNoContainer
		}
		return err
	}
	files := []*os.File{w.record}
	if w.lock, err = openIfThere(w.engine.root.engineLock(r.Owner.Engine)); err != nil {
		return err
	}
	if w.lock != nil {
		files = append(files, w.lock)
	}
	w.watch, err = watches.add(files...)
	return err
}

func openIfThere(path string) (*os.File, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return f, err
}

func (w *foreignWait) close() {
	if w.watch != nil {
		watches.remove(w.watch)
	}
	if w.record != nil {
		w.record.Close()
	}
	if w.lock != nil {
		w.lock.Close()
	}
	w.record, w.lock, w.watch = nil, nil, nil
}

// look tells whether the run has ended, and how. The record is asked after the
// lock, because an engine writes before it ends; and it is still there to be
// read after its removal.
func (w *foreignWait) look() (Status, bool, error) {
	w.dead = w.lock == nil
	if !w.dead {
		held, err := isLocked(w.lock)
		if err != nil {
			return Status{}, false, err
		}
		w.dead = !held
	}
	removed := false
	if records := w.engine.root.records(); !records.current(w.record, w.id) {
		_, err := os.Lstat(records.path(w.id))
		if err == nil {
			w.close() // it was made shorter: open the new one
			return Status{}, false, nil
		}
		if removed = errors.Is(err, fs.ErrNotExist); !removed {
			return Status{}, false, err
		}
	}
	r, err := decodeRecord(w.record, w.id)
	if err != nil {
		return Status{}, false, err
	}
	w.seen = r
	if w.run == 0 {
		w.run = max(r.Runs, 1)
	}
	switch {
	case r.State == StateExited && r.Runs >= w.run:
		return r.Status, true, nil
	case r.Runs == w.run+1:
		return r.Status, true, nil // of the run before, until this one ends
	case r.Runs > w.run:
		return Status{}, true, nil
	case (w.dead || removed) && r.State.live():
		return Status{}, true, nil // nobody saw it end
	case w.dead || removed:
		return Status{}, false, fmt.Errorf("container is gone, and was not started: %w", ErrNotFound)
	}
	return Status{}, false, nil
}

// sleep waits for something to happen, or for another event; it tells whether
// it was the other one.
func (w *foreignWait) sleep(ctx context.Context, other <-chan struct{}) (bool, error) {
	var timeout <-chan time.Time
	if w.pause > 0 {
		timer := time.NewTimer(w.pause)
		defer timer.Stop()
		timeout = timer.C
	}
	select {
	case <-w.watch.events:
		// The kernel tells of the end of a lock file shortly before it lets go
		// of the lock (__fput in fs/file_table.c), so one look is not enough.
		w.pause = 100 * time.Microsecond
	case <-timeout:
		if w.pause *= 2; w.pause > 100*time.Millisecond {
			w.pause = 0
		}
	case <-other:
		return true, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
	return false, nil
}
