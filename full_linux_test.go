package engine

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// disk is a small filesystem that a test fills.
type disk struct {
	t      *testing.T
	dir    string // where it is mounted
	source string
	filler string
}

// inOwnMounts runs a test in a process that has a mount namespace of its own,
// and is true there: the machine's mounts are not to change, other tests look
// at them at the same time.
func inOwnMounts(t *testing.T) bool {
	t.Helper()
	const inside = "INBOARD_TEST_OWN_MOUNTS"
	needRoot(t)
	if os.Getenv(inside) != "" {
		return true
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.v", "-test.short="+strconv.FormatBool(testing.Short()), "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	} else if bytes.Contains(out, []byte("--- SKIP")) { // of a part of it
		t.Skipf("%s", out)
	}
	return false
}

// smallDisk mounts a filesystem of its own: a tmpfs, or ext4 in a file.
func smallDisk(t *testing.T, fstype string, size int64) *disk {
	t.Helper()
	needRoot(t)
	d := &disk{t: t, dir: filepath.Join(t.TempDir(), "disk")}
	d.filler = filepath.Join(d.dir, "filler")
	if err := os.Mkdir(d.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	options := fmt.Sprintf("mode=700,size=%d", size)
	if d.source = "inboard-test"; fstype == "ext4" {
		d.source, options = ext4(t, size), ""
	}
	if err := unix.Mount(d.source, d.dir, fstype, 0, options); err != nil {
		t.Skipf("needs a mount of %s: %v", fstype, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(d.dir, 0); err != nil {
			t.Errorf("unmount %s: %v", fstype, err)
		}
	})
	return d
}

// ext4 makes a filesystem in a file, and a loop device for it that is gone
// when it is not mounted any more.
func ext4(t *testing.T, size int64) (device string) {
	t.Helper()
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Skip("needs mkfs.ext4")
	}
	image, err := os.Create(filepath.Join(t.TempDir(), "ext4"))
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	if err := image.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", "-m", "0", image.Name()).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v\n%s", err, out)
	}
	control, err := os.Open("/dev/loop-control")
	if err != nil {
		t.Skipf("needs loop devices: %v", err)
	}
	defer control.Close()
	for range 100 {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			t.Skipf("needs a loop device: %v", err)
		}
		loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		if err != nil {
			t.Skipf("needs a loop device: %v", err)
		}
		// Open until the test ends, after the mount: it would be gone before.
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &unix.LoopConfig{
			Fd: uint32(image.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR},
		})
		if err == nil {
			t.Cleanup(func() { loop.Close() })
			return loop.Name()
		}
		loop.Close()
		if !errors.Is(err, unix.EBUSY) {
			t.Skipf("needs a loop device: %v", err)
		}
	}
	t.Fatal("others take every loop device")
	return ""
}

// leave fills the disk up to so many free bytes, or makes them free.
func (d *disk) leave(free int64) {
	d.t.Helper()
	f, err := os.OpenFile(d.filler, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil { // what was removed is free then
		d.t.Fatal(err)
	}
	for range 100 {
		var st unix.Statfs_t
		if err := unix.Statfs(d.dir, &st); err != nil {
			d.t.Fatal(err)
		}
		size, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			d.t.Fatal(err)
		}
		more := int64(st.Bavail)*st.Bsize - free
		switch {
		case more == 0:
			return
		case more < 0:
			err = f.Truncate(max(0, size+more))
		default:
			err = unix.Fallocate(int(f.Fd()), 0, size, more)
			for errors.Is(err, unix.ENOSPC) && more > st.Bsize {
				more -= st.Bsize // for what says where the file's blocks are
				err = unix.Fallocate(int(f.Fd()), 0, size, more)
			}
		}
		if errors.Is(err, unix.ENOSPC) || size == 0 && more < 0 {
			return
		}
		if err != nil {
			d.t.Fatal(err)
		}
	}
}

