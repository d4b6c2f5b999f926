// Package atomicfile replaces small files whole: a reader sees the old content
// or the new one, never a part.
package atomicfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Durability says what a write must outlive.
type Durability bool

const (
	// Volatile content may be lost with the machine's power, but never torn:
	// the file is renamed into place and not synced.
	Volatile Durability = false
	// Durable content and its name are on the disk when the write returns.
	Durable Durability = true
)

// Write replaces the file at path with data, mode 0600. On error the old file
// stands as it was and nothing else is left in its directory. Writers of one
// path that race each leave a whole file; the last one wins.
func Write(path string, data []byte, d Durability) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".tmp-"+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(data); err != nil {
		return err
	}
	if d == Durable {
		if err = f.Sync(); err != nil {
			return err
		}
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	if d == Durable {
		return SyncDir(dir)
	}
	return nil
}

// WriteJSON is Write of v's JSON and a newline.
func WriteJSON(path string, v any, d Durability) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return Write(path, append(data, '\n'), d)
}

// ReadJSON decodes the file at path into v. A file that is not there gives an
// error that is fs.ErrNotExist; one that does not decode, an error that names it.
func ReadJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s: damaged: %w", path, err)
	}
	return nil
}

// SyncDir makes the names in a directory durable. Systems that cannot sync a
// directory (Windows) need no such call, so there it does nothing.
func SyncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(syncDir(f), f.Close())
}
