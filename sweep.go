package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// deadEngine is an engine whose program has ended without Close. Its lock is
// held by who found it, until it is swept.
type deadEngine struct {
	id   string
	lock *os.File
}

// findDead finds the engines of a root whose lock is free, takes their locks,
// and counts the others. The root is locked, so that an engine that has a
// directory has its lock too.
func findDead(r *root) (dead []deadEngine, alive int, err error) {
	entries, err := os.ReadDir(filepath.Join(r.dir, "engines"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	var errs []error
	for _, entry := range entries {
		id := entry.Name()
		if !isHex(id) || id == r.engine {
			continue
		}
		lock, err := tryLockFile(r.engineLock(id))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			// Ended before it had a lock, or after it gave it up: nothing is in it.
			errs = append(errs, removeEngineDir(r.engineDir(id)))
		case err != nil:
			errs = append(errs, err)
		case lock == nil:
			alive++
		default:
			dead = append(dead, deadEngine{id, lock})
		}
	}
	if err := errors.Join(errs...); err != nil {
		for _, d := range dead {
			d.lock.Close()
		}
		return nil, 0, fmt.Errorf("look for engines that have ended: %w", err)
	}
	return dead, alive, nil
}

// sweepRun empties the run directory's state, and gives the records that were
// there. The root is locked and no engine lives, so all of it is stale, damaged
// files and an earlier boot's included.
func (r *root) sweepRun() ([]*record, error) {
	gone, err := r.records().clear()
	return gone, errors.Join(err, clearDir(string(r.names())), clearDir(r.runningDir()), clearDir(r.controlDir()))
}

// clearDir removes what is in a directory.
func clearDir(dir string) error {
	names, err := dirNames(dir)
	errs := []error{err}
	for _, name := range names {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, name)))
	}
	return errors.Join(errs...)
}

// sweep removes what dead engines left: names, records, image holds, writable
// layers, logs. What cannot be removed now waits for the next sweep, because
// one file that does not go must not keep a root from being opened. It lets go
// of their locks.
func (e *Engine) sweep(dead []deadEngine) {
	if len(dead) == 0 {
		return
	}
	gone := make(map[string]bool)
	for _, d := range dead {
		gone[d.id] = true
		defer d.lock.Close()
	}
	isGone := func(engine string) bool { return gone[engine] }
	// Their processes end with their keepers, which the kernel may not have
	// got to yet. The runtime's own sweep makes sure, and removes cgroups.
	// Where there can be no runtime, no container was either.
	if _, err := e.runtime(); err != nil {
		e.log().Debug("no runtime to sweep with", "error", err)
	}
	if err := errors.Join(e.root.names().sweep(isGone), e.root.records().sweep(isGone, e.publishSwept)); err != nil {
		e.log().Warn("cannot sweep what programs left that have ended", "error", err)
		return
	}
	for id := range gone {
		err := errors.Join(os.RemoveAll(e.root.runningOf(id)), e.images.Release(imageHolder(id)), e.root.removeSocket(id))
		if err == nil {
			err = removeEngineDir(e.root.engineDir(id))
		}
		if err != nil { // again at the next sweep
			e.log().Warn("cannot sweep what a program left that has ended", "engine", id, "error", err)
			continue
		}
		e.log().Info("swept what a program left that has ended", "engine", id)
	}
}

// publishSwept tells of a dead program's container.
func (e *Engine) publishSwept(r *record) {
	if r.State.live() {
		e.publishRecord(r, EventDie)
	}
	e.publishRecord(r, EventDestroy)
}

// sweepNow sweeps engines that have ended since Open.
func (e *Engine) sweepNow(ctx context.Context) error {
	global, err := lockFile(ctx, filepath.Join(e.root.dir, "lock"))
	if err != nil {
		return err
	}
	dead, _, err := findDead(e.root)
	global.Close()
	if err == nil {
		e.sweep(dead)
	}
	return err
}

// removeEngineDir removes an engine's directory, its lock last. os.RemoveAll
// works on descriptors and follows no link, so trees that containers have
// written are safe to remove.
func removeEngineDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	var errs []error
	for _, entry := range entries {
		if entry.Name() != "lock" {
			errs = append(errs, removeTree(filepath.Join(dir, entry.Name())))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, "lock")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err = os.Remove(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// removeTree is os.RemoveAll for a tree into which a dying process may still
// write: what it adds is removed too.
func removeTree(path string) error {
	for range 8 {
		if err := os.RemoveAll(path); !errors.Is(err, syscall.ENOTEMPTY) {
			return err
		}
	}
	return os.RemoveAll(path)
}
