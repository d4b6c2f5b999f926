package layer

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func TestMountIsShared(t *testing.T) {
	for form, s := range bothStores(t) {
		t.Run(form, func(t *testing.T) {
			table := mountTable(t)
			l := mustAdd(t, s, tarOf(file("a")))
			before := openFiles(t)
			var mounts [16]*Mount
			var wg sync.WaitGroup
			for i := range mounts {
				wg.Go(func() {
					var err error
					if mounts[i], err = l.Mount(t.Context()); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if t.Failed() {
				return
			}
			held, kept := 1, 0 // the directory
			if form == "index" {
				held, kept = 2, 2 // the mount and the tar
			}
			if n := openFiles(t) - before; n != held {
				t.Errorf("%d more descriptors for one layer", n)
			}
			for _, m := range mounts[1:] {
				if m.File() != mounts[0].File() {
					t.Error("two mounts of one layer")
				}
			}
			if err := s.Remove(l.DiffID()); !errors.Is(err, errdefs.ErrFailedPrecondition) {
				t.Errorf("removed while mounted: %v", err)
			}
			for _, m := range mounts {
				if err := errors.Join(m.Close(), m.Close()); err != nil {
					t.Error(err)
				}
			}
			if n := openFiles(t) - before; n != kept {
				t.Errorf("%d descriptors kept for the next mount", n)
			}
			if got := mountTable(t); got != table {
				t.Errorf("the mount table changed from\n%s\nto\n%s", table, got)
			}
			if err := s.Remove(l.DiffID()); err != nil {
				t.Error(err)
			}
			if n := openFiles(t); n != before {
				t.Errorf("%d descriptors left", n-before)
			}
			if _, err := l.Mount(t.Context()); !errors.Is(err, errdefs.ErrDataLoss) && !errors.Is(err, errdefs.ErrNotFound) {
				t.Errorf("mount of a removed layer: %v", err)
			}
		})
	}
}

func mountTable(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestMountAndClose(t *testing.T) {
	for form, s := range bothStores(t) {
		before := openFiles(t)
		kept, used := mustAdd(t, s, tarOf(file("a"))), mustAdd(t, s, tarOf(file("b")))
		m, err := kept.Mount(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		if m, err = used.Mount(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if n := openFiles(t) - before; n != 1 && n != 2 {
			t.Errorf("%s: %d descriptors after Close, with one mount in use", form, n)
		}
		if _, err := os.Stat(fdPath(m.File()) + "b"); err != nil {
			t.Errorf("%s: Close took a mount that is in use: %v", form, err)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if n := openFiles(t); n != before {
			t.Errorf("%s: %d descriptors left", form, n-before)
		}
		if _, err := kept.Mount(t.Context()); !errors.Is(err, errdefs.ErrFailedPrecondition) {
			t.Errorf("%s: mount from a closed store: %v", form, err)
		}
	}
}

func TestMountFlags(t *testing.T) {
	s := indexStore(t)
	l := mustAdd(t, s, tarOf(member{name: "su", mode: 0o4755}))
	m, err := l.Mount(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(m.File().Fd()), &st); err != nil {
		t.Fatal(err)
	}
	if st.Flags&unix.ST_RDONLY == 0 || st.Flags&(unix.ST_NOSUID|unix.ST_NODEV|unix.ST_NOEXEC) != 0 || st.Type != unix.EROFS_SUPER_MAGIC_V1 {
		t.Errorf("type %x, flags %x", st.Type, st.Flags)
	}
	if err := os.WriteFile(fdPath(m.File())+"new", nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("write: %v", err)
	}
	if m.Path() != "" {
		t.Errorf("path %q", m.Path())
	}
}

// TestMountRefused: files that are not what the record says are not mounted.
func TestMountRefused(t *testing.T) {
	s := indexStore(t)
	l := mustAdd(t, s, tarOf(file("a"), member{name: "b", data: "b", pad: 1}))
	dir := filepath.Join(s.dir, "sha256", l.DiffID().Encoded())
	for _, name := range []string{"tar", "index", "data"} {
		path := filepath.Join(dir, name)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		restore := func() {
			t.Helper()
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, good, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for what, damage := range map[string]func() error{
			"cut":                 func() error { return os.Truncate(path, int64(len(good))-512) },
			"grown":               func() error { return os.Truncate(path, int64(len(good))+512) },
			"missing":             func() error { return os.Remove(path) },
			"symlink":             func() error { return errors.Join(os.Remove(path), os.Symlink("layer.json", path)) },
			"directory":           func() error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
			"writable for others": func() error { return os.Chmod(path, 0o666) },
			"someone else's":      func() error { return os.Chown(path, 1000, 1000) },
		} {
			if err := damage(); err != nil {
				t.Fatal(err)
			}
			if m, err := l.Mount(t.Context()); err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("%s %s: %v, %v", name, what, m, err)
			}
			restore()
		}
	}
	index := filepath.Join(dir, "index")
	good, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	good[superAt+20] ^= 1
	if err := os.WriteFile(index, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if m, err := l.Mount(t.Context()); err == nil {
		t.Errorf("damaged super block: %v", m)
	}
	good[superAt+20] ^= 1
	if err := os.WriteFile(index, good, 0o600); err != nil {
		t.Fatal(err)
	}
	mountPath(t, l) // an error is not for ever
}

// TestMountLongPath: the kernel takes 255 bytes of a parameter.
func TestMountLongPath(t *testing.T) {
	needRoot(t)
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 100))
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l := mustAdd(t, s, tarOf(file("a")))
	if _, err := os.Stat(mountPath(t, l) + "a"); err != nil {
		t.Error(err)
	}
}

// TestConvert turns an index into a directory, as a kernel would need it that
// mounts none, and also where an earlier try has left something.
func TestConvert(t *testing.T) {
	needRoot(t)
	for what, prepare := range map[string]func(dir string) error{
		"first try": func(string) error { return nil },
		"after a crash": func(dir string) error {
			return errors.Join(os.Mkdir(filepath.Join(dir, "tree"), 0o700), os.WriteFile(filepath.Join(dir, "tree/junk"), nil, 0o600))
		},
	} {
		s := openStore(t, FormIndex)
		b := tarOf(file("d/a"), file("\x1f\x8b\x08 is no gzip"), member{name: "dirty", data: "x", pad: 1}, file(".wh..wh..opq"))
		first := tarOf(member{name: "\x1f\x8b\x08", data: "x"})
		for _, b := range [][]byte{b, gzipOf(t, first)} {
			l := mustAdd(t, s, b)
			direct := openStore(t, FormDirectory)
			want := describe(t, mountPath(t, mustAdd(t, direct, b)))
			dir, err := s.path(l.DiffID())
			if err != nil {
				t.Fatal(err)
			}
			if err := prepare(dir); err != nil {
				t.Fatal(err)
			}
			if err := s.convert(t.Context(), dir, l.rec); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			now, err := s.Get(l.DiffID())
			if err != nil || now.Form() != FormDirectory || now.Size() != l.Size() || now.Opaque() != l.Opaque() {
				t.Errorf("%s: %+v, %v", what, now, err)
			}
			m, err := l.Mount(t.Context()) // the old handle
			if err != nil {
				t.Fatal(err)
			}
			if m.Path() != filepath.Join(dir, "tree") {
				t.Errorf("%s: path %q", what, m.Path())
			}
			same(t, what, describe(t, m.Path()+"/"), want)
			if err := m.Close(); err != nil {
				t.Error(err)
			}
			left, err := os.ReadDir(dir)
			files := 2
			if now.rec.ImpliedSize > 0 {
				files = 3
			}
			if err != nil || len(left) != files {
				t.Errorf("%s: %v, %v", what, left, err)
			}
			noLeaks(t, s)
		}
	}
}

// TestConvertAtOnce: processes that meet at it all get the directory.
func TestConvertAtOnce(t *testing.T) {
	needRoot(t)
	s := openStore(t, FormIndex)
	l := mustAdd(t, s, someTar())
	dir, err := s.path(l.DiffID())
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := s.convert(t.Context(), dir, l.rec); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if _, err := os.Stat(mountPath(t, l) + "dir1/file1"); err != nil {
		t.Error(err)
	}
	noLeaks(t, s)
}

// TestProbe: the answer is what mounting a real layer gives.
func TestProbe(t *testing.T) {
	needRoot(t)
	s := openStore(t, FormAuto)
	before := openFiles(t)
	form, err := s.form()
	if (form == FormIndex) != (err == nil) {
		t.Errorf("%v, %v", form, err)
	}
	if n := openFiles(t); n != before {
		t.Errorf("the probe left %d descriptors", n-before)
	}
	noLeaks(t, s)
	index := openStore(t, FormIndex)
	m := &mounted{}
	e := m.mount(layerDir(t, index, tarOf(file("a"))))
	if err := m.close(); err != nil {
		t.Error(err)
	}
	if err == nil && e != nil {
		t.Errorf("the probe said yes, a layer %v", e)
	}
	if e != nil && err == nil {
		t.Errorf("the probe said %v, a layer was mounted", err)
	}

	// EROFS takes no file on tmpfs, so a store there has directories.
	on := openTmpfs(t, 64<<20)
	if on.Form() != FormDirectory {
		t.Errorf("form %v on tmpfs", on.Form())
	}
	if _, err := os.Stat(mountPath(t, mustAdd(t, on, tarOf(file("a")))) + "a"); err != nil {
		t.Error(err)
	}
}

func layerDir(t *testing.T, s *Store, b []byte) (string, record) {
	t.Helper()
	l := mustAdd(t, s, b)
	dir, err := s.path(l.DiffID())
	if err != nil {
		t.Fatal(err)
	}
	return dir, l.rec
}

// TestIndexWhereItCannotBeMounted: a layer that came with a store from another
// machine becomes a directory when it is mounted.
func TestIndexWhereItCannotBeMounted(t *testing.T) {
	needRoot(t)
	s := openTmpfs(t, 64<<20)
	s.form = func() (Form, error) { return FormIndex, nil }
	l := mustAdd(t, s, tarOf(file("a/b")))
	if l.Form() != FormIndex {
		t.Fatalf("form %v", l.Form())
	}
	m, err := l.Mount(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := os.Stat(m.Path() + "/a/b"); err != nil {
		t.Error(err)
	}
	noLeaks(t, s)
}

// openTmpfs opens a store on a filesystem of its own, which no mount table
// shows and which is gone with its descriptor.
func openTmpfs(t *testing.T, size int64) *Store {
	t.Helper()
	dir := tmpfs(t, size)
	s, err := Open(filepath.Join(dir, "store"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// What is read through an index while it is in use does not stay in the page
// cache twice.
func TestPagesOnce(t *testing.T) {
	s := indexStore(t)
	l := mustAdd(t, s, tarOf(member{name: "large", data: strings.Repeat("0123456789abcdef", 1<<17)}))
	m, err := l.Mount(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := os.ReadFile(fdPath(m.File()) + "large"); err != nil {
		t.Fatal(err)
	}
	tar := m.m.parts[0]
	read := cachedPages(t, tar)
	if read == 0 {
		t.Skip("this kernel does not cache what an index points into")
	}
	for end := time.Now().Add(time.Minute); cachedPages(t, tar) >= read; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d pages of the tar are cached after a minute still", cachedPages(t, tar))
		}
	}
	// Another one, mounted later, and the same after its first user has gone.
	again, err := l.Mount(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := tar.ReadAt(make([]byte, 1<<20), 0); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); cachedPages(t, tar) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d pages of the tar are cached after a minute still", cachedPages(t, tar))
		}
	}
}

func cachedPages(t *testing.T, f *os.File) uint64 {
	t.Helper()
	var stat unix.Cachestat_t
	if err := unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{}, &stat, 0); err != nil {
		t.Skipf("cachestat: %v", err)
	}
	return stat.Cache
}
