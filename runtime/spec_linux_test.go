package runtime

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func parseView(t *testing.T, text string) *view {
	t.Helper()
	v := &view{}
	if err := json.Unmarshal([]byte(text), v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return v
}

// richProcess sets all that a process can be given.
func richProcess(p *specs.Process) {
	p.Env = append(p.Env, "GREETING=hello world", "EMPTY=", "HOME=/tmp")
	p.Cwd = "/made/for/this"
	p.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{7, 1002}, Umask: ptr(uint32(0o027))}
	p.NoNewPrivileges = true
	p.Rlimits = []specs.POSIXRlimit{
		{Type: "RLIMIT_NOFILE", Soft: 333, Hard: 333}, // the Go runtime raises the soft one
		{Type: "RLIMIT_CORE", Soft: 0, Hard: 4096},
		{Type: "RLIMIT_STACK", Soft: 16 << 20, Hard: ^uint64(0)},
	}
	p.Capabilities = &specs.LinuxCapabilities{
		Bounding:  []string{"CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW", "CAP_CHECKPOINT_RESTORE"},
		Permitted: []string{"CAP_CHOWN", "CAP_NET_RAW"}, Effective: []string{"CAP_NET_RAW"},
		Inheritable: []string{"CAP_NET_RAW"}, Ambient: []string{"CAP_NET_RAW"},
	}
}

// checkProcessView compares what richProcess asks for with what came of it. The
// process is not root, so its capabilities after execve are the ambient ones.
func checkProcessView(t *testing.T, v *view, p *specs.Process) {
	t.Helper()
	if !slices.Equal(v.Args, p.Args) || !slices.Equal(v.Env, p.Env) || v.Cwd != p.Cwd {
		t.Errorf("args %q, env %q, cwd %s", v.Args, v.Env, v.Cwd)
	}
	for key, want := range map[string]string{
		"Uid": "1000 1000 1000 1000", "Gid": "1001 1001 1001 1001", "Groups": "7 1002", "Umask": "0027",
		"CapInh": "0000000000002000", "CapPrm": "0000000000002000", "CapEff": "0000000000002000",
		"CapBnd": "0000010000002021", "CapAmb": "0000000000002000",
		"NoNewPrivs": "1", "Seccomp": "2", "Seccomp_filters": "1",
		"SigBlk": "0000000000000000", "SigIgn": "0000000000000000", "SigPnd": "0000000000000000", "ShdPnd": "0000000000000000",
	} {
		if v.Status[key] != want {
			t.Errorf("%s is %s, want %s", key, v.Status[key], want)
		}
	}
	for _, l := range p.Rlimits {
		if v.Rlimits[l.Type] != [2]uint64{l.Soft, l.Hard} {
			t.Errorf("%s is %v, want %d:%d", l.Type, v.Rlimits[l.Type], l.Soft, l.Hard)
		}
	}
	checkFiles(t, v)
	if v.Exe != "/test" {
		t.Errorf("executable %s", v.Exe)
	}
}

// checkFiles is the test for leaked descriptors: 0, 1 and 2 only.
func checkFiles(t *testing.T, v *view) {
	t.Helper()
	if names := slices.Sorted(maps.Keys(v.Files)); !slices.Equal(names, []string{"0", "1", "2"}) {
		t.Errorf("descriptors %v", v.Files)
	}
}

