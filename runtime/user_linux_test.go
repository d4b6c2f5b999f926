package runtime

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// databases makes a directory with an etc/passwd and an etc/group, and opens it.
func databases(t testing.TB, passwd, group string) (fd int, dir string) {
	t.Helper()
	dir = t.TempDir()
	if passwd != "" {
		writeFile(t, filepath.Join(dir, "etc/passwd"), passwd, 0o644)
	}
	if group != "" {
		writeFile(t, filepath.Join(dir, "etc/group"), group, 0o644)
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd, dir
}

func TestLookupCredential(t *testing.T) {
	fd, _ := databases(t, strings.Join([]string{
		"# a comment", "", "short:x:1:1", "::9:9::/nameless:", "root:x:0:0:root:/root:/bin/sh",
		"user:x:1000:1001::/home/user:", "bad:x:4294967296:0::/:", "worse:x:1:-1::/:", "letters:x:zero:0::/:",
		"1000:x:0:0::/evil:", "2000:x:0:0::/evil:", "homeless:x:7:8:::", "crlf:x:70:71::/crlf:\r", "user:x:1:1::/second:",
	}, "\n"), strings.Join([]string{
		"root:x:0:", "a:x:10:user,root", "b:x:11:other,user", "c:x:12:userx", "d:x:bad:user", "a2:x:10:user",
		"100:x:0:user", "empty:x:13:", "broken", "big:x:4294967296:user", ":x:14:",
	}, "\n"))
	for user, want := range map[string]string{
		"root": "0:0 [0 10] /root", "user": "1000:1001 [1001 10 11 0] /home/user", "1000": "1000:1001 [1001 10 11 0] /home/user",
		"0": "0:0 [0 10] /root", "3000": "3000:0 [0] /", "homeless": "7:8 [8] /", "crlf": "70:71 [71] /crlf",
		"user:a": "1000:10 [10] /home/user", "user:100": "1000:100 [100] /home/user", "user:4242": "1000:4242 [4242] /home/user",
		"5:6": "5:6 [6] /", "2147483647:2147483647": "2147483647:2147483647 [2147483647] /",
		// CVE-2016-3697: a name made of digits does not count.
		"2000": "2000:0 [0] /", "2000:100": "2000:100 [100] /",
		":a": "0:10 [10] /root",
	} {
		c, err := lookupCredential(fd, user, &specs.Process{})
		if err != nil {
			t.Errorf("%q: %v", user, err)
			continue
		}
		if got := fmt.Sprintf("%d:%d %v %s", c.uid, c.gid, c.groups, c.home); got != want {
			t.Errorf("%q: %s, want %s", user, got, want)
		}
	}
	for _, user := range []string{
		"nobody", "user:nobody", "1000:evil", "2147483648", "4294967295", "4294967296", "18446744073709551616", "-1", "-2147483648",
		"0:-1", "0:4294967296", "bad", "worse", "letters", "short", "broken", "user:broken", "user:d", "user:big", "1000\n", " root", "user:", ":", ":nobody", "999999999999999999999999999",
	} {
		if c, err := lookupCredential(fd, user, &specs.Process{}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %+v, %v", user, c, err)
		} else if name, _, _ := strings.Cut(user, ":"); !strings.Contains(err.Error(), fmt.Sprintf("%q", name)) && !strings.Contains(err.Error(), "group") {
			t.Errorf("%q: the error does not name it: %v", user, err)
		}
	}
	// Without a name, the numbers of the spec, and HOME of whom they are.
	p := &specs.Process{User: specs.User{UID: 1000, GID: 5, AdditionalGids: []uint32{6}}}
	c, err := lookupCredential(fd, "", p)
	if err != nil || c.uid != 1000 || c.gid != 5 || !slices.Equal(c.groups, []uint32{6}) || c.home != "/home/user" {
		t.Errorf("%+v, %v", c, err)
	}
	none, _ := databases(t, "", "")
	if c, err := lookupCredential(none, "5:6", p); err != nil || c.uid != 5 || c.gid != 6 || c.home != "/" {
		t.Errorf("%+v, %v", c, err)
	}
}

// CVE-2026-46680, CVE-2026-47262, podman CVE-2024-9676, cri-o CVE-2022-4318:
// what an image has in place of its databases costs bounded time and memory, is
// not opened if it is no file, and is not read outside of the image.
func TestHostileDatabases(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "passwd")
	writeFile(t, secret, "secret:x:1:1::/:\n", 0o644)
	up := strings.Repeat("../", 20)
	for name, c := range map[string]struct {
		make func(passwd string) error
		want string // in the error for a name; for a number too, unless it is ""
	}{
		"fifo":         {func(p string) error { return unix.Mkfifo(p, 0o644) }, "regular"},
		"directory":    {func(p string) error { return os.Mkdir(p, 0o755) }, "regular"},
		"huge":         {func(p string) error { return sparse(p, 1<<40) }, "bytes"},
		"one line":     {func(p string) error { return os.WriteFile(p, bytes.Repeat([]byte("x"), 2<<20), 0o644) }, "too long"},
		"loop":         {func(p string) error { return os.Symlink("passwd", p) }, "symbolic links"},
		"outside":      {func(p string) error { return os.Symlink(up+secret, p) }, "not in"},
		"absolute":     {func(p string) error { return os.Symlink(secret, p) }, "not in"},
		"proc":         {func(p string) error { return os.Symlink("/proc/self/root"+secret, p) }, "not in"},
		"dangling":     {func(p string) error { return os.Symlink("/nothing", p) }, "not in"},
		"socket":       {func(p string) error { return unix.Mknod(p, unix.S_IFSOCK|0o644, 0) }, "regular"},
		"null bytes":   {func(p string) error { return os.WriteFile(p, make([]byte, 1<<20-1), 0o644) }, "not in"},
		"many entries": {func(p string) error { return os.WriteFile(p, bytes.Repeat([]byte("a:b:1:2:c:d:e\n"), 1<<17), 0o644) }, "not in"},
	} {
		t.Run(name, func(t *testing.T) {
			fd, dir := databases(t, "", "root:x:0:\n")
			if err := c.make(filepath.Join(dir, "etc/passwd")); err != nil {
				t.Fatal(err)
			}
			if got, err := lookupCredential(fd, "secret", &specs.Process{}); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "passwd") {
				t.Errorf("%+v, %v", got, err)
			}
			fd, dir = databases(t, "root:x:0:0::/:\n", "")
			if err := c.make(filepath.Join(dir, "etc/group")); err != nil {
				t.Fatal(err)
			}
			if got, err := lookupCredential(fd, "root:secret", &specs.Process{}); err == nil || !strings.Contains(err.Error(), "group") {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

// A device is not opened: the image says which one.
func TestDeviceAsDatabase(t *testing.T) {
	needRoot(t)
	fd, dir := databases(t, "", "x:x:0:\n")
	// A node without a driver: to open it would give ENXIO.
	if err := unix.Mknod(filepath.Join(dir, "etc/passwd"), unix.S_IFCHR|0o644, int(unix.Mkdev(4000, 0))); err != nil {
		t.Skip(err)
	}
	if _, err := lookupCredential(fd, "root", &specs.Process{}); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "regular") {
		t.Error(err)
	}
}

func sparse(name string, size int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Truncate(size)
}

func TestParseID(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "1": 1, "00012": 12, "2147483647": maxID} {
		if n, err := parseID(s); n != want || err != nil {
			t.Errorf("%q: %d, %v", s, n, err)
		}
	}
	for _, s := range []string{"", "-1", "2147483648", "4294967296", "1e3", "0x10", "1 ", "１", "99999999999999999999"} {
		if n, err := parseID(s); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %d, %v", s, n, err)
		}
	}
}

// FuzzCredential looks users up in whatever an image has as its databases.
func FuzzCredential(f *testing.F) {
	f.Add("root", "root:x:0:0:root:/root:/bin/sh\n", "root:x:0:a,b\n")
	f.Add("1000:g", "u:x:1000:1::\x00:\n\r\n#", "g:x:5:u\n:::\n")
	f.Add("-1:4294967296", ":::::::", ",,,,")
	dir := f.TempDir()
	os.Mkdir(filepath.Join(dir, "etc"), 0o755)
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { unix.Close(fd) })
	f.Fuzz(func(t *testing.T, user, passwd, group string) {
		for name, text := range map[string]string{"passwd": passwd, "group": group} {
			if err := os.WriteFile(filepath.Join(dir, "etc", name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		c, err := lookupCredential(fd, user, &specs.Process{})
		if err != nil {
			return
		}
		for _, id := range append(c.groups, c.uid, c.gid) {
			if id > maxID {
				t.Errorf("%q is %+v", user, c)
			}
		}
		if name, _, _ := strings.Cut(user, ":"); name != "" && strings.Trim(name, "0123456789") == "" {
			if n, err := parseID(name); err != nil || uint32(n) != c.uid {
				t.Errorf("the number %q became %d", name, c.uid)
			}
		}
	})
}
