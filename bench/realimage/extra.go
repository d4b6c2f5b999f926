//go:build linux

package realimage

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// writeExtra writes the second layer's own files to dir: in srv/extra what
// other images seldom have, elsewhere what changes the first layer.
func writeExtra(dir string) error {
	s := &stage{dir: dir}
	// Every directory on the way is named in the archive: one that is not has
	// no metadata of its own, and each engine makes up others.
	for _, name := range []string{".", "etc", "srv", "srv/extra", "usr", "usr/local", "usr/share", "usr/share/doc"} {
		s.mkdir(name, 0o755)
	}
	s.odd()
	s.links()
	s.sparse()
	s.overFirst()
	s.times()
	return s.err
}

// stage is a directory that is being filled. The first error stops it.
type stage struct {
	dir string
	err error
}

func (s *stage) do(f func() error) {
	if s.err == nil {
		s.err = f()
	}
}

func (s *stage) path(name string) string { return filepath.Join(s.dir, name) }

// mode sets permission bits that the umask would take away.
func (s *stage) mode(name string, mode uint32) {
	s.do(func() error { return unix.Chmod(s.path(name), mode) })
}

func (s *stage) mkdir(name string, mode uint32) {
	s.do(func() error { return os.MkdirAll(s.path(name), 0o755) })
	s.mode(name, mode)
}

func (s *stage) file(name, data string, mode uint32) {
	s.do(func() error { return os.WriteFile(s.path(name), []byte(data), 0o600) })
	s.mode(name, mode)
}

func (s *stage) node(name string, mode uint32, device uint64) {
	s.do(func() error { return unix.Mknod(s.path(name), mode, int(device)) })
	s.mode(name, mode&0o7777)
}

func (s *stage) xattr(name, attr string, value []byte) {
	s.do(func() error { return unix.Lsetxattr(s.path(name), attr, value, 0) })
}

func (s *stage) chown(name string, uid, gid int) {
	s.do(func() error { return os.Lchown(s.path(name), uid, gid) })
}

// odd writes modes, owners, types, names and attributes.
func (s *stage) odd() {
	s.file("srv/extra/empty", "", 0o644)
	s.file("srv/extra/block", strings.Repeat("b", 512), 0o644)
	s.file("srv/extra/block-and-one", strings.Repeat("c", 513), 0o600)
	s.file("srv/extra/no-permission", "secret\n", 0)
	s.chown("srv/extra/block", 1000, 1001)
	s.chown("srv/extra/block-and-one", 2_000_000_000, 2_000_000_001) // more than ustar's octal digits hold

	s.file("srv/extra/set-uid", "#!/bin/sh\n", 0o4755)
	s.file("srv/extra/set-gid", "#!/bin/sh\n", 0o2755)
	s.mkdir("srv/extra/sticky", 0o1777)
	s.mkdir("srv/extra/set-gid-directory", 0o2775)
	s.mkdir("srv/extra/empty-directory", 0o700)

	s.file("srv/extra/capable", "#!/bin/sh\n", 0o755)
	s.xattr("srv/extra/capable", "security.capability", netRaw())
	s.xattr("srv/extra/empty", "user.note", []byte("of a file"))
	s.xattr("srv/extra/empty", "user.binary", []byte{0, 1, 2, '\n', '=', 0xff})
	s.xattr("srv/extra/empty-directory", "user.note", []byte("of a directory"))

	s.node("srv/extra/fifo", unix.S_IFIFO|0o640, 0)
	s.node("srv/extra/null", unix.S_IFCHR|0o666, unix.Mkdev(1, 3))
	s.node("srv/extra/disk", unix.S_IFBLK|0o660, unix.Mkdev(259, 70000)) // a minor above 255
	s.chown("srv/extra/disk", 0, 6)

	s.file("srv/extra/"+strings.Repeat("n", 255), "long name\n", 0o644)
	s.file("srv/extra/ umlaut ä,\nnewline, \ttab", "odd name\n", 0o644)
	deep := "srv/extra/" + strings.Repeat("deep-directory/", 40) // 600 bytes, no part long
	s.mkdir(deep, 0o755)
	s.file(deep+"file", "long path\n", 0o644)
}

