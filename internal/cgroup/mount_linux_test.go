package cgroup

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Mountinfo of several kinds of machines, cut to what matters.
var machines = []struct {
	name, text string
	hidden     []string // mount points that something else covers
	mode       Mode
	want       string // hierarchies: name, +base, controllers
}{
	{
		name: "v2",
		text: `25 30 0:23 / /proc rw,nosuid,nodev,noexec,relatime shared:14 - proc proc rw
29 24 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
`,
		mode: Unified, want: "cgroup+",
	},
	{
		name: "hybrid with systemd",
		text: `31 24 0:26 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:9 - tmpfs tmpfs ro,size=4096k,nr_inodes=1024,mode=755
32 31 0:27 / /sys/fs/cgroup/unified rw,nosuid,nodev,noexec,relatime shared:10 - cgroup2 cgroup2 rw,nsdelegate
33 31 0:28 / /sys/fs/cgroup/systemd rw,nosuid,nodev,noexec,relatime shared:11 - cgroup cgroup rw,xattr,name=systemd
36 31 0:31 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid,nodev,noexec,relatime shared:15 - cgroup cgroup rw,cpu,cpuacct
37 31 0:32 / /sys/fs/cgroup/net_cls,net_prio rw,nosuid,nodev,noexec,relatime shared:16 - cgroup cgroup rw,net_cls,net_prio
38 31 0:33 / /sys/fs/cgroup/freezer rw,relatime shared:17 - cgroup cgroup rw,freezer
39 31 0:34 / /sys/fs/cgroup/memory rw,relatime shared:18 - cgroup cgroup rw,memory,clone_children,release_agent=/sbin/x
`,
		mode: Hybrid, want: "unified+ systemd cpu,cpuacct+cpu,cpuacct net_cls,net_prio:net_cls,net_prio freezer:freezer memory+memory",
	},
	{
		name: "v1 alone",
		text: `36 31 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
38 31 0:33 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer
40 31 0:35 / /dev/noprefix rw - cgroup cgroup rw,cpuset,noprefix
`,
		mode: V1, want: "cpu+cpu freezer+freezer",
	},
	{
		name: "in a container without a namespace of its own, and its parent's mount beside it",
		text: `50 49 0:34 /docker/0123 /sys/fs/cgroup/memory ro,nosuid master:18 - cgroup cgroup rw,memory
51 49 0:34 / /host/sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
52 49 0:35 /docker/0123 /sys/fs/cgroup/pids ro - cgroup cgroup rw,pids
53 49 0:36 /.. /a\040b/blkio rw - cgroup cgroup rw,blkio
54 49 0:36 / /x/blkio rw - cgroup cgroup rw,blkio
`,
		mode: V1, want: "memory+memory pids+pids blkio+blkio",
	},
	{
		name: "v2 with a controller on v1 that no container needs",
		text: `29 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
30 24 0:27 / /run/net_cls rw - cgroup net_cls rw,net_cls
`,
		mode: Unified, want: "cgroup+ net_cls:net_cls",
	},
	{
		name: "v2 over v1",
		text: `36 31 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
29 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
`,
		hidden: []string{"/sys/fs/cgroup/cpu"},
		mode:   Unified, want: "cgroup+",
	},
	{
		name: "one name twice",
		text: `36 31 0:31 / /a/cg rw - cgroup cgroup rw,cpu
37 31 0:32 / /b/cg rw - cgroup cgroup rw,memory
`,
		mode: V1, want: "cg+cpu memory+memory",
	},
	{
		name: "nonsense",
		text: `cgroup
- cgroup
1 2 3 4 5 6 - cgroup x y
1 2 a:b / /p rw - cgroup cgroup rw,cpu
1 2 0:99999999999999 / /p rw - cgroup cgroup rw,cpu
1 2 0:9 / relative rw - cgroup cgroup rw,cpu
1 2 0:9 / /p rw - cgroupx cgroup rw,cpu
1 2 0:9 / /p rw - cgroup cgroup
`,
	},
}

