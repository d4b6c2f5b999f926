package layer

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// impliedOf reads the list of a layer, which is as long as its record says.
func impliedOf(t *testing.T, l *Layer) []string {
	t.Helper()
	dir, err := l.store.path(l.DiffID())
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, impliedName)
	st, err := os.Stat(name)
	if l.rec.ImpliedSize == 0 && errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil || st.Size() != l.rec.ImpliedSize {
		t.Fatalf("%v, %v; the record says %d bytes", st, err, l.rec.ImpliedSize)
	}
	paths, err := readImplied(name)
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func readImplied(name string) (paths []string, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	l := &impliedList{file: f, in: bufio.NewReader(f)}
	for {
		if err := l.next(); err != nil || l.path == nil {
			return paths, err
		}
		paths = append(paths, strings.Join(l.path, "/"))
	}
}

func TestImplied(t *testing.T) {
	for _, c := range []struct {
		what    string
		members []member
		want    []string
	}{
		{"nothing", nil, nil},
		{"the root is not in it", []member{file("a")}, nil},
		{"all named", []member{dir("a"), dir("a/b"), file("a/b/c")}, nil},
		{"parents", []member{file("a/b/c"), file("d/e")}, []string{"a", "a/b", "d"}},
		{"in the order of names, not of paths", []member{file("a/z/1"), file("a-/1"), file("a/b/1"), file("a+/1")}, []string{"a", "a/b", "a/z", "a+", "a-"}},
		{"below a named one", []member{dir("a"), file("a/b/c/d"), dir("a/b/c"), dir("e/f"), file("e/f/g/h")}, []string{"a/b", "e", "e/f/g"}},
		{"named later", []member{file("a/b/c"), dir("a"), file("d/e"), dir("d/")}, []string{"a/b"}},
		{"replaced", []member{file("a/b/c"), file("a"), file("d/e/f"), symlink("d/e", "x")}, []string{"d"}},
		{"replaced and named", []member{file("a/b"), file("a"), dir("a"), file("a/c/d")}, []string{"a/c"}},
		{"through a symlink", []member{symlink("s", "a/b"), file("s/c")}, []string{"a", "a/b"}},
		{"by whiteouts", []member{file("a/.wh.x"), file("b/.wh..wh..opq"), file("b/c/d")}, []string{"a", "b", "b/c"}},
		{"made anew", []member{file("a/b/c"), file(".wh.a"), file("d/.wh.e"), file("d/e/f")}, []string{"a/b", "d"}},
		{"AUFS's own", []member{file(".wh..wh.plnk/a/b"), file("a/b")}, []string{"a"}},
		{"bytes that are no text", []member{file("\xff\n/\x80/x")}, []string{"\xff\n", "\xff\n/\x80"}},
	} {
		for _, form := range testForms() {
			l := mustAdd(t, openStore(t, form), tarOf(c.members...))
			if got := impliedOf(t, l); !slices.Equal(got, c.want) {
				t.Errorf("%s: %v:\n got %q\nwant %q", c.what, form, got, c.want)
			}
		}
	}
}

// TestImpliedLongPaths: paths get longer than PATH_MAX through symlinks. Up to
// that, they can be opened from the root of the layer.
func TestImpliedLongPaths(t *testing.T) {
	long := strings.Repeat(strings.Repeat("n", maxName)+"/", 15)
	for length, want := range map[int]int{253: 16, 254: 15} { // with "./" and a NUL, 4096 and 4097 bytes
		l := mustAdd(t, openStore(t, FormIndex), tarOf(
			member{name: "s", kind: kindSymlink, link: long, long: true}, member{name: "s/" + strings.Repeat("m", length) + "/x/y", long: true}, file("z/y")))
		got := impliedOf(t, l)
		if len(got) != want+1 || got[want] != "z" {
			t.Errorf("%d: %d directories", length, len(got))
		}
	}
}

// TestImpliedIsSmall: names that many paths share are there once.
func TestImpliedIsSmall(t *testing.T) {
	const depth = 1000
	l := mustAdd(t, openStore(t, FormIndex), tarOf(
		member{name: strings.Repeat("a/", depth) + "f", long: true}, member{name: strings.Repeat("b/", depth) + "f", long: true}))
	if got := impliedOf(t, l); len(got) != 2*depth {
		t.Errorf("%d directories", len(got))
	}
	if l.rec.ImpliedSize > 2*depth*4 { // two bytes of number, a name, a NUL
		t.Errorf("%d bytes", l.rec.ImpliedSize)
	}
}

func TestImpliedDamaged(t *testing.T) {
	name := filepath.Join(t.TempDir(), "implied")
	for _, bad := range []string{"\x00a", "\x01a\x00", "\x00a\x00\x02b\x00", "\x00a\x00\x80", "\x00a\x00\x01", strings.Repeat("\xff", 20) + "\x00"} {
		if err := os.WriteFile(name, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if paths, err := readImplied(name); !errors.Is(err, errdefs.ErrDataLoss) || !strings.Contains(err.Error(), name) {
			t.Errorf("%q: %q, %v", bad, paths, err)
		}
	}
}
