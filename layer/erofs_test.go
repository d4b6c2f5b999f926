package layer

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/erofs/go-erofs"
)

// readIndex opens a layer's index with another implementation. That one does
// not look for plain files' blocks in other devices, so it gets all devices as
// one, in which those blocks have the same numbers.
func readIndex(t *testing.T, s *Store, l *Layer) fs.FS {
	t.Helper()
	var all []byte
	var devices []io.ReaderAt
	for _, name := range []string{"index", "tar", "data"} {
		b, err := os.ReadFile(filepath.Join(s.dir, "sha256", l.DiffID().Encoded(), name))
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if all = append(all, b...); name != "index" {
			devices = append(devices, bytes.NewReader(b))
		}
	}
	image, err := erofs.Open(bytes.NewReader(all), erofs.WithExtraDevices(devices...))
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// TestIndexForAnotherReader reads an index back without a kernel, so on any
// system.
func TestIndexForAnotherReader(t *testing.T) {
	long := strings.Repeat("target/", 100)
	members := []member{file("a"), {name: "dir/b", data: strings.Repeat("b", 3000), mode: 0o4755, uid: 1000, gid: 1001, time: 77},
		hardlink("dir/c", "a"), symlink("s", "a"), {name: "long", kind: kindSymlink, link: long, long: true},
		{name: "dirty", data: "dirty", pad: 1}, {name: "x", data: "x", pax: []string{"SCHILY.xattr.user.a=1", "mtime=5.25"}},
		{name: "sparse", data: "data", pax: []string{"GNU.sparse.size=5000", "GNU.sparse.map=1000,4"}}}
	for i := range 200 {
		m := file("many/" + strings.Repeat("n", i+1))
		m.long = true
		members = append(members, m)
	}
	s := openStore(t, FormIndex)
	l := mustAdd(t, s, tarOf(members...))
	image := readIndex(t, s, l)
	for name, want := range map[string]string{
		"a": "a", "dir/c": "a", "dir/b": strings.Repeat("b", 3000), "dirty": "dirty", "x": "x",
		"sparse": strings.Repeat("\x00", 1000) + "data" + strings.Repeat("\x00", 3996),
	} {
		if got, err := fs.ReadFile(image, name); err != nil || string(got) != want {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	for name, want := range map[string]string{"s": "a", "long": long} {
		if got, err := fs.ReadLink(image, name); err != nil || got != want {
			t.Errorf("%s -> %s, %v", name, got, err)
		}
	}
	for i := range 200 {
		name := "many/" + strings.Repeat("n", i+1)
		if got, err := fs.ReadFile(image, name); err != nil || string(got) != name {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	st, err := fs.Stat(image, "dir/b")
	if err != nil {
		t.Fatal(err)
	}
	e, ok := st.(interface {
		UID() uint32
		GID() uint32
		Nlink() uint64
	})
	if !ok || e.UID() != 1000 || e.GID() != 1001 || e.Nlink() != 1 || st.ModTime().Unix() != 77 || st.Mode().Perm() != 0o755 {
		t.Errorf("%v, %+v", st.Mode(), st)
	}
	if st, err = fs.Stat(image, "x"); err != nil || st.ModTime().UnixMilli() != 5250 {
		t.Errorf("%v, %v", st, err)
	}
	if x, ok := st.(interface{ GetXattr(string) (string, bool) }); ok {
		if v, ok := x.GetXattr("user.a"); !ok || v != "1" {
			t.Errorf("xattr %q, %v", v, ok)
		}
	}
	names := 0
	err = fs.WalkDir(image, ".", func(string, fs.DirEntry, error) error { names++; return nil })
	if err != nil || names != 211 {
		t.Errorf("%d names, %v", names, err)
	}
}
