package engine

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// running is an Engine's list of its containers that have processes, so that
// List need not read the records of all. It is a file in the run directory that
// nobody else writes. Each line is the name of a record, or blanks where another
// can come: the file is as long as the most that ran at once.
//
// A name comes before the container's record says that it runs, and goes after
// the record says that it has exited. So whoever reads the file finds each
// container that runs all the while, also if the Engine is killed; of the others
// that he may find, the records tell.
type running struct {
	path string

	mu    sync.Mutex
	file  *os.File         // nil: nothing has run yet
	lines map[string]int64 // where each name is
	free  []int64          // blank lines
	end   int64
}

var blankLine = []byte(strings.Repeat(" ", shortID) + "\n")

// add puts a container on the list.
func (l *running) add(id string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE, 0o600)
		if err != nil {
			return fmt.Errorf("list running container: %w", err)
		}
		l.file, l.lines = f, make(map[string]int64)
	}
	at := l.end
	if n := len(l.free); n > 0 {
		at = l.free[n-1]
	}
	if _, err := l.file.WriteAt([]byte(id[:shortID]+"\n"), at); err != nil {
		return fmt.Errorf("list running container: %w", err)
	}
	if at == l.end {
		l.end += int64(len(blankLine))
	} else {
		l.free = l.free[:len(l.free)-1]
	}
	l.lines[id] = at
	return nil
}

// remove takes a container off the list.
func (l *running) remove(id string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	at, ok := l.lines[id]
	if !ok {
		return nil
	}
	if _, err := l.file.WriteAt(blankLine, at); err != nil {
		return fmt.Errorf("list running container no more: %w", err)
	}
	delete(l.lines, id)
	l.free = append(l.free, at)
	return nil
}

// close removes the list.
func (l *running) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	return errors.Join(l.file.Close(), os.Remove(l.path))
}

func (r *root) runningDir() string { return filepath.Join(r.run, "running") }

// runningOf is where an engine's list of running containers is.
func (r *root) runningOf(engine string) string { return filepath.Join(r.runningDir(), engine) }

// running names the records of containers that may run. Those of engines that do
// not live do not.
func (r *root) running(alive func(engine string) bool) ([]string, error) {
	engines, err := dirNames(r.runningDir())
	if err != nil {
		return nil, err
	}
	var names []string
	for _, engine := range engines {
		if !isHex(engine) || !alive(engine) {
			continue
		}
		data, err := os.ReadFile(r.runningOf(engine))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for line := range bytes.Lines(data) {
			if name := string(bytes.TrimSuffix(line, []byte("\n"))); isShortID(name) {
				names = append(names, name)
			}
		}
	}
	// One that has been started again meanwhile can be there twice.
	slices.Sort(names)
	return slices.Compact(names), nil
}