// What a container sees, and what an exec'd process in it sees, is what the
// spec says, whatever the host program does with its signals and umask.
func TestSpec(t *testing.T) {
	signal.Ignore(syscall.SIGUSR2, syscall.SIGHUP)
	defer signal.Reset(syscall.SIGUSR2, syscall.SIGHUP)
	root, other := newRootfs(t), newRootfs(t)
	defer syscall.Umask(syscall.Umask(0o077))
	r := openTest(t)
	s := newSpec(t, root, "view", "one", "", "two words")
	s.Domainname = "example.org"
	s.Linux.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "80", "kernel.shm_rmid_forced": "1"}
	s.Process.OOMScoreAdj = ptr(333)
	richProcess(s.Process)
	v := parseView(t, output(t, r, s, CreateOptions{}))
	checkProcessView(t, v, s.Process)
	if v.Hostname != "inside" || v.Domainname != "example.org" || !v.Loopback || v.OOMScore != "333" {
		t.Errorf("hostname %q, domain %q, lo up %v, oom score %s", v.Hostname, v.Domainname, v.Loopback, v.OOMScore)
	}
	if want := []string{"bin", "dev", "etc", "made", "proc", "sys", "test", "tmp"}; !slices.Equal(slices.DeleteFunc(v.Root, isLibrary), want) {
		t.Errorf("root directory %v, want %v", v.Root, want)
	}
	for ns, id := range v.Namespaces {
		host, _ := os.Readlink("/proc/self/ns/" + ns)
		if shared := id == host; shared != (ns == "user") || id == "" {
			t.Errorf("%s namespace %s, the host's is %s", ns, id, host)
		}
	}
	if v.ShmSize != 64<<20 {
		t.Errorf("/dev/shm of %d bytes", v.ShmSize)
	}
	for _, line := range v.Cgroups {
		if !strings.HasSuffix(line, ":/") && !strings.Contains(line, "name=systemd") {
			t.Errorf("cgroup %s", line)
		}
	}

	c := idle(t, r, func(s *specs.Spec) { s.Root.Path, s.Process.OOMScoreAdj = other, ptr(333) })
	plain := newProgramProcess(newSpec(t, root, "view"), "view")
	first := parseView(t, execOutput(t, c, plain, ProcessOptions{}))
	p := newProgramProcess(s, "view", "x")
	p.OOMScoreAdj, p.Cwd = nil, "/tmp"
	second := parseView(t, execOutput(t, c, p, ProcessOptions{}))
	checkProcessView(t, second, p)
	checkFiles(t, first)
	if !slices.Equal(v.Pids, []string{"1"}) || v.Sid != 1 || second.Sid != second.Pid {
		t.Errorf("processes %v, session %d, of an exec'd process %d", v.Pids, v.Sid, second.Sid)
	}
	for ns, id := range first.Namespaces {
		inside, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", c.Pid(), ns))
		if id != inside || second.Namespaces[ns] != inside {
			t.Errorf("%s namespace of exec'd processes: %s and %s, the container's is %s", ns, id, second.Namespaces[ns], inside)
		}
	}
	if first.Hostname != "inside" || !first.Loopback || len(first.Pids) != 2 || first.Status["Umask"] != "0022" {
		t.Errorf("exec'd process: %+v", first)
	}
	if !slices.Equal(first.Cgroups, v.Cgroups) {
		t.Errorf("cgroups of an exec'd process %v, want %v", first.Cgroups, v.Cgroups)
	}
}

func isLibrary(name string) bool { return strings.HasPrefix(name, "lib") || name == "usr" }

// Docker's defaults for a container's root, in a new container and for exec.
func TestDefaults(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	v := parseView(t, output(t, r, newSpec(t, root, "view"), CreateOptions{}))
	for key, want := range map[string]string{
		"Uid": "0 0 0 0", "Gid": "0 0 0 0", "Groups": "", "Umask": "0022", "NoNewPrivs": "0", "Seccomp": "2", "Seccomp_filters": "1",
		"CapInh": "0000000000000000", "CapAmb": "0000000000000000",
		"CapPrm": "00000000a80425fb", "CapEff": "00000000a80425fb", "CapBnd": "00000000a80425fb", // as in Docker's documentation
	} {
		if v.Status[key] != want {
			t.Errorf("%s is %q, want %s", key, v.Status[key], want)
		}
	}
	dev := map[string]string{
		"null": "c 666 1:3 0:0", "zero": "c 666 1:5 0:0", "full": "c 666 1:7 0:0", "random": "c 666 1:8 0:0",
		"urandom": "c 666 1:9 0:0", "tty": "c 666 5:0 0:0", "pts": "d 755", "pts/ptmx": "c 666 5:2 0:0",
		"shm": "d 1777", "mqueue": "d 1777", "fd": "-> /proc/self/fd", "stdin": "-> /proc/self/fd/0",
		"stdout": "-> /proc/self/fd/1", "stderr": "-> /proc/self/fd/2", "ptmx": "-> pts/ptmx", "core": "-> /proc/kcore",
	}
	if !maps.Equal(v.Dev, dev) {
		t.Errorf("/dev has\n%v, want\n%v", v.Dev, dev)
	}
	for on, want := range map[string]string{
		"/proc":       "rw,nosuid,nodev,noexec,relatime proc ",
		"/dev":        "rw,nosuid tmpfs rw,size=65536k,mode=755",
		"/dev/pts":    "rw,nosuid,noexec,relatime devpts rw,gid=5,mode=620,ptmxmode=666",
		"/sys":        "ro,nosuid,nodev,noexec,relatime sysfs ",
		"/dev/mqueue": "rw,nosuid,nodev,noexec,relatime mqueue ",
		"/dev/shm":    "rw,nosuid,nodev,noexec,relatime tmpfs rw,size=65536k",
		"/proc/sys":   "ro,nosuid,nodev,noexec,relatime proc ",
	} {
		if !strings.HasPrefix(v.Mounts[on], want) {
			t.Errorf("mount on %s is %q, want %q", on, v.Mounts[on], want)
		}
	}
	if !strings.HasPrefix(v.Mounts["/sys/fs/cgroup"], "ro,nosuid,nodev,noexec,relatime ") {
		t.Errorf("mount on /sys/fs/cgroup is %q", v.Mounts["/sys/fs/cgroup"])
	}
	if v.OOMScore != "0" && testing.Verbose() {
		t.Log("oom_score_adj is inherited: ", v.OOMScore)
	}
}

