package cgroup

import (
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// v2Limit returns a limit for a controller of a v2 hierarchy, and puts back
// what the root hands to its children when the test has ended.
func v2Limit(t *testing.T, h *Host) (controller, file string, r *specs.LinuxResources) {
	t.Helper()
	for _, x := range []struct {
		controller, file string
		r                *specs.LinuxResources
	}{
		{"memory", "memory.max", memory(specs.LinuxMemory{Limit: ptr[int64](64 * mb)})},
		{"hugetlb", "hugetlb.2MB.max", &specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 64 * mb}}}},
	} {
		if h.version(x.controller) != 2 {
			continue
		}
		root := h.hierarchies[h.where[x.controller]].root
		before, err := readAt(root, "cgroup.subtree_control")
		if err != nil {
			t.Skip("needs the v2 root:", err)
		}
		t.Cleanup(func() {
			sweep(t, h)
			if !slices.Contains(strings.Fields(before), x.controller) {
				if err := writeAt(root, "cgroup.subtree_control", "-"+x.controller); err != nil {
					t.Error(err)
				}
			}
		})
		return x.controller, x.file, x.r
	}
	t.Skip("needs memory or hugetlb in a v2 hierarchy")
	return
}

// A limit on v2 works however deep the cgroup is, also with a controller that
// not every Cgroup gets.
func TestControllersHandedDown(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		controller, file, r := v2Limit(t, h)
		c := newCgroup(t, h, "a/b/c/n")
		set(t, c, r)
		if got := content(t, c, controller, file); got != "67108864" {
			t.Errorf("%s is %s", file, got)
		}
		second := newCgroup(t, h, "a/b/c/m")
		set(t, second, r)
		a := start(t, second, "sleep")
		a.line(t)
		kill(t, second)
		a.cmd.Wait()
	})
}

// The kernel hands no controller to the children of a cgroup with processes:
// containers can be made there, and a limit says why it cannot be held.
func TestNoInternalProcesses(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		controller, _, r := v2Limit(t, h)
		above := newCgroup(t, h, "busy")
		a := start(t, above, "sleep")
		a.line(t)
		c := newCgroup(t, h, "busy/n")
		err := c.Set(r)
		if !errdefs.IsFailedPrecondition(err) ||
			!strings.Contains(err.Error(), "controller "+controller+": cgroup /"+above.Path()+" has processes of its own") {
			t.Errorf("limit: %v", err)
		}
		b := start(t, c, "sleep")
		b.line(t)
		kill(t, above)
		a.cmd.Wait()
		b.cmd.Wait()
		remove(t, above)
	})
}

// Parents of one path are one, and close with their last Cgroup.
func TestParentShared(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		before := openFDs()
		p, err := h.Parent("/" + testPath + "/r/")
		if err != nil {
			t.Fatal(err)
		}
		c := newCgroup(t, h, "r/n")
		if c.parent != p || p.Path() != testPath+"/r" {
			t.Errorf("another parent, of path %s", p.Path())
		}
		p.Close()
		if _, err := c.Pids(); err != nil {
			t.Error("after Close of the parent:", err)
		}
		c.Close()
		c.Close() // twice is once
		if now := openFDs(); now != before {
			t.Errorf("%d descriptors, %d before", now, before)
		}
	})
}

// A v1 cpuset made by somebody else is empty, and so are its children.
func TestForeignCpuset(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		if h.version("cpuset") != 1 {
			t.Skip("needs a v1 cpuset hierarchy")
		}
		y := h.hierarchies[h.where["cpuset"]]
		if err := unix.Mkdirat(y.root, testPath, 0o755); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second finds its parent filled
			c := newCgroup(t, h, "n")
			a := start(t, c, "sleep")
			a.line(t)
			kill(t, c)
			a.cmd.Wait()
			remove(t, c)
		}
		if text, err := readAt(y.root, testPath+"/cgroup.clone_children"); err != nil || strings.TrimSpace(text) != "0" {
			t.Errorf("clone_children of what is not ours: %q, %v", text, err)
		}
	})
}

func TestCgroupInTheRoot(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		c, err := h.New("/" + testPath)
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
