package runtime

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// CVE-2024-21626 and podman CVE-2026-55686: a working directory that leads out
// is refused, and nothing is made where it leads to.
func TestCVE_2024_21626(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	outside := t.TempDir()
	links := map[string]string{"link": "/proc/self/fd/7", "up": "../../../../../../..", "host": outside}
	for name, to := range links {
		if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	c := idle(t, r, func(s *specs.Spec) { s.Root.Path = root })
	cwds := []string{"/link", "/link/made", "/proc/self/cwd", "/proc/1/root", "/proc/self/root/../..", "/host/made", "/proc/self/fd/3/made"}
	for fd := range 12 {
		cwds = append(cwds, fmt.Sprint("/proc/self/fd/", fd), fmt.Sprint("/proc/1/fd/", fd))
	}
	for _, cwd := range cwds {
		s := newSpec(t, root, "view")
		s.Process.Cwd = cwd
		check := func(text string, err error) {
			t.Helper()
			var step *StepError
			if err != nil && !errors.As(err, &step) {
				t.Errorf("%s: %v", cwd, err)
			}
			if err == nil && parseView(t, text).Cwd != filepath.Clean(cwd) {
				t.Errorf("%s leads to %s", cwd, parseView(t, text).Cwd)
			}
		}
		check(tryOutput(t, r, s, CreateOptions{}))
		_, err := c.Exec(background, s.Process, ProcessOptions{})
		if err == nil && !strings.HasSuffix(cwd, "..") {
			t.Errorf("exec in %s", cwd)
		}
	}
	s := newSpec(t, root, "view") // links inside work
	s.Process.Cwd = "/up/tmp"
	if v := parseView(t, output(t, r, s, CreateOptions{})); v.Cwd != "/tmp" {
		t.Error("cwd", v.Cwd)
	}
	if made, _ := os.ReadDir(outside); len(made) > 0 {
		t.Error("made outside:", made)
	}
}

// CVE-2021-30465, CVE-2024-45310: a mount's destination that is swapped for a
// link all the time. The mount lands inside or fails; no file appears outside.
func TestCVE_2021_30465(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	outside := t.TempDir()
	if err := os.Mkdir(root+"/data", 0o755); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	swapped := make(chan struct{})
	for i, to := range []string{outside, "/proc/self/fd/5", "../../../../.." + outside} {
		if err := os.Symlink(to, fmt.Sprint(root, "/swap", i)); err != nil {
			t.Fatal(err)
		}
	}
	go func() {
		defer close(swapped)
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
				unix.Renameat2(unix.AT_FDCWD, root+"/data", unix.AT_FDCWD, fmt.Sprint(root, "/swap", i/2%3), unix.RENAME_EXCHANGE)
			}
		}
	}()
	before, _ := os.ReadFile("/proc/self/mountinfo")
	s := fileSpec(t, root, "/bin/true")
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/data/deep/mount", Type: "tmpfs"}, specs.Mount{Destination: "/data/flat", Type: "tmpfs"},
		bindMount(t.TempDir(), "/data/deep/bind"), bindMount("/etc/passwd", "/data/file"))
	s.Process.Cwd = "/data/work"
	failed := 0
	for range few(60) {
		o := CreateOptions{Files: []File{{Path: "/data/etc/hosts", Data: []byte("x")}}}
		c, err := r.Start(background, s, o)
		var step *StepError
		if err != nil && !errors.As(err, &step) {
			t.Fatal(err)
		}
		if err != nil {
			failed++
			continue
		}
		wait(t, c)
		c.Delete(background)
	}
	close(done)
	<-swapped
	t.Logf("%d starts failed", failed)
	if made, _ := os.ReadDir(outside); len(made) > 0 {
		t.Error("made outside:", made)
	}
	if after, _ := os.ReadFile("/proc/self/mountinfo"); !bytes.Equal(before, after) {
		t.Errorf("mounts of the host changed:\n%s", after)
	}
}

// CVE-2025-31133, CVE-2025-52565 and their kin: whatever the image has at
// /dev/null, paths are masked with the real null device.
func TestCVE_2025_31133(t *testing.T) {
	r := openTest(t)
	for _, null := range []string{"link", "file", "device"} {
		root := newRootfs(t)
		writeFile(t, root+"/secret", "secret", 0o600)
		switch null {
		case "link":
			replace(t, root+"/dev/null", "/secret")
		case "file":
			replace(t, root+"/dev/null", "")
		case "device":
			if err := unix.Mknod(root+"/dev/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))); err != nil {
				t.Fatal(err)
			}
		}
		s := newSpec(t, root, "masked", "/secret", "/proc/kcore")
		s.Linux.MaskedPaths = []string{"/secret", "/proc/kcore"}
		s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return strings.HasPrefix(m.Destination, "/dev") })
		if text := output(t, r, s, CreateOptions{}); text != "/secret null\n/proc/kcore null\n" && text != "/secret null\n/proc/kcore absent\n" {
			t.Errorf("with /dev/null as a %s: %s", null, text)
		}
	}
}

