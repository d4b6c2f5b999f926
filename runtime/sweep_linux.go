package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/inboard/engine/internal/cgroup"
)

// lockSuffix ends the names of the files that Runtimes lock: <id>.lock. The
// kernel drops a lock with its process, however that ends.
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

// sweep removes what Runtimes have left whose process is gone: their cgroups,
// with whatever may still run in them, and their lock files.
func sweep(dir, cgroupParent string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), lockSuffix)
		if ok && e.Type().IsRegular() {
			errs = append(errs, sweepOne(filepath.Join(dir, e.Name()), path.Join(cgroupParent, id)))
		}
	}
	return errors.Join(errs...)
}

func sweepOne(name, cgroupPath string) error {
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
	host, err := cgroup.Detect()
	if err == nil {
		err = errors.Join(host.RemoveAll(context.Background(), cgroupPath), host.Prune(path.Dir(cgroupPath)))
	}
	if err != nil {
		return fmt.Errorf("sweep %s: %w", name, err)
	}
	return os.Remove(name)
}
