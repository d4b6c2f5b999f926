package layer

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// TestCheck: each file of a layer that is cut off, gone or something else is
// named, and the layer comes right when it is added again.
func TestCheck(t *testing.T) {
	b := tarOf(file("a"), member{name: "b", data: "b", pad: 1}, file("implied/c"))
	harms := map[string]func(path string) error{
		"gone":  os.RemoveAll,
		"empty": func(path string) error { return errors.Join(os.RemoveAll(path), os.WriteFile(path, nil, 0o600)) },
		"link":  func(path string) error { return errors.Join(os.RemoveAll(path), os.Symlink("nowhere", path)) },
		"cut": func(path string) error {
			st, err := os.Stat(path)
			if err != nil || st.IsDir() {
				return os.RemoveAll(path)
			}
			return os.Truncate(path, st.Size()/2)
		},
	}
	for _, form := range testForms() {
		s := openStore(t, form)
		l := mustAdd(t, s, b)
		dir, err := s.path(l.DiffID())
		if err != nil {
			t.Fatal(err)
		}
		names := []string{recordName}
		for _, p := range l.rec.parts() {
			names = append(names, p.name)
		}
		if want := map[Form]int{FormIndex: 5, FormDirectory: 3}[form]; len(names) != want {
			t.Errorf("%v: %v", form, names)
		}
		for _, name := range names {
			for what, harm := range harms {
				for _, o := range []AddOptions{{}, {DiffID: l.DiffID(), Digest: digest.FromBytes(b)}} {
					if err := l.Check(); err != nil {
						t.Fatal(err)
					}
					path := filepath.Join(dir, name)
					if err := harm(path); err != nil {
						t.Fatal(err)
					}
					if _, err := s.sound(l.DiffID()); !errors.Is(err, errdefs.ErrDataLoss) || !strings.Contains(err.Error(), path) {
						t.Errorf("%v: %s %s: %v", form, name, what, err)
					}
					if _, err := s.Add(context.Background(), bytes.NewReader(b), o); err != nil {
						t.Errorf("%v: %s %s: %v", form, name, what, err)
					}
					noWorks(t, s)
				}
			}
		}
	}
}

// TestLinkTar: a tar that is whole blocks can have a second name, which outlives
// the layer, and the layer outlives that.
func TestLinkTar(t *testing.T) {
	s := openStore(t, FormIndex)
	b := tarOf(file("a"))
	link := filepath.Join(s.dir, "link")
	for range 2 {
		l := mustAdd(t, s, b)
		if err := l.LinkTar(link); err != nil {
			t.Fatal(err)
		}
		if err := s.Remove(l.DiffID()); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(link); err != nil || !bytes.Equal(got, b) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if err := os.Remove(link); err != nil {
			t.Fatal(err)
		}
	}
	l := mustAdd(t, s, b)
	if err := errors.Join(l.LinkTar(link), os.Remove(link), l.Check()); err != nil {
		t.Error(err)
	}
	for what, b := range map[string][]byte{"padded": tarOf(member{name: "a", data: "data"})[:516], "empty": {}} {
		if err := mustAdd(t, s, b).LinkTar(link); !errors.Is(err, errdefs.ErrNotImplemented) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, form := range testForms() {
		if form == FormDirectory {
			if err := mustAdd(t, openStore(t, form), b).LinkTar(link); !errors.Is(err, errdefs.ErrNotImplemented) {
				t.Errorf("%v: %v", form, err)
			}
		}
	}
}
