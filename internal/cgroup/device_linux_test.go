package cgroup

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// rule reads one of these: "allow c 1:3 rwm", "deny a *:* rwm".
func rule(s string) specs.LinuxDeviceCgroup {
	f := strings.Fields(s)
	d := specs.LinuxDeviceCgroup{Allow: f[0] == "allow", Type: f[1], Access: f[3]}
	var major, minor int64
	m, n, _ := strings.Cut(f[2], ":")
	if _, err := fmt.Sscan(m, &major); err == nil {
		d.Major = &major
	}
	if _, err := fmt.Sscan(n, &minor); err == nil {
		d.Minor = &minor
	}
	return d
}

func ruleList(list ...string) []specs.LinuxDeviceCgroup {
	var out []specs.LinuxDeviceCgroup
	for _, s := range list {
		out = append(out, rule(s))
	}
	return out
}

// text gives writes as one line, with + for allow and - for deny.
func text(list []ruleWrite) string {
	var out []string
	for _, w := range list {
		sign := "-"
		if w.allow {
			sign = "+"
		}
		out = append(out, sign+w.line)
	}
	return strings.Join(out, ", ")
}

func TestCompileRules(t *testing.T) {
	for _, x := range []struct {
		rules []string
		want  string
	}{
		{[]string{"deny a *:* rwm"}, "-a"},
		{[]string{"allow a *:* rwm"}, "+a"},
		{[]string{"allow c 1:3 rwm"}, "-a, +c 1:3 rwm"},
		{[]string{"deny a *:* rwm", "allow c 1:* mw", "allow b 8:0 r"}, "-a, +b 8:0 r, +c 1:* wm"},
		{[]string{"allow c 1:3 rw", "allow c 1:3 m"}, "-a, +c 1:3 rwm"},
		{[]string{"allow c 1:3 rwm", "deny c 1:3 w"}, "-a, +c 1:3 rm"},
		{[]string{"allow c 1:3 rwm", "allow b 8:0 r", "deny c *:* rwm"}, "-a, +b 8:0 r"},
		{[]string{"allow c 1:3 rwm", "deny a *:* m"}, "-a, +c 1:3 rw"},
		{[]string{"allow c *:* m", "deny c 1:3 m"}, "!c 1:3 m: cgroups v1 cannot take back a part of the earlier rule c *:* m"},
		{[]string{"allow c *:* m", "deny c 1:3 rw"}, "-a, +c *:* m"},
		{[]string{"allow c *:3 m", "deny c 1:* m"}, "!c 1:* m: cgroups v1 cannot"},
		{[]string{"allow a *:* rwm", "deny c 1:3 rwm"}, "+a, -c 1:3 rwm"},
		{[]string{"allow a *:* rwm", "deny c 1:3 rwm", "allow c 1:3 r"}, "+a, -c 1:3 wm"},
		{[]string{"allow a *:* rwm", "deny c 1:3 rwm", "deny a *:* rwm"}, "-a"},
		{[]string{"allow a 1:3 rwm"}, "-a, +b 1:3 rwm, +c 1:3 rwm"},
		{[]string{"allow u 1:3 rwm"}, "-a, +c 1:3 rwm"},
		{[]string{"allow p 1:3 rwm"}, `!device rule 0: type "p"`},
		{[]string{"deny a *:* rwm", "allow c 1:3 rx"}, `!device rule 1: access "rx"`},
		{[]string{"allow c -2:3 r"}, "!device rule 0: device number -2"},
	} {
		r, err := compileRules(ruleList(x.rules...))
		got := text(r.from(rules{}))
		if err != nil {
			got = "!" + err.Error()
		}
		if got != x.want && !(err != nil && strings.HasPrefix(x.want, "!") && strings.Contains(got, x.want[1:])) {
			t.Errorf("%q:\n got %s\nwant %s", x.rules, got, x.want)
		}
	}
}

