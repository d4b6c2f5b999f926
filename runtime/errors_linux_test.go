package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mustFail starts a container that cannot be, by Start and by Create, and gives
// the error.
func mustFail(t *testing.T, r *Runtime, s *specs.Spec, o CreateOptions) error {
	t.Helper()
	c, err := r.Start(background, s, o)
	if err == nil {
		st, _ := c.Wait(background)
		c.Delete(background)
		t.Errorf("started, %v", st)
		return nil
	}
	c, second := r.Create(background, s, o)
	if second == nil {
		second = c.Start(background)
		c.Delete(background)
	}
	if fmt.Sprint(second) != fmt.Sprint(err) && !strings.Contains(err.Error(), testParent) { // each has its own cgroup
		t.Errorf("Start says %q, Create and Start %q", err, second)
	}
	return err
}

// Specs that make no sense are refused before anything is made.
func TestInvalidSpecs(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	invalid, missing := errdefs.ErrInvalidArgument, errdefs.ErrNotImplemented
	for name, c := range map[string]struct {
		change func(s *specs.Spec, o *CreateOptions)
		kind   error
		text   string
	}{
		"no linux":      {func(s *specs.Spec, o *CreateOptions) { s.Linux = nil }, invalid, "linux section"},
		"no process":    {func(s *specs.Spec, o *CreateOptions) { s.Process = nil }, invalid, "none given"},
		"no command":    {func(s *specs.Spec, o *CreateOptions) { s.Process.Args = nil }, invalid, "no command"},
		"empty command": {func(s *specs.Spec, o *CreateOptions) { s.Process.Args = []string{""} }, invalid, "no command"},
		"relative cwd":  {func(s *specs.Spec, o *CreateOptions) { s.Process.Cwd = "tmp" }, invalid, `"tmp"`},
		"no cwd":        {func(s *specs.Spec, o *CreateOptions) { s.Process.Cwd = "" }, invalid, "working directory"},
		"zero in args":  {func(s *specs.Spec, o *CreateOptions) { s.Process.Args[0] = "a\x00b" }, invalid, "zero byte"},
		"zero in env":   {func(s *specs.Spec, o *CreateOptions) { s.Process.Env = []string{"A=\x00"} }, invalid, "zero byte"},
		"rlimit name":   {func(s *specs.Spec, o *CreateOptions) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_X"}} }, invalid, "RLIMIT_X"},
		"rlimit order": {func(s *specs.Spec, o *CreateOptions) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CPU", Soft: 2, Hard: 1}}
		}, invalid, "RLIMIT_CPU"},
		"capability": {func(s *specs.Spec, o *CreateOptions) { s.Process.Capabilities.Bounding = []string{"CAP_FLY"} }, invalid, "CAP_FLY"},
		"apparmor":   {func(s *specs.Spec, o *CreateOptions) { s.Process.ApparmorProfile = "x" }, missing, "label"},
		"hooks":      {func(s *specs.Spec, o *CreateOptions) { s.Hooks = &specs.Hooks{} }, missing, "hooks"},
		"id maps":    {func(s *specs.Spec, o *CreateOptions) { s.Linux.UIDMappings = []specs.LinuxIDMapping{{}} }, invalid, "id mappings"},
		"namespace twice": {func(s *specs.Spec, o *CreateOptions) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, s.Linux.Namespaces[0])
		}, invalid, "two mount namespaces"},
		"namespace kind": {func(s *specs.Spec, o *CreateOptions) { s.Linux.Namespaces[2].Type = "dream" }, missing, "dream"},
		"no mount":       {func(s *specs.Spec, o *CreateOptions) { dropNamespace(s, specs.MountNamespace) }, missing, "mount namespace"},
		"host's name":    {func(s *specs.Spec, o *CreateOptions) { dropNamespace(s, specs.UTSNamespace) }, invalid, "uts namespace"},
		"mount type":     {func(s *specs.Spec, o *CreateOptions) { s.Mounts[3].Type = "ext9" }, missing, "ext9"},
		"mount on root":  {func(s *specs.Spec, o *CreateOptions) { s.Mounts[0].Destination = "/x/.." }, invalid, "/x/.."},
		"mount on proc":  {func(s *specs.Spec, o *CreateOptions) { s.Mounts = append(s.Mounts, bindMount("/", "/proc")) }, invalid, "mount on /proc"},
		"mount in proc": {func(s *specs.Spec, o *CreateOptions) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/proc/sys/kernel", Type: "tmpfs"})
		}, invalid, "mount on /proc/sys/kernel"},
		"no source": {func(s *specs.Spec, o *CreateOptions) {
			s.Mounts = append(s.Mounts, bindMount("/nothing/there", "/tmp"))
		}, invalid, "/nothing/there"},
		"relative source": {func(s *specs.Spec, o *CreateOptions) { s.Mounts = append(s.Mounts, bindMount("tmp", "/tmp")) }, invalid, "tmp"},
		"bind option": {func(s *specs.Spec, o *CreateOptions) {
			s.Mounts = append(s.Mounts, bindMount("/tmp", "/tmp", "size=1"))
		}, invalid, "size=1"},
		"deep target": {func(s *specs.Spec, o *CreateOptions) {
			s.Mounts = append(s.Mounts, bindMount("/tmp", strings.Repeat("/x", 200)))
		}, invalid, "levels deep"},
		"relative mount": {func(s *specs.Spec, o *CreateOptions) { s.Mounts[0].Destination = "proc" }, invalid, "proc"},
		"mask":           {func(s *specs.Spec, o *CreateOptions) { s.Linux.MaskedPaths = []string{"proc"} }, invalid, `"proc"`},
		"read-only path": {func(s *specs.Spec, o *CreateOptions) { s.Linux.ReadonlyPaths = []string{"proc"} }, invalid, `"proc"`},
		"device": {func(s *specs.Spec, o *CreateOptions) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/etc/x", Type: "c"}}
		}, invalid, "/etc/x"},
		"device type": {func(s *specs.Spec, o *CreateOptions) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "?"}}
		}, invalid, "/dev/x"},
		"host sysctl": {func(s *specs.Spec, o *CreateOptions) {
			s.Linux.Sysctl = map[string]string{"kernel.core_pattern": "|/x"}
		}, invalid, "core_pattern"}, // CVE-2022-0811
		"sysctl slash": {func(s *specs.Spec, o *CreateOptions) {
			s.Linux.Sysctl = map[string]string{"net/../kernel.core_pattern": "|/x"}
		}, invalid, "core_pattern"},
		"host's net": {func(s *specs.Spec, o *CreateOptions) {
			dropNamespace(s, specs.NetworkNamespace)
			s.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
		}, invalid, "ip_forward"},
		"no proc": {func(s *specs.Spec, o *CreateOptions) {
			s.Mounts = s.Mounts[1:]
			s.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
		}, invalid, "without a proc mount"},
		"oom score": {func(s *specs.Spec, o *CreateOptions) { s.Mounts, s.Process.OOMScoreAdj = nil, ptr(1) }, invalid, "without a proc mount"},
		"no rootfs": {func(s *specs.Spec, o *CreateOptions) { s.Root = nil }, invalid, "rootfs"},
		"two roots": {func(s *specs.Spec, o *CreateOptions) { o.Rootfs = Rootfs{Path: "/", Overlay: &Overlay{}} }, invalid, "more than one"},
		"no layers": {func(s *specs.Spec, o *CreateOptions) { o.Rootfs.Overlay = &Overlay{} }, invalid, "lower"},
		"no work": {func(s *specs.Spec, o *CreateOptions) {
			o.Rootfs.Overlay = &Overlay{Lower: []Lower{{Path: root}}, Upper: root}
		}, invalid, "work"},
		"relative file":  {func(s *specs.Spec, o *CreateOptions) { o.Files = []File{{Path: "etc/hosts"}} }, invalid, "etc/hosts"},
		"file as root":   {func(s *specs.Spec, o *CreateOptions) { o.Files = []File{{Path: "/etc/.."}} }, invalid, "/etc/.."},
		"unknown user":   {func(s *specs.Spec, o *CreateOptions) { o.User = "nobody-here" }, invalid, "nobody-here"},
		"unknown group":  {func(s *specs.Spec, o *CreateOptions) { o.User = "root:nobody-here" }, invalid, "nobody-here"},
		"number and bad": {func(s *specs.Spec, o *CreateOptions) { o.User = "1000:evil" }, invalid, "evil"},
		"uid 2^32":       {func(s *specs.Spec, o *CreateOptions) { o.User = "4294967296" }, invalid, "4294967296"}, // containerd CVE-2024-40635
		"uid 2^32-1":     {func(s *specs.Spec, o *CreateOptions) { o.User = "4294967295" }, invalid, "4294967295"},
		"uid -1":         {func(s *specs.Spec, o *CreateOptions) { o.User = "-1" }, invalid, "-1"},
		"gid 2^64":       {func(s *specs.Spec, o *CreateOptions) { o.User = "root:18446744073709551616" }, invalid, "18446744073709551616"},
		"systemd cgroup": {func(s *specs.Spec, o *CreateOptions) { s.Linux.CgroupsPath = "system.slice:x:y" }, missing, "systemd"},
		"cgroup escape":  {func(s *specs.Spec, o *CreateOptions) { s.Linux.CgroupsPath = "../x" }, invalid, "../x"},
		"cgroup limit":   {func(s *specs.Spec, o *CreateOptions) { s.Linux.Resources.CPU = &specs.LinuxCPU{Cpus: "4000"} }, invalid, "4000"},
	} {
		t.Run(name, func(t *testing.T) {
			s, o := newSpec(t, root, "exit", "0"), CreateOptions{}
			c.change(s, &o)
			err := mustFail(t, r, s, o)
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%v, want %v with %q", err, c.kind, c.text)
			}
		})
	}
}

