package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func init() {
	// read prints what is in files, or which names are in directories.
	programs["read"] = func(paths []string) int {
		for _, p := range paths {
			text, err := os.ReadFile(p)
			if names, dirErr := os.ReadDir(p); dirErr == nil {
				text, err = fmt.Append(nil, names), nil
			}
			if err != nil {
				text = []byte(strings.TrimPrefix(err.Error(), "open "))
			}
			fmt.Printf("%s: %s\n", p, text)
		}
		return 0
	}
	// write makes files, and prints why that fails.
	programs["write"] = func(paths []string) int {
		for _, p := range paths {
			if err := os.WriteFile(p, []byte("from inside"), 0o644); err != nil {
				fmt.Println(err)
			}
		}
		return 0
	}
}

func bindMount(source, destination string, options ...string) specs.Mount {
	return specs.Mount{Type: "bind", Source: source, Destination: destination, Options: append([]string{"bind"}, options...)}
}

func TestPlanBind(t *testing.T) {
	const ro, nosuid, noatime, atime = unix.MOUNT_ATTR_RDONLY, unix.MOUNT_ATTR_NOSUID, unix.MOUNT_ATTR_NOATIME, unix.MOUNT_ATTR__ATIME
	private := unix.MountAttr{Propagation: unix.MS_PRIVATE}
	for options, want := range map[string]bindPlan{
		"bind":              {propagation: private, deep: true},
		"rbind,private":     {recursive: true, propagation: private},
		"bind,ro,nosuid":    {top: unix.MountAttr{Attr_set: ro | nosuid}, propagation: private, deep: true},
		"bind,ro,rw":        {top: unix.MountAttr{Attr_clr: ro}, propagation: private, deep: true},
		"rbind,rro,nosuid":  {recursive: true, all: unix.MountAttr{Attr_set: ro}, top: unix.MountAttr{Attr_set: nosuid}, propagation: private, deep: true},
		"bind,noatime":      {top: unix.MountAttr{Attr_set: noatime, Attr_clr: atime}, propagation: private, deep: true},
		"bind,relatime":     {top: unix.MountAttr{Attr_clr: atime}, propagation: private, deep: true},
		"bind,rstrictatime": {all: unix.MountAttr{Attr_set: unix.MOUNT_ATTR_STRICTATIME, Attr_clr: atime}, propagation: private, deep: true},
		"bind,nodiratime":   {top: unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NODIRATIME}, propagation: private, deep: true},
		"rbind,rslave":      {recursive: true, propagation: unix.MountAttr{Propagation: unix.MS_SLAVE}, deep: true},
		"rbind,shared":      {recursive: true, propagation: unix.MountAttr{Propagation: unix.MS_SHARED}},
	} {
		if got, err := planBind(strings.Split(options, ",")); err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", options, got, err, want)
		}
	}
}

// mountTmpfs mounts a filesystem in a directory of the host for a test.
func mountTmpfs(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
}

// mounted runs a program of this package with more mounts than the default ones.
func mounted(t *testing.T, r *Runtime, root string, mounts []specs.Mount, program string, args ...string) string {
	t.Helper()
	s := newSpec(t, root, program, args...)
	s.Mounts = append(s.Mounts, mounts...)
	return output(t, r, s, CreateOptions{})
}

