package runtime

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// testIDs is where the tests' ids lie on the host.
const testIDs = 1_500_000_000

func testMappings() []specs.LinuxIDMapping {
	return []specs.LinuxIDMapping{{ContainerID: 0, HostID: testIDs, Size: 65536}}
}

// inUserNamespace gives the container of a spec one of its own.
func inUserNamespace(s *specs.Spec) *specs.Spec {
	s.Linux.Namespaces = append(slices.Clone(s.Linux.Namespaces), specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings, s.Linux.GIDMappings = testMappings(), testMappings()
	return s
}

func init() {
	programs["inside"] = func([]string) int {
		in, err := lookInside()
		if err == nil {
			err = json.NewEncoder(os.Stdout).Encode(in)
		}
		return exitCode(err)
	}
	programs["change"] = change
	// Each argument is a file to make.
	programs["make"] = func(names []string) int {
		for _, name := range names {
			if err := os.WriteFile(name, nil, 0o644); err != nil {
				fmt.Println(name, errors.Unwrap(err))
			}
		}
		return 0
	}
}

// Innards are what a process finds about its user namespace.
type innards struct {
	UIDMap, GIDMap, Setgroups string
	Owners                    map[string]uint64 // inode of the user namespace that owns one of the others
	User                      uint64
	Files                     map[string]string // owners
	Tries                     map[string]string // what was tried, and the error
}

func lookInside() (*innards, error) {
	in := &innards{Owners: map[string]uint64{}, Files: map[string]string{}, Tries: map[string]string{}}
	for name, to := range map[string]*string{"uid_map": &in.UIDMap, "gid_map": &in.GIDMap, "setgroups": &in.Setgroups} {
		data, err := os.ReadFile("/proc/self/" + name)
		if err != nil {
			return nil, err
		}
		*to = strings.Join(strings.Fields(string(data)), " ")
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/user", &st); err != nil {
		return nil, err
	}
	in.User = st.Ino
	for _, ns := range []string{"mnt", "net", "ipc", "uts", "cgroup"} {
		f, err := os.Open("/proc/self/ns/" + ns)
		if err != nil {
			return nil, err
		}
		owner, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_USERNS)
		f.Close()
		if err != nil {
			return nil, err
		}
		err = unix.Fstat(owner, &st)
		unix.Close(owner)
		if err != nil {
			return nil, err
		}
		in.Owners[ns] = st.Ino
	}
	for _, name := range []string{
		"/", "/test", "/dev", "/dev/null", "/dev/tty", "/dev/stdin", "/dev/pts", "/dev/pts/ptmx", "/dev/shm", "/dev/mqueue", "/etc/hosts", "/etc/passwd",
		"/proc/self/status", "/proc/version", "/proc/sys/net/ipv4/ip_unprivileged_port_start", "/sys/class/net/lo/mtu", "/run", "/made/dir", "/made", "/host", "/mapped",
	} {
		if err := unix.Lstat(name, &st); err == nil {
			in.Files[name] = fmt.Sprint(st.Uid, ":", st.Gid)
		}
	}
	in.try("chown", func() error { return os.Chown("/etc/hosts", 7, 8) })
	in.try("chown of nobody's", func() error { return os.Chown("/proc/version", 0, 0) })
	in.try("unmapped", func() error { return os.Chown("/etc/hosts", 70000, 0) })
	in.try("mknod", func() error { return unix.Mknod("/tmp/node", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))) })
	in.try("fifo", func() error { return unix.Mknod("/tmp/fifo", unix.S_IFIFO|0o600, 0) })
	in.try("null", func() error { return os.WriteFile("/dev/null", []byte("x"), 0) })
	in.try("terminal", tryTerminal)
	in.try("unmount", func() error { return unix.Unmount("/proc/interrupts", 0) })
	in.try("remount", func() error { return unix.Mount("", "/proc/sys", "", unix.MS_REMOUNT|unix.MS_BIND, "") })
	in.try("mount", func() error { return unix.Mount("tmpfs", "/tmp", "tmpfs", 0, "") })
	in.try("hostname", func() error { return unix.Sethostname([]byte("other")) })
	in.try("raise", func() error {
		return unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: 1 << 40, Max: 1 << 40})
	})
	return in, nil
}