// CVE-2019-16884, CVE-2019-19921, CVE-2023-27561, CVE-2023-28642, CVE-2026-41579
// and crun's CVE-2026-47766: an image in which the runtime's own mount points
// are links does not start, and the links are not followed.
func TestCVE_2019_16884(t *testing.T) {
	r := openTest(t)
	for _, link := range []string{"proc", "sys", "dev"} {
		for _, to := range []string{"/fake", "fake", "../fake", "/proc/self/fd/6"} {
			root := newRootfs(t)
			if err := os.MkdirAll(root+"/fake/self/attr", 0o755); err != nil {
				t.Fatal(err)
			}
			replace(t, root+"/"+link, to)
			err := mustFail(t, r, newSpec(t, root, "exit", "0"), CreateOptions{})
			var step *StepError
			if !errors.As(err, &step) || !strings.HasSuffix(step.Step, "on /"+link) {
				t.Errorf("/%s -> %s: %v", link, to, err)
			}
			if names, _ := os.ReadDir(root + "/fake"); len(names) != 1 {
				t.Errorf("/%s -> %s was followed: %v", link, to, names)
			}
		}
	}
}

// CVE-2022-24769 and CVE-2022-36109: no capability is inheritable, and the
// supplementary groups are those of the user, for start and exec.
func TestCVE_2022_36109(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	c := idle(t, r, func(s *specs.Spec) { s.Root.Path = root })
	for user, want := range map[string][3]string{
		"user": {"1000 1000 1000 1000", "1001 1001 1001 1001", "1001 1002 1003"}, "1000": {"1000 1000 1000 1000", "1001 1001 1001 1001", "1001 1002 1003"},
		"user:extra": {"1000 1000 1000 1000", "1002 1002 1002 1002", "1002"}, "0:0": {"0 0 0 0", "0 0 0 0", "0"},
		"root": {"0 0 0 0", "0 0 0 0", "0"}, "5000": {"5000 5000 5000 5000", "0 0 0 0", "0"}, "5000:6000": {"5000 5000 5000 5000", "6000 6000 6000 6000", "6000"},
	} {
		s := newSpec(t, root, "view")
		o := ProcessOptions{User: user}
		first := parseView(t, output(t, r, s, CreateOptions{ProcessOptions: o}))
		for how, v := range map[string]*view{"start": first, "exec": parseView(t, execOutput(t, c, s.Process, o))} {
			if got := [3]string{v.Status["Uid"], v.Status["Gid"], v.Status["Groups"]}; got != want || v.Status["CapInh"] != "0000000000000000" {
				t.Errorf("%s as %s: %q, want %q; inheritable %s", how, user, got, want, v.Status["CapInh"])
			}
			if uid := want[0]; uid[0] != '0' && (v.Status["CapEff"] != "0000000000000000" || v.Status["CapPrm"] != "0000000000000000") {
				t.Errorf("%s as %s: capabilities %s, %s", how, user, v.Status["CapPrm"], v.Status["CapEff"])
			}
		}
	}
}

// CVE-2024-45310 without a race: a link of the image that climbs out of the root
// with "..", while the child still had what was mounted before. A mount, a file
// and the working directory on it land inside; nothing is made on the host.
func TestClimbingLink(t *testing.T) {
	r := openTest(t)
	for _, byDescriptor := range []bool{true, false} {
		t.Run(fmt.Sprint("overlay by descriptor ", byDescriptor), func(t *testing.T) {
			forceOverlay(t, byDescriptor)
			base, outside := t.TempDir(), t.TempDir()
			for _, dir := range []string{"lower", "upper", "work"} {
				if err := os.Mkdir(filepath.Join(base, dir), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			lower := base + "/lower"
			fillRootfs(t, lower)
			err := errors.Join(os.MkdirAll(lower+outside, 0o755), os.Symlink(strings.Repeat("../", 30)+outside[1:], lower+"/link"))
			if err != nil {
				t.Fatal(err)
			}
			s := fileSpec(t, "", "/bin/true")
			s.Root = nil
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/link/tmpfs", Type: "tmpfs"}, bindMount("/etc/passwd", "/link/bind"))
			s.Process.Cwd = "/link/work"
			output(t, r, s, CreateOptions{
				Rootfs: Rootfs{Overlay: &Overlay{Lower: []Lower{{Path: lower}}, Upper: base + "/upper", Work: base + "/work"}}, // not volatile: that is mounted once only
				Files:  []File{{Path: "/link/file", Data: []byte("x")}},
			})
			if names, _ := os.ReadDir(outside); len(names) > 0 {
				t.Error("made on the host:", names)
			}
			inside, err := os.ReadDir(base + "/upper" + outside)
			if len(inside) != 4 {
				t.Errorf("made inside: %v, %v", inside, err)
			}
		})
	}
}

func init() {
	programs["reads"] = func(args []string) int {
		_, err := os.ReadFile(args[0])
		fmt.Println(err == nil)
		return 0
	}
}

// The mechanism of CVE-2022-36109: what a group is kept from stays out of reach
// of its members when a set-gid program gives them another group.
func TestCVE_2022_36109_SetGID(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	writeFile(t, root+"/kept-from-extra", "x", 0o604)
	if err := os.Chown(root+"/kept-from-extra", 0, 1002); err != nil {
		t.Fatal(err)
	}
	if err := copyFile("/proc/self/exe", root+"/setgid", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chown(root+"/setgid", 0, 1003), os.Chmod(root+"/setgid", 0o755|os.ModeSetgid)); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		user, program string
		reads         bool
	}{
		{"1000:1003", "/test", true}, {"1000:1003", "/setgid", true},
		{"1000:1002", "/test", false}, {"1000:1002", "/setgid", false}, {"user", "/setgid", false},
	} {
		s := newSpec(t, root, "reads", "/kept-from-extra")
		s.Process.Args[0] = test.program
		if got := output(t, r, s, CreateOptions{ProcessOptions: ProcessOptions{User: test.user}}); got != fmt.Sprintln(test.reads) {
			t.Errorf("%s as %s: %s", test.program, test.user, got)
		}
	}
}
