//go:build linux

// Package sample is what the end-to-end test runs in a machine: tests that pass,
// and look at what the machine promises.
package sample

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestKernel(t *testing.T) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	t.Log(unix.ByteSliceToString(name.Release[:]))
}

func TestWorkingDirectory(t *testing.T) {
	if text, err := os.ReadFile("testdata/greeting"); err != nil || string(text) != "hello\n" {
		t.Errorf("testdata/greeting = %q, %v", text, err)
	}
}

func TestTempDirIsExt4(t *testing.T) {
	var fs unix.Statfs_t
	if err := unix.Statfs(t.TempDir(), &fs); err != nil || fs.Type != unix.EXT4_SUPER_MAGIC {
		t.Errorf("type %#x, %v", fs.Type, err)
	}
}

func TestShell(t *testing.T) {
	out, err := exec.Command("sh", "-c", "id -u; pwd | wc -l; cat /proc/sys/net/ipv4/conf/lo/forwarding").CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "0\n1\n") {
		t.Errorf("%q, %v", out, err)
	}
}

func TestCgroup(t *testing.T) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil || string(own) != "0::/system.slice/tests.service\n" {
		t.Errorf("cgroup %q, %v", own, err)
	}
	dir := "/sys/fs/cgroup/sample"
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(dir)
	for _, file := range []string{"memory.max", "pids.max", "cpu.max", "cpuset.cpus", "cgroup.kill"} {
		if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
			t.Error(err)
		}
	}
}

func TestPivotRoot(t *testing.T) {
	out, err := exec.Command("unshare", "-m", "sh", "-ec", `
		mount --make-rprivate /
		mkdir /tmp/new; mount -t tmpfs none /tmp/new; mkdir /tmp/new/old
		cd /tmp/new; pivot_root . old`).CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if err := os.Remove("/tmp/new"); err != nil {
		t.Error(err)
	}
}

func TestOverlayOnExt4(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	if err := unix.Mount("overlay", "merged", "overlay", 0, "lowerdir=lower,upperdir=upper,workdir=work"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount("merged", 0); err != nil {
		t.Error(err)
	}
}

func TestFileSystems(t *testing.T) {
	text, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ext4", "overlay", "erofs", "fuse", "mqueue", "cgroup2"} {
		if !strings.Contains(string(text), "\t"+name+"\n") {
			t.Errorf("no file system %s", name)
		}
	}
}

func TestSkipped(t *testing.T) {
	t.Run("sub", func(t *testing.T) { t.Skip("the go command is missing") })
	t.Skip("the go command is missing")
}
