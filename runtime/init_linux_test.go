package runtime

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func init() {
	programs["signals"] = signals
	programs["adopted"] = adopted
}

// signals says which ones it gets, until SIGTERM, whose number it ends with.
func signals([]string) int {
	ch := make(chan os.Signal, 64)
	signal.Notify(ch)
	signal.Reset(syscall.SIGURG) // the Go runtime's own
	fmt.Println("ready")
	for sig := range ch {
		fmt.Println(int(sig.(syscall.Signal)))
		if sig == syscall.SIGTERM {
			return int(syscall.SIGTERM)
		}
	}
	return 0
}

// adopted waits until its parent is the process given, says so, and ends.
func adopted(args []string) int {
	if len(args) == 0 { // the one that leaves them behind
		for range 3 {
			cmd := exec.Command("/proc/self/exe", strconv.Itoa(os.Getpid()))
			cmd.Stdout = os.Stdout
			if err := cmd.Start(); err != nil {
				return exitCode(err)
			}
		}
		return 0
	}
	for strconv.Itoa(os.Getppid()) == args[0] { // no event tells when the last of its threads has ended
		time.Sleep(time.Millisecond)
	}
	fmt.Println(os.Getppid())
	return 0
}

// The init is the first process, of the keeper's code; its command sees what it
// would see without, and both have its restrictions.
func TestInit(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	for what, change := range map[string]func(*specs.Spec){
		"root": func(*specs.Spec) {},
		"user": func(s *specs.Spec) {
			s.Process.User = specs.User{UID: 1000, GID: 1001}
			s.Process.NoNewPrivileges = true
		},
		"host pid": func(s *specs.Spec) { shareNamespace(s, specs.PIDNamespace, "") },
	} {
		s := newSpec(t, root, "view")
		change(s)
		v := viewOf(t, r, s, CreateOptions{Init: true})
		checkFiles(t, v)
		if what != "host pid" && (v.Pid != 2 || strings.Join(v.Pids, " ") != "1 2") || v.Sid != v.Pid {
			t.Errorf("%s: pid %d, session %d, of %v", what, v.Pid, v.Sid, v.Pids)
		}
		without := newSpec(t, root, "view")
		change(without)
		w := viewOf(t, r, without, CreateOptions{})
		for _, key := range []string{"Uid", "Gid", "Groups", "Umask", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "SigBlk", "SigIgn"} {
			if v.Status[key] != w.Status[key] {
				t.Errorf("%s: %s %s, without init %s", what, key, v.Status[key], w.Status[key])
			}
		}
		s.Process = newProgramProcess(s, "idle")
		c := start(t, r, s, CreateOptions{Init: true})
		for _, key := range []string{"Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp"} {
			if got := strings.Join(strings.Fields(statusField(t, c.Pid(), key)), " "); got != w.Status[key] {
				t.Errorf("%s: %s of the init %s, of the command %s", what, key, got, w.Status[key])
			}
		}
		if name := statusField(t, c.Pid(), "Name"); name != "inboard-init" {
			t.Errorf("%s: the init is %q", what, name)
		}
		if fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.Pid())); err != nil || len(fds) > 0 {
			t.Errorf("%s: the init has %v, %v", what, fds, err)
		}
		if maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", c.Pid())); err != nil || strings.Contains(string(maps), "inboard-program") {
			t.Errorf("%s: the init has mapped %s, %v", what, maps, err)
		}
		x, err := c.Exec(background, newProgramProcess(s, "idle"), ProcessOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Delete(background); err != nil {
			t.Fatal(err)
		}
		if st := wait(t, x); st.Signal != unix.SIGKILL {
			t.Errorf("%s: exec'd process: %v", what, st)
		}
	}
}