func TestBind(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	source := t.TempDir()
	writeFile(t, source+"/file", "of the host", 0o644)
	mountTmpfs(t, source+"/sub")
	writeFile(t, source+"/sub/deep", "deep", 0o644)
	rbind := specs.Mount{Source: source, Destination: "/data", Options: []string{"rbind"}}
	with := func(m specs.Mount, options ...string) specs.Mount {
		m.Options = append(append([]string{}, m.Options...), options...)
		return m
	}
	for name, test := range map[string]struct {
		mount         specs.Mount
		program, want string
		args          []string
	}{
		"read":           {bindMount(source, "/data"), "read", "/data/file: of the host\n/data/sub: []\n", []string{"/data/file", "/data/sub"}},
		"recursive":      {rbind, "read", "/data/sub/deep: deep\n", []string{"/data/sub/deep"}},
		"write":          {rbind, "write", "", []string{"/data/made", "/data/sub/made"}},
		"read-only":      {bindMount(source, "/data", "ro"), "write", "open /data/x: read-only file system\n", []string{"/data/x"}},
		"read-only top":  {with(rbind, "ro"), "write", "open /data/x: read-only file system\n", []string{"/data/x", "/data/sub/x"}},
		"read-only all":  {with(rbind, "rro"), "write", "open /data/x: read-only file system\nopen /data/sub/x: read-only file system\n", []string{"/data/x", "/data/sub/x"}},
		"file":           {bindMount(source+"/file", "/new/dir/name"), "read", "/new/dir/name: of the host\n", []string{"/new/dir/name"}},
		"file over file": {bindMount(source+"/file", "/etc/passwd"), "read", "/etc/passwd: of the host\n", []string{"/etc/passwd"}},
		"file in dev":    {bindMount(source+"/file", "/dev/deep/file"), "read", "/dev/deep/file: of the host\n", []string{"/dev/deep/file"}},
		"over shm":       {bindMount(source, "/dev/shm"), "read", "/dev/shm/file: of the host\n", []string{"/dev/shm/file"}},
		"over sys":       {bindMount(source, "/sys"), "read", "/sys/file: of the host\n", []string{"/sys/file"}},
		"of proc":        {bindMount(source+"/file", "/proc/uptime"), "read", "/proc/uptime: of the host\n", []string{"/proc/uptime"}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := mounted(t, r, root, []specs.Mount{test.mount}, test.program, test.args...); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
	for _, name := range []string{"made", "sub/made"} {
		if text, err := os.ReadFile(filepath.Join(source, name)); string(text) != "from inside" {
			t.Errorf("%s on the host: %q, %v", name, text, err)
		}
	}
}

// A mount on a link goes where the link leads inside the root, and where that
// would be outside, or in a filesystem of the kernel's, it does not get there.
func TestBindOnLink(t *testing.T) {
	r := openTest(t)
	source, outside := t.TempDir(), t.TempDir()
	writeFile(t, source+"/file", "of the host", 0o644)
	for to, at := range map[string]string{
		"run":                               "/run/file",
		"/run":                              "/run/file",
		"../../../run":                      "/run/file",
		outside:                             outside + "/file",
		strings.Repeat("../", 20) + outside: outside + "/file",
		"/proc":                             "/link/file", // hidden by procfs, which comes later
		"/proc/self":                        "/link/file",
		"/sys/kernel":                       "/link/file",
		"chain":                             "/run/file",
	} {
		root := newRootfs(t)
		for _, dir := range []string{"/run", outside, "/proc/self", "/sys/kernel"} {
			if err := os.MkdirAll(root+dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		for name, to := range map[string]string{"link": to, "chain": "/run"} {
			if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
				t.Fatal(err)
			}
		}
		t.Log(to)
		got := mounted(t, r, root, []specs.Mount{bindMount(source, "/link")}, "read", at, "/proc/self/comm")
		want := at + ": of the host\n/proc/self/comm: test\n\n"
		if at == "/link/file" {
			want = at + ": /link/file: no such file or directory\n/proc/self/comm: test\n\n"
		}
		if got != want {
			t.Errorf("link to %s: %q, want %q", to, got, want)
		}
		if names, _ := os.ReadDir(outside); len(names) != 0 {
			t.Errorf("link to %s: made on the host: %v", to, names)
		}
	}
}

// Mounts in mounts, in the order of the spec.
func TestNestedMounts(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	if err := errors.Join(os.Mkdir(root+"/run", 0o755), os.Symlink("/run", root+"/link")); err != nil {
		t.Fatal(err)
	}
	source, other := t.TempDir(), t.TempDir()
	writeFile(t, source+"/file", "one", 0o644)
	writeFile(t, other+"/file", "two", 0o644)
	mounts := []specs.Mount{
		{Type: "tmpfs", Source: "tmpfs", Destination: "/link", Options: []string{"size=1m", "mode=1700"}},
		bindMount(source, "/link/a/b"),
		bindMount(other, "/link/a/b/c"),
		bindMount(source+"/file", "/link/file"),
		bindMount(other+"/file", "/dev/shm/file"),
	}
	want := "/run/a/b/file: one\n/run/a/b/c/file: two\n/run/file: one\n/dev/shm/file: two\n"
	if got := mounted(t, r, root, mounts, "read", "/run/a/b/file", "/run/a/b/c/file", "/run/file", "/dev/shm/file"); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	v := parseView(t, mounted(t, r, root, mounts, "view"))
	if on := v.Mounts["/run"]; !strings.Contains(on, "tmpfs") || !strings.Contains(on, "size=1024k,mode=1700") {
		t.Errorf("/run is %q", on)
	}
	if info, err := os.Stat(source + "/c"); err != nil || !info.IsDir() {
		t.Errorf("the mount point in the first one's source: %v", err) // as with any engine
	}
}

// What is mounted on the host later shows where the propagation says so.
func TestBindPropagation(t *testing.T) {
	r := openTest(t)
	for option, want := range map[string]bool{"": false, "rprivate": false, "rslave": true, "rshared": true} {
		source := t.TempDir()
		mountTmpfs(t, source)
		if err := unix.Mount("", source, "", unix.MS_SHARED, ""); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(source+"/later", 0o755); err != nil {
			t.Fatal(err)
		}
		m := bindMount(source, "/data")
		if option != "" {
			m.Options = append(m.Options, option)
		}
		c := idle(t, r, func(s *specs.Spec) { s.Mounts = append(s.Mounts, m) })
		mountTmpfs(t, source+"/later")
		writeFile(t, source+"/later/file", "seen", 0o644)
		got := execOutput(t, c, newProgramProcess(newSpec(t, "/", ""), "read", "/data/later/file"), ProcessOptions{})
		if strings.Contains(got, "seen") != want {
			t.Errorf("%q: %s", option, got)
		}
		c.Delete(background)
		unix.Unmount(source+"/later", unix.MNT_DETACH)
	}
}