// CVE-2017-16539, CVE-2018-10892 and CVE-2020-8694: what Docker masks is masked
// in a container and for an exec'd process, whether a file or a directory.
func TestMaskedAndReadOnlyPaths(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	writeFile(t, root+"/secret/file", "secret", 0o644)
	writeFile(t, root+"/keep/file", "keep", 0o644)
	paths := append(DefaultSpec().Linux.MaskedPaths, "/secret", "/keep/file", "/nothing/here", "/proc/bus/nothing")
	s := newSpec(t, root, "masked", paths...)
	s.Linux.MaskedPaths = paths
	check := func(text string) {
		t.Helper()
		lines := strings.Split(strings.TrimSpace(text), "\n")
		for i, p := range paths {
			want := " absent"
			var st unix.Stat_t
			host := p
			if strings.HasPrefix(p, "/secret") || strings.HasPrefix(p, "/keep") {
				host = root + p
			}
			if unix.Lstat(host, &st) == nil {
				want = " null"
				if st.Mode&unix.S_IFMT == unix.S_IFDIR {
					want = " empty"
				}
			}
			if lines[i] != p+want {
				t.Errorf("%s, want%s", lines[i], want)
			}
		}
	}
	check(output(t, r, s, CreateOptions{}))
	c := idle(t, r, func(i *specs.Spec) { i.Root.Path, i.Linux.MaskedPaths = root, paths })
	check(execOutput(t, c, newProgramProcess(s, "masked", paths...), ProcessOptions{}))

	w := newSpec(t, root, "writable", fmt.Sprint(few(5000)), "/proc/sys", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sysrq-trigger", "/sys/fs/cgroup", "/sys", "/keep")
	w.Linux.ReadonlyPaths = append(w.Linux.ReadonlyPaths, "/keep", "/nothing")
	if text := output(t, r, w, CreateOptions{}); text != "" {
		t.Errorf("open for writing:\n%s", text)
	}
}

// A read-only root is one, with room where the spec mounts some.
func TestReadOnlyRoot(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	s := newSpec(t, root, "writable", "100", "/etc", "/tmp", "/bin")
	s.Root.Readonly = true
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=1777"}})
	if text := output(t, r, s, CreateOptions{}); text != "/tmp/\n" {
		t.Errorf("writable: %q", text)
	}
	if _, err := os.Lstat(root + "/tmp/inboard"); err == nil {
		t.Error("the tmpfs was not on /tmp")
	}
}

// Each process gets a session keyring of its own: what the host's user keeps in
// his is out of reach. Without a filter, since Docker's refuses keyctl.
func TestSessionKeyring(t *testing.T) {
	r := openTest(t)
	s := newSpec(t, newRootfs(t), "view")
	s.Linux.Seccomp = nil
	host, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, true)
	if err != nil {
		t.Skip("needs keyrings:", err)
	}
	a := parseView(t, output(t, r, s, CreateOptions{}))
	b := parseView(t, output(t, r, s, CreateOptions{}))
	if a.Keyring == 0 || a.Keyring == host || a.Keyring == b.Keyring || a.Status["Seccomp"] != "0" {
		t.Errorf("keyrings %x, %x; the host's %x; seccomp %s", a.Keyring, b.Keyring, host, a.Status["Seccomp"])
	}
}
