package atomicfile

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// A reader who comes at any time sees one writer's content whole.
func TestWholeWhileRacing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	contents := []string{strings.Repeat("a", 10_000), strings.Repeat("b", 20_000)}
	if err := Write(path, []byte(contents[0]), Durable); err != nil {
		t.Fatal(err)
	}
	var writers sync.WaitGroup
	for i, content := range contents {
		writers.Go(func() {
			for range 300 {
				if err := Write(path, []byte(content), Durability(i == 0)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { writers.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		data, err := os.ReadFile(path)
		if err != nil || string(data) != contents[0] && string(data) != contents[1] {
			t.Fatalf("read %d bytes, %v", len(data), err)
		}
	}
	names(t, filepath.Dir(path), "file")
}

// Of many who want a name one gets it, and the others' files stay, whether the
// filesystem has such a rename or not.
func TestRenameNew(t *testing.T) {
	supported := renameNew
	defer func() { renameNew = supported }()
	for what, rename := range map[string]func(string, string) error{
		"one call": supported,
		"a link":   func(string, string) error { return errors.ErrUnsupported },
	} {
		renameNew = rename
		dir := t.TempDir()
		const programs = 8
		var won, lost sync.Map
		var all sync.WaitGroup
		for i := range programs {
			path := filepath.Join(dir, string(rune('a'+i)))
			if err := os.WriteFile(path, []byte(path), 0o600); err != nil {
				t.Fatal(err)
			}
			all.Go(func() {
				switch err := RenameNew(path, filepath.Join(dir, "z")); {
				case err == nil:
					won.Store(path, true)
				case errors.Is(err, fs.ErrExist):
					lost.Store(path, true)
				default:
					t.Errorf("%s: %v", what, err)
				}
			})
		}
		all.Wait()
		data, err := os.ReadFile(filepath.Join(dir, "z"))
		if _, ok := won.Load(string(data)); !ok || err != nil {
			t.Errorf("%s: the name has %q, %v, which did not win", what, data, err)
		}
		left := 0
		lost.Range(func(path, _ any) bool {
			left++
			if data, err := os.ReadFile(path.(string)); err != nil || string(data) != path {
				t.Errorf("%s: who lost has %q, %v", what, data, err)
			}
			return true
		})
		if left != programs-1 {
			t.Errorf("%s: %d lost", what, left)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != programs {
			t.Errorf("%s: %v, %v", what, entries, err)
		}
		if err := RenameNew(filepath.Join(dir, "none"), filepath.Join(dir, "new")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: a file that is not there: %v", what, err)
		}
		if err := RenameNew(filepath.Join(dir, "z"), filepath.Join(dir, "none", "new")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: a directory that is not there: %v", what, err)
		}
	}
}

// names checks what a directory holds.
func names(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("directory holds %q, want %q", got, want)
	}
}

// A write that fails leaves the old file and nothing else.
func TestFailure(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := os.MkdirAll(filepath.Join(path, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, []byte("new"), Durable); err == nil {
		t.Error("a directory was replaced")
	}
	names(t, dir, "file")
	if err := WriteJSON(filepath.Join(dir, "json"), math.NaN(), Volatile); err == nil || !strings.Contains(err.Error(), "json") {
		t.Errorf("not a number: %v", err)
	}
	if err := Write(filepath.Join(dir, "missing", "file"), nil, Durable); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	names(t, dir, "file")
}

func TestJSON(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	type record struct{ A, B int }
	var got record
	if err := ReadJSON(path, &got); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if err := WriteJSON(path, record{1, 2}, Durable); err != nil {
		t.Fatal(err)
	}
	if err := ReadJSON(path, &got); err != nil || got != (record{1, 2}) {
		t.Errorf("%v, %v", got, err)
	}
	if info, err := os.Stat(path); err != nil || os.PathSeparator == '/' && info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if err := os.Truncate(path, 5); err != nil {
		t.Fatal(err)
	}
	if err := ReadJSON(path, &got); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a damaged file: %v", err)
	}
}
