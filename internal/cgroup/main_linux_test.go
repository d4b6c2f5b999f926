package cgroup

import (
	"context"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/inboard/engine/enginetest"
)

// roleEnv names what a copy of the test binary does once it is in its cgroup.
const roleEnv = "CGROUP_TEST_ROLE"

func TestMain(m *testing.M) {
	if role, ok := os.LookupEnv(roleEnv); ok {
		play(role)
		os.Exit(0)
	}
	os.Exit(enginetest.Main(m, enginetest.Watch{CgroupParents: []string{testPath}}))
}

func openFDs() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}

// testPath is below the root of each hierarchy.
var testPath = "inboard-cgroup-test-" + strconv.Itoa(os.Getpid())

func leftBehind() []string {
	var left []string
	h, err := detect()
	if err != nil {
		return nil
	}
	defer closeHost(h)
	for _, y := range h.hierarchies {
		if unix.Faccessat(y.root, testPath, unix.F_OK, 0) == nil {
			left = append(left, y.name+"/"+testPath)
		}
	}
	return left
}

func closePrograms(h *Host) {
	for _, l := range h.programs.list {
		l.file.Close()
	}
	h.programs.list = nil
}

func closeHost(h *Host) {
	closePrograms(h)
	for _, y := range h.hierarchies {
		unix.Close(y.root)
	}
}

// withHosts runs f on every kind of host that the machine can show: as it is,
// a hybrid one also without its v2 hierarchy, and with its v2 hierarchy alone.
func withHosts(t *testing.T, f func(t *testing.T, h *Host)) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to make cgroups")
	}
	whole, err := detect()
	if err != nil {
		t.Skip("needs a cgroup hierarchy:", err)
	}
	t.Cleanup(func() { closeHost(whole) })
	run := func(h *Host) {
		t.Run(h.Mode().String(), func(t *testing.T) {
			t.Cleanup(func() { sweep(t, h); closePrograms(h) })
			f(t, h)
		})
	}
	run(whole)
	if whole.Mode() != Hybrid {
		return
	}
	var v1, v2 []*hierarchy
	for _, y := range whole.hierarchies {
		copied := *y
		copied.base = y.base || y.has("freezer")
		if y.v2 {
			v2 = append(v2, &copied)
		} else {
			v1 = append(v1, &copied)
		}
	}
	for _, list := range [][]*hierarchy{v1, v2} {
		h, err := newHost(list)
		if err != nil {
			t.Fatal(err)
		}
		run(h)
	}
}

// sweep leaves nothing of a test behind, also when it failed.
func sweep(t *testing.T, h *Host) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := h.RemoveAll(ctx, testPath); err != nil {
		t.Error("sweep:", err)
	}
	if len(h.parents) > 0 && !t.Failed() {
		t.Errorf("parents still open: %v", h.parents)
	}
}

// needs skips a test where no hierarchy of h has one of the controllers.
func needs(t *testing.T, h *Host, controllers ...string) {
	t.Helper()
	if !slices.ContainsFunc(controllers, func(c string) bool { return h.version(c) != 0 }) {
		t.Skip("needs the controller", strings.Join(controllers, " or "))
	}
}

func newCgroup(t *testing.T, h *Host, name string) *Cgroup {
	t.Helper()
	c, err := h.New(testPath + "/" + name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func set(t *testing.T, c *Cgroup, r *specs.LinuxResources) {
	t.Helper()
	if err := c.Set(r); err != nil {
		t.Fatal(err)
	}
}

// content returns what a control file of c says.
func content(t *testing.T, c *Cgroup, controller, file string) string {
	t.Helper()
	text, err := c.read(controller, file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(text)
}

func ptr[T any](v T) *T { return &v }

func remove(t *testing.T, c *Cgroup) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := c.Remove(ctx); err != nil {
		t.Error(err)
	}
}

func kill(t *testing.T, c *Cgroup) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := c.Kill(ctx); err != nil {
		t.Fatal(err)
	}
}
