package runtime

import (
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// prepareFiles puts the files into a tmpfs, attaches that to the keeper's root,
// and makes a detached mount of each: a copy of part of a mount can be made
// only of one that is attached in the caller's namespace.
func (b *builder) prepareFiles(files []File) {
	if len(files) == 0 {
		return
	}
	fd, ok := b.obtain(func() (*os.File, error) {
		m, err := b.rt.spares.take("files", newFilesMount)
		if err == nil {
			if err = b.writeFiles(m, files); err != nil {
				m.Close()
			}
		}
		if err != nil {
			err = fmt.Errorf("files: %w", needsRoot(err))
		}
		return m, err
	}, func() string { return "new tmpfs with the files, named 0, 1, ..." })
	if !ok {
		return
	}
	b.add("attach the files", unix.SYS_MOVE_MOUNT, fd, b.string(""), atCwd, b.string("/"+filesDir), unix.MOVE_MOUNT_F_EMPTY_PATH)
	for i, f := range files {
		b.files = append(b.files, b.cloneTree("copy the mount of "+f.Path, fd, strconv.Itoa(i), 0))
	}
}

func newFilesMount() (*os.File, error) {
	return newMount("tmpfs", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV, "source", "tmpfs", "mode", "755", "size", "1m")
}

// writeFiles names the files by their index.
func (b *builder) writeFiles(m *os.File, files []File) (err error) {
	for i, f := range files {
		if b.user != nil {
			if f.UID, f.GID, err = b.user.ids.host(f.UID, f.GID); err != nil {
				return fmt.Errorf("%s: %w", f.Path, err)
			}
		}
		if err := writeFileAt(int(m.Fd()), strconv.Itoa(i), f); err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	return nil
}

func writeFileAt(dir int, name string, f File) error {
	mode := uint32(f.Mode.Perm())
	if mode == 0 {
		mode = 0o644
	}
	fd, err := unix.Openat(dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, mode)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for data := f.Data; len(data) > 0; {
		n, err := unix.Write(fd, data)
		if err != nil {
			return err
		}
		data = data[n:]
	}
	if err := unix.Fchmod(fd, mode); err != nil {
		return err
	}
	if f.UID == 0 && f.GID == 0 {
		return nil
	}
	return unix.Fchown(fd, int(f.UID), int(f.GID))
}

// attachFiles mounts the files at their paths. What the rootfs has there may be
// a link, as /etc/resolv.conf often is: the file then covers the link itself,
// which is not followed.
func (b *builder) attachFiles(files []File) {
	if b.err != nil { // of those that there are to be
		return
	}
	empty := b.string("")
	for i, f := range files {
		p, ok := cleanAbs(f.Path)
		if !ok || p == "/" {
			b.fail(fmt.Errorf("file %q: path is not absolute: %w", f.Path, errdefs.ErrInvalidArgument))
			return
		}
		what := "put file " + p
		if f.ReadOnly {
			attr := b.words(unix.MOUNT_ATTR_RDONLY, 0, 0, 0)
			b.add(what, unix.SYS_MOUNT_SETATTR, b.files[i], empty, unix.AT_EMPTY_PATH, attr, sizeofMountAttr).with(flagArg0)
		}
		dir, base := path.Split(p)
		parent := b.makeParents(what, strings.Trim(dir, "/"))
		name := b.string(base)
		b.add(what, unix.SYS_MKNODAT, parent, name, unix.S_IFREG|0o644, 0).with(flagArg0).orSkip(anyErrno, 0)
		b.add(what, unix.SYS_MOVE_MOUNT, b.files[i], empty, parent, name, unix.MOVE_MOUNT_F_EMPTY_PATH).with(flagArg0 | flagArg2)
	}
}
