package engine

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func TestNames(t *testing.T) {
	n := names(t.TempDir())
	a, b := newID(), newID()
	if err := n.claim("box", "ab", a); err != nil {
		t.Fatal(err)
	}
	err := n.claim("box", "cd", b)
	if !errors.Is(err, ErrAlreadyExists) || !strings.Contains(err.Error(), a[:12]) {
		t.Errorf("second claim: %v", err)
	}
	if err := n.release("box", b); err != nil {
		t.Error(err)
	}
	if engine, id, err := n.owner("box"); engine != "ab" || id != a || err != nil {
		t.Errorf("owner %s of %s, %v", id, engine, err)
	}
	if err := n.release("box", a); err != nil {
		t.Error(err)
	}
	if err := n.claim("box", "cd", b); err != nil {
		t.Error(err)
	}
	if err := n.sweep(func(e string) bool { return e == "cd" }); err != nil {
		t.Error(err)
	}
	if entries, _ := os.ReadDir(string(n)); len(entries) != 0 {
		t.Errorf("left: %v", entries)
	}
	if err := os.Symlink("../../etc/passwd", filepath.Join(string(n), "odd")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := n.owner("odd"); !errors.Is(err, ErrDataLoss) || !strings.Contains(err.Error(), "odd") {
		t.Errorf("damaged claim: %v", err)
	}
}

func TestNamesRace(t *testing.T) {
	n := names(t.TempDir())
	var won atomic.Int32
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			switch err := n.claim("box", "ab", newID()); {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, ErrAlreadyExists):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d winners", won.Load())
	}
}

func TestIDs(t *testing.T) {
	id := newID()
	if !isID(id) || defaultName(id) != id[:12] || checkName(defaultName(id)) != nil {
		t.Errorf("id %q", id)
	}
	for _, s := range []string{"", id[:63], id + "0", strings.ToUpper("a" + id[1:]), "/" + id[1:]} {
		if isID(s) {
			t.Errorf("%q is taken for an ID", s)
		}
	}
}
