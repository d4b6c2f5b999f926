package cgroup

import (
	"errors"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// walk knows nothing of cgroups, so plain directories do.
func TestWalk(t *testing.T) {
	root, err := unix.Open(t.TempDir(), dirFlags, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(root)
	for _, d := range []string{"a", "a/b", "a/b/c", "a/d", "other"} {
		if err := unix.Mkdirat(root, d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	before := openFDs()
	var order []string
	visits := 0
	err = walk(root, "a", visitor{
		visit: func(int) error { visits++; return nil },
		leave: func(dir int, name string) error {
			order = append(order, name)
			return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
		},
	})
	at := func(s string) int { return slices.Index(order, s) }
	if err != nil || visits != 4 || len(order) != 4 || at("c") > at("b") || at("b") > at("a") || at("d") > at("a") {
		t.Errorf("%v, %d visits, order %v", err, visits, order)
	}
	if err := unix.Faccessat(root, "other", unix.F_OK, 0); err != nil {
		t.Error(err)
	}
	if err := walk(root, "missing", visitor{}); err != nil {
		t.Error("missing:", err)
	}
	want := errors.New("x")
	if err := walk(root, "other", visitor{visit: func(int) error { return want }}); err != want {
		t.Error(err)
	}
	skipped := visitor{
		skip:  func(int, string) bool { return true },
		visit: func(int) error { return want },
	}
	if err := walk(root, "other", skipped); err != nil {
		t.Error(err)
	}
	if now := openFDs(); now != before {
		t.Errorf("%d descriptors, %d before", now, before)
	}
}

func TestWalkDeep(t *testing.T) {
	root, err := unix.Open(t.TempDir(), dirFlags, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { unix.Close(root) }()
	const depth = 1400 // the names together are longer than PATH_MAX
	cur, err := openAt(root, ".", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		t.Fatal(err)
	}
	for range depth {
		if err := unix.Mkdirat(cur, "dd", 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := openAt(cur, "dd", unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(cur)
		cur = next
	}
	unix.Close(cur)
	removed := 0
	err = walk(root, "dd", visitor{leave: func(dir int, name string) error {
		removed++
		return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
	}})
	if err != nil || removed != depth {
		t.Errorf("%d removed, %v", removed, err)
	}
}
