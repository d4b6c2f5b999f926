package runtime

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func init() {
	programs["host-kill"] = hostKill
	programs["change-user"] = changeUser
	programs["ready"] = func([]string) int { fmt.Println("ready"); unix.Pause(); return 0 }
	programs["host-scenario"] = hostScenario
	programs["host-wait4"] = hostWait4
}

// changeUser does what clears a parent death signal: it becomes somebody else.
func changeUser([]string) int {
	goruntime.LockOSThread()
	if err := errors.Join(syscall.Setgid(1001), syscall.Setuid(1000)); err != nil {
		return exitCode(err)
	}
	fmt.Println("ready")
	unix.Pause()
	return 0
}

// hostKill starts containers and execs, prints their pids, and waits to be killed.
func hostKill(args []string) int {
	r, err := openAsHost(args[0])
	if err != nil {
		return exitCode(err)
	}
	spec := func(path, program string) *specs.Spec {
		s := DefaultSpec()
		s.Root.Path = args[1]
		s.Process.Args, s.Process.Env = []string{path}, []string{programEnv + "=" + program}
		s.Linux.Seccomp, _ = DefaultSeccomp(DefaultCapabilities())
		return s
	}
	out := newLines()
	o := CreateOptions{ProcessOptions: ProcessOptions{Stdout: out, Stderr: os.Stderr}}
	list := []*specs.Spec{spec("/test", "ready"), spec("/test", "change-user"), spec("/setuid", "ready"), spec("/filecap", "ready")}
	for _, s := range list[2:] {
		s.Process.User = specs.User{UID: 1000, GID: 1001}
	}
	list[1].Linux.CgroupsPath = "/" + os.Getenv("INBOARD_TEST_PARENT") + "-named"
	for i, s := range list {
		c, err := r.Start(background, s, o)
		if err != nil {
			return exitCode(err)
		}
		if line, err := out.from.ReadString('\n'); line != "ready\n" {
			return exitCode(fmt.Errorf("container %d said %q: %v", i, line, err))
		}
		x, err := c.Exec(background, s.Process, o.ProcessOptions)
		if err != nil {
			return exitCode(err)
		}
		if line, err := out.from.ReadString('\n'); line != "ready\n" {
			return exitCode(fmt.Errorf("exec %d said %q: %v", i, line, err))
		}
		fmt.Println(c.Pid(), x.Pid())
	}
	c, err := r.Create(background, list[0], o)
	if err != nil {
		return exitCode(err)
	}
	fmt.Println(c.Pid(), r.nested.list[0].pid)
	unix.Pause()
	return 0
}

