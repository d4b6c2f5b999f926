package layer

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// The test binary is also the program that is killed, or measured.
const childEnv = "LAYER_TEST_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(childEnv) {
	case "":
		os.Exit(m.Run())
	case "add":
		childAdd()
	case "bounds":
		childBounds()
	case "lock":
		childLock()
	}
}

// childAdd adds the layer that comes on stdin, and says when it has begun and
// when the layer is there.
func childAdd() {
	form, err := strconv.Atoi(os.Args[2])
	if err != nil {
		panic(err)
	}
	s, err := Open(os.Args[1], Options{Form: Form(form)})
	if err != nil {
		panic(err)
	}
	l, err := s.Add(context.Background(), os.Stdin, AddOptions{Progress: func(n int64) { fmt.Println("read", n) }})
	if err != nil {
		panic(err)
	}
	fmt.Println("added", l.DiffID())
	never, _, err := os.Pipe()
	if err != nil {
		panic(err)
	}
	_, _ = never.Read(make([]byte, 1))
}

// TestKill kills a program with kill -9 while it adds a layer: after each
// piece that it has read, after the last one (so while it finishes), and when
// the layer is there. The layer is whole then, or not at all.
func TestKill(t *testing.T) {
	stream := gzipOf(t, someTar())
	pieces := 8
	for _, form := range testForms() {
		for n := range pieces + 3 {
			dir := t.TempDir()
			added := killAfter(t, dir, form, stream, n, pieces)
			if n > 0 && !added {
				if left, err := os.ReadDir(filepath.Join(dir, "tmp")); err != nil || len(left) == 0 && n < pieces {
					t.Errorf("%v, %d: nothing to sweep, %v", form, n, err)
				}
			}
			s, err := Open(dir, Options{Form: form})
			if err != nil {
				t.Fatalf("%v, %d: %v", form, n, err)
			}
			noLeaks(t, s)
			all, err := s.List()
			if err != nil || added && len(all) != 1 {
				t.Errorf("%v, %d: %v, %v; added: %v", form, n, all, err, added)
			}
			l := mustAdd(t, s, stream)
			if len(all) == 1 && all[0].DiffID() != l.DiffID() {
				t.Errorf("%v, %d: %s is there", form, n, all[0].DiffID())
			}
			if form == FormDirectory {
				m, err := l.Mount(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if got := describe(t, m.Path()); len(got) != 308 {
					t.Errorf("%v, %d: %d names", form, n, len(got))
				}
				m.Close()
			}
			s.Close()
		}
	}
}

// killAfter feeds a child n of the pieces of a stream, sees that it has read
// them, and kills it; with all pieces at once, with one more when it is done.
func killAfter(t *testing.T, dir string, form Form, stream []byte, n, pieces int) (added bool) {
	t.Helper()
	c := exec.Command(os.Args[0])
	c.Args = []string{os.Args[0], dir, strconv.Itoa(int(form))}
	c.Env = append(os.Environ(), childEnv+"=add")
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	var seen bytes.Buffer
	switch {
	case n <= pieces:
		if _, err := in.Write(stream[:len(stream)*n/pieces/2]); err != nil {
			t.Fatal(err)
		}
		// The work's lock is there before anything is read.
		waitFor(t, filepath.Join(dir, "tmp"))
	case n == pieces+1:
		if _, err := in.Write(stream); err != nil {
			t.Fatal(err)
		}
		in.Close()
		waitLine(t, io.TeeReader(out, &seen), "read")
	default:
		if _, err := in.Write(stream); err != nil {
			t.Fatal(err)
		}
		in.Close()
		waitLine(t, io.TeeReader(out, &seen), "added")
		added = true
	}
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait()
	return added || bytes.Contains(seen.Bytes(), []byte("added"))
}

// waitLine reads until a line with that word.
func waitLine(t *testing.T, r io.Reader, word string) {
	t.Helper()
	var line []byte
	b := make([]byte, 1)
	for {
		if _, err := io.ReadFull(r, b); err != nil {
			t.Fatalf("the child ended before it said %q: %v", word, err)
		}
		if line = append(line, b[0]); b[0] == '\n' {
			if bytes.HasPrefix(line, []byte(word)) {
				return
			}
			line = line[:0]
		}
	}
}

// waitFor waits until a directory holds a work.
func waitFor(t *testing.T, dir string) {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for {
		// The child makes the directory too; its parent is there.
		if _, err := unix.InotifyAddWatch(fd, filepath.Dir(dir), unix.IN_CREATE); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE); err != nil && err != unix.ENOENT {
			t.Fatal(err)
		}
		if works, err := filepath.Glob(filepath.Join(dir, "*", "t*")); err != nil || len(works) > 0 {
			return
		}
		if works, err := filepath.Glob(filepath.Join(dir, "*.lock")); err != nil || len(works) > 0 {
			return
		}
		b := make([]byte, 4096)
		if _, err := unix.Read(fd, b); err != nil && err != unix.EINTR {
			t.Fatal(err)
		}
	}
}
