package runtime

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// defaultDevices are those that a container must have: runtime-spec 1.3,
// config-linux, "Default Devices". Their owner is root, their mode 0666.
var defaultDevices = []struct {
	name         string
	major, minor uint32
}{
	{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7},
	{"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0},
}

// defaultLinks are the symbolic links of runtime-spec 1.3, runtime-linux, "Dev
// symbolic links", the terminal multiplexer, and Docker's link to kcore.
var defaultLinks = [][2]string{
	{"fd", "/proc/self/fd"}, {"stdin", "/proc/self/fd/0"}, {"stdout", "/proc/self/fd/1"},
	{"stderr", "/proc/self/fd/2"}, {"ptmx", "pts/ptmx"}, {"core", "/proc/kcore"},
}

// populateDev puts devices and links into a fresh /dev.
func populateDev(dev *os.File, devices []specs.LinuxDevice) error {
	fd := int(dev.Fd())
	for _, d := range defaultDevices {
		if err := makeDevice(fd, d.name, unix.S_IFCHR|0o666, d.major, d.minor, 0, 0); err != nil {
			return err
		}
	}
	for _, l := range defaultLinks {
		if err := unix.Symlinkat(l[1], fd, l[0]); err != nil {
			return fmt.Errorf("symlink %s: %w", l[0], err)
		}
	}
	for _, d := range devices {
		name, ok := strings.CutPrefix(path.Clean(d.Path), "/dev/")
		kind, known := map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}[d.Type]
		if !ok || !known {
			return fmt.Errorf("spec: device %q of type %q: %w", d.Path, d.Type, errdefs.ErrInvalidArgument)
		}
		mode, uid, gid := uint32(0o666), uint32(0), uint32(0)
		if d.FileMode != nil {
			mode = uint32(d.FileMode.Perm())
		}
		if d.UID != nil {
			uid = *d.UID
		}
		if d.GID != nil {
			gid = *d.GID
		}
		if err := mkdirAllAt(fd, path.Dir(name)); err != nil {
			return err
		}
		err := makeDevice(fd, name, kind|mode, uint32(d.Major), uint32(d.Minor), uid, gid)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	return nil
}

// makeDevice is mknod without the umask.
func makeDevice(dir int, name string, mode, major, minor, uid, gid uint32) error {
	if err := unix.Mknodat(dir, name, mode, int(unix.Mkdev(major, minor))); err != nil {
		return fmt.Errorf("mknod %s: %w", name, err)
	}
	if err := unix.Fchmodat(dir, name, mode&0o7777, 0); err != nil {
		return fmt.Errorf("chmod %s: %w", name, err)
	}
	if uid == 0 && gid == 0 {
		return nil
	}
	if err := unix.Fchownat(dir, name, int(uid), int(gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("chown %s: %w", name, err)
	}
	return nil
}
