package runtime

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func init() {
	programs["family"] = family
	programs["shm"] = shm
	programs["host-outside"] = hostOutside
}

// family leaves a process that has lost its parent and made itself a session,
// says "ready", and ends with the code in its argument, or not.
func family(args []string) int {
	cmd := exec.Command("/proc/self/exe", "child")
	cmd.Stdout = os.Stdout // held open
	cmd.Env = append(os.Environ(), programEnv+"=idle")
	if len(args) == 0 || args[0] != "child" {
		cmd.Env = append(os.Environ(), programEnv+"=family")
		if err := cmd.Run(); err != nil {
			return exitCode(err)
		}
		fmt.Println("ready")
		if len(args) > 0 {
			code, _ := strconv.Atoi(args[0])
			return code
		}
		unix.Pause()
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return exitCode(cmd.Start())
}

// shm writes a file to /dev/shm, or prints what is there.
func shm(args []string) int {
	if len(args) > 0 {
		return exitCode(os.WriteFile("/dev/shm/file", []byte(args[0]), 0o644))
	}
	data, err := os.ReadFile("/dev/shm/file")
	fmt.Print(string(data))
	return exitCode(err)
}

// shareNamespace changes a spec to a namespace given by path, or without one to
// the host's.
func shareNamespace(s *specs.Spec, kind specs.LinuxNamespaceType, path string) {
	s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
	if path != "" {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: path})
	}
	if kind == specs.UTSNamespace {
		s.Hostname = ""
	}
}

// kindNames are the namespaces that can be shared, as /proc names them.
var kindNames = map[specs.LinuxNamespaceType]string{
	specs.PIDNamespace: "pid", specs.NetworkNamespace: "net", specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts", specs.CgroupNamespace: "cgroup",
}

// viewOf runs the program that looks around in a container.
func viewOf(t *testing.T, r *Runtime, s *specs.Spec, o CreateOptions) *view {
	t.Helper()
	return parseView(t, output(t, r, s, o))
}

// A container joins each kind of namespace of another one, alone and all
// together, and has the rest to itself; an exec'd process is where it is.
func TestJoinNamespaces(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	other := idle(t, r, func(s *specs.Spec) { s.Hostname = "other" })
	pid := other.Pid()
	all := []specs.LinuxNamespaceType{specs.PIDNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace}
	for _, kinds := range append([][]specs.LinuxNamespaceType{all}, slices.Collect(slices.Chunk(all, 1))...) {
		s := newSpec(t, root, "view")
		var joined []string
		for _, kind := range kinds {
			joined = append(joined, kindNames[kind])
			shareNamespace(s, kind, fmt.Sprintf("/proc/%d/ns/%s", pid, kindNames[kind]))
		}
		v := viewOf(t, r, s, CreateOptions{})
		checkFiles(t, v)
		checkJoined(t, v, pid, joined)
		if v.Status["Seccomp"] != "2" || v.Status["CapInh"] != "0000000000000000" || v.Status["SigBlk"] != "0000000000000000" || v.Sid == 0 {
			t.Errorf("%v: %v, session %d", joined, v.Status, v.Sid)
		}
		if want := map[bool]string{true: "other", false: "inside"}[slices.Contains(joined, "uts")]; v.Hostname != want {
			t.Errorf("%v: hostname %q", joined, v.Hostname)
		}
		if in := slices.Contains(joined, "pid"); (v.Pid == 1) == in || slices.Contains(v.Pids, "1") == false {
			t.Errorf("%v: pid %d among %v", joined, v.Pid, v.Pids)
		}
		// The same from an exec.
		s.Process = newProgramProcess(s, "idle")
		c := start(t, r, s, CreateOptions{})
		v = parseView(t, execOutput(t, c, newProgramProcess(s, "view"), ProcessOptions{}))
		checkJoined(t, v, pid, joined)
		if err := c.Delete(background); err != nil {
			t.Fatal(err)
		}
		if st := wait(t, c); st.Signal != unix.SIGKILL {
			t.Errorf("%v: %v", joined, st)
		}
	}
	if other.Pid() != pid {
		t.Error("the other one has ended")
	}
}

