package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// tarBytes is an archive of files.
func tarBytes(t testing.TB, files ...tarFile) []byte {
	t.Helper()
	r, err := tarLayer(t, files...).Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// copiedFrom reads what CopyFrom gives: contents by name.
func copiedFrom(t testing.TB, c *Container, path string) map[string]string {
	t.Helper()
	var out bytes.Buffer
	if err := c.CopyFrom(t.Context(), path, &out, CopyFromOptions{}); err != nil {
		t.Fatalf("copy from %s: %v", path, err)
	}
	all := make(map[string]string)
	for r := tar.NewReader(&out); ; {
		h, err := r.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		all[h.Name] = string(data)
	}
}

func copyTo(t testing.TB, c *Container, dir string, files ...tarFile) {
	t.Helper()
	if err := c.CopyTo(t.Context(), dir, bytes.NewReader(tarBytes(t, files...)), CopyToOptions{}); err != nil {
		t.Fatalf("copy to %s: %v", dir, err)
	}
}

// readyFor waits until a program has said so.
func readyFor(t testing.TB, c *Container) {
	t.Helper()
	for entry, err := range c.Logs(t.Context(), LogsOptions{Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if string(entry.Data) == "ready\n" {
			return
		}
	}
	t.Fatal("it ended before it was ready")
}

// A container is copied into before its first start, runs on that, is copied
// from and into while it runs and after it, and runs again.
func TestCopy(t *testing.T) {
	e, img := plainImage(t)
	var out bytes.Buffer
	c := create(t, e, img, Config{Args: []string{"read", "/data/new"}, Stdout: &out})
	if got := copiedFrom(t, c, "/data"); got["data/notexec"] != "text" || len(got) != 2 {
		t.Errorf("created: %q", got)
	}
	copyTo(t, c, "/data", file("new", "first"))
	if r, err := e.root.records().read(c.ID()); err != nil || r.Layer == "" {
		t.Errorf("the record does not tell of the writable layer: %v, %v", r, err)
	}
	if got := copiedFrom(t, c, "/data/new"); got["new"] != "first" {
		t.Errorf("created: %q", got)
	}
	for _, next := range []string{"first", "second"} {
		out.Reset()
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Wait(t.Context()); err != nil || out.String() != next {
			t.Errorf("it read %q, %v", &out, err)
		}
		copyTo(t, c, "/", file("data/new", "second"))
		if got := copiedFrom(t, c, "data/new"); got["new"] != "second" {
			t.Errorf("exited: %q", got)
		}
	}
	info, err := c.StatPath(t.Context(), "/data/new")
	if err != nil || info.Name != "new" || info.Size != 6 || info.Mode != 0o644 {
		t.Errorf("%+v, %v", info, err)
	}
}

func TestCopyOfRunning(t *testing.T) {
	e, img := plainImage(t)
	host := t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "there"), []byte("bound"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := started(t, e, img, Config{Args: []string{"wait"}, Mounts: []Mount{
		{Type: MountBind, Source: host, Target: "/bound"},
		{Type: MountBind, Source: host, Target: "/fixed", ReadOnly: true},
		{Type: MountTmpfs, Target: "/scratch"},
	}})
	readyFor(t, c)
	if got := copiedFrom(t, c, "/bound"); got["bound/there"] != "bound" {
		t.Errorf("bind: %q", got)
	}
	copyTo(t, c, "/scratch", file("x", "in memory"))
	if got := copiedFrom(t, c, "/scratch/x"); got["x"] != "in memory" {
		t.Errorf("tmpfs: %q", got)
	}
	copyTo(t, c, "/bound", file("back", "to the host"))
	if data, err := os.ReadFile(filepath.Join(host, "back")); string(data) != "to the host" {
		t.Errorf("%q, %v", data, err)
	}
	err := c.CopyTo(t.Context(), "/fixed", bytes.NewReader(tarBytes(t, file("x", ""))), CopyToOptions{})
	if !errors.Is(err, ErrPermissionDenied) {
		t.Errorf("read-only: %v", err)
	}
	all := copiedFrom(t, c, "/")
	for name, want := range map[string]bool{"./proc/": true, "./proc/1/": false, "./sys/": true, "./sys/kernel/": false, "./dev/null": true, "./etc/hosts": true} {
		if _, ok := all[name]; ok != want {
			t.Errorf("%s: %v", name, ok)
		}
	}
	for path, want := range map[string]error{"/none": ErrNotFound, "/prog/x": ErrInvalidArgument, "/proc/self/environ": ErrNotFound, "/proc/1/environ": ErrInvalidArgument} {
		var out bytes.Buffer
		if err := c.CopyFrom(t.Context(), path, &out, CopyFromOptions{}); !errors.Is(err, want) || out.Len() > 0 {
			t.Errorf("%s: %v, %d bytes", path, err, out.Len())
		}
		if err := c.CopyTo(t.Context(), path, bytes.NewReader(tarBytes(t, file("x", ""))), CopyToOptions{}); err == nil {
			t.Errorf("to %s: no error", path)
		}
	}
}

func TestCopyGivesOwner(t *testing.T) {
	e, img := plainImage(t)
	c := create(t, e, img, Config{Args: []string{"exit", "0"}, User: "app"})
	f := file("mine", "x")
	f.Uid, f.Gid = 7, 8
	for given, want := range map[bool][2]int{false: {7, 8}, true: {1000, 1000}} {
		err := c.CopyTo(t.Context(), "/tmp", bytes.NewReader(tarBytes(t, f)), CopyToOptions{CopyUIDGID: given})
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := c.CopyFrom(t.Context(), "/tmp/mine", &out, CopyFromOptions{}); err != nil {
			t.Fatal(err)
		}
		h, err := tar.NewReader(&out).Next()
		if err != nil || h.Uid != want[0] || h.Gid != want[1] {
			t.Errorf("%v: %+v, %v", given, h, err)
		}
	}
}

// gate is a Writer that stops at its first write until it is opened.
type gate struct {
	bytes.Buffer
	reached, open chan struct{}
}

func newGate() *gate { return &gate{reached: make(chan struct{}), open: make(chan struct{})} }

func (g *gate) Write(b []byte) (int, error) {
	if g.Len() == 0 {
		close(g.reached)
		<-g.open
	}
	return g.Buffer.Write(b)
}

// A slow reader of a copy keeps no start, exec, stop and no other copy waiting,
// and the container that is removed under it is told of.
func TestCopyToSlowReader(t *testing.T) {
	for name, clone := range map[string]bool{"clones": true, "no clones": false} {
		t.Run(name, func(t *testing.T) {
			e, img := plainImage(t)
			if clone {
				needReuse(t)
			} else {
				withoutClones(t)
			}
			c := create(t, e, img, Config{Args: []string{"wait"}})
			g := newGate()
			result := make(chan error, 1)
			go func() { result <- c.CopyFrom(context.Background(), "/", g, CopyFromOptions{}) }()
			<-g.reached
			copyTo(t, c, "/data", file("other", "at the same time"))
			if !clone { // a start waits
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				if err := c.Start(ctx); !errors.Is(err, context.Canceled) {
					t.Errorf("start: %v", err)
				}
				close(g.open)
				if err := <-result; err != nil {
					t.Fatal(err)
				}
			}
			if err := c.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			readyFor(t, c)
			if got := copiedFrom(t, c, "/data/other"); got["other"] != "at the same time" {
				t.Errorf("%q", got)
			}
			if err := c.Kill(t.Context(), syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := copiedFrom(t, c, "/data/other"); got["other"] != "at the same time" {
				t.Errorf("exited: %q", got)
			}
			if err := c.Remove(t.Context(), RemoveOptions{}); err != nil {
				t.Fatal(err)
			}
			if clone {
				close(g.open)
				if err := <-result; !errors.Is(err, ErrNotFound) {
					t.Errorf("copy of what was removed: %v", err)
				}
			}
			if _, err := c.StatPath(t.Context(), "/"); !errors.Is(err, ErrNotFound) {
				t.Errorf("removed: %v", err)
			}
		})
	}
}

// What has taken away a file of the image is mounted again, also where each start
// and copy mounts anew.
func TestReplacedFileAndNewMount(t *testing.T) {
	e, img := plainImage(t)
	withoutClones(t)
	c := create(t, e, img, Config{Args: []string{"exit", "0"}})
	for range 2 {
		copyTo(t, c, "/", file("etc/passwd", "other:x:0:0::/:/\n"))
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		exits(t, c, Status{Known: true})
		if got := copiedFrom(t, c, "/etc/passwd"); got["passwd"] != "other:x:0:0::/:/\n" {
			t.Errorf("%q", got)
		}
	}
}

// Close does not wait for a reader of a copy, which then gets an error.
func TestCopyWhileEngineCloses(t *testing.T) {
	needRoot(t)
	e, err := Open(WithRoot(filepath.Join(t.TempDir(), "root")), WithCgroupParent(cgroupParent))
	if err != nil {
		t.Fatal(err)
	}
	c, err := e.Create(t.Context(), pulled(t, e, nil), Config{Args: []string{"exit", "0"}, Network: NetworkNone})
	if err != nil {
		t.Fatal(err)
	}
	g := newGate()
	result := make(chan error, 1)
	go func() { result <- c.CopyFrom(context.Background(), "/", g, CopyFromOptions{}) }()
	<-g.reached
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	close(g.open)
	if err := <-result; err == nil {
		t.Error("the copy knows nothing of it")
	}
}

func TestCopyOfOtherPrograms(t *testing.T) {
	e, root, ref := foreignRoot(t, nil)
	other := newOtherProgram(t, root, ref, "theirs", "wait")
	c, err := e.Lookup(t.Context(), "theirs")
	if err != nil {
		t.Fatal(err)
	}
	readyFor(t, c)
	copyTo(t, c, "/data", file("given", "by another program"))
	if got := copiedFrom(t, c, "/data/given"); got["given"] != "by another program" {
		t.Errorf("%q", got)
	}
	if err := c.Kill(t.Context(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := copiedFrom(t, c, "/data/given"); got["given"] != "by another program" {
		t.Errorf("exited: %q", got)
	}
	copyTo(t, c, "/data", file("given", "once more"))
	if got := copiedFrom(t, c, "/data/given"); got["given"] != "once more" {
		t.Errorf("exited: %q", got)
	}
	if r, err := e.root.records().read(other.id); err != nil || !r.Exposed {
		t.Errorf("its owner may give its root to another: %+v, %v", r, err)
	}
	other.kill()
	if _, err := c.StatPath(t.Context(), "/"); !errors.Is(err, ErrFailedPrecondition) {
		t.Errorf("its program is no more: %v", err)
	}
	testEngine(t, root) // sweeps what it has left
}

// What another program has been in is given to no other container.
func TestCopiedRootIsNotGivenOn(t *testing.T) {
	e, img := plainImage(t)
	for _, copied := range []bool{false, true} {
		c := started(t, e, img, Config{Args: []string{"exit", "0"}})
		if copied {
			copiedFrom(t, c, "/data")
		}
		if _, err := c.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.own.mu.Lock()
		w := c.own.layer
		c.own.mu.Unlock()
		if err := c.Remove(t.Context(), RemoveOptions{}); err != nil {
			t.Fatal(err)
		}
		if w.spent != copied {
			t.Errorf("copied %v: spent %v", copied, w.spent)
		}
	}
}

// TestCVE_2019_14271 has a container whose every file could be a library, a
// name service or a program that a copier of names runs: root's name in an
// archive is a number here, and nothing of the container is run, so that a
// change of the copier's own surroundings would show.
func TestCVE_2019_14271(t *testing.T) {
	t.Run("host's ids", func(t *testing.T) { testCVE_2019_14271(t, Security{}) })
	t.Run("user namespace", func(t *testing.T) { testCVE_2019_14271(t, private) })
}

func testCVE_2019_14271(t *testing.T, security Security) {
	e, img := plainImage(t)
	prog := file("prog", "not a program")
	c := create(t, e, img, Config{Args: []string{"exit", "0"}, Security: security})
	copyTo(t, c, "/", prog,
		file("etc/nsswitch.conf", "passwd: evil\n"),
		file("lib/libnss_evil.so.2", "not a library"),
		file("etc/passwd", "evil:x:0:0::/:/\n"))
	var out bytes.Buffer
	if err := c.CopyFrom(t.Context(), "/", &out, CopyFromOptions{}); err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(&out); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uname != "" || h.Gname != "" {
			t.Errorf("%s belongs to %q:%q", h.Name, h.Uname, h.Gname)
		}
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil || strings.Contains(string(maps), "libnss") {
		t.Errorf("maps: %v\n%s", err, maps)
	}
}

// TestCVE_2018_15664 copies in and out of a container whose own process has a
// directory and a link change places all the time. The link leads to where the
// host keeps something, seen from the container's root directory on the host,
// and from "/".
func TestCVE_2018_15664(t *testing.T) {
	t.Run("host's ids", func(t *testing.T) { testCVE_2018_15664(t, Security{}) })
	t.Run("user namespace", func(t *testing.T) { testCVE_2018_15664(t, private) })
}

func testCVE_2018_15664(t *testing.T, security Security) {
	e, img := plainImage(t)
	host := filepath.Join(t.TempDir(), "dir")
	if err := os.Mkdir(host, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(host, "secret"), []byte("host's"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := create(t, e, img, Config{Args: []string{"swap", "/swap/dir", "/swap/link"}, Security: security})
	link := tarFile{Header: tar.Header{Name: "swap/link", Linkname: host, Typeflag: tar.TypeSymlink}}
	copyTo(t, c, "/", file("swap/dir/secret", "container's"), link)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	readyFor(t, c)
	archive := tarBytes(t, file("dir/new", "new"), file("dir/secret", "container's"))
	inside := 0
	for range few(100) {
		for _, path := range []string{"/swap/dir/secret", "/swap/dir/.", "/swap"} {
			var out bytes.Buffer
			if err := c.CopyFrom(t.Context(), path, &out, CopyFromOptions{FollowLink: true}); err != nil && !errors.Is(err, ErrNotFound) {
				t.Errorf("%s: %v", path, err)
			}
			if bytes.Contains(out.Bytes(), []byte("host's")) {
				t.Fatalf("%s leads out", path)
			}
			if bytes.Contains(out.Bytes(), []byte("container's")) {
				inside++
			}
		}
		_ = c.CopyTo(t.Context(), "/swap", bytes.NewReader(archive), CopyToOptions{})
	}
	if inside == 0 {
		t.Error("nothing was ever copied")
	}
	var names []string
	_ = filepath.WalkDir(host, func(path string, _ fs.DirEntry, err error) error {
		names = append(names, filepath.Base(path))
		return err
	})
	if data, _ := os.ReadFile(filepath.Join(host, "secret")); string(data) != "host's" || !slices.Equal(names, []string{"dir", "secret"}) {
		t.Errorf("the host has %q, %q", names, data)
	}
}
