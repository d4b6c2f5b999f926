package layer

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// A tarFile writes a layer's tar. It goes past the page cache where the
// filesystem lets it: no copy, no dirty pages for a sync to wait for (a sixth
// of the time on the disks where it was measured), and none to drop.
type tarFile struct {
	f      *os.File
	direct bool
}

func createTar(name string) (*tarFile, error) {
	const flags = os.O_RDWR | os.O_CREATE | os.O_EXCL
	f, err := os.OpenFile(name, flags|unix.O_DIRECT, 0o600)
	if err == nil {
		return &tarFile{f: f, direct: true}, nil
	}
	if !errors.Is(err, unix.EINVAL) {
		return nil, err
	}
	// The file can exist now: the flag is refused after it was made.
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	f, err = os.OpenFile(name, flags, 0o600)
	return &tarFile{f: f}, err
}

// write appends a block of the tar. All but the last are whole.
func (t *tarFile) write(b []byte) error {
	if t.direct {
		whole := len(b) &^ (directSize - 1)
		n, err := t.f.Write(b[:whole])
		if b = b[n:]; err != nil && !errors.Is(err, unix.EINVAL) {
			return err
		}
		if len(b) == 0 {
			return nil
		}
		// The end of the tar, or a disk that wants another alignment.
		t.direct = false
		if _, err := unix.FcntlInt(t.f.Fd(), unix.F_SETFL, 0); err != nil {
			return os.NewSyscallError("fcntl", err)
		}
	}
	_, err := t.f.Write(b)
	if err == nil {
		// Have the disk begin now, not when the file is synced.
		_ = unix.SyncFileRange(int(t.f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	}
	return err
}

// finish syncs and closes the file.
func (t *tarFile) finish() error {
	err := os.NewSyscallError("fdatasync", unix.Fdatasync(int(t.f.Fd())))
	if err == nil {
		dropPages(t.f)
	}
	if e := t.f.Close(); err == nil {
		err = e
	}
	return err
}
