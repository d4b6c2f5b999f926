package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func init() {
	programs["tree"] = tree
	programs["touch"] = func(args []string) int {
		for _, name := range args {
			if err := os.WriteFile(name, []byte("new"), 0o644); err != nil {
				return exitCode(err)
			}
		}
		return 0
	}
}

// tree prints what is below the given directories: type, mode, owner and content.
func tree(args []string) int {
	for _, top := range args {
		filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				fmt.Println(path, err)
				return nil
			}
			text := ""
			if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() { // a file may cover a link, which e is
				data, err := os.ReadFile(path)
				text = fmt.Sprintf("%.40q %v", data, err)
			}
			fmt.Println(path, describe(path), text)
			return nil
		})
	}
	return 0
}

// Ways to mount an overlay, each forced.
var overlayWays = map[string]struct {
	byDescriptor bool
	layer        func(path string) (Lower, error)
}{
	"descriptors": {true, func(path string) (Lower, error) {
		f, err := os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY, 0)
		return Lower{File: f}, err
	}},
	"detached mounts": {true, func(path string) (Lower, error) {
		fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		return Lower{File: os.NewFile(uintptr(fd), path)}, err
	}},
	"paths":   {true, func(path string) (Lower, error) { return Lower{Path: path}, nil }},
	"program": {false, func(path string) (Lower, error) { return Lower{Path: path}, nil }},
}

// overlayRootfs is a stack of layers under each of the ways: the binary at the
// bottom, and files that hide each other.
func overlayLayers(t *testing.T, base string, n int) []string {
	t.Helper()
	var paths []string // bottom first
	for i := range n {
		dir := filepath.Join(base, fmt.Sprint("layer", i))
		if i == 0 {
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			fillRootfs(t, dir)
		}
		writeFile(t, filepath.Join(dir, "data/all"), fmt.Sprint("from ", i), 0o644)
		writeFile(t, filepath.Join(dir, fmt.Sprint("data/of", i)), "", 0o640)
		if err := os.Chown(filepath.Join(dir, fmt.Sprint("data/of", i)), i, i); err != nil {
			t.Fatal(err)
		}
		if i > 0 { // a whiteout
			if err := unix.Mknod(filepath.Join(dir, fmt.Sprint("data/of", i-1)), unix.S_IFCHR, 0); err != nil {
				t.Fatal(err)
			}
		}
		paths = append(paths, dir)
	}
	return paths
}

func forceOverlay(t *testing.T, byDescriptor bool) {
	t.Helper()
	if byDescriptor && !overlayByDescriptor() {
		t.Skip("needs lowerdir+, Linux 6.5")
	}
	before := overlayByDescriptor
	overlayByDescriptor = func() bool { return byDescriptor }
	t.Cleanup(func() { overlayByDescriptor = before })
}

// All ways to mount an overlay show the same tree, with one layer and with many.
func TestOverlayWays(t *testing.T) {
	r := openTest(t)
	for _, n := range []int{1, 2, 130} {
		base, err := os.MkdirTemp(testBase, `lay,e\r s-`)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(base) })
		paths := overlayLayers(t, base, n)
		want := ""
		for _, name := range []string{"program", "paths", "descriptors", "detached mounts"} {
			t.Run(fmt.Sprintf("%s, %d", name, n), func(t *testing.T) {
				way := overlayWays[name]
				forceOverlay(t, way.byDescriptor)
				o := &Overlay{Volatile: true}
				for i := range paths {
					l, err := way.layer(paths[len(paths)-1-i])
					if err != nil {
						t.Fatal(err)
					}
					if l.File != nil {
						defer l.File.Close()
					}
					o.Lower = append(o.Lower, l)
				}
				// A path in which every character of the option syntax stands.
				odd := filepath.Join(base, "upper of "+name+`, a=b:c\d`)
				o.Upper, o.Work = filepath.Join(odd, "u"), filepath.Join(odd, "w")
				for _, dir := range []string{o.Upper, o.Work} {
					if err := os.MkdirAll(dir, 0o755); err != nil {
						t.Fatal(err)
					}
				}
				files := []File{{Path: "/data/injected", Data: []byte("memory"), Mode: 0o600, UID: 7}}
				s := newSpec(t, "", "tree", "/data", "/bin", "/etc")
				c, err := r.Create(background, s, CreateOptions{Rootfs: Rootfs{Overlay: o}, Files: files, ProcessOptions: ProcessOptions{User: "user"}})
				if (errors.Is(err, unix.EINVAL) || errdefs.IsNotImplemented(err)) && name == "detached mounts" {
					t.Skip("needs overlay on detached mounts, Linux 6.15:", err)
				}
				if err != nil {
					t.Fatal(err)
				}
				c.Delete(background)
				removeWork(o.Work)
				text := output(t, r, s, CreateOptions{Rootfs: Rootfs{Overlay: o}, Files: files})
				if want == "" {
					want = text
				}
				top := fmt.Sprintf(`/data/all 100644 0:0 "from %d" <nil>`, n-1)
				if text != want || !strings.Contains(text, top) || strings.Count(text, "/data/of") != 1 || !strings.Contains(text, `/data/injected 100600 7:0 "memory" <nil>`) {
					t.Errorf("%s\nwant %s", text, want)
				}
				removeWork(o.Work)
				output(t, r, newSpec(t, "", "touch", "/data/all", "/new"), CreateOptions{Rootfs: Rootfs{Overlay: o}})
				if data, err := os.ReadFile(filepath.Join(o.Upper, "data/all")); string(data) != "new" {
					t.Errorf("upper has %q, %v", data, err)
				}
			})
		}
		for i, p := range paths {
			if data, err := os.ReadFile(filepath.Join(p, "data/all")); string(data) != fmt.Sprint("from ", i) {
				t.Errorf("layer %d was written to: %q, %v", i, data, err)
			}
		}
	}
}

