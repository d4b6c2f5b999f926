package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/inboard/engine/internal/atomicfile"
	"github.com/inboard/engine/internal/lockwait"
	"golang.org/x/sys/unix"
)

// open opens a layer in its form.
func (s *Store) open(ctx context.Context, l *Layer, m *mounted) error {
	dir, err := s.path(l.rec.DiffID)
	if err != nil {
		return err
	}
	// The handle may be older than a change of form.
	rec, err := readRecord(dir, l.rec.DiffID)
	if err != nil {
		return err
	}
	m.implied = rec.ImpliedSize
	if rec.Form == FormIndex.String() {
		err := m.mount(dir, rec)
		if !errors.Is(err, errdefs.ErrNotImplemented) {
			return err
		}
		if err := s.convert(ctx, dir, rec); err != nil {
			return fmt.Errorf("turn into a directory, as this kernel does not mount an index here (%w): %w", errors.Unwrap(err), err)
		}
	}
	path := filepath.Join(dir, treeName)
	f, err := os.OpenFile(path, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		err = fmt.Errorf("%w: %w", err, errdefs.ErrDataLoss)
	}
	if err == nil {
		m.file, m.path = f, path
	}
	return err
}

// mount mounts a layer's index. The kernel believes an index, and a
// device that is shorter than it says reads as zeros: so what is mounted lies
// where only root writes, and has the sizes of the record. The error is
// errdefs.ErrNotImplemented if this kernel, or this filesystem, has no such
// mounts.
func (m *mounted) mount(dir string, rec record) error {
	var files []*os.File
	defer func() {
		for i, f := range files {
			if i == 0 || m.parts == nil {
				f.Close()
			}
		}
	}()
	for _, part := range []struct {
		name string
		size int64
	}{{indexName, rec.IndexSize}, {tarName, round(rec.Size, blockSize)}, {dataName, rec.DataSize}} {
		if part.size == 0 {
			continue // an empty tar is no device
		}
		f, err := openPart(filepath.Join(dir, part.name), part.size)
		if err != nil {
			return err
		}
		files = append(files, f)
	}
	if rec.IndexSize == 0 {
		return fmt.Errorf("%s: no index: %w", dir, errdefs.ErrDataLoss)
	}
	f, err := mountIndex(files[0], files[1:]...)
	if err == nil {
		m.parts = files[1:]
	}
	m.file = f
	return err
}

// dropPages drops what the page cache has of a file, if that is not closed yet.
func dropPages(f *os.File) {
	if conn, err := f.SyscallConn(); err == nil {
		_ = conn.Control(func(fd uintptr) { _ = unix.Fadvise(int(fd), 0, 0, unix.FADV_DONTNEED) })
	}
}

func openPart(name string, size int64) (*os.File, error) {
	f, err := os.OpenFile(name, unix.O_NOFOLLOW, 0)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: %w", err, errdefs.ErrDataLoss)
		}
		return nil, err
	}
	var st unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	switch {
	case err != nil:
	case st.Mode&unix.S_IFMT != unix.S_IFREG || st.Uid != uint32(os.Geteuid()) || st.Mode&0o022 != 0:
		err = fmt.Errorf("not a file that only this user writes: %w", errdefs.ErrPermissionDenied)
	case st.Size != size:
		err = fmt.Errorf("%d bytes where %d are expected: %w", st.Size, size, errdefs.ErrDataLoss)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return f, nil
}

// mountIndex returns a detached, read-only EROFS mount of an index and its
// devices. Set-uid files and devices count in it: a container's overlay, which
// has its own flags, is what they are seen through.
func mountIndex(index *os.File, devices ...*os.File) (*os.File, error) {
	fs, err := unix.Fsopen("erofs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, mountError("fsopen erofs", -1, err)
	}
	defer unix.Close(fs)
	// By descriptor, so that what is mounted is what was looked at, and so
	// that no path is too long: a parameter ends at 255 bytes.
	err = unix.FsconfigSetString(fs, "source", procPath(index))
	for _, d := range devices {
		if err == nil {
			err = unix.FsconfigSetString(fs, "device", procPath(d))
		}
	}
	if err == nil {
		err = unix.FsconfigSetFlag(fs, "ro")
	}
	if err == nil {
		err = unix.FsconfigCreate(fs)
	}
	if err != nil {
		return nil, mountError("mount erofs", fs, err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return nil, mountError("fsmount erofs", fs, err)
	}
	return os.NewFile(uintptr(fd), "layer"), nil
}

func procPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// mountError adds what the kernel says about a failed mount, and the class:
// ENODEV and ENOSYS mean no EROFS or no such calls, ENOTBLK no mounts from a
// file, EINVAL a feature (or an index) that this kernel does not know.
func mountError(step string, fs int, err error) error {
	switch {
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.ENOTBLK),
		errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		err = fmt.Errorf("%w: %w", err, errdefs.ErrNotImplemented)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		err = fmt.Errorf("%w: %w", err, errdefs.ErrPermissionDenied)
	}
	var log []string
	b := make([]byte, 1024)
	for fs >= 0 {
		n, e := unix.Read(fs, b)
		if e != nil || n <= 0 {
			break
		}
		log = append(log, strings.TrimSpace(string(b[:n])))
	}
	if log != nil {
		return fmt.Errorf("%s: %w (%s)", step, err, strings.Join(log, "; "))
	}
	return fmt.Errorf("%s: %w", step, err)
}

// convert turns a layer from the index form into the directory form, from its
// tar. The record says which form counts; what a crash leaves of the other one
// is removed with the layer, or by the next try. Processes take turns.
func (s *Store) convert(ctx context.Context, dir string, rec record) error {
	lock, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := lockwait.Until(ctx, func() (bool, error) { return tryLock(lock) }); err != nil {
		return err
	}
	now, err := readRecord(dir, rec.DiffID)
	if err != nil || now.Form == FormDirectory.String() {
		return err // another process was faster
	}
	w, err := s.begin()
	if err != nil {
		return err
	}
	err = w.convert(dir, now)
	return explain(errors.Join(err, w.end()))
}

func (w *work) convert(dir string, rec record) error {
	tar, err := openPart(filepath.Join(dir, tarName), round(rec.Size, blockSize))
	if err != nil {
		return err
	}
	defer tar.Close()
	made, err := w.stream(context.Background(), FormDirectory, io.LimitReader(tar, rec.Size), plain, AddOptions{DiffID: rec.DiffID})
	if err != nil {
		return err
	}
	tree := filepath.Join(dir, treeName)
	err = os.Rename(tree, filepath.Join(w.dir, "stale"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(filepath.Join(w.dir, treeName), tree); err != nil {
		return err
	}
	if made.ImpliedSize > 0 {
		if err := os.Rename(filepath.Join(w.dir, impliedName), filepath.Join(dir, impliedName)); err != nil {
			return err
		}
	}
	rec.Form, rec.Opaque, rec.ImpliedSize = FormDirectory.String(), made.Opaque, made.ImpliedSize
	rec.IndexSize, rec.DataSize = 0, 0
	if err := atomicfile.WriteJSON(filepath.Join(dir, recordName), rec, atomicfile.Durable); err != nil {
		return err
	}
	for _, name := range []string{tarName, indexName, dataName} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