func (d *disk) empty() {
	d.t.Helper()
	if err := os.Remove(d.filler); err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.t.Fatal(err)
	}
	dir, err := os.Open(d.dir)
	if err != nil {
		d.t.Fatal(err)
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil { // what was removed is free then
		d.t.Fatal(err)
	}
}

var recordDirectory = regexp.MustCompile("/containers/[0-9a-f]{2}$")

// names lists what is there, but for what passes shall leave out.
func (d *disk) names(without ...string) (names []string) {
	d.t.Helper()
	err := filepath.WalkDir(d.dir, func(path string, _ fs.DirEntry, err error) error {
		for _, w := range append(without, d.filler) {
			if strings.Contains(path, w) {
				return err
			}
		}
		if recordDirectory.MatchString(path) { // made ahead, and they stay
			return err
		}
		names = append(names, path)
		return err
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return names
}

// until calls f with more and more free space until that is enough. Whenever it
// is not, the error says so, and leaves is asked what is left behind.
func (d *disk) until(what, step string, f func() error, leaves func() []string) {
	d.t.Helper()
	failed, more := 0, int64(4096)
	if testing.Short() {
		more *= 4
	}
	for free := int64(0); ; free += more {
		d.leave(free)
		err := f()
		if err == nil {
			break
		}
		failed++
		var typed *Error
		if !errors.Is(err, unix.ENOSPC) || !errors.Is(err, ErrResourceExhausted) || !errors.As(err, &typed) || !strings.HasPrefix(err.Error(), step) {
			d.t.Fatalf("%s with %d bytes: %v", what, free, err)
		}
		if left := leaves(); len(left) > 0 {
			d.t.Fatalf("%s with %d bytes: %v\nleft behind: %s", what, free, err, strings.Join(left, "\n\t"))
		}
	}
	if failed == 0 {
		d.t.Errorf("%s takes no space: this shows nothing", what)
	}
	d.empty()
}

// since gives a function that lists what has been added.
func (d *disk) since(without ...string) func() []string {
	d.t.Helper()
	before := d.names(without...)
	return func() []string {
		return slices.DeleteFunc(d.names(without...), func(n string) bool { return slices.Contains(before, n) })
	}
}

// A disk that is full gives an error of each step that says so, and leaves
// nothing half made; with more space the same call works.
func TestDiskFull(t *testing.T) {
	if !inOwnMounts(t) {
		return
	}
	for _, fstype := range []string{"tmpfs", "ext4"} {
		t.Run(fstype, func(t *testing.T) {
			d := smallDisk(t, fstype, 128<<20)
			root := filepath.Join(d.dir, "root")
			var e *Engine
			open := func() (opened *Engine, err error) { return Open(WithRoot(root), WithCgroupParent(cgroupParent)) }
			// The root's own directories stay, as they are made.
			d.until("open", "open engine: ", func() (err error) { e, err = open(); return err }, func() []string {
				return slices.DeleteFunc(d.names(), func(n string) bool {
					made, _ := filepath.Rel(root, n)
					return !strings.Contains(made, ".tmp") && !strings.Contains(made, ".part") && !strings.HasPrefix(made, "engines/")
				})
			})
			defer e.Close()
			fullPull(t, d, e)
			img := pulled(t, e, nil)
			fullContainer(t, d, e, img)
			fullLog(t, d, e, img)
			fullOpen(t, d, e, img, open)
			d.leave(0)
			if err := e.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
			if entries, err := os.ReadDir(filepath.Join(root, "engines")); err != nil || len(entries) > 0 {
				t.Errorf("left after Close: %v, %v", entries, err)
			}
		})
	}
}

func fullPull(t *testing.T, d *disk, e *Engine) {
	noise := make([]byte, 18_000)
	rand.NewChaCha8([32]byte{}).Read(noise)
	ref := pushLayers(t, nil, tarLayer(t, file("a", string(noise)), file("d/b", "b")), tarLayer(t, file("c", string(noise[:5000]))))
	var img *Image
	d.until("pull", "pull image "+ref, func() (err error) { img, err = e.Pull(t.Context(), ref, PullOptions{}); return err }, d.since())
	if layers, err := img.image.Layers(); err != nil || len(layers) != 2 {
		t.Errorf("%v, %v", layers, err)
	}
	// What frees the disk needs none of it.
	d.leave(0)
	if removed, err := img.Remove(t.Context(), RemoveImageOptions{}); err != nil || len(removed.Deleted) != 3 {
		t.Errorf("remove image: %+v, %v", removed, err)
	}
	if left, err := os.ReadDir(filepath.Join(e.root.dir, "images", "blobs", "sha256")); err != nil || len(left) > 0 {
		t.Errorf("after its removal: %v, %v", left, err)
	}
	d.empty()
}

func fullContainer(t *testing.T, d *disk, e *Engine, img *Image) {
	ctx := t.Context()
	var c *Container
	added := d.since("/run/control/") // the socket is made with the first container, and stays
	d.until("create", "create container full: ", func() (err error) {
		c, err = e.Create(ctx, img, Config{Name: "full", Args: []string{"wait"}, Network: NetworkNone})
		return err
	}, func() []string {
		if list, err := e.List(ctx, ListOptions{All: true}); err != nil || len(list) > 0 {
			t.Errorf("%v, %v", list, err)
		}
		if err := e.holds.freeIdle(); err != nil { // of the image, for a second
			t.Error(err)
		}
		return added()
	})
	// The runtime and the claims are opened with the first start, and stay; the layers
	// are kept for the next one.
	added = d.since("/run/runtime", "/run/claims", "/layers/", "/run/running/"+e.root.engine)
	d.until("start", "start container ", func() error { return c.Start(ctx) }, func() []string {
		if info, err := c.Inspect(ctx); err != nil || info.State != StateCreated {
			t.Errorf("%+v, %v", info, err)
		}
		return added()
	})
	// What needs no space goes on.
	d.leave(0)
	x, err := c.Exec(ctx, ExecConfig{Args: []string{"/prog", programFlag, "exit", "3"}})
	if err != nil {
		t.Fatal(err)
	}
	if status, err := x.Wait(ctx); err != nil || status.Code != 3 {
		t.Errorf("exec: %v, %v", status, err)
	}
	if err := c.Kill(ctx, unix.SIGKILL); err != nil {
		t.Errorf("kill: %v", err)
	}
	if _, err := c.Wait(ctx); err != nil && !errors.Is(err, ErrResourceExhausted) { // it may have had a log
		t.Errorf("wait: %v", err)
	}
	if err := c.Remove(ctx, RemoveOptions{}); err != nil {
		t.Errorf("remove: %v", err)
	}
	if _, err := e.Lookup(ctx, "full"); !errors.Is(err, ErrNotFound) {
		t.Errorf("after removal: %v", err)
	}
	d.empty()
}

// fullLog has a container write more than fits.
func fullLog(t *testing.T, d *disk, e *Engine, img *Image) {
	const lines = 50_000
	var out countLines
	c := create(t, e, img, Config{Args: []string{"log", strconv.Itoa(lines)}, Stdout: &out})
	d.leave(200 << 10)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	status, err := c.Wait(t.Context())
	if !errors.Is(err, ErrResourceExhausted) || !strings.Contains(err.Error(), "log: write ") || status != (Status{Known: true}) {
		t.Errorf("%v, %v", status, err)
	}
	if out.n != lines {
		t.Errorf("the writer got %d lines", out.n)
	}
	if n := checkLog(t, c); n == 0 || n >= lines {
		t.Errorf("%d lines are in the log", n)
	}
	d.empty()
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if status, err := c.Wait(t.Context()); err != nil || status.Code != 0 {
		t.Errorf("%v, %v", status, err)
	}
	if n := checkLog(t, c); n <= lines {
		t.Errorf("%d lines are in the log", n)
	}
	if err := c.Remove(t.Context(), RemoveOptions{}); err != nil {
		t.Error(err)
	}
}

// checkLog counts the lines of a log, which are numbered from 0 in each run, and
// the lines that a gap leaves a part of.
func checkLog(t *testing.T, c *Container) (n int) {
	t.Helper()
	next := 0
	for entry, err := range c.Logs(t.Context(), LogsOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if entry.Missing > 0 {
			next = -1
			continue
		}
		line := string(entry.Data)
		if next < 0 { // what follows a gap may be a part of a line
			if number, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(line, "line "), "\n")); err == nil && strings.HasPrefix(line, "line ") {
				next = number + 1
			}
			n++
			continue
		}
		switch line {
		case "line 0\n":
			next = 1
		case fmt.Sprintf("line %d\n", next):
			next++
		default: // the last one of the first run may be cut off
			if !strings.HasPrefix(fmt.Sprintf("line %d\n", next), line) && !strings.HasSuffix(line, "line 0\n") {
				t.Fatalf("%q where line %d is expected", line, next)
			}
			next = 1
		}
		n++
	}
	return n
}

