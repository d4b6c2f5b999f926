package cgroup

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Cgroups without cpuset limits are in one cpuset; one that gets limits has its
// own from then on, and what runs in it is there. Open finds both kinds.
func TestShareCpusets(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		if !slices.ContainsFunc(h.hierarchies, (*hierarchy).sharable) {
			t.Skip("needs a v1 hierarchy of cpusets alone")
		}
		p, err := h.Parent(testPath)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if err := p.ShareCpusets(); err != nil {
			t.Fatal(err)
		}
		if _, err := p.New(commonName); err == nil {
			t.Error("a cgroup with the common one's name")
		}
		var cgroups []*Cgroup
		var actors []*actor
		for _, name := range []string{"one", "two"} {
			c, err := p.New(name)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			a := start(t, c, "hold", "1")
			if got := a.line(t); got != "ate <nil>" {
				t.Fatal(got)
			}
			cgroups, actors = append(cgroups, c), append(actors, a)
		}
		check := func(when string, want ...string) {
			t.Helper()
			for i, a := range actors {
				if got := cpusetOf(t, a.cmd.Process.Pid); got != "/"+testPath+"/"+want[i] {
					t.Errorf("%s: process %d is in cpuset %s, not %s", when, i, got, want[i])
				}
			}
		}
		check("at first", commonName, commonName)
		// As another program does it.
		two, err := h.Open(testPath + "/two")
		if err != nil {
			t.Fatal(err)
		}
		defer two.Close()
		b := start(t, two, "cpus")
		if got, want := b.line(t), fmt.Sprint(runtime.NumCPU(), " true <nil>"); got != want {
			t.Errorf("affinity %s, want %s", got, want)
		}

		last := strconv.Itoa(runtime.NumCPU() - 1)
		if err := cgroups[0].Update(&specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: last}}); err != nil {
			t.Fatal(err)
		}
		check("after an update", "one", commonName)
		var set unix.CPUSet
		if err := unix.SchedGetaffinity(actors[0].cmd.Process.Pid, &set); err != nil || set.Count() != 1 || !set.IsSet(runtime.NumCPU()-1) {
			t.Errorf("affinity of what runs: %v, %v", set, err)
		}
		join, err := cgroups[0].Join()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range join {
			if strings.Contains(f.Name(), commonName) {
				t.Errorf("%s leads to the common directory", f.Name())
			}
		}
		for i, a := range actors {
			a.in.Close()
			a.cmd.Wait()
			remove(t, cgroups[i])
		}
	})
}

// cpusetOf is the cgroup of a process in the v1 hierarchy of cpusets.
func cpusetOf(t *testing.T, pid int) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if _, path, ok := strings.Cut(line, ":cpuset:"); ok {
			return strings.TrimSpace(path)
		}
	}
	return ""
}
