package layer

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// tortureTree makes a directory with everything that an archive can hold.
func tortureTree(t *testing.T, root string) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, data string, mode os.FileMode) {
		t.Helper()
		check(os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755))
		check(os.WriteFile(filepath.Join(root, name), []byte(data), 0o600))
		check(os.Chmod(filepath.Join(root, name), mode))
	}
	for _, n := range []int{0, 1, 511, 512, 513, 4095, 4096, 4097, 100000, 3 << 20} {
		write(fmt.Sprintf("sizes/%d", n), strings.Repeat("0123456789abcdef", n/16+1)[:n], 0o644)
	}
	write("modes/suid", "x", 0o755|os.ModeSetuid)
	write("modes/sgid", "x", 0o755|os.ModeSetgid)
	write("modes/none", "x", 0)
	check(os.Lchown(filepath.Join(root, "modes/suid"), 1000, 65534))
	check(os.Chmod(filepath.Join(root, "modes/suid"), 0o4755|os.ModeSetuid))
	check(os.Mkdir(filepath.Join(root, "modes/tmp"), 0o700))
	check(os.Chmod(filepath.Join(root, "modes/tmp"), 0o777|os.ModeSticky))
	check(os.Mkdir(filepath.Join(root, "modes/closed"), 0))
	check(os.Mkdir(filepath.Join(root, "empty"), 0o755))
	for i := range 400 {
		write(fmt.Sprintf("many/file%04d%s", i, strings.Repeat("x", i%40)), "", 0o644)
	}
	for _, name := range []string{"-", "!", "+a", "...", " ", "new\nline", "umlaut-ä", "\xff\xfe", "[glob]*", strings.Repeat("n", 255)} {
		write("names/"+name, name, 0o644)
	}
	write(strings.Repeat("deep/", 60)+"file", "deep", 0o644)
	check(os.Link(filepath.Join(root, "sizes/513"), filepath.Join(root, "names/hard")))
	check(os.Link(filepath.Join(root, "sizes/513"), filepath.Join(root, "a-hard-link-that-comes-first")))
	for i, to := range []string{"sizes", "/etc/passwd", "../../..", strings.Repeat("t/", 190), strings.Repeat("t/", 200), strings.Repeat("t/", 2047)} {
		check(os.Symlink(to, filepath.Join(root, fmt.Sprintf("symlink%d", i))))
	}
	check(os.Link(filepath.Join(root, "symlink1"), filepath.Join(root, "symlink1-too")))
	check(os.Lchown(filepath.Join(root, "symlink1"), 5, 6))
	check(unix.Mknod(filepath.Join(root, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	check(unix.Mknod(filepath.Join(root, "disk"), unix.S_IFBLK|0o640, int(unix.Mkdev(259, 70000))))
	check(unix.Mkfifo(filepath.Join(root, "fifo"), 0o620))
	check(os.Link(filepath.Join(root, "fifo"), filepath.Join(root, "fifo-too")))
	for name, at := range map[string]int64{"holes/start": 1 << 20, "holes/middle": 300000, "holes/odd": 12345, "holes/all": 0} {
		write(name, "", 0o644)
		f, err := os.OpenFile(filepath.Join(root, name), os.O_WRONLY, 0)
		check(err)
		check(f.Truncate(1<<21 + 77))
		if at > 0 {
			_, err = f.WriteAt([]byte(strings.Repeat("data", 3000)), at)
			check(err)
		}
		if name == "holes/middle" {
			for i := range int64(40) {
				_, err = f.WriteAt([]byte("piece"), i*40000)
				check(err)
			}
		}
		check(f.Close())
	}
	attributes(t, root)
	for name, at := range map[string]unix.Timespec{"sizes/1": {Sec: -1000, Nsec: 5}, "sizes/511": {Sec: 1, Nsec: 999999999},
		"sizes/512": {Sec: 1 << 32}, "symlink1": {Sec: 77, Nsec: 7}, "many": {Sec: 99, Nsec: 1}, "": {Sec: 5, Nsec: 4}} {
		check(unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(root, name), []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW))
	}
}

func attributes(t *testing.T, root string) {
	t.Helper()
	acl := encodeACL([]aclEntry{{aclUserObj, 7, maxID + 1}, {aclUser, 5, 1000}, {aclGroupObj, 5, maxID + 1}, {aclMask, 5, maxID + 1}, {aclOther, 0, maxID + 1}})
	caps := string(binary.LittleEndian.AppendUint32(nil, 0x02000001)) + "\x00\x04\x00\x00" + strings.Repeat("\x00", 12)
	for _, x := range [][3]string{
		{"sizes/4096", "user.text", "value"},
		{"sizes/4096", "user.binary", "a\x00b\nc=d"},
		{"sizes/4096", "trusted.x", "1"},
		{"sizes/4097", "security.capability", caps},
		{"sizes/0", "user.large", strings.Repeat("v", 2000)},
		{"sizes", "user.dir", "d"},
		{"modes/sgid", xattrACLAccess, acl},
		{"empty", xattrACLAccess, acl},
		{"empty", xattrACLDefault, acl},
		{"symlink0", "trusted.link", "l"},
	} {
		if err := unix.Lsetxattr(filepath.Join(root, x[0]), x[1], []byte(x[2]), 0); err != nil {
			t.Fatalf("%s: %s: %v", x[0], x[1], err)
		}
	}
}

func command(t *testing.T, dir string, args ...string) []byte {
	t.Helper()
	var out, stderr bytes.Buffer
	c := exec.Command(args[0], args[1:]...)
	c.Dir, c.Stdout, c.Stderr = dir, &out, &stderr
	if err := c.Run(); err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, stderr.String())
	}
	return out.Bytes()
}