// The writes between any two states lead from the one to the other.
func TestRulesFrom(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	state := func() rules {
		var list []specs.LinuxDeviceCgroup
		for range random.IntN(8) {
			d := rule(fmt.Sprintf("allow %c %d:%d rwm", "bc"[random.IntN(2)], random.IntN(2), random.IntN(3)))
			d.Access = []string{"r", "w", "rw", "rwm"}[random.IntN(4)]
			d.Allow = random.IntN(3) > 0
			list = append(list, d)
		}
		if random.IntN(4) == 0 {
			list = append([]specs.LinuxDeviceCgroup{rule("allow a *:* rwm")}, list...)
		}
		r, err := compileRules(list)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for range 2000 {
		a, b := state(), state()
		// What the kernel does with them: an exact rule is widened or narrowed.
		now := rules{allow: a.allow, exceptions: maps.Clone(a.exceptions)}
		for _, w := range b.from(a) {
			if w.line == "a" {
				now = rules{allow: w.allow, exceptions: map[device]access{}}
				continue
			}
			d := rule("allow " + w.line)
			key := device{d.Type[0], *d.Major, *d.Minor}
			bits, _ := parseAccess(d.Access)
			if w.allow != now.allow {
				now.exceptions[key] |= bits
			} else if now.exceptions[key] &^= bits; now.exceptions[key] == 0 {
				delete(now.exceptions, key)
			}
		}
		if now.allow != b.allow || !maps.Equal(now.exceptions, b.exceptions) {
			t.Fatalf("%v to %v: %s gives %v", a, b, text(b.from(a)), now)
		}
	}
}

func TestDockerRulesAreCheapTheSecondTime(t *testing.T) {
	usual, err := compileRules(dockerRules())
	if err != nil {
		t.Fatal(err)
	}
	if w := usual.from(usual); len(w) != 0 {
		t.Error(text(w))
	}
	more, err := compileRules(append(dockerRules(), rule("allow b 8:0 rwm")))
	if got := text(more.from(usual)); err != nil || got != "+b 8:0 rwm" {
		t.Error(got, err)
	}
}

// opens says how each attempt of an actor in c ends.
func opens(t *testing.T, c *Cgroup, attempts ...string) []string {
	t.Helper()
	a := start(t, c, "devices", attempts...)
	var got []string
	for range attempts {
		s := a.line(t)
		switch {
		case s == "<nil>":
			s = "yes"
		case strings.Contains(s, "not permitted"):
			s = "no"
		}
		got = append(got, s)
	}
	a.cmd.Wait()
	return got
}

func TestDevices(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		attempts := []string{"/dev/null", "/dev/zero", "/dev/full", "mknod 1 3", "mknod 10 229"}
		for i, s := range attempts {
			attempts[i] = strings.Replace(s, "mknod", "mknod c", 1)
		}
		check := func(c *Cgroup, want ...string) {
			t.Helper()
			if got := opens(t, c, attempts...); !slices.Equal(got, want) {
				t.Errorf("%v: %v, want %v", attempts, got, want)
			}
		}
		c := newCgroup(t, h, "n")
		check(c, "yes", "yes", "yes", "yes", "yes")
		set(t, c, &specs.LinuxResources{Devices: ruleList("deny a *:* rwm", "allow c 1:3 rw", "allow c 1:5 r", "allow c 10:* m")})
		check(c, "yes", "no", "no", "no", "yes")
		// Again, with others, while they are in force.
		set(t, c, &specs.LinuxResources{Devices: ruleList("deny a *:* rwm", "allow c 1:7 rw", "allow c 1:3 m")})
		check(c, "no", "no", "yes", "yes", "no")
		set(t, c, &specs.LinuxResources{}) // changes nothing
		check(c, "no", "no", "yes", "yes", "no")
		set(t, c, &specs.LinuxResources{Devices: ruleList("allow a *:* rwm")})
		check(c, "yes", "yes", "yes", "yes", "yes")
		set(t, c, &specs.LinuxResources{Devices: dockerRules()})
		check(c, "yes", "yes", "yes", "yes", "yes")
		set(t, c, &specs.LinuxResources{Devices: dockerRules()})
		if got := opens(t, c, "/dev/kmsg", "/dev/null"); !slices.Equal(got, []string{"no", "yes"}) {
			t.Errorf("kmsg and null under Docker's rules: %v", got)
		}

		// Another handle knows nothing of what was set.
		again, err := h.Open(c.Path())
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		set(t, again, &specs.LinuxResources{Devices: ruleList("allow c 1:3 rw")})
		check(c, "yes", "no", "no", "no", "no")
		remove(t, c)
	})
}

// A rule that cannot be held is refused before anything is written.
func TestDeviceRuleRefused(t *testing.T) {
	withHosts(t, func(t *testing.T, h *Host) {
		c := newCgroup(t, h, "n")
		err := c.Set(&specs.LinuxResources{
			Devices: ruleList("allow x 1:3 rw"), Pids: &specs.LinuxPids{Limit: ptr[int64](7)},
		})
		if h.version("pids") == 0 {
			if !errdefs.IsNotImplemented(err) {
				t.Error(err)
			}
			return
		}
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "device rule 0") {
			t.Error(err)
		}
		if got := content(t, c, "pids", "pids.max"); got != "max" {
			t.Errorf("pids.max %s", got)
		}
	})
}
