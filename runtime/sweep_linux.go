package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/inboard/engine/internal/cgroup"
)

// lockSuffix ends the names of the files that Runtimes lock: <id>.lock. The
// kernel drops a lock with its process, however that ends. The file says what
// cgroups the Runtime has, a line each: first the one above all of its own
// naming, then "/PATH" for another such one below a CgroupParent, "+PATH" for
// one that a spec names, or that is missing on the way to a CgroupParent, and
// the same line after a "-" when it is removed.
const lockSuffix = ".lock"

// lockNew makes and locks a file. A sweep may take it for an abandoned one
// before it is locked; then another is made.
func lockNew(name string) (*os.File, error) {
	for {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil && sameFile(f, name) {
			return f, nil
		} else if err != nil && err != unix.EWOULDBLOCK {
			f.Close()
			return nil, &os.PathError{Op: "lock", Path: name, Err: err}
		}
		f.Close()
	}
}

// sameFile tells whether the open file still has the name.
func sameFile(f *os.File, name string) bool {
	a, err1 := f.Stat()
	b, err2 := os.Lstat(name)
	return err1 == nil && err2 == nil && os.SameFile(a, b)
}

// sweep removes what Runtimes have left whose process is gone: their cgroups
// and their lock files.
func sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), lockSuffix) && e.Type().IsRegular() {
			errs = append(errs, sweepOne(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

func sweepOne(name string) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil || !sameFile(f, name) {
		return nil // its Runtime lives, or another sweep has it
	}
	content, err := io.ReadAll(f)
	if err == nil {
		err = sweepCgroups(leftCgroups(string(content)))
	}
	if err != nil {
		return fmt.Errorf("sweep %s: %w", name, err)
	}
	return os.Remove(name)
}

// leftCgroups reads a lock file: the cgroups above those of the Runtime's own
// naming, none where it had not come to write the first, and the named ones
// that were not removed. A line without its newline was not written whole, and
// then nothing was made.
func leftCgroups(content string) (parents, named []string) {
	for line := range strings.Lines(content) {
		line, whole := strings.CutSuffix(line, "\n")
		switch path, made := strings.CutPrefix(line, "+"); {
		case !whole:
		case made:
			named = append(named, path)
		case strings.HasPrefix(line, "-"):
			gone := func(n string) bool { return n == line[1:] }
			parents, named = slices.DeleteFunc(parents, gone), slices.DeleteFunc(named, gone)
		default:
			parents = append(parents, line)
		}
	}
	return parents, named
}

// sweepCgroups removes the cgroups of a Runtime. In those of its own naming it
// kills what may still run, frozen or not; a named one may have become somebody
// else's, and goes only if it is empty.
func sweepCgroups(parents, named []string) error {
	if len(parents)+len(named) == 0 {
		return nil
	}
	host, err := cgroup.Detect()
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range parents {
		errs = append(errs, host.RemoveAll(context.Background(), p))
	}
	for _, p := range slices.Backward(named) {
		errs = append(errs, host.Prune(p))
	}
	if len(parents) > 0 {
		errs = append(errs, host.Prune(path.Dir(parents[0])))
	}
	return errors.Join(errs...)
}
