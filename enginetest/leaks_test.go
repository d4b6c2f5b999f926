package enginetest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// impatient shortens the wait for what never goes.
func impatient(t testing.TB) {
	old := patience
	patience = 50 * time.Millisecond
	t.Cleanup(func() { patience = old })
}

func TestLeaksNothing(t *testing.T) {
	r := &recorder{name: "TestNothing"}
	Leaks(r)
	dir := t.TempDir()
	r.Cleanup(func() { os.RemoveAll(dir) })
	done := make(chan bool)
	go func() { close(done) }()
	<-done
	r.end()
	if len(r.failures) > 0 {
		t.Error(r.failures)
	}
}

// TestLeaksGoroutine leaves one, and sees its function and its starter named.
func TestLeaksGoroutine(t *testing.T) {
	impatient(t)
	r := &recorder{name: "TestLeaking"}
	Leaks(r)
	stop := make(chan bool)
	defer close(stop)
	go waits(stop)
	r.end()
	if len(r.failures) != 1 || !strings.Contains(r.failures[0], "enginetest.waits") || !strings.Contains(r.failures[0], "TestLeaksGoroutine") ||
		!strings.Contains(r.failures[0], "chan receive") {
		t.Errorf("%q", r.failures)
	}
}

func waits(stop chan bool) { <-stop }

// TestLeaksSlowly: what goes while it is waited for is no leak.
func TestLeaksSlowly(t *testing.T) {
	r := &recorder{name: "TestSlow"}
	Leaks(r)
	go time.Sleep(100 * time.Millisecond)
	r.end()
	if len(r.failures) > 0 {
		t.Error(r.failures)
	}
}

// TestLeaksFile has what may stay below an Engine's root, and what may not.
func TestLeaksFile(t *testing.T) {
	impatient(t)
	root, dir := t.TempDir(), t.TempDir()
	r := &recorder{name: "TestFiles"}
	old := filepath.Join(dir, "old")
	write := func(path string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(old)
	Watch{Roots: []string{root}, Dirs: []string{dir}}.Leaks(r)
	for _, stays := range []string{"format", "images/index.json", "images/blobs/sha256/abc", "layers/abc/tar", "run/root"} {
		write(filepath.Join(root, stays))
	}
	want := []string{
		filepath.Join(dir, "new"), filepath.Join(root, "engines/abc"), filepath.Join(root, "images/fetching/x"),
		filepath.Join(root, "images/holds/x"), filepath.Join(root, "layers/tmp/x"), filepath.Join(root, "run/containers/ab/abc"),
	}
	for _, path := range want {
		write(path)
	}
	r.end()
	if len(r.failures) != 1 {
		t.Fatalf("%q", r.failures)
	}
	for _, path := range want {
		if !strings.Contains(r.failures[0], "file "+path) {
			t.Errorf("%s is not named: %s", path, r.failures[0])
		}
	}
	if n := strings.Count(r.failures[0], "\n\t"); n != len(want) {
		t.Errorf("%d things: %s", n, r.failures[0])
	}
}

// TestLeaksBeside has two tests at a time, of which the first to end has leaked:
// the last one fails, with the names of both.
func TestLeaksBeside(t *testing.T) {
	impatient(t)
	first, second := &recorder{name: "TestFirst"}, &recorder{name: "TestSecond"}
	parent := &recorder{name: "TestThird"}
	stop := make(chan bool)
	Leaks(first)
	go waits(stop)
	Leaks(second) // for which the goroutine stands
	first.end()
	if len(first.failures) > 0 {
		t.Errorf("the first: %q", first.failures)
	}
	second.end()
	if len(second.failures) != 1 || !strings.Contains(second.failures[0], "TestFirst") || !strings.Contains(second.failures[0], "enginetest.waits") {
		t.Errorf("the second: %q", second.failures)
	}
	close(stop)

	// A parent is not beside its subtest.
	Leaks(parent)
	child := &recorder{name: "TestThird/child"}
	Leaks(child)
	stop = make(chan bool)
	go waits(stop)
	child.end()
	if len(child.failures) != 1 || strings.Contains(child.failures[0], "beside") {
		t.Errorf("a subtest: %q", child.failures)
	}
	close(stop)
	parent.end()
	if len(parent.failures) > 0 {
		t.Errorf("the parent: %q", parent.failures)
	}

	// What is gone when the last one ends was nobody's leak.
	third, fourth := &recorder{name: "TestFourth"}, &recorder{name: "TestFifth"}
	stop = make(chan bool)
	Leaks(third)
	Leaks(fourth)
	go waits(stop)
	third.end()
	close(stop)
	fourth.end()
	if len(third.failures)+len(fourth.failures) > 0 {
		t.Errorf("%q, %q", third.failures, fourth.failures)
	}
}

func BenchmarkLeaks(b *testing.B) {
	for b.Loop() {
		r := &recorder{name: "TestNothing"}
		Leaks(r)
		r.end()
		if len(r.failures) > 0 {
			b.Fatal(r.failures)
		}
	}
}
