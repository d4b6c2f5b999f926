package layer

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: owners, devices and mounts")
	}
}

// indexStore returns a store whose layers are indexes that can be mounted.
func indexStore(t testing.TB) *Store {
	t.Helper()
	needRoot(t)
	s := openStore(t, FormAuto)
	if _, err := s.form(); err != nil {
		t.Skipf("needs a kernel and a filesystem for layers as an index: %v", err)
	}
	return s
}

// bothStores returns the stores that this system can mount from.
func bothStores(t testing.TB) map[string]*Store {
	t.Helper()
	needRoot(t)
	stores := map[string]*Store{"directory": openStore(t, FormDirectory)}
	s := openStore(t, FormAuto)
	if _, err := s.form(); err != nil {
		t.Logf("only the directory form: %v", err)
	} else {
		stores["index"] = s
	}
	return stores
}

// mountPath mounts a layer and returns a path of its root.
func mountPath(t testing.TB, l *Layer) string {
	t.Helper()
	m, err := l.Mount(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return fdPath(m.File())
}

// fdPath ends in a slash: the descriptor is followed, also by lstat.
func fdPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d/", f.Fd()) }

// describe lists a tree: for each name all that a program could see of it.
func describe(t testing.TB, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	first := map[uint64]string{}
	var walk func(rel string)
	walk = func(rel string) {
		path := root + "/" + rel
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf("%o %d:%d %d.%09d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			line += fmt.Sprintf(" size %d sha256 %s", st.Size, content(t, path))
		case unix.S_IFLNK:
			to, err := os.Readlink(path)
			if err != nil {
				t.Fatal(err)
			}
			line += fmt.Sprintf(" size %d -> %s", st.Size, to)
		case unix.S_IFCHR, unix.S_IFBLK:
			line += fmt.Sprintf(" device %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
			if first[st.Ino] == "" {
				first[st.Ino] = rel
			}
			line += fmt.Sprintf(" links %d, of %s", st.Nlink, first[st.Ino])
		}
		out[rel] = line + xattrsOf(t, path)
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			entries, err := os.ReadDir(path + "/")
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				walk(filepath.Join(rel, e.Name()))
			}
		}
	}
	walk("")
	return out
}

func content(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%.8x", sha256.Sum256(b))
}

func xattrsOf(t testing.TB, path string) string {
	t.Helper()
	b := make([]byte, 1<<17)
	n, err := unix.Llistxattr(strings.TrimSuffix(path, "/"), b)
	if strings.HasSuffix(path, "/") {
		n, err = unix.Listxattr(path, b)
	}
	if err == unix.EOPNOTSUPP {
		return ""
	}
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	names := strings.FieldsFunc(string(b[:n]), func(r rune) bool { return r == 0 })
	sort.Strings(names)
	out := ""
	for _, name := range names {
		v := make([]byte, 1<<17)
		n, err := unix.Lgetxattr(path, name, v)
		if err != nil {
			t.Fatalf("%s: %s: %v", path, name, err)
		}
		out += fmt.Sprintf(" %s=%x", name, v[:n])
	}
	return out
}

// same compares two descriptions.
func same(t testing.TB, what string, got, want map[string]string) {
	t.Helper()
	bad := 0
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got[name] != want[name] && bad < 20 {
			bad++
			t.Errorf("%s: %q:\n got %s\nwant %s", what, name, got[name], want[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[name]; !ok && bad < 20 {
			bad++
			t.Errorf("%s: %q should not be there: %s", what, name, got[name])
		}
	}
}

// noLeaks checks that a store's directory holds nothing but whole layers.
func noLeaks(t testing.TB, s *Store) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.dir, "tmp"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		t.Errorf("left behind: %s", e.Name())
	}
	if _, err := s.List(); err != nil {
		t.Error(err)
	}
}

func openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