func TestLayout(t *testing.T) {
	for _, m := range machines {
		t.Run(m.name, func(t *testing.T) {
			list := layout(parseMountinfo(m.text), func(m2 mount) (int, error) {
				if slices.Contains(m.hidden, m2.point) {
					return -1, unix.ENOENT
				}
				return openEmpty(t)
			})
			var got []string
			for _, y := range list {
				s := y.name
				if y.base {
					s += "+"
				} else if len(y.controllers) > 0 {
					s += ":"
				}
				got = append(got, s+strings.Join(y.controllers, ","))
			}
			if strings.Join(got, " ") != m.want {
				t.Errorf("hierarchies:\n got %s\nwant %s", strings.Join(got, " "), m.want)
			}
			h, err := newHost(list)
			if m.mode == 0 {
				if err == nil {
					t.Error("no error")
				}
				return
			}
			if err != nil || h.Mode() != m.mode {
				t.Errorf("mode %v, %v; want %v", h.Mode(), err, m.mode)
			}
		})
	}
}

// openEmpty stands for a hierarchy: a directory without any file.
func openEmpty(t *testing.T) (int, error) {
	fd, err := unix.Open(t.TempDir(), dirFlags, 0)
	if err == nil {
		t.Cleanup(func() { unix.Close(fd) })
	}
	return fd, err
}

func TestBestMount(t *testing.T) {
	groups := byHierarchy(parseMountinfo(machines[3].text))
	var got []string
	for _, g := range groups {
		got = append(got, g[0].point)
	}
	if want := []string{"/host/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids", "/a b/blkio"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func FuzzParseMountinfo(f *testing.F) {
	for _, m := range machines {
		f.Add(m.text)
	}
	f.Add("1 2 0:9 / /p\\1 rw - cgroup cgroup rw,,=,cpu")
	f.Fuzz(func(t *testing.T, text string) {
		mounts := parseMountinfo(text)
		if len(mounts) > strings.Count(text, "\n")+1 {
			t.Error("more mounts than lines")
		}
		n := 0
		for _, g := range byHierarchy(mounts) {
			n += len(g)
			for _, m := range g {
				if m.dev != g[0].dev || m.v2 && len(m.controllers) > 0 || m.point[0] != '/' {
					t.Errorf("%+v in %+v", m, g)
				}
			}
		}
		if n != len(mounts) {
			t.Errorf("%d mounts in groups, %d in all", n, len(mounts))
		}
		layout(mounts, func(mount) (int, error) { return -1, nil })
	})
}

// privately runs f on a thread with a mount namespace of its own, whose mounts
// reach nobody.
func privately(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with it
		err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// A v2 hierarchy mounted over the machine's own is all that counts.
func TestDetectV2OverOthers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, for a mount namespace")
	}
	if own, err := detect(); err == nil {
		closeHost(own)
		if own.Mode() == Unified {
			t.Skip("needs a machine that is not v2 already")
		}
	}
	if _, err := os.Stat("/sys/fs/cgroup"); err != nil {
		t.Skip("needs /sys/fs/cgroup")
	}
	var h *Host
	privately(t, func() error {
		if err := unix.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, ""); err != nil {
			return fmt.Errorf("mount cgroup2: %w", err)
		}
		var err error
		h, err = detect()
		return err
	})
	defer closeHost(h)
	if h.Mode() != Unified || len(h.hierarchies) != 1 {
		t.Fatalf("%v, %d hierarchies", h.Mode(), len(h.hierarchies))
	}
	defer sweep(t, h)
	c := newCgroup(t, h, "r/n")
	a := start(t, c, "sleep")
	a.line(t)
	if files, err := c.Join(); err != nil || len(files) > 0 {
		t.Errorf("files to join on v2: %v, %v", files, err)
	}
	kill(t, c)
	a.cmd.Wait()
	remove(t, c)
}

func TestDetectNothing(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, for a mount namespace")
	}
	privately(t, func() error {
		if err := unix.Mount("tmpfs", "/sys", "tmpfs", 0, ""); err != nil {
			return err
		}
		if h, err := detect(); err == nil {
			return errors.New("detected " + h.Mode().String())
		}
		return nil
	})
}

func TestDetect(t *testing.T) {
	h, err := Detect()
	if err != nil {
		t.Skip("needs a cgroup hierarchy:", err)
	}
	again, err := Detect()
	if err != nil || again != h {
		t.Errorf("second time: %v, %v", again, err)
	}
	if !slices.IsSorted(h.Controllers()) {
		t.Errorf("controllers %v", h.Controllers())
	}
	t.Log(h.Mode(), h.Controllers())
}