// netRaw is cap_net_raw+ep as the kernel's vfs_cap_data, revision 2.
func netRaw() []byte {
	data := make([]byte, 20)
	binary.LittleEndian.PutUint32(data, 0x02000001) // revision 2, effective
	binary.LittleEndian.PutUint32(data[4:], 1<<unix.CAP_NET_RAW)
	return data
}

func (s *stage) links() {
	link := func(old, name string) {
		s.do(func() error { return os.Link(s.path(old), s.path(name)) })
	}
	symlink := func(target, name string) {
		s.do(func() error { return os.Symlink(target, s.path(name)) })
	}
	s.file("srv/extra/one", "one inode, four names\n", 0o644)
	s.mkdir("srv/extra/other", 0o755)
	link("srv/extra/one", "srv/extra/other/two")
	link("srv/extra/one", "srv/extra/three")
	link("srv/extra/one", "srv/extra/"+strings.Repeat("l", 200))

	symlink("other/two", "srv/extra/relative")
	symlink("/srv/extra/one", "srv/extra/absolute")
	symlink("../../../../../etc/passwd", "srv/extra/upward")
	symlink("nowhere", "srv/extra/dangling")
	symlink("loop", "srv/extra/loop")
	symlink(strings.Repeat("t/", 300)+"end", "srv/extra/long-target")
	link("srv/extra/dangling", "srv/extra/dangling-link")
	s.do(func() error { return os.Lchown(s.path("srv/extra/relative"), 1000, 1000) })
}

func (s *stage) sparse() {
	write := func(name string, size int64, data map[int64]string) {
		s.do(func() error {
			f, err := os.Create(s.path(name))
			if err != nil {
				return err
			}
			defer f.Close()
			for at, text := range data {
				if _, err := f.WriteAt([]byte(text), at); err != nil {
					return err
				}
			}
			return f.Truncate(size)
		})
	}
	write("srv/extra/hole", 1<<20, nil)
	write("srv/extra/sparse", 8<<20, map[int64]string{0: "start", 1 << 20: "1 MiB", 5<<20 + 7: "5 MiB and 7"})
	write("srv/extra/sparse-to-the-end", 3<<20+5, map[int64]string{3 << 20: "12345"})
	pieces := map[int64]string{}
	for i := range int64(200) { // more than fit into one header
		pieces[i<<13] = strings.Repeat("p", 4096)
	}
	write("srv/extra/many-pieces", 200<<13, pieces)
}

// overFirst removes and replaces things of the first layer.
func (s *stage) overFirst() {
	s.file("etc/.wh.issue.net", "", 0o644)
	s.file("usr/share/doc/.wh.bash", "", 0o644)
	s.mkdir("usr/share/doc/base-files", 0o755)
	s.file("usr/share/doc/base-files/.wh..wh..opq", "", 0o644)
	s.file("usr/share/doc/base-files/new", "all that is left here\n", 0o644)
	s.file("usr/share/doc/tar", "a file over a directory\n", 0o644)
	s.mkdir("usr/share/doc/sed", 0o750)
	s.mkdir("usr/share/doc/sed/copyright", 0o755)
	s.file("usr/share/doc/sed/copyright/under", "a directory over a file\n", 0o644)
	s.file("etc/issue", "Debian, changed\n", 0o644)
}

// times come last: they change with what is put into a directory.
func (s *stage) times() {
	for name, t := range map[string]time.Time{
		"srv/extra/empty":           time.Unix(1, 1),
		"srv/extra/block":           time.Unix(1_600_000_000, 123_456_789),
		"srv/extra/block-and-one":   time.Unix(4_102_444_800, 999_999_999), // 2100: more than 31 bits
		"srv/extra/empty-directory": time.Unix(1_500_000_000, 5),
		"srv/extra":                 time.Unix(1_400_000_000, 0),
		"usr/share":                 time.Unix(1_300_000_000, 7),
	} {
		s.do(func() error {
			ts, err := unix.TimeToTimespec(t)
			if err != nil {
				return err
			}
			return unix.UtimesNanoAt(unix.AT_FDCWD, s.path(name), []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
		})
	}
}
