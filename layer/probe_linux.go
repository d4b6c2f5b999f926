package layer

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// probe finds out whether layers in the index form work here, by doing in the
// store's own directory what a container needs: mount an EROFS image from a
// file (Linux 6.12; not on tmpfs or overlay, not in a user namespace), detached,
// and make an overlay of descriptors into it (lowerdir+, 6.8 for the string and
// later for descriptors and detached mounts; 6.18 does, 6.12 does not).
func (s *Store) probe() error {
	w, err := s.begin()
	if err != nil {
		return err
	}
	err = w.probe()
	if e := w.end(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("probe for layers as an index: %w", err)
	}
	return nil
}

func (w *work) probe() error {
	t := newTree()
	for _, name := range []string{"a", "b"} {
		if _, err := t.add(&entry{name: name, kind: kindDir, mode: 0o755}); err != nil {
			return err
		}
	}
	if _, err := t.add(&entry{name: "a/file", kind: kindFile, mode: 0o644, size: 1, runs: []run{{0, 512, 1}}}); err != nil {
		return err
	}
	tar, err := os.Create(filepath.Join(w.dir, tarName))
	if err != nil {
		return err
	}
	defer tar.Close()
	if err := tar.Truncate(2 * tarBlock); err != nil {
		return err
	}
	index, err := os.Create(filepath.Join(w.dir, indexName))
	if err != nil {
		return err
	}
	defer index.Close()
	x := &indexer{tar: tar, tarSize: 2 * tarBlock}
	if _, err := x.write(index, t.finish(func(change) {})); err != nil {
		return err
	}
	m, err := mountIndex(index, tar)
	if err != nil {
		return err
	}
	defer m.Close()
	return probeOverlay(m)
}

// probeOverlay makes an overlay of two directories in a detached mount, and
// reads a file through it.
func probeOverlay(m *os.File) error {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return mountError("fsopen overlay", -1, err)
	}
	defer unix.Close(fs)
	for _, name := range []string{"a", "b"} {
		fd, err := unix.Openat(int(m.Fd()), name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("read the index: %w", err)
		}
		err = unix.FsconfigSetFd(fs, "lowerdir+", fd)
		unix.Close(fd)
		if err != nil {
			return mountError("overlay lowerdir+", fs, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return mountError("mount overlay", fs, err)
	}
	o, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return mountError("fsmount overlay", fs, err)
	}
	defer unix.Close(o)
	fd, err := unix.Openat(o, "file", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("overlay: %w", err)
	}
	defer unix.Close(fd)
	var b [1]byte
	if n, err := unix.Read(fd, b[:]); n != 1 || err != nil {
		return fmt.Errorf("overlay: read %d bytes: %w", n, err)
	}
	return nil
}