// checkJoined compares a view's namespaces with those of a process, and of this one.
func checkJoined(t *testing.T, v *view, pid int, joined []string) {
	t.Helper()
	for _, kind := range []string{"mnt", "pid", "net", "ipc", "uts", "cgroup"} {
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		if err != nil {
			t.Fatal(err)
		}
		host, _ := os.Readlink("/proc/self/ns/" + kind)
		if same := v.Namespaces[kind] == theirs; same != slices.Contains(joined, kind) || v.Namespaces[kind] == host {
			t.Errorf("joined %v: %s namespace %s, theirs %s, the host's %s", joined, kind, v.Namespaces[kind], theirs, host)
		}
	}
}

// A kernel that mounts no procfs of another pid namespace has one made inside.
func TestJoinPidBefore617(t *testing.T) {
	r := openTest(t)
	other := idle(t, r, nil)
	before := procOf
	procOf = func(int, int, []string) (*os.File, error) { return nil, unix.EINVAL }
	defer func() { procOf = before }()
	s := newSpec(t, newRootfs(t), "view")
	shareNamespace(s, specs.PIDNamespace, fmt.Sprintf("/proc/%d/ns/pid", other.Pid()))
	v := viewOf(t, r, s, CreateOptions{})
	if !slices.Contains(v.Pids, "1") || v.Pid == 1 || len(v.Pids) != 2 {
		t.Errorf("pid %d among %v", v.Pid, v.Pids)
	}
}

// What joins a pid namespace ends with it, and tells why its command does not run.
func TestJoinedPidEnds(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	other := idle(t, r, nil)
	join := func(program string) *specs.Spec {
		s := newSpec(t, root, program)
		shareNamespace(s, specs.PIDNamespace, fmt.Sprintf("/proc/%d/ns/pid", other.Pid()))
		return s
	}
	s := join("")
	s.Process.Args = []string{"/no/such"}
	var command *CommandError
	if _, err := r.Start(background, s, CreateOptions{}); !errors.As(err, &command) || command.Code != 127 {
		t.Error("no such command:", err)
	}
	s = join("")
	s.Process.Args = []string{"/bin/false"}
	c, err := r.Create(background, s, CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Delete(background)
	created := c.Pid()
	if err := c.Start(background); err != nil {
		t.Fatal(err)
	}
	if st := wait(t, c); st != (Status{Code: 1, Known: true}) || created == 0 {
		t.Error(st, created)
	}
	gone, err := r.Create(background, join("idle"), CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer gone.Delete(background)
	c = start(t, r, join("idle"), CreateOptions{})
	if err := other.Delete(background); err != nil {
		t.Fatal(err)
	}
	if st := wait(t, c); st.Signal != unix.SIGKILL || !st.Known {
		t.Error(st)
	}
	if err := gone.Start(background); err == nil {
		t.Error("started in a pid namespace that has ended")
	}
}

func TestJoinErrors(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	other := idle(t, r, nil)
	ns := func(name string) string { return fmt.Sprintf("/proc/%d/ns/%s", other.Pid(), name) }
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	for what, test := range map[string]struct {
		change func(*specs.Spec)
		want   string
		kind   func(error) bool
	}{
		"gone":  {func(s *specs.Spec) { shareNamespace(s, "network", fmt.Sprintf("/proc/%d/ns/net", ended.Process.Pid)) }, "no such file", errdefs.IsInvalidArgument},
		"kind":  {func(s *specs.Spec) { shareNamespace(s, "network", ns("uts")) }, "network namespace", errdefs.IsInvalidArgument},
		"file":  {func(s *specs.Spec) { shareNamespace(s, "ipc", "/etc/passwd") }, "is none", errdefs.IsInvalidArgument},
		"fifo":  {func(s *specs.Spec) { shareNamespace(s, "ipc", fifo) }, "is none", errdefs.IsInvalidArgument},
		"mount": {func(s *specs.Spec) { shareNamespace(s, "mount", ns("mnt")) }, "mount namespace", errdefs.IsNotImplemented},
		"two": {func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "uts", Path: ns("uts")})
		}, "two uts", errdefs.IsInvalidArgument},
		"host": {func(s *specs.Spec) { shareNamespace(s, "uts", ns("uts")); s.Hostname = "mine" }, "domain name", errdefs.IsInvalidArgument},
		"sysctl": {func(s *specs.Spec) {
			shareNamespace(s, "ipc", ns("ipc"))
			s.Linux.Sysctl = map[string]string{"kernel.shmmax": "1"}
		}, "kernel.shmmax", errdefs.IsInvalidArgument},
		"network": {func(s *specs.Spec) {
			shareNamespace(s, "network", "")
			s.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
		}, "net.ipv4", errdefs.IsInvalidArgument},
	} {
		s := newSpec(t, root, "view")
		test.change(s)
		c, err := r.Start(background, s, CreateOptions{})
		if err == nil {
			c.Delete(background)
		}
		if err == nil || !strings.Contains(err.Error(), test.want) || !test.kind(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	s := newSpec(t, root, "view")
	shareNamespace(s, "pid", ns("pid"))
	if _, err := r.Start(background, s, CreateOptions{Init: true}); !errdefs.IsInvalidArgument(err) {
		t.Error("init in a joined pid namespace:", err)
	}
}

// OpenNamespace gives what the process of a pidfd has, by either way, and
// nothing of one that has ended.
func TestOpenNamespace(t *testing.T) {
	r := openTest(t)
	c := idle(t, r, nil)
	pidfd, err := c.process.pidfdCopy()
	if err != nil {
		t.Fatal(err)
	}
	defer pidfd.Close()
	before := namespaceFiles
	defer func() { namespaceFiles = before }()
	for _, way := range []string{"ioctl", "procfs"} {
		for kind, name := range kindNames {
			f, err := OpenNamespace(pidfd, kind)
			if err != nil {
				t.Fatalf("%s, %s: %v", way, kind, err)
			}
			got, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
			want, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", c.Pid(), name))
			if got != want {
				t.Errorf("%s, %s: %s, want %s", way, kind, got, want)
			}
			if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("%s, %s: not close-on-exec: %v", way, kind, err)
			}
			f.Close()
		}
		namespaceFiles = withoutIoctls(before)
	}
	c.Delete(background)
	for _, files := range []map[specs.LinuxNamespaceType]namespaceFile{before, withoutIoctls(before)} {
		namespaceFiles = files
		if f, err := OpenNamespace(pidfd, specs.IPCNamespace); !errdefs.IsFailedPrecondition(err) {
			t.Error("of one that has ended:", f, err)
		}
	}
}