// A clone shows the same file system, with attributes of its own, and holds it.
func TestCloneMount(t *testing.T) {
	openTest(t) // skips where there can be no mounts
	m, err := newMount("tmpfs", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	clone, err := CloneMount(m)
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	if errdefs.IsNotImplemented(err) && (major < 6 || major == 6 && minor < 15) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer clone.Close()
	if err := unix.MountSetattr(int(clone.Fd()), "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkdirat(int(clone.Fd()), "dir", 0o755); err != unix.EROFS {
		t.Errorf("mkdir in a read-only clone: %v", err)
	}
	if err := unix.Mkdirat(int(m.Fd()), "dir", 0o755); err != nil {
		t.Errorf("mkdir in what was cloned: %v", err)
	}
	m.Close()
	if err := unix.Faccessat(int(clone.Fd()), "dir", unix.F_OK, 0); err != nil {
		t.Errorf("the directory, in the clone: %v", err)
	}
	if _, err := CloneMount(m); err == nil {
		t.Error("clone of a closed mount")
	}
}

// removeWork removes what keeps overlayfs from using a volatile upper directory
// again.
func removeWork(dir string) { os.RemoveAll(filepath.Join(dir, "work/incompat")) }

// Without an upper directory the root is read-only.
func TestOverlayWithoutUpper(t *testing.T) {
	r := openTest(t)
	for _, by := range []bool{true, false} {
		t.Run(fmt.Sprint("by descriptor ", by), func(t *testing.T) {
			forceOverlay(t, by)
			extra := t.TempDir()
			for _, dir := range []string{"proc", "sys", "dev"} {
				if err := os.Mkdir(filepath.Join(extra, dir), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			o := CreateOptions{Rootfs: Rootfs{Overlay: &Overlay{Lower: []Lower{{Path: extra}, {Path: newRootfs(t)}}}}}
			if text := output(t, r, newSpec(t, "", "writable", "20", "/etc", "/tmp"), o); text != "" {
				t.Errorf("writable: %s", text)
			}
		})
	}
}

func tryOutput(t *testing.T, r *Runtime, s *specs.Spec, o CreateOptions) (string, error) {
	t.Helper()
	var out strings.Builder
	o.Stdout = &out
	c, err := r.Start(background, s, o)
	if err != nil {
		return "", err
	}
	defer c.Delete(background)
	_, err = c.Wait(background)
	return out.String(), err
}

// Files from memory, over links and where nothing is, on both kinds of root.
func TestFilesFromMemory(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	if err := os.Symlink("/tmp/elsewhere", root+"/etc/resolv.conf"); err != nil {
		t.Fatal(err)
	}
	files := []File{
		{Path: "/etc/resolv.conf", Data: []byte("nameserver ::1\n")},
		{Path: "/etc/hosts", Data: []byte("::1 localhost\n"), Mode: 0o640, UID: 5, GID: 6},
		{Path: "/deep/er/file", Data: []byte(strings.Repeat("x", 100000)), ReadOnly: true},
		{Path: "/etc/passwd", Data: []byte("someone:x:77:78::/home/some:\n")},
		{Path: "/empty"},
	}
	o := CreateOptions{Files: files, ProcessOptions: ProcessOptions{}}
	text := output(t, r, newSpec(t, root, "tree", "/etc", "/deep", "/empty"), o)
	for _, want := range []string{
		`/etc/resolv.conf 100644 0:0 "nameserver ::1\n" <nil>`, `/etc/hosts 100640 5:6 "::1 localhost\n" <nil>`,
		`/deep/er/file 100644 0:0 "xxxxx`, "/deep/er d 755", `/empty 100644 0:0 "" <nil>`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s\nwant %s", text, want)
		}
	}
	if to, _ := os.Readlink(root + "/etc/resolv.conf"); to != "/tmp/elsewhere" {
		t.Error("the link was replaced by", to)
	}
	if _, err := os.Lstat(root + "/tmp/elsewhere"); err == nil {
		t.Error("the link was followed")
	}
	s := newSpec(t, root, "touch", "/etc/hosts", "/empty")
	output(t, r, s, o)
	if data, _ := os.ReadFile(root + "/empty"); len(data) > 0 {
		t.Error("written through to the rootfs")
	}
	if text, _ := tryOutput(t, r, newSpec(t, root, "writable", "9", "/deep/er/file"), o); text != "" {
		t.Error("read-only file: ", text)
	}
	if err := mustFail(t, r, s, CreateOptions{Files: []File{{Path: "/etc", Data: nil}}}); !strings.Contains(err.Error(), "put file /etc") {
		t.Error(err)
	}
}