func (in *innards) try(what string, f func() error) {
	in.Tries[what] = "done"
	if err := f(); err != nil {
		var errno unix.Errno
		in.Tries[what] = err.Error()
		if errors.As(err, &errno) {
			in.Tries[what] = unix.ErrnoName(errno)
		}
	}
}

// tryTerminal opens a pair and checks the owner of its second half.
func tryTerminal() error {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer master.Close()
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Stat("/dev/pts/"+strconv.Itoa(n), &st); err != nil {
		return err
	}
	if st.Uid != 0 || st.Gid != 5 {
		return fmt.Errorf("terminal of %d:%d", st.Uid, st.Gid)
	}
	return nil
}

func parseInside(t *testing.T, text string) *innards {
	t.Helper()
	in := new(innards)
	if err := json.Unmarshal([]byte(text), in); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return in
}

// What root finds in a user namespace, on a directory with the ids of the
// container, and what it may do with Docker's capabilities and with all.
func TestUserNamespace(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	for _, all := range []bool{false, true} {
		s := inUserNamespace(newSpec(t, root, "inside"))
		s.Mounts = append(s.Mounts, specs.Mount{Type: "tmpfs", Destination: "/run", Options: []string{"uid=3", "gid=4"}}, bindMount(root+"/bin", "/host"))
		s.Process.Cwd = "/made/dir"
		s.Process.OOMScoreAdj = ptr(5)
		s.Linux.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "77", "kernel.msgmax": "4321", "fs.mqueue.msg_max": "11"}
		if all {
			s.Process.Capabilities.Bounding = Capabilities()
			s.Process.Capabilities.Permitted, s.Process.Capabilities.Effective = s.Process.Capabilities.Bounding, s.Process.Capabilities.Bounding
			s.Linux.Seccomp = nil
		}
		in := parseInside(t, output(t, r, s, CreateOptions{Rootfs: Rootfs{Path: root, IDMap: true}, Files: []File{{Path: "/etc/hosts"}}}))
		wantMap := fmt.Sprint("0 ", testIDs, " 65536")
		if in.UIDMap != wantMap || in.GIDMap != wantMap || in.Setgroups != "allow" {
			t.Errorf("%+v", in)
		}
		for ns, owner := range in.Owners {
			if owner != in.User {
				t.Errorf("the %s namespace belongs to user namespace %d, not %d", ns, owner, in.User)
			}
		}
		wantFiles := map[string]string{
			"/": "0:0", "/test": "0:0", "/dev": "0:0", "/dev/null": "0:0", "/dev/tty": "0:0", "/dev/stdin": "0:0", "/dev/pts": "0:0", "/dev/pts/ptmx": "0:0", "/dev/shm": "0:0",
			"/dev/mqueue": "0:0", "/etc/hosts": "0:0", "/etc/passwd": "0:0", "/proc/self/status": "0:0", "/proc/version": "65534:65534", "/proc/sys/net/ipv4/ip_unprivileged_port_start": "0:0",
			"/sys/class/net/lo/mtu": "0:0", "/run": "3:4", "/made/dir": "0:0", "/made": "0:0", "/host": "65534:65534",
		}
		if !maps.Equal(in.Files, wantFiles) {
			t.Errorf("owners %v\nwant %v", in.Files, wantFiles)
		}
		wantTries := map[string]string{
			"chown": "done", "chown of nobody's": "EPERM", "unmapped": "EINVAL", "mknod": "EPERM", "fifo": "done", "null": "done", "terminal": "done",
			"unmount": "EPERM", "remount": "EPERM", "mount": "EPERM", "hostname": "EPERM", "raise": "EPERM",
		}
		if all {
			wantTries["unmount"], wantTries["mount"], wantTries["hostname"] = "EINVAL", "done", "done"
		}
		if !maps.Equal(in.Tries, wantTries) {
			t.Errorf("all capabilities %v: %v\nwant %v", all, in.Tries, wantTries)
		}
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(root, "made/dir"), &st); err != nil || st.Uid != 0 || st.Gid != 0 {
			t.Errorf("the working directory has owner %d:%d, %v", st.Uid, st.Gid, err)
		}
		os.RemoveAll(filepath.Join(root, "made"))
		os.RemoveAll(filepath.Join(root, "tmp/fifo"))
	}
}