type countLines struct{ n int }

func (c *countLines) Write(p []byte) (int, error) {
	c.n += bytes.Count(p, []byte("\n"))
	return len(p), nil
}

// fullOpen opens the root a second time.
func fullOpen(t *testing.T, d *disk, e *Engine, img *Image, open func() (*Engine, error)) {
	c := create(t, e, img, Config{Args: []string{"wait"}})
	d.leave(0)
	added := d.since()
	second, err := open()
	if err == nil {
		if seen, err := second.Lookup(t.Context(), c.ID()); err != nil {
			t.Error(err)
		} else if err := seen.Remove(t.Context(), RemoveOptions{}); err != nil {
			t.Errorf("remove: %v", err)
		}
		if err := second.Close(); err != nil {
			t.Error(err)
		}
	} else if !errors.Is(err, ErrResourceExhausted) {
		t.Error(err)
	}
	if left := added(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	d.empty()
}

// How a container ended is written down though the disk has become full while
// it ran: wherever in a block of the disk its record ends.
func TestDiskFullAtExit(t *testing.T) {
	if !inOwnMounts(t) {
		return
	}
	for _, fstype := range []string{"tmpfs", "ext4"} {
		t.Run(fstype, func(t *testing.T) {
			d := smallDisk(t, fstype, 128<<20)
			root := filepath.Join(d.dir, "root")
			e, other := testEngine(t, root), testEngine(t, root)
			img := pulled(t, e, nil)
			start := func(label int) *Container {
				return started(t, e, img, Config{Args: []string{"pause"}, LogSize: -1, Labels: map[string]string{"x": strings.Repeat("x", label)}})
			}
			size := func(c *Container) int {
				st, err := os.Stat(e.root.records().path(c.ID()))
				if err != nil {
					t.Fatal(err)
				}
				return int(st.Size())
			}
			least := size(start(0))
			tight := 0
			more := 40
			if testing.Short() {
				more = 90
			}
			for room := 0; room < 400; room += more {
				c := start((2*4096 - least - room) % 4096)
				if left := -size(c) & 4095; left < 400 {
					tight++
				}
				seen, err := other.Lookup(t.Context(), c.ID())
				if err != nil {
					t.Fatal(err)
				}
				d.leave(0)
				if err := c.Kill(t.Context(), unix.SIGKILL); err != nil {
					t.Fatal(err)
				}
				want := Status{Code: 137, Signal: unix.SIGKILL, Known: true}
				if status, err := c.Wait(t.Context()); err != nil || status != want {
					t.Errorf("%d bytes left in the block: %v, %v", room, status, err)
				}
				if info, err := seen.Inspect(t.Context()); err != nil || info.State != StateExited || info.Status != want {
					t.Errorf("%d bytes left in the block: another program sees %s, %v, %v", room, info.State, info.Status, err)
				}
				d.empty()
				if err := c.Remove(t.Context(), RemoveOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			if tight == 0 {
				t.Error("no record ends shortly before a block does: this shows nothing")
			}
		})
	}
}
