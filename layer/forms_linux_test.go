package layer

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFormsAreEqual makes archives at random, of few names that get in each
// other's way, and expects both forms to show the same.
func TestFormsAreEqual(t *testing.T) {
	stores := bothStores(t)
	if len(stores) < 2 {
		t.Skip("only one form works here")
	}
	for seed := range uint64(120) {
		b := randomArchive(rand.New(rand.NewPCG(seed, 3)))
		got := map[string]map[string]string{}
		for form, s := range stores {
			l := mustAdd(t, s, b)
			m, err := l.Mount(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got[form] = describe(t, fdPath(m.File()))
			if err := m.Close(); err != nil {
				t.Fatal(err)
			}
			noLeaks(t, s)
			if err := s.Remove(l.DiffID()); err != nil {
				t.Fatal(err)
			}
		}
		if same(t, fmt.Sprintf("seed %d: directory", seed), got["directory"], got["index"]); t.Failed() {
			return
		}
	}
}

// randomArchive leaves out members that would be refused.
func randomArchive(r *rand.Rand) []byte {
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	name := func() string {
		n := pick("a", "b", "c", "d")
		for range r.IntN(4) {
			n += "/" + pick("a", "b", "c", "..")
		}
		return n
	}
	tree := newTree()
	var members []member
	for range 60 {
		m := member{name: name(), mode: int64(r.IntN(0o10000)), uid: int64(r.IntN(3)), gid: int64(r.IntN(3)), time: int64(r.IntN(1 << 30)), pad: byte(r.IntN(3) / 2)}
		switch r.IntN(14) {
		case 0, 1, 2:
			m.kind = kindDir
		case 3, 4:
			m.kind, m.link = kindSymlink, pick("a", "b/c", "../b", "/c", "..", "nothing", ".")
		case 5, 6:
			m.kind, m.link = kindHardlink, name()
		case 7:
			m.kind, m.minor = byte(kindChar+r.IntN(2)), int64(r.IntN(3))
		case 8:
			m.kind = kindFifo
		case 9:
			m.name += "/.wh." + pick("a", "b", "c", ".wh..opq", ".wh.plnk", "x")
		case 10:
			m.pax = []string{"GNU.sparse.size=9000", fmt.Sprintf("GNU.sparse.map=%d,5,6000,100", r.IntN(5000))}
			m.data = string(bytes.Repeat([]byte{byte(r.IntN(256))}, 105))
		default:
			m.data = string(bytes.Repeat([]byte{byte(r.IntN(256))}, r.IntN(1500)))
			if r.IntN(3) == 0 {
				m.pax = []string{"SCHILY.xattr.user.x=" + pick("1", "2", ""), "SCHILY.xattr.trusted.overlay.opaque=y"}
			}
		}
		kind := m.kind
		if kind == 0 {
			kind = kindFile
		}
		if _, err := tree.add(&entry{name: m.name, link: m.link, kind: kind, minor: uint32(m.minor)}); err == nil {
			members = append(members, m)
		}
	}
	return tarOf(members...)
}

// TestOverlay looks at whiteouts where they count: through a real overlay of
// two layers, made from detached mounts as the engine makes it.
func TestOverlay(t *testing.T) {
	lower := tarOf(file("kept"), file("gone"), file("dir/kept"), file("dir/gone"), file("opaque/gone"), file("replaced/gone"), file("aside/kept"))
	upper := tarOf(file(".wh.gone"), file("dir/.wh.gone"), file("dir/.wh.never"), file("opaque/.wh..wh..opq"), file("opaque/new"),
		file(".wh.replaced"), file("replaced/new"), file("new/.wh.never"), file("new/f"), member{name: "dir/kept", kind: kindChar})
	want := []string{"aside", "aside/kept", "dir", "kept", "new", "new/f", "opaque", "opaque/new", "replaced", "replaced/new"}
	for form, s := range bothStores(t) {
		t.Run(form, func(t *testing.T) {
			var lowers []*os.File
			for _, b := range [][]byte{upper, lower} {
				m, err := mustAdd(t, s, b).Mount(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer m.Close()
				lowers = append(lowers, m.File())
			}
			root := overlay(t, lowers...)
			defer root.Close()
			var got []string
			for name := range describe(t, fdPath(root)) {
				if name != "" {
					got = append(got, name)
				}
			}
			sameNames(t, got, want)
		})
	}
}

// overlay mounts directories, the top one first, detached.
func overlay(t *testing.T, lowers ...*os.File) *os.File {
	t.Helper()
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Skipf("needs overlayfs: %v", err)
	}
	defer unix.Close(fs)
	for _, l := range lowers {
		if err := unix.FsconfigSetFd(fs, "lowerdir+", int(l.Fd())); err != nil {
			t.Skipf("needs an overlayfs with lowerdir+: %v", mountError("lowerdir+", fs, err))
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		t.Fatal(mountError("overlay", fs, err))
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), "overlay")
}

func sameNames(t *testing.T, got, want []string) {
	t.Helper()
	a, b := map[string]string{}, map[string]string{}
	for _, n := range got {
		a[n] = "there"
	}
	for _, n := range want {
		b[n] = "there"
	}
	same(t, "names", a, b)
}

func TestOpaqueRoot(t *testing.T) {
	for form, s := range bothStores(t) {
		if l := mustAdd(t, s, tarOf(file("a"), file(".wh..wh..opq"))); !l.Opaque() {
			t.Errorf("%s: not opaque", form)
		}
		if l := mustAdd(t, s, tarOf(file("a"))); l.Opaque() {
			t.Errorf("%s: opaque", form)
		}
	}
}

// TestPaddingIsNotSeen maps a file whose padding in the archive is not zero.
func TestPaddingIsNotSeen(t *testing.T) {
	b := tarOf(member{name: "dirty", data: "data", pad: 'X'}, member{name: "clean", data: "data"}, member{name: "last", data: "data", pad: 'X'})
	for form, s := range bothStores(t) {
		root := mountPath(t, mustAdd(t, s, b))
		for _, name := range []string{"dirty", "clean", "last"} {
			f, err := os.Open(root + name)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			p, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE)
			if err != nil {
				t.Fatal(err)
			}
			if string(p[:4]) != "data" || len(bytes.Trim(p[4:], "\x00")) != 0 {
				t.Errorf("%s: %s reads %q", form, name, bytes.TrimRight(p, "\x00"))
			}
			if err := unix.Munmap(p); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestOddEnds are archives whose last block is not whole, which the kernel
// must read as if zeros followed.
func TestOddEnds(t *testing.T) {
	for what, b := range map[string][]byte{
		"empty stream":         {},
		"end marker only":      tarOf(),
		"padding missing":      tarOf(member{name: "a", data: "data"})[:516],
		"large, cut after it":  tarOf(member{name: "a", data: string(bytes.Repeat([]byte("0123456789"), 1000))})[:512+10000],
		"nothing but a hole":   tarOf(member{name: "a", pax: []string{"GNU.sparse.size=100000", "GNU.sparse.map=100000,0"}}),
		"a hole of a terabyte": tarOf(member{name: "a", pax: []string{"GNU.sparse.size=1099511627776", "GNU.sparse.map=5,4"}, data: "data"}),
	} {
		got := map[string]map[string]string{}
		for form, s := range bothStores(t) {
			l := mustAdd(t, s, b)
			if what == "a hole of a terabyte" {
				st, err := os.Stat(mountPath(t, l) + "a")
				if err != nil || st.Size() != 1<<40 {
					t.Errorf("%s: %s: %v, %v", what, form, st, err)
				}
				continue
			}
			got[form] = describe(t, mountPath(t, l))
		}
		if len(got) == 2 {
			same(t, what, got["directory"], got["index"])
		}
	}
}

// TestTooLargeForAnIndex: what 32-bit block numbers do not reach becomes a
// directory, or says why not.
func TestTooLargeForAnIndex(t *testing.T) {
	s := indexStore(t)
	b := tarOf(member{name: "a", pax: []string{"GNU.sparse.size=2199023255552", "GNU.sparse.map=5,4"}, data: "data"}, file("b"))
	l, err := s.Add(context.Background(), bytes.NewReader(b), AddOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if l.Form() != FormDirectory {
		t.Errorf("form %v", l.Form())
	}
	st, err := os.Stat(filepath.Join(mountPath(t, l), "a"))
	if err != nil || st.Size() != 1<<41 {
		t.Errorf("%v, %v", st, err)
	}
	noLeaks(t, s)
	dir, err := s.path(l.DiffID())
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("%v, %v", entries, err)
	}
}
