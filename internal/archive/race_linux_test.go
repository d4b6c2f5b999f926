package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// inOwnMounts calls f in a mount namespace of its own, on a thread that ends
// with it.
func inOwnMounts(t testing.TB, f func() (*os.File, error)) *os.File {
	t.Helper()
	var root *os.File
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() { // would not end: another
			inner := make(chan struct{})
			go func() {
				defer close(inner)
				runtime.LockOSThread()
				root, err = unshared(f)
			}()
			<-inner
			runtime.UnlockOSThread()
			return
		}
		root, err = unshared(f)
	}()
	<-done
	must(t, err)
	t.Cleanup(func() { root.Close() })
	return root
}

func unshared(f func() (*os.File, error)) (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return nil, err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, err
	}
	return f()
}

// swapped has a directory and a link that leads out change places, again and
// again, while f is called; it ends when f has said so.
func swapped(t *testing.T, a, b string, f func() (enough bool)) {
	t.Helper()
	stop := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
			}
		}
	})
	defer work.Wait()
	defer close(stop)
	for !f() {
	}
}

// attempts is how often a race is tried. The naive ways lose it within some
// dozens.
const attempts = 1000

// swapTree is a root with dir/secret and link, which leads to where another
// secret is, outside.
func swapTree(t *testing.T) (outer, root string) {
	t.Helper()
	outer = t.TempDir()
	root = filepath.Join(outer, "root")
	must(t,
		os.MkdirAll(filepath.Join(root, "dir"), 0o755),
		os.WriteFile(filepath.Join(root, "dir/secret"), []byte("container's"), 0o600),
		os.WriteFile(filepath.Join(outer, "secret"), []byte("host's"), 0o600),
		os.Symlink("..", filepath.Join(root, "link")),
	)
	return outer, root
}

// TestCVE_2018_15664 races the copying of a file against a swapper of the
// directory that it is in. docker cp resolved the path first, and opened it then.
func TestCVE_2018_15664(t *testing.T) {
	needRoot(t)
	outer, root := swapTree(t)
	dir, link := filepath.Join(root, "dir"), filepath.Join(root, "link")
	lost := false
	n := 0
	swapped(t, dir, link, func() bool {
		n++
		lost = lost || bytes.Equal(naiveRead(root, "dir", "secret"), []byte("host's"))
		return lost || n > 100*attempts
	})
	if !lost {
		t.Skip("the naive way did not lose the race: there is nothing to compare with")
	}
	t.Logf("the naive way lost the race at attempt %d", n)
	r := openRoot(t, root)
	inside := 0
	n = 0
	swapped(t, dir, link, func() bool {
		n++
		for _, path := range []string{"dir/secret", "dir", "/"} {
			var out bytes.Buffer
			if err := Write(t.Context(), r, path, &out, WriteOptions{Follow: n%2 == 0}); err != nil {
				continue
			}
			if bytes.Contains(out.Bytes(), []byte("host's")) {
				t.Errorf("attempt %d: %s leads out", n, path)
			}
			if bytes.Contains(out.Bytes(), []byte("container's")) {
				inside++
			}
		}
		return t.Failed() || n >= attempts
	})
	if inside == 0 {
		t.Error("nothing was ever copied")
	}
	if entries, _ := os.ReadDir(outer); len(entries) != 2 {
		t.Errorf("outside: %v", entries)
	}
}

// naiveRead looks whether a directory is one, and reads a file in it then.
func naiveRead(root, dir, name string) []byte {
	if info, err := os.Lstat(filepath.Join(root, dir)); err != nil || info.Mode()&fs.ModeSymlink != 0 {
		return nil
	}
	data, _ := os.ReadFile(filepath.Join(root, dir, name))
	return data
}

// naiveWrite is the same the other way round.
func naiveWrite(root, dir, name string) {
	if info, err := os.Lstat(filepath.Join(root, dir)); err != nil || info.Mode()&fs.ModeSymlink != 0 {
		return
	}
	_ = os.WriteFile(filepath.Join(root, dir, name), []byte("new"), 0o600)
}

