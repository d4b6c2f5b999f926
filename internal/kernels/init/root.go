//go:build linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/inboard/engine/internal/kernels/job"
	"github.com/inboard/engine/internal/tools"
)

// environment is what the tests see. TMPDIR lies on ext4: EROFS mounts from
// files and overlay's upper directories want a real filesystem.
var environment = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/sh", "TERM=dumb",
	"TMPDIR=/var/tmp", tools.Env + "=" + job.Tools,
}

// mount is one filesystem of the machine.
type mount struct {
	fstype, on string
	flags      uintptr
	data       string
}

const plain = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// early is what finding devices takes; it is moved to the final root later.
var early = []mount{
	{"devtmpfs", "/dev", unix.MS_NOSUID, "mode=0755"},
	{"proc", "/proc", plain, ""},
	{"sysfs", "/sys", plain, ""},
}

// late is mounted in the final root, with systemd's flags and options, because
// that is what the engine meets elsewhere.
var late = []mount{
	{"devpts", "/dev/pts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666"},
	{"tmpfs", "/dev/shm", unix.MS_NOSUID | unix.MS_NODEV, ""},
	{"mqueue", "/dev/mqueue", plain, ""},
	{"tmpfs", "/run", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
	{"tmpfs", "/tmp", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	{"cgroup2", "/sys/fs/cgroup", plain, "nsdelegate,memory_recursiveprot"},
	{"securityfs", "/sys/kernel/security", plain, ""},
}

// files are the few things of /etc that programs ask for.
var files = map[string]string{
	"/etc/passwd":      "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
	"/etc/group":       "root:x:0:\ntty:x:5:\nuser:x:1000:\nnogroup:x:65534:\n",
	"/etc/hosts":       "127.0.0.1 localhost\n::1 localhost\n",
	"/etc/hostname":    "kernels\n",
	"/etc/resolv.conf": "",
	"/etc/subuid":      "user:100000:65536\n",
	"/etc/subgid":      "user:100000:65536\n",
}

// ownNames are commands of busybox that get no link: a test that looks for one
// of them means the GNU or Debian program, and skips without it.
var ownNames = []string{
	"ar", "bzip2", "cpio", "dpkg", "dpkg-deb", "gzip", "init", "modprobe", "rpm", "rpm2cpio", "tar", "xz",
}

// mountAll mounts each of list and makes the mount points.
func mountAll(list []mount) error {
	for _, m := range list {
		if err := os.MkdirAll(m.on, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.fstype, m.on, m.fstype, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.fstype, m.on, err)
		}
	}
	return nil
}

// prepare turns the freshly booted machine into one that looks like a server.
func prepare(now time.Time) error {
	if clock := unix.NsecToTimeval(now.UnixNano()); time.Now().Before(now) {
		if err := unix.Settimeofday(&clock); err != nil {
			return fmt.Errorf("set clock: %w", err)
		}
	}
	if err := switchRoot(); err != nil {
		return err
	}
	if err := mountAll(late); err != nil {
		return err
	}
	// As systemd has it, and what makes pivot_root and mount leaks hard.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	if err := unix.Sethostname([]byte("kernels")); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	limit := unix.Rlimit{Cur: 1024, Max: 1 << 19}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("set limit of open files: %w", err)
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	return enableControllers()
}

// switchRoot leaves the initramfs for a tmpfs with a disk at /var. The
// initramfs is the kernel's rootfs, which pivot_root(2) cannot leave, so a test
// that pivots would fail there for a reason no user has. The steps are those of
// switch_root(8).
func switchRoot() error {
	const root = "/root.new"
	if err := mountAll([]mount{{"tmpfs", root, 0, "mode=0755"}}); err != nil {
		return err
	}
	for _, dir := range []string{"bin", "sbin", "usr/bin", "usr/sbin", "etc", "root", "home/user", "var", "dev", "proc", "sys"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	disk, err := findDisk()
	if err != nil {
		return err
	}
	if err := unix.Mount(disk, root+"/var", "ext4", 0, ""); err != nil {
		return fmt.Errorf("mount %s on /var: %w", disk, err)
	}
	for _, m := range early {
		if err := unix.Mount(m.on, root+m.on, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", m.on, err)
		}
	}
	for from, to := range map[string]string{"/init": self, "/busybox": "/bin/busybox"} {
		if err := copyFile(from, root+to); err != nil {
			return err
		}
	}
	if err := unix.Chdir(root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the new root to /: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	return furnish()
}

// furnish fills the new root: directories, /etc, links in /dev and links to
// busybox for the commands that it has.
func furnish() error {
	for name, mode := range map[string]os.FileMode{
		"/root": 0o700, "/var/tmp": 0o777 | os.ModeSticky, "/var/lib": 0o755, "/var/log": 0o755, "/var/cache": 0o755,
	} {
		if err := os.MkdirAll(name, 0o755); err != nil {
			return err
		}
		if err := os.Chmod(name, mode); err != nil {
			return err
		}
	}
	if err := os.Chown("/home/user", 1000, 1000); err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			return err
		}
	}
	for name, target := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "fd/0", "/dev/stdout": "fd/1", "/dev/stderr": "fd/2",
		"/var/run": "/run",
	} {
		if err := os.Symlink(target, name); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	list, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		return fmt.Errorf("busybox --list: %w", err)
	}
	for name := range strings.FieldsSeq(string(list)) {
		if slices.Contains(ownNames, name) {
			continue
		}
		err := os.Symlink("busybox", "/bin/"+name)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// copyFile copies an executable.
func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o755)
}

// loopbackUp sets the flag that `ip link set lo up` sets.
func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	defer syscall.Close(s)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("loopback up: %w", err)
	}
	return nil
}
