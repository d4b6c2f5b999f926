package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// prepare makes a standby for execs of a process, and returns it while it waits.
func prepare(t *testing.T, c *Container, p *specs.Process, user string) *middle {
	t.Helper()
	who, err := c.credential(p, user)
	if err != nil {
		t.Fatal(err)
	}
	c.standby.fill(stanceOf(p, who), c.newStandby)
	return waiting(c)
}

func waiting(c *Container) *middle {
	c.standby.mu.Lock()
	defer c.standby.mu.Unlock()
	return c.standby.ready
}

// What a command finds is the same with and without a standby, in every part
// that is not a number of its own.
func TestStandbySame(t *testing.T) {
	r := openTest(t)
	c := idle(t, r, nil)
	for _, test := range []struct {
		user   string
		change func(*specs.Process)
	}{
		{"0", func(*specs.Process) {}},
		{"user", func(p *specs.Process) { p.Cwd = "/tmp" }},
		{"user:extra", func(p *specs.Process) { p.NoNewPrivileges = true }},
		{"0", func(p *specs.Process) {
			p.User.Umask = ptr(uint32(0o077))
			p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 64, Hard: 64}, {Type: "RLIMIT_CORE"}}
			p.Capabilities.Bounding = []string{"CAP_KILL"}
			p.Capabilities.Permitted, p.Capabilities.Effective = p.Capabilities.Bounding, p.Capabilities.Bounding
		}},
	} {
		p := newProgramProcess(newSpec(t, "/", ""), "view", "an argument")
		p.Env = append(p.Env, "VARIABLE=value")
		capabilities := *p.Capabilities
		p.Capabilities = &capabilities
		test.change(p)
		look := func() (v view) {
			text := execOutput(t, c, p, ProcessOptions{User: test.user})
			if err := json.Unmarshal([]byte(text), &v); err != nil {
				t.Fatal(err, text)
			}
			for _, own := range []string{"Pid", "NSpid", "NStgid", "NSpgid", "NSsid", "Tgid", "Ngid", "SigQ", "State", "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches", "Threads"} {
				delete(v.Status, own)
			}
			for key := range v.Status {
				if strings.HasPrefix(key, "Vm") || strings.HasPrefix(key, "Rss") || strings.HasPrefix(key, "Hugetlb") {
					delete(v.Status, key)
				}
			}
			if v.Sid != v.Pid {
				t.Errorf("session %d of process %d", v.Sid, v.Pid)
			}
			v.Pid, v.Sid, v.Keyring, v.Pids, v.Files = 0, 0, 0, nil, nil
			return v
		}
		c.standby.drop(false)
		without := look()
		m := prepare(t, c, p, test.user)
		if m == nil {
			t.Fatal("no standby")
		}
		with := look()
		if !m.forked || c.standby.unfit {
			t.Error("the standby was not used")
		}
		if !maps.Equal(without.Status, with.Status) {
			t.Errorf("user %s: status without a standby %v\nwith it %v", test.user, without.Status, with.Status)
		}
		without.Status, with.Status = nil, nil
		if !reflect.DeepEqual(without, with) {
			t.Errorf("user %s: without a standby %+v\nwith it %+v", test.user, without, with)
		}
	}
}

// A row of execs makes and takes standbys of its own accord; one exec does not.
func TestStandbyRow(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	c := idle(t, r, func(s *specs.Spec) { s.Root.Path = root })
	p := fileSpec(t, root, "/bin/true").Process
	once := func() {
		x, err := c.Exec(background, p, ProcessOptions{})
		if err != nil {
			t.Fatal(err)
		}
		wait(t, x)
	}
	due := func() bool {
		c.standby.mu.Lock()
		defer c.standby.mu.Unlock()
		return c.standby.due || c.standby.ready != nil
	}
	once()
	if due() {
		t.Error("a standby after one exec")
	}
	once()
	if !due() {
		t.Error("no standby after two")
	}
	for range few(50) {
		once()
	}
	if c.standby.unfit {
		t.Error("a standby was of no use")
	}
	p.Cwd = "/tmp"
	who, err := c.credential(p, "")
	if err != nil {
		t.Fatal(err)
	}
	if m := c.standby.take(background, stanceOf(p, who)); m != nil {
		t.Error("a standby in / for an exec in /tmp")
	}
}

// A standby is out of sight of its container, holds nothing of the host but its
// link, and ends with the link.
func TestStandbyOutside(t *testing.T) {
	r := openTest(t)
	c := idle(t, r, nil)
	m := prepare(t, c, newProgramProcess(newSpec(t, "/", ""), "view"), "0")
	if list := nestedChildren(t, c); len(list) != 0 {
		t.Errorf("the container sees %v", list)
	}
	pid := pidOf(int(m.child.pidfd.Fd()))
	for state := "R"; state != "S"; { // until it waits
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		state = rest[:1]
	}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil || len(files) != 4 {
		t.Errorf("descriptors %v, %v", files, err)
	}
	for _, f := range files {
		to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, f.Name()))
		if f.Name() != "3" && to != "/dev/null" || f.Name() == "3" && !strings.HasPrefix(to, "socket:") {
			t.Errorf("descriptor %s is %s", f.Name(), to)
		}
	}
	c.standby.drop(false)
	<-m.child.ended
}

