package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestNewRemove(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		p, err := h.Parent(testPath + "/r1")
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		before := openFDs()
		for i := range 20 {
			c, err := p.New(fmt.Sprint(i))
			if err != nil {
				t.Fatal(err)
			}
			if want := testPath + "/r1/" + fmt.Sprint(i); c.Path() != want {
				t.Errorf("path %q, want %q", c.Path(), want)
			}
			if _, err := c.Join(); err != nil {
				t.Error(err)
			}
			if _, err := c.Dir(); err != nil {
				t.Error(err)
			}
			if _, err := c.Tree(); err != nil && !errdefs.IsNotImplemented(err) {
				t.Error(err)
			}
			if _, err := c.Binds(); err != nil {
				t.Error(err)
			}
			remove(t, c)
			remove(t, c) // is no error
			if _, err := c.Join(); !errors.Is(err, os.ErrClosed) {
				t.Errorf("Join after Remove: %v", err)
			}
		}
		if now := openFDs(); now != before {
			t.Errorf("%d descriptors, %d before", now, before)
		}
		if names := below(t, h, testPath+"/r1"); len(names) > 0 {
			t.Errorf("left: %v", names)
		}
	})
}

// below lists the directories below path in all hierarchies.
func below(t *testing.T, h *Host, path string) []string {
	var names []string
	for _, y := range h.hierarchies {
		fd, err := openAt(y.root, path, unix.O_RDONLY|unix.O_DIRECTORY)
		if gone(err) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		list, err := subdirs(fd)
		unix.Close(fd)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, list...)
	}
	return names
}

func TestNewConcurrently(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		var wg sync.WaitGroup
		var mu sync.Mutex
		made := 0
		for i := range 16 {
			wg.Go(func() {
				for j := range 4 {
					// Each name is wanted by two goroutines; one gets it.
					c, err := h.New(fmt.Sprintf("%s/r/n%d-%d", testPath, i/2, j))
					if errdefs.IsAlreadyExists(err) {
						continue
					}
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					made++
					mu.Unlock()
					c.Close()
				}
			})
		}
		wg.Wait()
		if made != 32 {
			t.Errorf("%d made, want 32", made)
		}
		base := 0
		for _, y := range h.hierarchies {
			if y.base {
				base++
			}
		}
		if names := below(t, h, testPath+"/r"); len(names) != 32*base {
			t.Errorf("%d directories, want 32 in %d hierarchies", len(names), base)
		}
	})
}

// A parent that another process sweeps or prunes is made anew.
func TestNewBelowSweptParent(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		p, err := h.Parent(testPath + "/r")
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if err := h.RemoveAll(context.Background(), testPath); err != nil {
			t.Fatal(err)
		}
		c, err := p.New("n")
		if err != nil {
			t.Fatal(err)
		}
		a := start(t, c, "sleep")
		a.line(t)
		a.in.Close()
		a.cmd.Wait()
		remove(t, c)
	})
}

func TestNames(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		for _, path := range []string{"", "/", "a/../b", "..", "a//b", "a/./b", "a\nb", strings.Repeat("x", 256)} {
			if _, err := h.New(path); !errdefs.IsInvalidArgument(err) {
				t.Errorf("New(%q): %v", path, err)
			}
			if err := h.RemoveAll(context.Background(), path); !errdefs.IsInvalidArgument(err) {
				t.Errorf("RemoveAll(%q): %v", path, err)
			}
		}
		c := newCgroup(t, h, "n")
		for _, name := range []string{"", ".", "..", "a/b"} {
			if _, err := c.parent.New(name); !errdefs.IsInvalidArgument(err) {
				t.Errorf("New(%q): %v", name, err)
			}
		}
		if _, err := h.New("/" + testPath + "/n"); !errdefs.IsAlreadyExists(err) {
			t.Errorf("second New: %v", err)
		}
		if _, err := h.Open(testPath + "/missing"); !errdefs.IsNotFound(err) {
			t.Errorf("Open: %v", err)
		}
		remove(t, c)
	})
}

