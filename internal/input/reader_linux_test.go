package input

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// blockingPipe is a pipe that no poller knows, as a program's standard input is.
func blockingPipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	r, w = os.NewFile(uintptr(p[0]), "pipe"), os.NewFile(uintptr(p[1]), "pipe")
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

func newReader(t *testing.T, f *os.File) *Reader {
	t.Helper()
	r, err := New(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Stop)
	return r
}

func TestRead(t *testing.T) {
	blocking, feedBlocking := blockingPipe(t)
	polled, feedPolled, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer polled.Close()
	for _, pipe := range [][2]*os.File{{blocking, feedBlocking}, {polled, feedPolled}} {
		r := newReader(t, pipe[0])
		got := make(chan string)
		go func() {
			text, err := io.ReadAll(r)
			if err != nil {
				t.Error(err)
			}
			got <- string(text)
		}()
		for _, text := range []string{"a", "bc", "def"} {
			if _, err := pipe[1].WriteString(text); err != nil {
				t.Fatal(err)
			}
		}
		pipe[1].Close()
		if text := <-got; text != "abcdef" {
			t.Errorf("%q", text)
		}
	}
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte("in a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if text, err := io.ReadAll(newReader(t, f)); err != nil || string(text) != "in a file" {
		t.Errorf("%q, %v", text, err)
	}
}

// Stop ends a Read, and leaves in the file what comes then.
func TestStop(t *testing.T) {
	f, feed := blockingPipe(t)
	for range 100 {
		r := newReader(t, f)
		ended := make(chan error)
		go func() {
			_, err := r.Read(make([]byte, 10))
			ended <- err
		}()
		r.Stop()
		if err := <-ended; !errors.Is(err, os.ErrClosed) {
			t.Fatal(err)
		}
		if _, err := r.Read(make([]byte, 10)); !errors.Is(err, os.ErrClosed) {
			t.Fatal(err)
		}
		feed.WriteString("x")
		if n, err := f.Read(make([]byte, 10)); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}
	if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK != 0 {
		t.Errorf("flags %#x, %v", flags, err)
	}
}

func TestBadFile(t *testing.T) {
	if _, err := New(nil); !errors.Is(err, os.ErrInvalid) {
		t.Error(err)
	}
	f, _ := blockingPipe(t)
	f.Close()
	if r, err := New(f); err == nil {
		r.Stop()
		t.Error("a closed file")
	}
}
