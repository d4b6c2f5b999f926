package layer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// mountAll mounts archives of one store each, the lowest first, and returns
// the mounts as a stack.
func mountAll(t *testing.T, stores []*Store, archives ...[]byte) (stack []*Mount) {
	t.Helper()
	for i, b := range archives {
		m, err := mustAdd(t, stores[i], b).Mount(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		stack = slices.Insert(stack, 0, m)
	}
	return stack
}

func repeat(s *Store, n int) []*Store { return slices.Repeat([]*Store{s}, n) }

// covered describes the overlay of a stack and its cover, if there is one.
func covered(t *testing.T, stack []*Mount) map[string]string {
	t.Helper()
	cover, err := Cover(t.Context(), stack)
	if err != nil {
		t.Fatal(err)
	}
	if cover != nil {
		stack = slices.Insert(slices.Clone(stack), 0, cover)
	}
	var lowers []*os.File
	for _, m := range stack {
		lowers = append(lowers, m.File())
	}
	root := overlay(t, lowers...)
	out := describe(t, fdPath(root))
	if err := root.Close(); err != nil {
		t.Error(err)
	}
	if cover != nil {
		if err := errors.Join(cover.Close(), cover.Close()); err != nil {
			t.Error(err)
		}
	}
	return out
}

// TestCover: all attributes that a directory can have, its content untouched,
// for layers of both forms, and of different ones.
func TestCover(t *testing.T) {
	acl := encodeACL([]aclEntry{{aclUserObj, 7, maxID + 1}, {aclUser, 6, 7}, {aclGroupObj, 4, maxID + 1}, {aclMask, 7, maxID + 1}, {aclOther, 1, maxID + 1}})
	rich := member{name: "d", kind: kindDir, mode: 0o3750, uid: 7, gid: 8, pax: []string{"mtime=5.000000007",
		"SCHILY.xattr.trusted.t=1", "SCHILY.xattr.user.u=", "SCHILY.xattr.system.posix_acl_access=" + acl, "SCHILY.xattr.system.posix_acl_default=" + acl}}
	lower := tarOf(member{name: "./", kind: kindDir, mode: 0o700, time: 3}, rich, file("d/lower"), file("d/gone"), dir("d/e"), file("other/x"))
	upper := tarOf(file("d/upper"), file("d/.wh.gone"), file("d/e/f"))
	want := map[string]string{
		"":    "40755 0:0 0.000000000", // of the topmost layer: an overlay's root is that of its upper directory
		"d":   fmt.Sprintf("43771 7:8 5.000000007 system.posix_acl_access=%x system.posix_acl_default=%[1]x trusted.t=31 user.u=", acl),
		"d/e": "40750 5:0 0.000000000",
	}
	stores := bothStores(t)
	stacks := map[string][]*Store{}
	for form, s := range stores {
		stacks[form] = repeat(s, 2)
	}
	if s := stores["index"]; s != nil {
		stacks["a directory over an index"] = []*Store{s, stores["directory"]}
		stacks["an index over a directory"] = []*Store{stores["directory"], s}
	}
	for what, stores := range stacks {
		t.Run(what, func(t *testing.T) {
			stack := mountAll(t, stores, lower, upper)
			before := openFiles(t)
			got := covered(t, stack)
			if n := openFiles(t); n != before {
				t.Errorf("%d descriptors more than before", n-before)
			}
			for name, line := range want {
				if got[name] != line {
					t.Errorf("%q:\n got %s\nwant %s", name, got[name], line)
				}
			}
			for name := range got {
				if want[name] == "" && !slices.Contains([]string{"d/lower", "d/upper", "d/e/f", "other", "other/x"}, name) {
					t.Errorf("%q should not be there", name)
				}
			}
			for _, s := range stores {
				noLeaks(t, s)
			}
		})
	}
}

// TestCoverOfNothing: where no directory looks otherwise, there is no cover.
func TestCoverOfNothing(t *testing.T) {
	for form, s := range bothStores(t) {
		for what, archives := range map[string][][]byte{
			"no layer":              nil,
			"all named":             {tarOf(dir("d"), file("d/a")), tarOf(dir("d"), file("d/b"))},
			"one layer":             {tarOf(file("d/e/a"))},
			"no layer names it":     {tarOf(file("d/e/a")), tarOf(file("d/e/b"))},
			"a layer above does":    {tarOf(dir("d")), tarOf(file("d/a")), tarOf(dir("d"))},
			"different directories": {tarOf(dir("d"), file("d/a")), tarOf(file("e/b"))},
			"whited out":            {tarOf(dir("d")), tarOf(file("d/a")), tarOf(file(".wh.d"))},
			"a file above":          {tarOf(dir("d"), dir("d/e")), tarOf(file("d/e/a")), tarOf(file("d"))},
		} {
			if m, err := Cover(t.Context(), mountAll(t, repeat(s, len(archives)), archives...)); m != nil || err != nil {
				t.Errorf("%s: %s: %v, %v", form, what, m, err)
			}
		}
		noLeaks(t, s)
	}
}

// TestCoverLikeUnpacking compares stacks of layers made at random with what
// unpacking them one over the other leaves of directories.
func TestCoverLikeUnpacking(t *testing.T) {
	stores := bothStores(t)
	covers := 0
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 11))
		want := unpacking{}
		var archives [][]byte
		for range 4 {
			archives = append(archives, want.randomLayer(r))
		}
		for form, s := range stores {
			stack := mountAll(t, repeat(s, len(archives)), archives...)
			got := covered(t, stack)
			delete(got, "")
			for name, line := range got {
				if !strings.HasPrefix(line, "4") { // not a directory
					got[name] = "file"
				}
			}
			if same(t, fmt.Sprintf("seed %d: %s", seed, form), got, want); t.Failed() {
				return
			}
			if m, _ := Cover(t.Context(), stack); m != nil {
				covers++
				if err := m.Close(); err != nil {
					t.Error(err)
				}
			}
			for _, m := range stack {
				m.Close()
			}
		}
	}
	if covers == 0 {
		t.Error("no stack had anything to cover")
	}
}