func dropNamespace(s *specs.Spec, kind specs.LinuxNamespaceType) {
	s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
}

// A call of the program that fails is named, with the thing.
func TestStepErrors(t *testing.T) {
	r := openTest(t)
	for name, c := range map[string]struct {
		prepare func(t *testing.T, root string, s *specs.Spec)
		step    string
		errs    []syscall.Errno
	}{
		"proc is a file": {func(t *testing.T, root string, s *specs.Spec) { replace(t, root+"/proc", "") }, "mount proc on /proc", []syscall.Errno{unix.ENOTDIR}},
		"proc is a link": {func(t *testing.T, root string, s *specs.Spec) { replace(t, root+"/proc", "tmp") }, "mount proc on /proc", []syscall.Errno{unix.ENOTDIR}},
		"dev is a link":  {func(t *testing.T, root string, s *specs.Spec) { replace(t, root+"/dev", "/tmp") }, "mount tmpfs on /dev", []syscall.Errno{unix.ENOTDIR}},
		"sys is a file":  {func(t *testing.T, root string, s *specs.Spec) { replace(t, root+"/sys", "") }, "mount sysfs on /sys", []syscall.Errno{unix.ENOTDIR}},
		"target in file": {func(t *testing.T, root string, s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/etc/passwd/x", Type: "tmpfs"})
		}, "mount tmpfs on /etc/passwd/x", []syscall.Errno{unix.ENOTDIR}},
		"target in sys": {func(t *testing.T, root string, s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/sys/nothing", Type: "tmpfs"})
		}, "mount tmpfs on /sys/nothing", []syscall.Errno{unix.ENOENT}},
		"directory on file": {func(t *testing.T, root string, s *specs.Spec) {
			s.Mounts = append(s.Mounts, bindMount("/tmp", "/etc/passwd"))
		}, "mount /tmp on /etc/passwd", []syscall.Errno{unix.ENOTDIR}},
		"file on directory": {func(t *testing.T, root string, s *specs.Spec) {
			s.Mounts = append(s.Mounts, bindMount("/etc/passwd", "/tmp"))
		}, "mount /etc/passwd on /tmp (must be a file)", []syscall.Errno{unix.EINVAL, unix.ENOTDIR}},
		"cwd is a file": {func(t *testing.T, root string, s *specs.Spec) { s.Process.Cwd = "/etc/passwd" }, "working directory /etc/passwd", []syscall.Errno{unix.ENOTDIR}},
		"cwd in a file": {func(t *testing.T, root string, s *specs.Spec) { s.Process.Cwd = "/etc/passwd/x" }, "working directory /etc/passwd/x", []syscall.Errno{unix.ENOTDIR}},
		"cwd loop": {func(t *testing.T, root string, s *specs.Spec) {
			os.Symlink("loop", root+"/loop")
			s.Process.Cwd = "/loop"
		}, "working directory /loop", []syscall.Errno{unix.ELOOP}},
		"sysctl value": {func(t *testing.T, root string, s *specs.Spec) {
			s.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "many"}
		}, "set sysctl net.ipv4.ip_forward", []syscall.Errno{unix.EINVAL}},
		"unknown sysctl": {func(t *testing.T, root string, s *specs.Spec) { s.Linux.Sysctl = map[string]string{"net.nothing": "1"} }, "set sysctl net.nothing", []syscall.Errno{unix.ENOENT}},
		"hostname":       {func(t *testing.T, root string, s *specs.Spec) { s.Hostname = strings.Repeat("x", 65) }, "set hostname xxx", []syscall.Errno{unix.EINVAL}},
		"rlimit": {func(t *testing.T, root string, s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1 << 40, Hard: 1 << 40}}
		}, "set RLIMIT_NOFILE to 1099511627776", []syscall.Errno{unix.EPERM}},
		"ambient": {func(t *testing.T, root string, s *specs.Spec) {
			s.Process.Capabilities.Ambient = []string{"CAP_SYS_ADMIN"}
		}, "raise ambient CAP_SYS_ADMIN", []syscall.Errno{unix.EPERM}},
		"inheritable": {func(t *testing.T, root string, s *specs.Spec) {
			s.Process.Capabilities = &specs.LinuxCapabilities{Effective: []string{"CAP_CHOWN"}}
		}, "set capabilities", []syscall.Errno{unix.EPERM}},
		"oom score": {func(t *testing.T, root string, s *specs.Spec) { s.Process.OOMScoreAdj = ptr(5000) }, "set oom_score_adj to 5000", []syscall.Errno{unix.EINVAL}},
	} {
		t.Run(name, func(t *testing.T) {
			root := newRootfs(t)
			s := newSpec(t, root, "exit", "0")
			c.prepare(t, root, s)
			err := mustFail(t, r, s, CreateOptions{})
			var step *StepError
			if !errors.As(err, &step) || !strings.HasPrefix(step.Step, c.step) || !slices.ContainsFunc(c.errs, func(e syscall.Errno) bool { return errors.Is(err, e) }) {
				t.Errorf("%v, want step %q, %v", err, c.step, c.errs)
			}
		})
	}
}

