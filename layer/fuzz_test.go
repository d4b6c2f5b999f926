package layer

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/inboard/engine/internal/atomicfile"
	"github.com/opencontainers/go-digest"
)

// FuzzTar reads foreign archives. What is accepted must have runs inside the
// archive and give an index.
func FuzzTar(f *testing.F) {
	for _, b := range seeds() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if all, err := readAll(b, 512); err == nil {
			for _, e := range all {
				checkRuns(t, e, int64(len(b)))
			}
		}
		tree, err := readTree(b)
		if err != nil {
			return
		}
		all := tree.finish(func(change) {})
		for _, n := range all {
			n.copy = false // copying is not what is tested here
		}
		out, err := os.Create(filepath.Join(t.TempDir(), "index"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		x := &indexer{tarSize: int64(len(b))}
		size, err := x.write(out, all)
		if err != nil {
			return
		}
		if st, err := out.Stat(); err != nil || st.Size() != size || size%blockSize != 0 {
			t.Errorf("index of %d bytes, said to be %d: %v", st.Size(), size, err)
		}
	})
}

func checkRuns(t *testing.T, e entry, total int64) {
	end := int64(0)
	for _, r := range e.runs {
		if r.length <= 0 || r.logical < end || r.logical+r.length > e.size || r.physical < tarBlock || r.physical+r.length > total {
			t.Fatalf("%q of %d bytes: run %+v, archive of %d", e.name, e.size, r, total)
		}
		end = r.logical + r.length
	}
}

func seeds() [][]byte {
	sparse := []string{"GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.realsize=9000", "GNU.sparse.name=s"}
	return [][]byte{
		nil,
		tarOf(),
		tarOf(member{name: "a/b", data: "x", pad: 1}, member{name: "l", kind: kindHardlink, link: "a/b"}),
		tarOf(member{name: "d/", kind: kindDir}, member{name: "s", kind: kindSymlink, link: "d"}, member{name: "s/f", data: "1"}),
		tarOf(member{name: strings.Repeat("n/", 200), long: true}, member{name: "d/.wh.x"}, member{name: "d/.wh..wh..opq"}),
		tarOf(member{name: "p", pax: []string{"mtime=-1.5", "SCHILY.xattr.user.a=b", "SCHILY.acl.access=user::rwx,group::r-x,other::---",
			"LIBARCHIVE.xattr.user.b=eA", "uid=1000"}}),
		tarOf(member{name: "s", pax: sparse, data: "1\n4096\n5\n" + strings.Repeat("\x00", 503) + "hello"}),
		tarOf(member{name: "s", pax: []string{"GNU.sparse.size=9", "GNU.sparse.offset=2", "GNU.sparse.numbytes=3"}, data: "abc"}),
		tarOf(member{kind: 'g', data: paxOf("uid=1")}, member{name: "c", kind: kindChar}, member{name: "f", kind: kindFifo}),
		tarOf(member{name: "b", kind: kindBlock, major: 8, minor: 1 << 19}),
	}
}

// FuzzACL parses what images say about access. What is accepted must be what
// the kernel accepts.
func FuzzACL(f *testing.F) {
	for _, s := range []string{"user::rwx,user:1000:r--,group::r-x,mask::r-x,other::---", "user::rwx\nuser:name:rwx:5\ngroup::r-x\nmask:rwx\nother::r", "", ":::", "default:user::rwx"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if entries, ok := parseACL(s); ok {
			if err := checkACL(encodeACL(entries)); err != nil {
				t.Errorf("%q: %v: %v", s, entries, err)
			}
		}
		if checkACL(s) == nil {
			aclMode(s, 0o644)
		}
	})
}

// FuzzRecord reads records that this store has not written. What is accepted can
// be checked and written again.
func FuzzRecord(f *testing.F) {
	id := digest.FromString("x")
	for _, s := range []string{"", "{}", `{"version":1}`, `{"version":2}`, "null", `{"version":1,"diffID":"` + string(id) + `","form":"index","size":-1}`,
		`{"version":1,"diffID":"` + string(id) + `","form":"index","size":1024,"indexSize":2048,"later":{"a":1}}`,
		`{"version":1,"diffID":"` + string(id) + `","form":"directory","size":9223372036854775807,"Size":1}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		name := filepath.Join(dir, recordName)
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		rec, err := readRecord(dir, id)
		if err != nil {
			if !strings.Contains(err.Error(), name) || !errors.Is(err, errdefs.ErrDataLoss) && !errors.Is(err, errdefs.ErrNotImplemented) {
				t.Errorf("%q: %v", b, err)
			}
			return
		}
		for _, p := range rec.parts() {
			if p.size < 0 {
				t.Errorf("%q: %s of %d bytes", b, p.name, p.size)
			}
		}
		if err := atomicfile.WriteJSON(name, rec, atomicfile.Volatile); err != nil {
			t.Fatal(err)
		}
		again, err := readRecord(dir, id)
		if err != nil || again.Size != rec.Size || again.Form != rec.Form || len(again.unknown) != len(rec.unknown) {
			t.Errorf("%q: %+v, %v", b, again, err)
		}
	})
}

// FuzzImplied reads lists of directories that this store has not written.
func FuzzImplied(f *testing.F) {
	for _, s := range []string{"", "\x00a\x00", "\x00a/b\x00\x01c\x00", "\x00a\x00\x02b\x00", "\x00a"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		name := filepath.Join(t.TempDir(), impliedName)
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readImplied(name); err != nil && (!errors.Is(err, errdefs.ErrDataLoss) || !strings.Contains(err.Error(), name)) {
			t.Errorf("%q: %v", b, err)
		}
	})
}
