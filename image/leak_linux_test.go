package image

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestNothingStaysOpen counts goroutines and descriptors over pulls, of which
// some fail, with the default transport.
func TestNothingStaysOpen(t *testing.T) {
	f := newFakeRegistry(t)
	s := newStore(t)
	b := build(t, hostPlatform, gzipLayer(t, "a", "b"))
	ref := f.push("app", "v1", b)
	round := func() {
		i := s.mustPull(t, ref)
		release, err := s.Hold(i.ID(), "holder")
		if err != nil {
			t.Fatal(err)
		}
		s.Remove(t.Context(), ref, RemoveOptions{})
		release()
		if _, err := s.Pull(t.Context(), f.host+"/none", anonymous); err == nil {
			t.Error("no error")
		}
		if _, err := s.Remove(t.Context(), ref, RemoveOptions{}); err != nil {
			t.Error(err)
		}
	}
	round()
	// What the server and the sockets have yet to notice takes a moment.
	settled := func(goroutines, files int) bool {
		for range 1000 {
			if runtime.NumGoroutine() <= goroutines && openFiles(t) <= files {
				return true
			}
			time.Sleep(10 * time.Millisecond)
		}
		return false
	}
	f.server.CloseClientConnections()
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	for range 20 {
		round()
	}
	f.server.CloseClientConnections()
	if !settled(goroutines, files) {
		t.Errorf("goroutines: %d, before %d; files: %d, before %d", runtime.NumGoroutine(), goroutines, openFiles(t), files)
	}
	s.mustBeEmpty(t)
}

func openFiles(t *testing.T) int {
	t.Helper()
	names, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, name := range names {
		if to, err := os.Readlink(name); err == nil && !strings.HasPrefix(to, "anon_inode:") {
			n++
		}
	}
	return n
}