// The same overlay, with a user namespace and without, shows the same tree, and
// files that are made and changed have the same ids on the disk. Every way to
// mount it does.
func TestUserNamespaceOverlay(t *testing.T) {
	r := openTest(t)
	base, err := os.MkdirTemp(testBase, "mapped-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	paths := overlayLayers(t, base, 3)
	writeFile(t, filepath.Join(paths[1], "data/owned"), "text", 0o600)
	if err := os.Chown(filepath.Join(paths[1], "data/owned"), 1000, 1001); err != nil {
		t.Fatal(err)
	}
	run := func(t *testing.T, name string, mapped bool) string {
		o := &Overlay{Volatile: true, Upper: filepath.Join(base, name, "u"), Work: filepath.Join(base, name, "w")}
		for i := range paths {
			o.Lower = append(o.Lower, Lower{Path: paths[len(paths)-1-i]})
		}
		for _, dir := range []string{o.Upper, o.Work} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		start := func(program string, args ...string) string {
			t.Helper()
			s := newSpec(t, "", program, args...)
			if mapped {
				inUserNamespace(s)
			}
			removeWork(o.Work)
			return output(t, r, s, CreateOptions{Rootfs: Rootfs{Overlay: o, IDMap: mapped}})
		}
		text := start("tree", "/data", "/etc", "/bin")
		text += start("change", "/data/owned", "/data/all", "/data/of2")
		return text + start("tree", "/data") + onDisk(t, o.Upper)
	}
	want := run(t, "plain", false)
	for _, owner := range []string{"/owned 100600 1000:1001", "/new 100644 0:0", "/of2 c 0 0:0 0:0", "/his 100644 1000:1001"} {
		if !strings.Contains(want, owner) {
			t.Errorf("no %s in %s", owner, want)
		}
	}
	t.Run("program", func(t *testing.T) {
		forceOverlay(t, false)
		if got := run(t, "program", true); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	})
	t.Run("descriptors", func(t *testing.T) {
		if !overlayByDetached() {
			t.Skip("needs overlay on detached mounts, Linux 6.15")
		}
		if got := run(t, "descriptors", true); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	})
	for i, p := range paths {
		if data, err := os.ReadFile(filepath.Join(p, "data/all")); string(data) != fmt.Sprint("from ", i) {
			t.Errorf("layer %d was written to: %q, %v", i, data, err)
		}
	}
}

// change copies a file up, replaces one, removes one, and makes one and
// another's.
func change(args []string) int {
	made := filepath.Dir(args[0])
	err := errors.Join(
		unix.Setxattr(args[0], "user.test", []byte("x"), 0),
		os.WriteFile(args[1], []byte("new"), 0o644),
		os.Remove(args[2]),
		os.WriteFile(made+"/new", nil, 0o644),
		os.WriteFile(made+"/his", nil, 0o644),
		os.Chown(made+"/his", 1000, 1001))
	return exitCode(err)
}

// onDisk is tree on the host, with names below the directory alone.
func onDisk(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		fmt.Fprintln(&b, strings.TrimPrefix(path, dir), describe(path), err)
		return nil
	})
	return b.String()
}