// withoutIoctls has OpenNamespace do as on an older kernel.
func withoutIoctls(files map[specs.LinuxNamespaceType]namespaceFile) map[specs.LinuxNamespaceType]namespaceFile {
	older := map[specs.LinuxNamespaceType]namespaceFile{}
	for kind, f := range files {
		older[kind] = namespaceFile{0xffff, f.name}
	}
	return older
}

// With the IPC namespace comes /dev/shm.
func TestShm(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	other := idle(t, r, nil)
	execOutput(t, other, newProgramProcess(newSpec(t, "/", ""), "shm", "theirs"), ProcessOptions{})
	pidfd, err := other.process.pidfdCopy()
	if err != nil {
		t.Fatal(err)
	}
	defer pidfd.Close()
	m, err := OpenShm(pidfd)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	s := newSpec(t, root, "shm")
	shareNamespace(s, specs.IPCNamespace, fmt.Sprintf("/proc/%d/ns/ipc", other.Pid()))
	if got := output(t, r, s, CreateOptions{Shm: m}); got != "theirs" {
		t.Errorf("%q", got)
	}
	host, _ := os.Readlink("/proc/self/ns/mnt")
	if now, _ := os.Readlink("/proc/thread-self/ns/mnt"); now != host {
		t.Error("a thread stayed in the other's mount namespace")
	}
	other.Delete(background)
	if _, err := OpenShm(pidfd); !errdefs.IsFailedPrecondition(err) {
		t.Error("of one that has ended:", err)
	}
}