// unpacking is a directory into which layers are unpacked: a line for each
// path, as describe has it for a directory, or "file".
type unpacking map[string]string

const madeLine = "40755 0:0 0.000000000"

// randomLayer unpacks a layer, and returns its archive. In that, no file takes
// the place of a directory or the other way round: they may between layers.
func (u unpacking) randomLayer(r *rand.Rand) []byte {
	path := func() string {
		name := string("abcdefgh"[r.IntN(8)])
		for range r.IntN(3) {
			name += "/" + string("abc"[r.IntN(3)])
		}
		return name
	}
	var whiteouts, members []member
	kinds := map[string]byte{} // of the names of this layer
	fits := func(name string, kind byte) bool {
		for at, k := range kinds {
			if k == kindFile && strings.HasPrefix(name, at+"/") || kind == kindFile && strings.HasPrefix(at, name+"/") || at == name && k != kind {
				return false
			}
		}
		return true
	}
	for range 32 {
		switch name := path(); r.IntN(5) {
		case 0:
			if up := filepath.Dir(name); fits(up, kindDir) && up != "." {
				kinds[up] = kindDir
				whiteouts = append(whiteouts, file(up+"/.wh..wh..opq"))
			}
		case 1:
			if up := filepath.Dir(name); up == "." || fits(up, kindDir) {
				if up != "." {
					kinds[up] = kindDir
				}
				whiteouts = append(whiteouts, file(filepath.Join(up, ".wh."+filepath.Base(name))))
			}
		case 2, 3:
			if fits(name, kindDir) {
				kinds[name] = kindDir
				members = append(members, member{name: name, kind: kindDir, mode: int64(r.IntN(0o10000)), uid: int64(r.IntN(3)), time: int64(r.IntN(1 << 30))})
			}
		default:
			if fits(name, kindFile) {
				kinds[name] = kindFile
				members = append(members, file(name))
			}
		}
	}
	for _, w := range whiteouts {
		u.whiteout(w.name)
	}
	for _, w := range whiteouts {
		u.parents(w.name)
	}
	for _, m := range members {
		u.member(m)
	}
	if r.IntN(2) == 0 { // where the whiteouts stand does not matter
		return tarOf(append(members, whiteouts...)...)
	}
	return tarOf(append(whiteouts, members...)...)
}