// TestCVE_2026_41568 is the same race for copying into the container, where what
// is made, changed and removed must be inside (CVE-2021-41089, CVE-2026-41567,
// 42306).
func TestCVE_2026_41568(t *testing.T) {
	needRoot(t)
	outer, root := swapTree(t)
	dir, link := filepath.Join(root, "dir"), filepath.Join(root, "link")
	n := 0
	made := func() bool { _, err := os.Lstat(filepath.Join(outer, "new")); return err == nil }
	swapped(t, dir, link, func() bool {
		n++
		naiveWrite(root, "dir", "new")
		return made() || n > 100*attempts
	})
	if !made() {
		t.Skip("the naive way did not lose the race: there is nothing to compare with")
	}
	t.Logf("the naive way lost the race at attempt %d", n)
	must(t, os.Remove(filepath.Join(outer, "new")))
	outside := describe(t, filepath.Join(outer, "secret"), true)
	r := openRoot(t, root)
	archive := tarOf(t,
		tar.Header{Name: "dir/secret", Typeflag: tar.TypeReg, Size: 3, Mode: 0o777},
		tar.Header{Name: "dir/new", Typeflag: tar.TypeReg, Size: 3, Uid: 1000},
		tar.Header{Name: "dir/sub/fifo", Typeflag: tar.TypeFifo, Mode: 0o666},
		tar.Header{Name: "dir/hard", Linkname: "dir/new", Typeflag: tar.TypeLink},
	)
	worked := 0
	n = 0
	swapped(t, dir, link, func() bool {
		n++
		if err := Extract(t.Context(), r, "/", bytes.NewReader(archive), ExtractOptions{}); err == nil {
			worked++
		}
		entries, err := os.ReadDir(outer)
		if err != nil || len(entries) != 2 {
			t.Errorf("attempt %d: outside: %v, %v", n, entries, err)
		}
		return t.Failed() || n >= attempts
	})
	if worked == 0 {
		t.Error("nothing was ever extracted")
	}
	if got := describe(t, filepath.Join(outer, "secret"), true); got != outside {
		t.Errorf("outside: %s, was %s", got, outside)
	}
}

// TestDevicesAreNotOpened races the copying of a file against a swapper that
// puts a device, and a FIFO, in its place. A host that opens a device of the
// container's acts on the machine: a watchdog is started by it.
func TestDevicesAreNotOpened(t *testing.T) {
	needRoot(t)
	for what, make := range map[string]func(string) error{
		"device": func(path string) error { return unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))) },
		"fifo":   func(path string) error { return unix.Mkfifo(path, 0o666) },
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			file, other := filepath.Join(dir, "a"), filepath.Join(dir, "b")
			must(t, os.WriteFile(file, []byte("data"), 0o600), make(other))
			watch, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
			must(t, err)
			defer unix.Close(watch)
			_, err = unix.InotifyAddWatch(watch, other, unix.IN_OPEN)
			must(t, err)
			root := openRoot(t, dir)
			n, kinds := 0, map[byte]int{}
			swapped(t, file, other, func() bool {
				n++
				var out bytes.Buffer
				if err := Write(t.Context(), root, "/a", &out, WriteOptions{}); err != nil {
					t.Errorf("%v", err)
				}
				for r := tar.NewReader(&out); ; {
					h, err := r.Next()
					if err == io.EOF {
						break
					}
					must(t, err)
					kinds[h.Typeflag]++
				}
				return t.Failed() || n >= attempts
			})
			if kinds[tar.TypeReg] == 0 || len(kinds) < 2 {
				t.Errorf("seen: %v", kinds)
			}
			if what == "device" {
				var event [64]byte
				if _, err := unix.Read(watch, event[:]); !errors.Is(err, unix.EAGAIN) {
					t.Errorf("the device was opened: %v", err)
				}
			}
		})
	}
}
