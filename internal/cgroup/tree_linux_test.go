package cgroup

import (
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func TestTree(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		before, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		c := newCgroup(t, h, "n")
		tree, err := c.Tree()
		if errdefs.IsNotImplemented(err) {
			if _, err := c.Tree(); !errdefs.IsNotImplemented(err) {
				t.Error("second time:", err)
			}
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Mode() == Unified {
			if tree != nil {
				t.Error("a tree on a v2 host")
			}
			return
		}
		root := int(tree.Fd())
		for i, y := range h.hierarchies {
			_, err := readAt(root, y.name+"/cgroup.procs")
			if c.madeIn(i) != (err == nil) {
				t.Errorf("hierarchy %s: made %v, seen %v", y.name, c.madeIn(i), err)
			}
			if err := writeAt(root, y.name+"/cgroup.procs", "0"); c.madeIn(i) && err != unix.EROFS {
				t.Errorf("hierarchy %s: write: %v", y.name, err)
			}
			if err := unix.Mkdirat(root, y.name+"/x", 0o755); c.madeIn(i) && err != unix.EROFS {
				t.Errorf("hierarchy %s: mkdir: %v", y.name, err)
			}
			dir, err := openAt(root, y.name, unix.O_PATH)
			if err != nil {
				continue
			}
			checkFlags(t, y.name, dir)
			unix.Close(dir)
		}
		if err := unix.Mkdirat(root, "x", 0o755); err != unix.EROFS {
			t.Errorf("mkdir in the root: %v", err)
		}
		checkFlags(t, "root", root)
		if again, err := c.Tree(); again != tree || err != nil {
			t.Errorf("second Tree: %v, %v", again, err)
		}
		after, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil || string(after) != string(before) {
			t.Errorf("mountinfo changed: %v\n%s", err, after)
		}
		remove(t, c) // although it is mounted
	})
}

func checkFlags(t *testing.T, name string, fd int) {
	t.Helper()
	const want = unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil || st.Flags&want != want {
		t.Errorf("%s: mount flags %#x, %v; want %#x", name, st.Flags, err, want)
	}
}

func TestBinds(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		c := newCgroup(t, h, "n")
		binds, err := c.Binds()
		if err != nil {
			t.Fatal(err)
		}
		if h.Mode() == Unified {
			if len(binds) > 0 {
				t.Errorf("%v on a v2 host", binds)
			}
			return
		}
		for _, b := range binds {
			if b.Name == "" || !fs.ValidPath(b.Name) || strings.Contains(b.Name, "/") {
				t.Errorf("name %q", b.Name)
			}
			if _, err := readAt(int(b.Dir.Fd()), "cgroup.procs"); err != nil {
				t.Errorf("%s: %v", b.Name, err)
			}
			names := append(slices.Clone(b.Links), b.Name)
			if h.version("memory") == 1 && strings.Contains(b.Name, "memory") && !slices.Contains(names, "memory") {
				t.Errorf("%v has no name for memory", names)
			}
		}
		if len(binds) < 2 {
			t.Errorf("%v", binds)
		}
		if again, err := c.Binds(); err != nil || &again[0] != &binds[0] {
			t.Errorf("second time: %v", err)
		}
	})
}

func TestLinks(t *testing.T) {
	for _, x := range []struct {
		h    hierarchy
		want []string
	}{
		{hierarchy{name: "memory", controllers: []string{"memory"}}, nil},
		{hierarchy{name: "cpu,cpuacct", controllers: []string{"cpu", "cpuacct"}}, []string{"cpu", "cpuacct"}},
		{hierarchy{name: "cpu", controllers: []string{"cpu", "cpuacct"}}, []string{"cpuacct"}},
		{hierarchy{name: "unified", v2: true, controllers: []string{"hugetlb"}}, nil},
	} {
		if got := x.h.links(); !slices.Equal(got, x.want) {
			t.Errorf("%v: %v", x.h, got)
		}
	}
}
