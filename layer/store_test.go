package layer

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/inboard/engine/internal/atomicfile"
	"github.com/opencontainers/go-digest"
)

func TestStore(t *testing.T) {
	s := openStore(t, FormIndex)
	a, b := mustAdd(t, s, tarOf(file("a"))), mustAdd(t, s, tarOf(file("b")))
	got, err := s.Get(a.DiffID())
	if err != nil || got.Size() != a.Size() || got.Form() != FormIndex || got.DiffID() != a.DiffID() {
		t.Errorf("%+v, %v; want %+v", got, err, a)
	}
	all, err := s.List()
	if err != nil || len(all) != 2 || all[0].DiffID() >= all[1].DiffID() {
		t.Errorf("%v, %v", all, err)
	}
	if err := s.Remove(a.DiffID()); err != nil {
		t.Error(err)
	}
	for _, id := range []digest.Digest{a.DiffID(), digest.FromString("x")} {
		if _, err := s.Get(id); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("get %s: %v", id, err)
		}
		if err := s.Remove(id); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("remove %s: %v", id, err)
		}
	}
	if _, err := s.Get(b.DiffID()); err != nil {
		t.Error(err)
	}
	for _, id := range []digest.Digest{"", "sha256:", "sha256:..", "x", "../x", digest.Digest("sha512:" + strings.Repeat("0", 128))} {
		if _, err := s.Get(id); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("get %q: %v", id, err)
		}
		if err := s.Remove(id); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("remove %q: %v", id, err)
		}
	}
	if _, err := Open(t.TempDir(), Options{Form: 7}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("form 7: %v", err)
	}
	noWorks(t, s)
}

func TestFormString(t *testing.T) {
	if got := fmt.Sprint(FormAuto, FormIndex, FormDirectory); got != "auto index directory" {
		t.Error(got)
	}
}

// TestCVE_2021_41091 covers CVE-2021-41091, CVE-2021-41103 and CVE-2024-25621:
// a set-uid file in a layer is out of reach of the host's users, also where the
// store's directory was made by somebody else.
func TestCVE_2021_41091(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs Unix permissions")
	}
	dir := filepath.Join(t.TempDir(), "store")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, form := range testForms() {
		s, err := Open(dir, Options{Form: form})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		l := mustAdd(t, s, tarOf(member{name: fmt.Sprint("su", form), mode: 0o4755}))
		at := filepath.Join(dir, "sha256", l.DiffID().Encoded())
		for ; at != filepath.Dir(dir); at = filepath.Dir(at) {
			if st, err := os.Stat(at); err != nil || st.Mode().Perm() != 0o700 {
				t.Errorf("%s: %v, %v", at, st.Mode(), err)
			}
		}
	}
}

// TestRecord: a damaged record gives an error that names the file, and what a
// later program writes there survives this one.
func TestRecord(t *testing.T) {
	s := openStore(t, FormIndex)
	b := tarOf(file("a"))
	l := mustAdd(t, s, b)
	name := filepath.Join(s.dir, "sha256", l.DiffID().Encoded(), "layer.json")
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "{", "null", "[]", `"x"`, "{}", string(good[:len(good)/2]),
		strings.Replace(string(good), "index", "cloud", 1), strings.Replace(string(good), l.DiffID().Encoded()[:8], "00000000", 1),
		strings.Replace(string(good), `"size":`, `"size":-`, 1)} {
		if err := os.WriteFile(name, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Get(l.DiffID()); !errors.Is(err, errdefs.ErrDataLoss) || !strings.Contains(err.Error(), name) {
			t.Errorf("%q: %v", bad, err)
		}
		if _, err := s.List(); !errors.Is(err, errdefs.ErrDataLoss) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	mustAdd(t, s, b) // mends it
	if _, err := s.Get(l.DiffID()); err != nil {
		t.Error(err)
	}
	newer := strings.Replace(string(good), `"version":1`, `"version":2`, 1)
	if err := os.WriteFile(name, []byte(newer), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(l.DiffID()); !errors.Is(err, errdefs.ErrNotImplemented) || !strings.Contains(err.Error(), name) {
		t.Errorf("newer version: %v", err)
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(l.DiffID()); !errors.Is(err, errdefs.ErrDataLoss) || !strings.Contains(err.Error(), name) {
		t.Errorf("no record: %v", err)
	}
	if err := s.Remove(l.DiffID()); err != nil {
		t.Error(err)
	}
}

func TestRecordKeepsUnknownFields(t *testing.T) {
	name := filepath.Join(t.TempDir(), "layer.json")
	id := digest.FromString("x")
	in := fmt.Sprintf(`{"version":1,"diffID":%q,"form":"index","size":5,"later":{"a":[1,2]},"name":"x"}`, id)
	if err := os.WriteFile(name, []byte(in), 0o600); err != nil {
		t.Fatal(err)
	}
	rec, err := readRecord(filepath.Dir(name), id)
	if err != nil {
		t.Fatal(err)
	}
	rec.Form = "directory"
	if err := atomicfile.WriteJSON(name, rec, atomicfile.Durable); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	b, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(b, &got)
	}
	if err != nil || fmt.Sprintf("%v %v %v %v", got["later"], got["name"], got["form"], got["size"]) != "map[a:[1 2]] x directory 5" {
		t.Errorf("%s, %v", b, err)
	}
}

// TestSweep: Open removes works that nobody holds, and no other.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Options{Form: FormIndex})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	w, err := s.begin()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"dead.lock", "half.lock", "other"} {
		if err := os.WriteFile(filepath.Join(dir, "tmp", name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"dead/tree/a", "orphan"} {
		if err := os.MkdirAll(filepath.Join(dir, "tmp", name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	again, err := Open(dir, Options{Form: FormIndex})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	left, err := os.ReadDir(filepath.Join(dir, "tmp"))
	if err != nil || len(left) != 2 || filepath.Join(dir, "tmp", left[0].Name()) != w.dir {
		t.Errorf("%v, %v; want only %s and its lock", left, err, w.dir)
	}
	if err := w.end(); err != nil {
		t.Error(err)
	}
	noWorks(t, s)
}