// A standby that cannot do it is no failure: the exec goes the long way.
func TestStandbyOfNoUse(t *testing.T) {
	r := openTest(t)
	forbidding := func(s *specs.Spec) {
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
			{Names: []string{"recvmsg"}, Action: specs.ActErrno, ErrnoRet: ptr(uint(unix.EPERM))}}}
	}
	for name, test := range map[string]struct {
		container func(*specs.Spec)
		process   func(*specs.Process)
		before    func(*middle)
	}{
		"killed":              {before: func(m *middle) { unix.PidfdSendSignal(int(m.child.pidfd.Fd()), unix.SIGKILL, nil, 0); <-m.child.ended }},
		"filter":              {container: forbidding},
		"descriptors":         {process: func(p *specs.Process) { p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 4, Hard: 4}} }},
		"large environment":   {process: func(p *specs.Process) { p.Env = append(p.Env, largeVariables(standbyRoom)...) }},
		"working directory":   {process: func(p *specs.Process) { p.Cwd = "/gone" }},
		"number of processes": {process: func(p *specs.Process) { p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NPROC", Soft: 0, Hard: 0}} }},
	} {
		t.Run(name, func(t *testing.T) {
			root := newRootfs(t)
			c := idle(t, r, func(s *specs.Spec) {
				s.Root.Path = root
				if test.container != nil {
					test.container(s)
				}
			})
			p := fileSpec(t, root, "/bin/true").Process
			if test.process != nil {
				test.process(p)
			}
			exec := func() string {
				x, err := c.Exec(background, p, ProcessOptions{User: "0"})
				if err != nil {
					return err.Error()
				}
				return fmt.Sprint(wait(t, x))
			}
			want := exec()
			m := prepare(t, c, p, "0")
			if m != nil && test.before != nil {
				test.before(m)
			}
			if got := exec(); got != want {
				t.Errorf("with a standby %s, without %s", got, want)
			}
		})
	}
}

// largeVariables are size bytes of environment, each variable within what the
// kernel takes as one string.
func largeVariables(size int) (list []string) {
	for i := range size/65536 + 1 {
		list = append(list, fmt.Sprintf("LARGE%d=%s", i, strings.Repeat("x", 65536)))
	}
	return list
}

func TestStandbyCommandError(t *testing.T) {
	r := openTest(t)
	c := idle(t, r, nil)
	p := newProgramProcess(newSpec(t, "/", ""), "view")
	for file, code := range map[string]int{"/bin/none": 127, "/etc/passwd": 126} {
		p.Args = []string{file}
		if prepare(t, c, p, "0") == nil {
			t.Fatal("no standby")
		}
		_, err := c.Exec(background, p, ProcessOptions{User: "0"})
		var failed *CommandError
		if !errors.As(err, &failed) || failed.Code != code || failed.Path != file {
			t.Errorf("%s: %v", file, err)
		}
		if c.standby.unfit {
			t.Errorf("%s: the standby was blamed", file)
		}
	}
}

// A container with a limit on processes, or a pid namespace that others are in,
// has no process of ours standing by.
func TestStandbyLimits(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	c := idle(t, r, func(s *specs.Spec) {
		s.Root.Path = root
		s.Linux.Resources.Pids = &specs.LinuxPids{Limit: ptr(int64(10))}
	})
	for range 3 {
		x, err := c.Exec(background, fileSpec(t, root, "/bin/true").Process, ProcessOptions{})
		if err != nil {
			t.Fatal(err)
		}
		wait(t, x)
	}
	if c.standby.due || c.standby.ready != nil {
		t.Error("a standby")
	}
}

// Delete and Close end a standby, also one that is being made, and a call whose
// context ends leaves nothing running.
func TestStandbyEnds(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	p := fileSpec(t, root, "/bin/sleep").Process
	for range few(20) {
		c := idle(t, r, func(s *specs.Spec) { s.Root.Path = root })
		m := prepare(t, c, p, "")
		if err := c.Delete(background); err != nil {
			t.Fatal(err)
		}
		select {
		case <-m.child.ended:
		default:
			t.Error("a standby has outlived its container")
		}
		c.standby.fill("", c.newStandby)
		if waiting(c) != nil {
			t.Error("a standby of a deleted container")
		}
	}
	c := idle(t, r, func(s *specs.Spec) { s.Root.Path = root })
	prepare(t, c, p, "")
	ctx, cancel := context.WithCancel(background)
	cancel()
	who, err := c.credential(p, "")
	if err != nil {
		t.Fatal(err)
	}
	streams, err := openStreams(&ProcessOptions{}, r.null, false)
	if err != nil {
		t.Fatal(err)
	}
	x, err := c.exec(ctx, p, who, streams, &ProcessOptions{})
	if err == nil { // it was faster
		x.kill()
		wait(t, x)
	} else if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if list := nestedChildren(t, c); len(list) != 0 {
		t.Errorf("%v is left in the container", list)
	}
}