// TestGNUTar archives a torture tree in many ways, and expects both forms of
// the layer to equal what GNU tar extracts, to the last attribute.
func TestGNUTar(t *testing.T) {
	needRoot(t)
	if out, err := exec.Command("tar", "--version").Output(); err != nil || !bytes.Contains(out, []byte("GNU tar")) {
		t.Skip("needs GNU tar")
	}
	src := t.TempDir()
	tortureTree(t, src)
	all := "--xattrs --xattrs-include=* --acls"
	for name, args := range map[string]string{
		"gnu":              "tar --format=gnu -c .",
		"gnu sparse":       "tar --format=gnu --sparse -c .",
		"oldgnu":           "tar --format=oldgnu -c .",
		"pax":              "tar --format=pax " + all + " -c .",
		"pax names":        "tar --format=pax " + all + " --numeric-owner -c sizes names modes empty symlink0 many",
		"pax sparse 0.0":   "tar --format=pax --sparse --sparse-version=0.0 " + all + " -c .",
		"pax sparse 0.1":   "tar --format=pax --sparse --sparse-version=0.1 " + all + " -c .",
		"pax sparse 1.0":   "tar --format=pax --sparse --sparse-version=1.0 " + all + " -c .",
		"pax global":       "tar --format=pax --pax-option=mtime=12345.678,uid=42 -c .",
		"ustar":            "tar --format=ustar -c modes empty holes null fifo symlink0",
		"v7":               "tar --format=v7 -c modes empty symlink0",
		"bsdtar pax":       "bsdtar --format=pax --xattrs --acls -c -f - .",
		"bsdtar no sparse": "bsdtar --format=pax --no-read-sparse --xattrs --acls -c -f - .",
		"bsdtar gnutar":    "bsdtar --format=gnutar -c -f - sizes modes empty holes names",
	} {
		t.Run(name, func(t *testing.T) {
			args := strings.Fields(args)
			if _, err := exec.LookPath(args[0]); err != nil {
				t.Skipf("needs %s", args[0])
			}
			archive := command(t, src, args...)
			want := gnuExtract(t, archive)
			for form, s := range bothStores(t) {
				l := mustAdd(t, s, archive)
				got := describe(t, mountPath(t, l))
				if !strings.HasSuffix(args[len(args)-1], ".") {
					delete(got, "") // the archive says nothing of the root
					delete(want, "")
				}
				same(t, form, got, want)
				noLeaks(t, s)
			}
		})
	}
}

// gnuExtract is the reference.
func gnuExtract(t *testing.T, archive []byte) map[string]string {
	t.Helper()
	dir := t.TempDir()
	c := exec.Command("tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls", "--delay-directory-restore", "-xp", "-C", dir, "-f", "-")
	var stderr bytes.Buffer
	c.Stdin, c.Stderr = bytes.NewReader(archive), &stderr
	if err := c.Run(); err != nil {
		t.Fatalf("%s: %v: %s", c, err, stderr.String())
	}
	return describe(t, dir)
}