// replace puts a link in a directory's place, or an empty file.
func replace(t *testing.T, path, link string) {
	t.Helper()
	err := os.RemoveAll(path)
	if err == nil && link != "" {
		err = os.Symlink(link, path)
	} else if err == nil {
		err = os.WriteFile(path, nil, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestRootfsErrors(t *testing.T) {
	r := openTest(t)
	file := filepath.Join(t.TempDir(), "file")
	writeFile(t, file, "", 0o644)
	for path, want := range map[string]error{"/nothing/here": os.ErrNotExist, file: unix.ENOTDIR} {
		s := newSpec(t, path, "exit", "0")
		if err := mustFail(t, r, s, CreateOptions{}); !errors.Is(err, want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
		o := CreateOptions{Rootfs: Rootfs{Overlay: &Overlay{Lower: []Lower{{Path: path}}}}}
		if err := mustFail(t, r, s, o); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("layer %s: %v", path, err)
		}
	}
}

func TestCommandErrors(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	writeFile(t, root+"/bin/text", "no program", 0o755)
	writeFile(t, root+"/bin/plain", string(exitProgram(0)), 0o644)
	writeFile(t, root+"/bin/script", "#!/nothing/here\n", 0o755)
	writeFile(t, root+"/first/both", string(exitProgram(3)), 0o644) // not executable
	writeFile(t, root+"/second/both", string(exitProgram(5)), 0o755)
	writeFile(t, root+"/first/only", string(exitProgram(3)), 0o644)
	os.Mkdir(root+"/first/dir", 0o755)
	path := "PATH=/missing:/first:/etc/passwd:/second"
	c := idle(t, r, func(s *specs.Spec) { s.Root.Path = root })
	for _, x := range []struct {
		file, env string
		code      int
		err       error
	}{
		{"/nothing", "", 127, unix.ENOENT},
		{"nothing", "", 127, unix.ENOENT},
		{"nothing", path, 127, unix.ENOENT},
		{"./nothing", "", 127, unix.ENOENT},
		{"/etc/passwd/x", "", 127, unix.ENOTDIR},
		{"/bin", "", 126, unix.EACCES},
		{"/bin/text", "", 126, unix.ENOEXEC},
		{"text", "", 126, unix.ENOEXEC},
		{"/bin/plain", "", 126, unix.EACCES},
		{"/bin/script", "", 127, unix.ENOENT},
		{"only", path, 126, unix.EACCES},
		{"dir", path, 126, unix.EACCES},
		{"true", "PATH=/first", 127, unix.ENOENT},
		{"true", "PATH=", 127, unix.ENOENT},
	} {
		s := fileSpec(t, root, x.file)
		s.Process.Env = nil
		if x.env != "" {
			s.Process.Env = []string{x.env}
		}
		check := func(how string, err error) {
			t.Helper()
			var e *CommandError
			if !errors.As(err, &e) || e.Code != x.code || e.Path != x.file || !errors.Is(err, x.err) {
				t.Errorf("%s of %s with %q: %v, want %d, %v", how, x.file, x.env, err, x.code, x.err)
			}
		}
		check("start", mustFail(t, r, s, CreateOptions{}))
		_, err := c.Exec(background, s.Process, ProcessOptions{})
		check("exec", err)
	}
	for _, x := range []struct {
		file, env string
		code      int
	}{{"both", path, 5}, {"true", "", 0}, {"false", "PATH=:/bin", 1}, {"second/both", "PATH=/nothing", 5}} {
		s := fileSpec(t, root, x.file)
		s.Process.Env = nil
		if x.env != "" {
			s.Process.Env = []string{x.env}
		}
		if st := wait(t, start(t, r, s, CreateOptions{})); st.Code != x.code {
			t.Errorf("%s with %q: %v", x.file, x.env, st)
		}
		p, err := c.Exec(background, s.Process, ProcessOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if st := wait(t, p); st.Code != x.code {
			t.Errorf("exec of %s with %q: %v", x.file, x.env, st)
		}
	}
	s := fileSpec(t, root, "/bin/true", strings.Repeat("x", 1<<20))
	if err := mustFail(t, r, s, CreateOptions{}); !errors.Is(err, unix.E2BIG) {
		t.Error("argument of a megabyte:", err)
	}
}

// Errors of exec are those of a start.
func TestExecErrors(t *testing.T) {
	r := openTest(t)
	c := idle(t, r, nil)
	p := func(change func(*specs.Process)) *specs.Process {
		p := fileSpec(t, "/", "/bin/true").Process
		change(p)
		return p
	}
	for _, x := range []struct {
		p    *specs.Process
		o    ProcessOptions
		want string
		kind error
	}{
		{nil, ProcessOptions{}, "none given", errdefs.ErrInvalidArgument},
		{p(func(p *specs.Process) { p.Args = nil }), ProcessOptions{}, "no command", errdefs.ErrInvalidArgument},
		{p(func(p *specs.Process) { p.Cwd = "/missing" }), ProcessOptions{}, "working directory /missing", unix.ENOENT},
		{p(func(p *specs.Process) { p.OOMScoreAdj = ptr(1) }), ProcessOptions{}, "oomScoreAdj", errdefs.ErrNotImplemented},
		{p(func(p *specs.Process) { p.Capabilities.Bounding = []string{"CAP_X"} }), ProcessOptions{}, "CAP_X", errdefs.ErrInvalidArgument},
		{p(func(p *specs.Process) {}), ProcessOptions{User: "stranger"}, "stranger", errdefs.ErrInvalidArgument},
		{p(func(p *specs.Process) {
			p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1 << 40, Hard: 1 << 40}}
		}), ProcessOptions{}, "RLIMIT_NOFILE", unix.EPERM},
	} {
		if _, err := c.Exec(background, x.p, x.o); err == nil || !errors.Is(err, x.kind) || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%v, want %q", err, x.want)
		}
	}
	if n := nestedChildren(t, c); len(n) > 0 {
		t.Error("left in the container:", n)
	}
}