func TestInitSignals(t *testing.T) {
	r := openTest(t)
	out := newLines()
	c := start(t, r, newSpec(t, newRootfs(t), "signals"), CreateOptions{Init: true, ProcessOptions: ProcessOptions{Stdout: out}})
	out.want(t, "ready")
	for _, sig := range []syscall.Signal{unix.SIGHUP, unix.SIGUSR1, unix.SIGWINCH, 40, 64, unix.SIGTSTP, unix.SIGTERM} {
		if err := c.Signal(background, sig); err != nil {
			t.Fatal(sig, err)
		}
		out.want(t, strconv.Itoa(int(sig)))
	}
	if st := wait(t, c); st != (Status{Code: int(unix.SIGTERM), Known: true}) {
		t.Error(st)
	}
}

// How the command ends is how its init ends.
func TestInitStatus(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	for _, test := range []struct {
		args []string
		want Status
	}{
		{[]string{"/bin/true"}, Status{Known: true}},
		{[]string{"/bin/false"}, Status{Code: 1, Known: true}},
	} {
		if st := wait(t, start(t, r, fileSpec(t, root, test.args...), CreateOptions{Init: true})); st != test.want {
			t.Errorf("%v: %v", test.args, st)
		}
	}
	for _, sig := range []syscall.Signal{unix.SIGTERM, unix.SIGABRT} { // neither handled nor held off by being pid 1
		c := start(t, r, fileSpec(t, root, "/bin/sleep"), CreateOptions{Init: true})
		if err := c.Signal(background, sig); err != nil {
			t.Fatal(err)
		}
		if st := wait(t, c); st != (Status{Code: 128 + int(sig), Known: true}) {
			t.Errorf("%v: %v", sig, st)
		}
	}
	c := start(t, r, fileSpec(t, root, "/bin/sleep"), CreateOptions{Init: true})
	c.Signal(background, unix.SIGKILL)
	if st := wait(t, c); st != (Status{Code: 137, Signal: unix.SIGKILL, Known: true}) {
		t.Error(st)
	}
	var command *CommandError
	for path, code := range map[string]int{"/no/such": 127, "/etc/passwd": 126} {
		if _, err := r.Start(background, fileSpec(t, root, path), CreateOptions{Init: true}); !errors.As(err, &command) || command.Code != code {
			t.Errorf("%s: %v", path, err)
		}
	}
	created, err := r.Create(background, fileSpec(t, root, "/bin/false"), CreateOptions{Init: true})
	if err != nil {
		t.Fatal(err)
	}
	defer created.Delete(background)
	if err := created.Start(background); err != nil {
		t.Fatal(err)
	}
	if st := wait(t, created); st != (Status{Code: 1, Known: true}) {
		t.Error(st)
	}
}

// Processes without a parent become the init's, which leaves no zombies.
func TestInitReaps(t *testing.T) {
	r := openTest(t)
	c := idleUnderInit(t, r)
	for range 2 {
		var out bytes.Buffer
		x, err := c.Exec(background, newProgramProcess(newSpec(t, "/", ""), "adopted"), ProcessOptions{Stdout: &out})
		if err != nil {
			t.Fatal(err)
		}
		if st := wait(t, x); st != (Status{Known: true}) || out.String() != "1\n1\n1\n" { // at the end of their output
			t.Errorf("%v, parents %q", st, out.String())
		}
	}
	// A signal that the init hands on comes after those of its children's ends.
	view := parseView(t, execOutput(t, c, newProgramProcess(newSpec(t, "/", ""), "view"), ProcessOptions{}))
	for end := 0; len(view.Pids) > 3 && end < 1000; end++ {
		view = parseView(t, execOutput(t, c, newProgramProcess(newSpec(t, "/", ""), "view"), ProcessOptions{}))
	}
	if len(view.Pids) != 3 {
		t.Errorf("processes %v", view.Pids)
	}
}

func idleUnderInit(t *testing.T, r *Runtime) *Container {
	t.Helper()
	return start(t, r, newSpec(t, newRootfs(t), "idle"), CreateOptions{Init: true})
}