func (u unpacking) parents(name string) {
	for i, c := range name {
		if c == '/' && !strings.HasPrefix(u[name[:i]], "4") {
			u[name[:i]] = madeLine
		}
	}
}

func (u unpacking) removeBelow(name string) {
	for at := range u {
		if strings.HasPrefix(at, name+"/") {
			delete(u, at)
		}
	}
}

func (u unpacking) whiteout(name string) {
	up, base := filepath.Dir(name), filepath.Base(name)
	if base == whiteoutOpaque {
		u.removeBelow(up)
		return
	}
	gone := filepath.Join(up, strings.TrimPrefix(base, whiteoutPrefix))
	delete(u, gone)
	u.removeBelow(gone)
}

func (u unpacking) member(m member) {
	u.parents(m.name)
	if m.kind == kindDir {
		u[m.name] = fmt.Sprintf("%o %d:%d %d.%09d", modeDir|m.mode, m.uid, m.gid, m.time, 0)
		return
	}
	u.removeBelow(m.name)
	u[m.name] = "file"
}

// TestCoverFails: what is damaged is named, and nothing is left of the try.
func TestCoverFails(t *testing.T) {
	for form, s := range bothStores(t) {
		stack := mountAll(t, repeat(s, 2), tarOf(dir("d")), tarOf(file("d/a")))
		canceled, cancel := context.WithCancel(t.Context())
		cancel()
		if m, err := Cover(canceled, stack); m != nil || !errors.Is(err, context.Canceled) {
			t.Errorf("%s: canceled: %v, %v", form, m, err)
		}
		dir, err := s.path(stack[0].id)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, impliedName)
		for _, damage := range []func() error{
			func() error { return os.WriteFile(name, []byte("\x05d\x00"), 0o600) }, // as long as it was
			func() error { return os.Truncate(name, 1) },
			func() error { return os.Remove(name) },
		} {
			if err := damage(); err != nil {
				t.Fatal(err)
			}
			if m, err := Cover(t.Context(), stack); m != nil || !errors.Is(err, errdefs.ErrDataLoss) || !strings.Contains(err.Error(), name) {
				t.Errorf("%s: %v, %v", form, m, err)
			}
		}
		noLeaks(t, s)
	}
}

// TestCoverOfConverted: a layer that was turned into a directory is known to
// imply what it did, also if a program had added it that did not note that.
// Before, the directories of such a layer count as named.
func TestCoverOfConverted(t *testing.T) {
	needRoot(t)
	for _, old := range []bool{false, true} {
		s := openStore(t, FormIndex)
		lower, upper := mustAdd(t, openStore(t, FormDirectory), tarOf(dir("d"))), mustAdd(t, s, tarOf(file("d/a")))
		dir, err := s.path(upper.DiffID())
		if err != nil {
			t.Fatal(err)
		}
		if old {
			forget(t, dir)
			if upper, err = s.Get(upper.DiffID()); err != nil || upper.rec.ImpliedSize != 0 {
				t.Fatalf("%+v, %v", upper, err)
			}
		}
		if err := s.convert(t.Context(), dir, upper.rec); err != nil {
			t.Fatal(err)
		}
		var stack []*Mount
		for _, l := range []*Layer{upper, lower} {
			m, err := l.Mount(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			stack = append(stack, m)
		}
		cover, err := Cover(t.Context(), stack)
		if err != nil || cover == nil {
			t.Fatalf("old %v: %v, %v", old, cover, err)
		}
		if got := describe(t, cover.Path())["d"]; got != "40750 5:0 0.000000000" {
			t.Errorf("old %v: %s", old, got)
		}
		if err := cover.Close(); err != nil {
			t.Error(err)
		}
	}
}

// forget makes a layer one of a program that knew of no such lists.
func forget(t *testing.T, dir string) {
	t.Helper()
	name := filepath.Join(dir, recordName)
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(b, &fields); err != nil {
		t.Fatal(err)
	}
	delete(fields, "impliedSize")
	if b, err = json.Marshal(fields); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(name, b, 0o600), os.Remove(filepath.Join(dir, impliedName))); err != nil {
		t.Fatal(err)
	}
}