// A user namespace and an overlay made ahead.
func TestUserNamespaceAhead(t *testing.T) {
	r := openTest(t)
	user, err := r.NewUserNamespace(background, testMappings(), testMappings())
	if err != nil {
		t.Fatal(err)
	}
	defer user.Close()
	upper := t.TempDir()
	o := &Overlay{Lower: []Lower{{Path: newRootfs(t)}}, Upper: upper + "/u", Work: upper + "/w"}
	for _, dir := range []string{o.Upper, o.Work} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	rootfs := Rootfs{Overlay: o, IDMap: true}
	m, err := o.MountIn(user)
	if errdefs.IsNotImplemented(err) && !overlayByDetached() {
		m = nil
	} else if err != nil {
		t.Fatal(err)
	} else {
		rootfs = Rootfs{Mount: m}
	}
	in := parseInside(t, output(t, r, inUserNamespace(newSpec(t, "", "inside")), CreateOptions{Rootfs: rootfs, UserNamespace: user}))
	if in.Files["/"] != "0:0" || in.Files["/test"] != "0:0" || in.Owners["net"] != in.User || in.Tries["fifo"] != "done" {
		t.Errorf("%+v", in)
	}
	if user.user != nil {
		t.Error("the user namespace is open still")
	}
	for what, change := range map[string]func(*specs.Spec, *CreateOptions){
		"closed":         func(*specs.Spec, *CreateOptions) {},
		"other mappings": func(s *specs.Spec, _ *CreateOptions) { s.Linux.GIDMappings[0].HostID++ },
		"none in the spec": func(s *specs.Spec, _ *CreateOptions) {
			dropNamespace(s, specs.UserNamespace)
			s.Linux.UIDMappings, s.Linux.GIDMappings = nil, nil
		},
	} {
		s := inUserNamespace(newSpec(t, newRootfs(t), "view"))
		o := CreateOptions{UserNamespace: user}
		if what != "closed" {
			if o.UserNamespace, err = r.NewUserNamespace(background, testMappings(), testMappings()); err != nil {
				t.Fatal(err)
			}
		}
		change(s, &o)
		if err := mustFail(t, r, s, o); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// What is exec'd is in the user namespace, with the ids, groups and capabilities
// that it is to have, also from a standby. On the host it is nobody.
func TestUserNamespaceExec(t *testing.T) {
	r := openTest(t)
	c := idle(t, r, func(s *specs.Spec) { inUserNamespace(s) })
	status, err := os.ReadFile(fmt.Sprint("/proc/", c.Pid(), "/status"))
	if err != nil {
		t.Fatal(err)
	}
	v := statusOfProcess(string(status))
	if id := fmt.Sprint(testIDs); v["Uid"] != strings.Join([]string{id, id, id, id}, " ") || v["Gid"] != v["Uid"] || v["Groups"] != "" {
		t.Errorf("on the host: uid %s, gid %s, groups %s", v["Uid"], v["Gid"], v["Groups"])
	}
	first := parseView(t, execOutput(t, c, newProgramProcess(newSpec(t, "/", ""), "view"), ProcessOptions{}))
	for range 4 { // from the third on through a standby
		x := parseView(t, execOutput(t, c, newProgramProcess(newSpec(t, "/", ""), "view"), ProcessOptions{User: "user"}))
		if x.Status["Uid"] != "1000 1000 1000 1000" || x.Status["Gid"] != "1001 1001 1001 1001" || x.Status["Groups"] != "1001 1002 1003" || x.Status["CapEff"] != "0000000000000000" {
			t.Errorf("%v", x.Status)
		}
		if !maps.Equal(x.Namespaces, first.Namespaces) || x.Namespaces["user"] == must(os.Readlink("/proc/self/ns/user")) {
			t.Errorf("namespaces %v, want %v", x.Namespaces, first.Namespaces)
		}
		if len(x.Files) != 3 {
			t.Errorf("descriptors %v", x.Files)
		}
	}
	if first.Status["Uid"] != "0 0 0 0" || first.Status["CapInh"] != "0000000000000000" || first.Status["Seccomp"] != "2" {
		t.Errorf("%v", first.Status)
	}
	for _, user := range []string{"65536", "0:70000"} {
		if _, err := c.Exec(background, newProgramProcess(newSpec(t, "/", ""), "view"), ProcessOptions{User: user}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("as %s: %v", user, err)
		}
	}
}

func statusOfProcess(text string) map[string]string {
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		fields[key] = strings.Join(strings.Fields(value), " ")
	}
	return fields
}

// Set-uid bits and file capabilities are those of the container's own users.
func TestUserNamespacePrivileges(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	binary, err := testBinary()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"/setuid", "/bind"} {
		if err := copyFile(binary, root+name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Chown(root+"/setuid", 7, 8), os.Chmod(root+"/setuid", 0o755|os.ModeSetuid|os.ModeSetgid)); err != nil {
		t.Fatal(err)
	}
	// struct vfs_cap_data, version 2: CAP_NET_BIND_SERVICE, effective.
	capability := []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	if err := unix.Setxattr(root+"/bind", "security.capability", capability, 0); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) *view {
		s := inUserNamespace(newSpec(t, "", "view"))
		s.Process.Args = args
		dirs := t.TempDir()
		o := &Overlay{Lower: []Lower{{Path: root}}, Upper: dirs + "/u", Work: dirs + "/w"}
		for _, dir := range []string{o.Upper, o.Work} {
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		return parseView(t, output(t, r, s, CreateOptions{Rootfs: Rootfs{Overlay: o, IDMap: true}, ProcessOptions: ProcessOptions{User: "user"}}))
	}
	if v := run("/setuid"); v.Status["Uid"] != "1000 7 7 7" || v.Status["Gid"] != "1001 8 8 8" {
		t.Errorf("set-uid program: %s, %s", v.Status["Uid"], v.Status["Gid"])
	}
	if v := run("/bind"); v.Status["CapEff"] != "0000000000000400" {
		t.Errorf("program with a capability: %s", v.Status["CapEff"])
	}
}

// Root inside is nobody to the host's files, and what it makes there is nobody's;
// with the option idmap it is the host's root, on that mount alone.
func TestUserNamespaceBind(t *testing.T) {
	r := openTest(t)
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"closed": 0o755, "open": 0o777} {
		if err := errors.Join(os.Mkdir(filepath.Join(dir, name), 0o755), os.Chmod(filepath.Join(dir, name), mode)); err != nil {
			t.Fatal(err)
		}
	}
	writeFile(t, dir+"/closed/secret", "secret", 0o600)
	s := inUserNamespace(newSpec(t, newRootfs(t), "make", "/host/closed/x", "/host/closed/secret", "/host/open/x", "/mapped/closed/y"))
	s.Mounts = append(s.Mounts, bindMount(dir, "/host"), bindMount(dir, "/mapped", "idmap"))
	if text := output(t, r, s, CreateOptions{}); text != "/host/closed/x permission denied\n/host/closed/secret permission denied\n" {
		t.Error(text)
	}
	for name, want := range map[string]uint32{"open/x": testIDs, "closed/y": 0} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil || st.Uid != want || st.Gid != want {
			t.Errorf("%s is of %d:%d, want %d, %v", name, st.Uid, st.Gid, want, err)
		}
	}
	for what, change := range map[string]func(*specs.Spec, *specs.Mount){
		"shared":              func(_ *specs.Spec, m *specs.Mount) { m.Options = append(m.Options, "rshared") },
		"other mappings":      func(_ *specs.Spec, m *specs.Mount) { m.UIDMappings = testMappings()[:1]; m.GIDMappings = nil },
		"no user namespace":   func(s *specs.Spec, m *specs.Mount) { noUserNamespace(s); m.Options = append(m.Options, "ridmap") },
		"mapping without one": func(s *specs.Spec, m *specs.Mount) { noUserNamespace(s); m.UIDMappings = testMappings() },
	} {
		s := inUserNamespace(newSpec(t, newRootfs(t), "view"))
		m := bindMount(dir, "/host")
		change(s, &m)
		s.Mounts = append(s.Mounts, m)
		if err := mustFail(t, r, s, CreateOptions{}); !(errdefs.IsInvalidArgument(err) || what == "other mappings" && errdefs.IsNotImplemented(err)) || !strings.Contains(err.Error(), "/host") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func noUserNamespace(s *specs.Spec) {
	dropNamespace(s, specs.UserNamespace)
	s.Linux.UIDMappings, s.Linux.GIDMappings = nil, nil
}

// What cannot be id-mapped is an error that says so: overlayfs is on no kernel.
func TestNotIDMappable(t *testing.T) {
	r := openTest(t)
	s := inUserNamespace(newSpec(t, "/proc", "view"))
	if err := mustFail(t, r, s, CreateOptions{Rootfs: Rootfs{Path: "/proc", IDMap: true}}); !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "/proc") {
		t.Error(err)
	}
	if err := mustFail(t, r, newSpec(t, "/", "view"), CreateOptions{Rootfs: Rootfs{Path: "/", IDMap: true}}); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

// CVE-2021-43784 and mappings that nobody has thought through: what overflows,
// overlaps, is too much, leaves out root or makes it the host's is refused.
func TestCVE_2021_43784(t *testing.T) {
	r := openTest(t)
	many := func(n int, at uint32) (list []specs.LinuxIDMapping) {
		for i := range uint32(n) {
			list = append(list, specs.LinuxIDMapping{ContainerID: 2 * i, HostID: at + 2*i, Size: 1})
		}
		return list
	}
	one := func(inside, host, size uint32) []specs.LinuxIDMapping {
		return append([]specs.LinuxIDMapping{{ContainerID: inside, HostID: host, Size: size}}, specs.LinuxIDMapping{ContainerID: 0, HostID: testIDs, Size: 1000})
	}
	for what, list := range map[string][]specs.LinuxIDMapping{
		"none": {}, "too many": many(maxExtents+1, 1), "too long": many(maxExtents, testIDs), "root is not there": {{ContainerID: 1, HostID: testIDs, Size: 10}},
		"the host's root": {{ContainerID: 0, HostID: 0, Size: 65536}}, "the host's root for another": one(2000, 0, 1), "empty": one(2000, testIDs+2000, 0),
		"twice inside": one(999, testIDs+2000, 1), "twice outside": one(2000, testIDs+999, 5),
		"beyond the last": one(1<<32-10, testIDs+2000, 10), "beyond the host's last": one(2000, 1<<32-1, 1),
	} {
		for _, s := range []*specs.Spec{inUserNamespace(newSpec(t, "/", "view")), inUserNamespace(newSpec(t, "/", "view"))} {
			s.Linux.UIDMappings = list
			if err := mustFail(t, r, s, CreateOptions{}); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "mappings") {
				t.Errorf("%s: %v", what, err)
			}
		}
		if _, err := r.NewUserNamespace(background, testMappings(), list); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	user, err := r.NewUserNamespace(background, many(maxExtents, 1), many(maxExtents, 1))
	if err != nil {
		t.Fatal(err)
	}
	user.Close()
	s := newSpec(t, "/", "view")
	s.Linux.UIDMappings = testMappings()
	if err := mustFail(t, r, s, CreateOptions{}); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

// Who is not in the map cannot be the container's user, nor a file's owner.
func TestUnmappedUsers(t *testing.T) {
	r := openTest(t)
	for what, change := range map[string]func(*specs.Spec, *CreateOptions){
		"user":   func(s *specs.Spec, _ *CreateOptions) { s.Process.User.UID = 65536 },
		"group":  func(_ *specs.Spec, o *CreateOptions) { o.User = "0:65536" },
		"groups": func(s *specs.Spec, _ *CreateOptions) { s.Process.User.AdditionalGids = []uint32{1, 1 << 20} },
		"file":   func(_ *specs.Spec, o *CreateOptions) { o.Files = []File{{Path: "/file", UID: 65536}} },
		"tmpfs": func(s *specs.Spec, _ *CreateOptions) {
			s.Mounts = append(s.Mounts, specs.Mount{Type: "tmpfs", Destination: "/run", Options: []string{"uid=65536"}})
		},
		"device": func(s *specs.Spec, _ *CreateOptions) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "c", Major: 1, Minor: 3, GID: ptr[uint32](65536)}}
		},
		"terminals": func(s *specs.Spec, _ *CreateOptions) {
			for i := range s.Mounts {
				if s.Mounts[i].Type == "devpts" {
					s.Mounts[i].Options = []string{"gid=65536"}
				}
			}
		},
	} {
		s := inUserNamespace(newSpec(t, newRootfs(t), "view"))
		var o CreateOptions
		change(s, &o)
		if err := mustFail(t, r, s, o); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "user namespace") {
			t.Errorf("%s: %v", what, err)
		}
	}
}
