package layer

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const lockSuffix = ".lock"

// A work is a directory in which a layer is made, or taken apart. As long as
// its process lives, it holds a lock on the file beside it; one whose lock is
// free has lost its process, and the next Open removes it.
type work struct {
	dir  string
	lock *os.File
}

func (s *Store) begin() (*work, error) {
	w, err := s.beginEmpty()
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(w.dir, 0o700); err != nil {
		return nil, errors.Join(err, w.end())
	}
	return w, nil
}

// beginEmpty is begin without the directory. On a full disk it works too.
func (s *Store) beginEmpty() (*work, error) {
	for {
		w, err := s.tryBegin()
		if w != nil || err != nil {
			return w, err
		}
	}
}

// tryBegin returns nothing if a sweep took the lock file between its making
// and its locking.
func (s *Store) tryBegin() (*work, error) {
	var random [8]byte
	rand.Read(random[:]) // never fails
	w := &work{dir: filepath.Join(s.dir, "tmp", hex.EncodeToString(random[:]))}
	var err error
	if w.lock, err = os.OpenFile(w.dir+lockSuffix, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return nil, err
	}
	ok, err := tryLock(w.lock)
	if err == nil && ok && w.linked() {
		return w, nil
	}
	return nil, errors.Join(err, w.end())
}

// linked says whether the lock file still has its name.
func (w *work) linked() bool {
	a, err := os.Stat(w.lock.Name())
	if err != nil {
		return false
	}
	b, err := w.lock.Stat()
	return err == nil && os.SameFile(a, b)
}

// end removes what is left of the work.
func (w *work) end() error {
	err := errors.Join(os.RemoveAll(w.dir), w.lock.Close())
	// Windows removes no open file; a sweep may come in between.
	if e := os.Remove(w.lock.Name()); e != nil && !errors.Is(e, fs.ErrNotExist) {
		err = errors.Join(err, e)
	}
	return err
}

// sweep removes works whose process is gone.
func (s *Store) sweep() error {
	tmp := filepath.Join(s.dir, "tmp")
	entries, err := os.ReadDir(tmp)
	if err != nil {
		return err
	}
	for _, e := range entries {
		dir := filepath.Join(tmp, strings.TrimSuffix(e.Name(), lockSuffix))
		if err := sweepWork(dir); err != nil {
			return fmt.Errorf("sweep %s: %w", dir, err)
		}
	}
	return nil
}

func sweepWork(dir string) error {
	f, err := os.OpenFile(dir+lockSuffix, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		// A lock is made before its directory and removed after it.
		return os.RemoveAll(dir)
	}
	if err != nil {
		return err
	}
	if ok, err := tryLock(f); err != nil || !ok {
		return errors.Join(err, f.Close())
	}
	w := &work{dir: dir, lock: f}
	if !w.linked() {
		return f.Close() // its owner or another sweep was here first
	}
	return w.end()
}
