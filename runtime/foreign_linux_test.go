package runtime

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// asForeign is a container as another Runtime gets to know it.
func asForeign(t *testing.T, c *Container, s *specs.Spec) Foreign {
	t.Helper()
	pidfd, err := c.process.pidfdCopy()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pidfd.Close() })
	return Foreign{Process: pidfd, CgroupPath: c.CgroupPath(), Spec: s}
}

// A process that another Runtime starts in a container is as one that its own
// Runtime starts there.
func TestExecIn(t *testing.T) {
	theirs, ours := openTest(t), openTest(t)
	root := newRootfs(t)
	for what, change := range map[string]func(*specs.Spec){
		"own": func(*specs.Spec) {},
		"host": func(s *specs.Spec) {
			shareNamespace(s, specs.PIDNamespace, "")
			shareNamespace(s, specs.NetworkNamespace, "")
		},
		"user": func(s *specs.Spec) { s.Process.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{1002}} },
		"v2":   func(s *specs.Spec) { s.Linux.Resources.Unified = map[string]string{} },
	} {
		s := newSpec(t, root, "idle")
		change(s)
		c := start(t, theirs, s, CreateOptions{})
		p := newProgramProcess(s, "view")
		p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}}
		want := parseView(t, execOutput(t, c, p, ProcessOptions{}))
		out := newLines()
		x, err := ours.ExecIn(background, asForeign(t, c, s), p, ProcessOptions{Stdout: out})
		if err != nil {
			t.Fatal(what, err)
		}
		got := parseView(t, out.next(t))
		if st := wait(t, x); st != (Status{Known: true}) {
			t.Error(what, st)
		}
		checkFiles(t, got)
		if strings.Join(got.Cgroups, " ") != strings.Join(want.Cgroups, " ") || got.Rlimits["RLIMIT_NOFILE"] != want.Rlimits["RLIMIT_NOFILE"] || got.Rlimits["RLIMIT_NOFILE"][1] != 200 || got.Sid != got.Pid {
			t.Errorf("%s: cgroups %v, want %v; session %d of %d", what, got.Cgroups, want.Cgroups, got.Sid, got.Pid)
		}
		for kind, ns := range want.Namespaces {
			if got.Namespaces[kind] != ns {
				t.Errorf("%s: %s namespace %s, want %s", what, kind, got.Namespaces[kind], ns)
			}
		}
		for _, key := range []string{"Uid", "Gid", "Groups", "Umask", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "SigBlk", "SigIgn", "NSpid"} {
			if a, b := got.Status[key], want.Status[key]; a != b && key != "NSpid" || len(strings.Fields(a)) != len(strings.Fields(b)) {
				t.Errorf("%s: %s %s, want %s", what, key, a, b)
			}
		}
		var command *CommandError
		p.Args = []string{"/no/such"}
		if _, err := ours.ExecIn(background, asForeign(t, c, s), p, ProcessOptions{}); !errors.As(err, &command) || command.Code != 127 {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// It ends with the container, and with the Runtime that has started it.
func TestExecInEnds(t *testing.T) {
	theirs := openTest(t)
	root := newRootfs(t)
	for _, kind := range []specs.LinuxNamespaceType{specs.CgroupNamespace, specs.PIDNamespace} { // shared with the host
		ours := openTest(t)
		s := newSpec(t, root, "idle")
		shareNamespace(s, kind, "")
		c := start(t, theirs, s, CreateOptions{})
		foreign := asForeign(t, c, s)
		x, err := ours.ExecIn(background, foreign, s.Process, ProcessOptions{})
		if err != nil {
			t.Fatal(err)
		}
		c.Signal(background, unix.SIGKILL)
		if st := wait(t, x); st.Signal != unix.SIGKILL {
			t.Errorf("host's %s: with the container: %v", kind, st)
		}
		wait(t, c)
		if _, err := ours.ExecIn(background, foreign, s.Process, ProcessOptions{}); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("host's %s: after the end: %v", kind, err)
		}
		c = start(t, theirs, s, CreateOptions{})
		x, err = ours.ExecIn(background, asForeign(t, c, s), s.Process, ProcessOptions{})
		if err != nil {
			t.Fatal(err)
		}
		pid := x.Pid()
		if err := ours.Close(); err != nil {
			t.Fatal(err)
		}
		if st := wait(t, x); st.Known && st.Signal != unix.SIGKILL {
			t.Errorf("host's %s: with its runtime: %v", kind, st)
		}
		if _, err := os.Stat("/proc/" + strconv.Itoa(pid)); err == nil || pid == 0 {
			t.Errorf("host's %s: process %d is there after Close", kind, pid)
		}
		if c.Pid() == 0 {
			t.Errorf("host's %s: the container has ended too", kind)
		}
		if _, err := ours.ExecIn(background, asForeign(t, c, s), s.Process, ProcessOptions{}); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("host's %s: after Close: %v", kind, err)
		}
	}
}

// Execs that meet the end of another's container fail, or are killed, and leave
// nothing.
func TestExecInWhileDeleted(t *testing.T) {
	theirs, ours := openTest(t), openTest(t)
	s := newSpec(t, newRootfs(t), "idle")
	for range few(20) {
		c := start(t, theirs, s, CreateOptions{})
		foreign := asForeign(t, c, s)
		var group sync.WaitGroup
		for range 3 {
			group.Go(func() {
				x, err := ours.ExecIn(background, foreign, s.Process, ProcessOptions{})
				if err == nil {
					if st, err := x.Wait(background); err != nil || st.Signal != unix.SIGKILL {
						t.Error(st, err)
					}
				} else if !errdefs.IsFailedPrecondition(err) {
					t.Error(err)
				}
			})
		}
		group.Go(func() { c.Delete(background) })
		group.Wait()
	}
}

// Pids of exec'd processes are the same from the kernel's translation and from a
// look at all children.
func TestHostPids(t *testing.T) {
	r := openTest(t)
	c := idle(t, r, nil)
	before := pidThrough
	defer func() { pidThrough = before }()
	for range 3 {
		x, err := c.Exec(background, newProgramProcess(newSpec(t, "/", ""), "idle"), ProcessOptions{})
		if err != nil {
			t.Fatal(err)
		}
		a, err := r.nested.list[0].hostPid(x.child.pid)
		if err != nil {
			t.Fatal(err)
		}
		pidThrough = func(*os.File, int) (int, error) { return 0, unix.ENOTTY }
		b, err := r.nested.list[0].hostPid(x.child.pid)
		pidThrough = before
		if a != b || err != nil || a != x.Pid() {
			t.Error(a, b, x.Pid(), err)
		}
	}
	if pid, err := r.nested.list[0].hostPid(1 << 20); !errdefs.IsNotFound(err) {
		t.Error(pid, err)
	}
}