// A container in the host's pid namespace sees the host's processes, and ends
// whole when its first process does.
func TestHostPid(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	idle(t, r, nil)
	if len(r.outer.list) > 0 {
		t.Error("a keeper outside that nobody needs")
	}
	s := newSpec(t, root, "view")
	shareNamespace(s, specs.PIDNamespace, "")
	v := viewOf(t, r, s, CreateOptions{})
	checkFiles(t, v)
	if host, _ := os.Readlink("/proc/self/ns/pid"); v.Namespaces["pid"] != host || !slices.Contains(v.Pids, strconv.Itoa(os.Getpid())) || v.Sid != v.Pid {
		t.Errorf("%v, pid %d, session %d, %v", v.Namespaces, v.Pid, v.Sid, v.Pids)
	}
	for _, code := range []int{0, 3} {
		s.Process = newProgramProcess(s, "family", strconv.Itoa(code))
		var out bytes.Buffer
		c := start(t, r, s, CreateOptions{ProcessOptions: ProcessOptions{Stdout: &out}}) // which the orphan holds open
		if st := wait(t, c); st != (Status{Code: code, Known: true}) || out.String() != "ready\n" {
			t.Errorf("%v, %q", st, out.String())
		}
		if pids, err := c.cgroup.Pids(); err != nil || len(pids) > 0 {
			t.Error("left:", pids, err)
		}
		c.Delete(background)
	}
	s.Process = newProgramProcess(s, "idle")
	c := start(t, r, s, CreateOptions{})
	x, err := c.Exec(background, newProgramProcess(s, "idle"), ProcessOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if ppid := statusField(t, x.Pid(), "PPid"); ppid != strconv.Itoa(r.outer.list[0].pid) || x.Pid() == 0 {
		t.Errorf("parent %s of the exec'd process, not the keeper %d", ppid, r.outer.list[0].pid)
	}
	if err := c.Delete(background); err != nil {
		t.Fatal(err)
	}
	if st := wait(t, x); st.Signal != unix.SIGKILL {
		t.Error(st)
	}
}

func statusField(t *testing.T, pid int, key string) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// outsideSpecs are containers in the host's pid namespace whose processes have
// done all that clears a parent death signal.
func outsideSpecs(root string) []*specs.Spec {
	spec := func(path, program string) *specs.Spec {
		s := DefaultSpec()
		shareNamespace(s, specs.PIDNamespace, "")
		s.Root.Path = root
		s.Process.Args, s.Process.Env = []string{path}, []string{programEnv + "=" + program}
		s.Linux.Seccomp, _ = DefaultSeccomp(DefaultCapabilities())
		return s
	}
	list := []*specs.Spec{spec("/test", "ready"), spec("/test", "change-user"), spec("/test", "family"), spec("/setuid", "ready"), spec("/filecap", "ready")}
	for _, s := range list[3:] {
		s.Process.User = specs.User{UID: 1000, GID: 1001}
	}
	return list
}

// outsideRootfs has a set-uid program, and one with a file capability.
func outsideRootfs(t *testing.T) string {
	root := newRootfs(t)
	for name, mode := range map[string]uint32{"setuid": 0o4755, "filecap": 0o755} {
		if err := copyFile("/proc/self/exe", filepath.Join(root, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Chmod(filepath.Join(root, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	// struct vfs_cap_data, revision 2 with the effective bit: CAP_NET_RAW.
	capability := binary.LittleEndian.AppendUint64([]byte{1, 0, 0, 2}, 1<<unix.CAP_NET_RAW)
	capability = append(capability, make([]byte, 8)...)
	if err := unix.Setxattr(filepath.Join(root, "filecap"), "security.capability", capability, 0); err != nil {
		t.Skip("needs file capabilities in the directory of temporary files:", err)
	}
	return root
}

// startOutside starts them, and an exec in each.
func startOutside(r *Runtime, root string) (list []*Container, err error) {
	out := newLines()
	o := CreateOptions{ProcessOptions: ProcessOptions{Stdout: out, Stderr: os.Stderr}}
	for i, s := range outsideSpecs(root) {
		c, err := r.Start(background, s, o)
		if err != nil {
			return nil, err
		}
		list = append(list, c)
		if line, err := out.from.ReadString('\n'); line != "ready\n" {
			return nil, fmt.Errorf("container %d said %q: %v", i, line, err)
		}
		if _, err := c.Exec(background, s.Process, o.ProcessOptions); err != nil {
			return nil, err
		}
		if line, err := out.from.ReadString('\n'); line != "ready\n" {
			return nil, fmt.Errorf("exec %d said %q: %v", i, line, err)
		}
	}
	return list, nil
}

func hostOutside(args []string) int {
	r, err := openAsHost(args[0])
	if err != nil {
		return exitCode(err)
	}
	list, err := startOutside(r, args[1])
	if err != nil {
		return exitCode(err)
	}
	for _, c := range list {
		pids, err := c.cgroup.Pids()
		if err != nil {
			return exitCode(err)
		}
		fmt.Println(strings.Trim(fmt.Sprint(pids), "[]"))
	}
	fmt.Println(r.outer.list[0].pid)
	unix.Pause()
	return 0
}

// kill -9 of the host program ends what no pid namespace ends, whatever it has
// become, processes without a parent too; and the next Open removes the cgroups.
func TestKillHostOutside(t *testing.T) {
	needRoot(t)
	dir, root := t.TempDir(), outsideRootfs(t)
	host := hostProgram(t, "host-outside", dir, root)
	stdout, err := host.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	from := bufio.NewScanner(stdout)
	var processes []*os.File
	for i := range 6 {
		if !from.Scan() {
			t.Fatal("the host program ended: ", host.Wait())
		}
		fields := strings.Fields(from.Text())
		if want := []int{2, 2, 4, 2, 2, 1}[i]; len(fields) != want {
			t.Errorf("container %d: processes %v, want %d", i, fields, want)
		}
		processes = append(processes, openAll(t, fields)...)
	}
	host.Process.Kill()
	host.Wait()
	awaitAll(t, processes)
	r, err := Open(Options{Dir: dir, CgroupParent: testParent})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if locks, _ := filepath.Glob(filepath.Join(dir, "*"+lockSuffix)); len(locks) != 1 {
		t.Error("lock files:", locks)
	}
}

func openAll(t *testing.T, pids []string) (list []*os.File) {
	t.Helper()
	for _, f := range pids {
		pid, _ := strconv.Atoi(f)
		fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
		if err != nil {
			t.Fatal(f, err)
		}
		p := os.NewFile(uintptr(fd), "process "+f)
		t.Cleanup(func() { p.Close() })
		list = append(list, p)
	}
	return list
}

func awaitAll(t *testing.T, processes []*os.File) {
	t.Helper()
	for _, p := range processes {
		if err := waitReadable(t.Context(), p); err != nil {
			t.Errorf("%s: %v", p.Name(), err)
		}
	}
}

// When the keeper outside is killed, its containers end; others do not, and the
// next container has a new keeper.
func TestKillKeeperOutside(t *testing.T) {
	r := openTest(t)
	inside := idle(t, r, nil)
	list, err := startOutside(r, outsideRootfs(t))
	if err != nil {
		t.Fatal(err)
	}
	var processes []*os.File
	for _, c := range list {
		pids, err := c.cgroup.Pids()
		if err != nil {
			t.Fatal(err)
		}
		processes = append(processes, openAll(t, strings.Fields(strings.Trim(fmt.Sprint(pids), "[]")))...)
	}
	unix.Kill(r.outer.list[0].pid, unix.SIGKILL)
	awaitAll(t, processes)
	for _, c := range list {
		if st, err := c.Wait(background); err != nil || st.Known {
			t.Error(st, err)
		}
		if err := c.Delete(background); err != nil {
			t.Error(err)
		}
	}
	if inside.Pid() == 0 {
		t.Error("a container with a pid namespace of its own has ended too")
	}
	s := fileSpec(t, newRootfs(t), "/bin/false")
	shareNamespace(s, specs.PIDNamespace, "")
	if st := wait(t, start(t, r, s, CreateOptions{})); st != (Status{Code: 1, Known: true}) {
		t.Error(st)
	}
}

// Close ends what is outside, and returns when it is gone.
func TestCloseOutside(t *testing.T) {
	needRoot(t)
	r, err := Open(Options{Dir: t.TempDir(), CgroupParent: testParent})
	if err != nil {
		t.Fatal(err)
	}
	s := newSpec(t, newRootfs(t), "idle")
	shareNamespace(s, specs.PIDNamespace, "")
	c, err := r.Start(background, s, CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pid := c.Pid()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, 0); err != unix.ESRCH {
		t.Error("after Close:", err)
	}
	if st, err := c.Wait(background); err != nil || st.Signal != unix.SIGKILL {
		t.Error(st, err)
	}
}