func TestMembers(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		c := newCgroup(t, h, "n")
		a := start(t, c, "sleep")
		a.line(t)
		pid := a.cmd.Process.Pid
		pids, err := c.Pids()
		if err != nil || !slices.Equal(pids, []int{pid}) {
			t.Errorf("pids %v, %v; want %d", pids, err, pid)
		}
		for i, y := range h.hierarchies {
			if !c.madeIn(i) {
				continue
			}
			text, err := readAt(y.root, c.path+"/cgroup.procs")
			if err != nil || strings.TrimSpace(text) != fmt.Sprint(pid) {
				t.Errorf("hierarchy %s has processes %q, %v", y.name, text, err)
			}
		}
		again, err := h.Open(c.Path())
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		if pids, err := again.Pids(); err != nil || !slices.Equal(pids, []int{pid}) {
			t.Errorf("opened: pids %v, %v; want %d", pids, err, pid)
		}
		if err := h.Prune(c.Path()); err != nil {
			t.Error("prune of what is in use:", err)
		}
		if pids, _ := c.Pids(); len(pids) != 1 {
			t.Errorf("prune has removed it: %v", pids)
		}
		a.in.Close()
		if err := a.cmd.Wait(); err != nil {
			t.Error(err)
		}
		remove(t, c)
	})
}

func TestUmask(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		old := unix.Umask(0o077)
		c := newCgroup(t, h, "n")
		unix.Umask(old)
		for i, y := range h.hierarchies {
			if !c.madeIn(i) {
				continue
			}
			var st unix.Stat_t
			if err := unix.Fstatat(y.root, c.path, &st, 0); err != nil || st.Mode&0o777 != 0o755 {
				t.Errorf("hierarchy %s: mode %o, %v", y.name, st.Mode, err)
			}
		}
		remove(t, c)
	})
}

// A file that is closed on exec in the descriptor table of another process
// does no harm; one that is not would stay open in every child.
func TestCloseOnExec(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		c := newCgroup(t, h, "n")
		join, err := c.Join()
		if err != nil {
			t.Fatal(err)
		}
		files := slices.Clone(join)
		dir, err := c.Dir()
		if err != nil {
			t.Fatal(err)
		}
		if dir != nil {
			files = append(files, dir)
		}
		if tree, err := c.Tree(); err == nil && tree != nil {
			files = append(files, tree)
		}
		binds, err := c.Binds()
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range binds {
			files = append(files, b.Dir)
		}
		fds := slices.Clone(c.parent.dirs)
		for _, f := range files {
			fds = append(fds, int(f.Fd()))
		}
		for _, fd := range fds {
			if fd < 0 {
				continue
			}
			if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("descriptor %d: flags %#x, %v", fd, flags, err)
			}
		}
		remove(t, c)
	})
}

// Whoever closes or removes a Cgroup does no harm to those who still use it:
// they get an error, or what they asked for.
func TestConcurrentUse(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		fine := func(err error) bool {
			return err == nil || errors.Is(err, os.ErrClosed) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV)
		}
		for i := range 20 {
			c := newCgroup(t, h, fmt.Sprint(i))
			var wg sync.WaitGroup
			for name, use := range map[string]func() error{
				"Join":    func() error { _, err := c.Join(); return err },
				"Dir":     func() error { _, err := c.Dir(); return err },
				"Pids":    func() error { _, err := c.Pids(); return err },
				"Kill":    func() error { return c.Kill(context.Background()) },
				"Set":     func() error { return c.Set(&specs.LinuxResources{Devices: dockerRules()}) },
				"Release": func() error { c.Release(); return nil },
				"Remove":  func() error { return c.Remove(context.Background()) },
				"Close": func() error {
					if i%2 == 0 {
						return nil
					}
					return c.Close()
				},
				"RemoveAll": func() error { return h.RemoveAll(context.Background(), c.Path()) },
			} {
				wg.Go(func() {
					if err := use(); !fine(err) {
						t.Errorf("%s: %v", name, err)
					}
				})
			}
			wg.Wait()
		}
	})
}

// A cgroup that cannot be made in one hierarchy is not left in the others.
func TestNewUndone(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		p, err := h.Parent(testPath + "/r")
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		last := -1
		for i, y := range h.hierarchies {
			if y.base {
				last = i
			}
		}
		if err := unix.Mkdirat(p.dirs[last], "n", 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := p.New("n"); !errdefs.IsAlreadyExists(err) {
			t.Errorf("New: %v", err)
		}
		if names := below(t, h, testPath+"/r"); !slices.Equal(names, []string{"n"}) {
			t.Errorf("left: %v", names)
		}
	})
}