// kill -9 of the host program ends its containers, whatever they have become,
// and the next Open removes their cgroups.
func TestKillHost(t *testing.T) {
	needRoot(t)
	root := newRootfs(t)
	for name, mode := range map[string]os.FileMode{"setuid": 0o4755, "filecap": 0o755} {
		if err := copyFile("/proc/self/exe", filepath.Join(root, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Chmod(filepath.Join(root, name), uint32(mode)); err != nil {
			t.Fatal(err)
		}
	}
	// struct vfs_cap_data, revision 2 with the effective bit: CAP_NET_RAW.
	capability := binary.LittleEndian.AppendUint64([]byte{1, 0, 0, 2}, 1<<unix.CAP_NET_RAW)
	capability = append(capability, make([]byte, 8)...)
	if err := unix.Setxattr(filepath.Join(root, "filecap"), "security.capability", capability, 0); err != nil {
		t.Skip("needs file capabilities in the directory of temporary files:", err)
	}
	dir := t.TempDir()
	host := hostProgram(t, "host-kill", dir, root)
	stdout, err := host.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	from := bufio.NewScanner(stdout)
	var processes []*os.File
	for range 5 {
		if !from.Scan() {
			t.Fatal("the host program ended: ", host.Wait())
		}
		for _, f := range strings.Fields(from.Text()) {
			pid, _ := strconv.Atoi(f)
			fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
			if err != nil {
				t.Fatal(err)
			}
			p := os.NewFile(uintptr(fd), "process "+f)
			defer p.Close()
			processes = append(processes, p)
		}
	}
	host.Process.Kill()
	host.Wait()
	for _, p := range processes {
		if err := waitReadable(t.Context(), p); err != nil {
			t.Errorf("%s: %v", p.Name(), err)
		}
	}
	locks, _ := filepath.Glob(filepath.Join(dir, "*"+lockSuffix))
	if len(locks) != 1 {
		t.Fatal("lock files:", locks)
	}
	id := strings.TrimSuffix(filepath.Base(locks[0]), lockSuffix)
	named := testParent + "-named"
	if len(cgroupDirs(testParent+"/"+id)) == 0 || len(cgroupDirs(named)) == 0 {
		t.Error("no cgroup left to sweep: this test shows nothing")
	}
	// Another parent does not keep the sweep from finding what was left.
	r, err := Open(Options{Dir: dir, CgroupParent: testParent + "-other"})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if left := append(cgroupDirs(testParent+"/"+id), cgroupDirs(named)...); len(left) > 0 {
		t.Error("left after the next Open:", left)
	}
	if _, err := os.Stat(locks[0]); err == nil {
		t.Error("the lock file is still there")
	}
}

// hostScenario uses the runtime in surroundings that its first argument names,
// and prints the view of a container and of an exec'd process.
func hostScenario(args []string) int {
	surroundings := map[string]func() error{
		"plain": func() error { return nil },
		"subreaper": func() error {
			return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
		},
		"init": mountProc,
		"no-clone3": func() error {
			return deny(unix.SYS_CLONE3)
		},
		"no-memfd": func() error {
			return errors.Join(mountProc(), os.WriteFile("/proc/sys/vm/memfd_noexec", []byte("2"), 0))
		},
		"no-files": func() error { return errors.Join(unix.Close(0), unix.Close(2)) },
		"signals": func() error {
			signal.Ignore(syscall.SIGCHLD, syscall.SIGPIPE, syscall.SIGTERM)
			syscall.Umask(0o777)
			return nil
		},
	}
	err := surroundings[args[0]]()
	if err == nil {
		err = scenario(args[1], args[2])
	}
	return exitCode(err)
}

// mountProc is for a program that is pid 1.
func mountProc() error {
	return errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount("proc", "/proc", "proc", 0, ""))
}

func scenario(dir, root string) error {
	r, err := openAsHost(dir)
	if err != nil {
		return err
	}
	s := DefaultSpec()
	s.Root.Path = root
	s.Process.Cwd = "/made/by/the/runtime"
	s.Process = newProgramProcess(s, "view")
	s.Linux.Resources.Pids = &specs.LinuxPids{Limit: ptr(int64(100))}
	if s.Linux.Seccomp, err = DefaultSeccomp(DefaultCapabilities()); err != nil {
		return err
	}
	var out [2]bytes.Buffer
	c, err := r.Start(background, s, CreateOptions{ProcessOptions: ProcessOptions{Stdout: &out[0]}})
	if err != nil {
		return err
	}
	if st, err := c.Wait(background); err != nil || st != (Status{Known: true}) {
		return fmt.Errorf("view: %v, %v, %s", st, err, &out[0])
	}
	s.Process = newProgramProcess(s, "idle")
	c, err = r.Start(background, s, CreateOptions{})
	if err != nil {
		return err
	}
	cgroups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.Pid()))
	if err != nil || !strings.Contains(string(cgroups), "pids:/"+c.CgroupPath()+"\n") && !strings.Contains(string(cgroups), "0::/"+c.CgroupPath()+"\n") {
		return fmt.Errorf("not in %s but %s: %v", c.CgroupPath(), cgroups, err)
	}
	x, err := c.Exec(background, newProgramProcess(s, "view"), ProcessOptions{Stdout: &out[1]})
	if err != nil {
		return err
	}
	if st, err := x.Wait(background); err != nil || st != (Status{Known: true}) {
		return fmt.Errorf("exec: %v, %v, %s", st, err, &out[1])
	}
	if err := r.Close(); err != nil {
		return err
	}
	if pid, err := unix.Wait4(-1, nil, unix.WNOHANG|unix.WALL, nil); err != unix.ECHILD {
		return fmt.Errorf("after Close there is a child: %d, %v", pid, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		return fmt.Errorf("left: %v, %v", left, err)
	}
	var views [2]json.RawMessage
	for i := range out {
		if views[i], err = comparable(out[i].Bytes()); err != nil {
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(views)
}

// comparable leaves out of a view what differs from one container to the next.
func comparable(text []byte) ([]byte, error) {
	v := &view{}
	if err := json.Unmarshal(text, v); err != nil {
		return nil, fmt.Errorf("%w: %s", err, text)
	}
	v.Namespaces, v.Keyring, v.Files["1"] = nil, 0, ""
	v.Pids, v.Sid, v.Pid = v.Pids[:1], v.Sid-v.Pid, 0
	kept := map[string]string{}
	for _, key := range []string{"Uid", "Gid", "Groups", "Umask", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "SigBlk", "SigIgn", "SigPnd", "ShdPnd"} {
		kept[key] = v.Status[key]
	}
	v.Status = kept
	return json.Marshal(v)
}

// Whatever the host program is and does, containers come out the same.
func TestSurroundings(t *testing.T) {
	needRoot(t)
	var plain string
	for _, name := range []string{"plain", "subreaper", "init", "no-clone3", "no-memfd", "no-files", "signals"} {
		t.Run(name, func(t *testing.T) {
			if _, err := os.Stat("/proc/sys/vm/memfd_noexec"); err != nil && name == "no-memfd" {
				t.Skip("needs vm.memfd_noexec, Linux 6.3")
			}
			root := newRootfs(t)
			h := hostProgram(t, "host-scenario", name, t.TempDir(), root)
			if name == "init" || name == "no-memfd" {
				h.SysProcAttr.Cloneflags = unix.CLONE_NEWPID | unix.CLONE_NEWNS
			}
			out, err := h.Output()
			if err != nil {
				t.Fatal(err, string(out))
			}
			if plain == "" {
				plain = string(out)
			}
			if string(out) != plain {
				i := 0
				for i < min(len(out), len(plain)) && out[i] == plain[i] {
					i++
				}
				t.Errorf("…%.400s\nwant\n…%.400s", out[max(i-40, 0):], plain[max(i-40, 0):])
			}
			if mode := describe(filepath.Join(root, "made/by/the")); mode != "d 755" {
				t.Error("made directory: ", mode)
			}
		})
	}
}

// hostWait4 waits for any child all the time, and runs processes of its own and
// containers.
func hostWait4(args []string) int {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGCHLD)
	own := make(chan int, 1000)
	stop := make(chan struct{})
	go func() {
		for {
			var ws unix.WaitStatus
			pid, err := unix.Wait4(-1, &ws, 0, nil)
			if err == nil {
				own <- pid
				continue
			}
			select {
			case <-stop:
				return
			case <-ch:
			}
		}
	}()
	r, err := openAsHost(args[0])
	if err != nil {
		return exitCode(err)
	}
	n, _ := strconv.Atoi(args[2])
	s := DefaultSpec()
	s.Root.Path = args[1]
	s.Process.Args = []string{"/bin/sleep"}
	c, err := r.Start(background, s, CreateOptions{})
	if err != nil {
		return exitCode(err)
	}
	s.Process.Args = []string{"/bin/false"}
	want := Status{Code: 1, Known: true}
	seen := 0
	for range n {
		child, err := os.StartProcess(filepath.Join(args[1], "bin/true"), []string{"true"}, &os.ProcAttr{})
		if err != nil {
			return exitCode(err)
		}
		one, err := r.Start(background, s, CreateOptions{})
		if err != nil {
			return exitCode(err)
		}
		x, err := c.Exec(background, s.Process, ProcessOptions{})
		if err != nil {
			return exitCode(err)
		}
		a, err1 := one.Wait(background)
		b, err2 := x.Wait(background)
		if err := errors.Join(err1, err2); err != nil || a != want || b != want {
			return exitCode(fmt.Errorf("%v, %v, %v", a, b, err))
		}
		if err := one.Delete(background); err != nil {
			return exitCode(err)
		}
		for pid := range own {
			if pid == child.Pid {
				seen++
				break
			}
		}
	}
	close(stop)
	fmt.Println(seen)
	return exitCode(r.Close())
}

// The host program's own waits neither lose nor steal a status.
func TestHostWaits(t *testing.T) {
	n := strconv.Itoa(few(50))
	out, err := hostProgram(t, "host-wait4", t.TempDir(), newRootfs(t), n).Output()
	if err != nil || strings.TrimSpace(string(out)) != n {
		t.Errorf("%q, %v", out, err)
	}
}

// A program that is not root gets an error that says so, and leaves nothing.
func TestWithoutPrivileges(t *testing.T) {
	needRoot(t)
	root := newRootfs(t)
	if err := os.Chmod(testBase, 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(testBase, "user-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chown(dir, 1000, 1000); err != nil {
		t.Fatal(err)
	}
	h := hostProgram(t, "host-scenario", "plain", dir, root)
	h.SysProcAttr.Credential = &syscall.Credential{Uid: 1000, Gid: 1000}
	var errs bytes.Buffer
	h.Stderr = &errs
	if err := h.Run(); err == nil || !strings.Contains(errs.String(), "containers need root") {
		t.Errorf("%v: %s", err, &errs)
	}
	if left, _ := os.ReadDir(dir); len(left) > 1 { // the lock: nobody called Close
		t.Error(left)
	}
}
