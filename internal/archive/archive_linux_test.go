package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// needRoot skips a test that makes devices and owners.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to make devices and mounts")
	}
}

// openRoot is a directory as a root: a detached mount without devices.
func openRoot(t testing.TB, dir string) *os.File {
	t.Helper()
	needRoot(t)
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		t.Fatal(err)
	}
	root := os.NewFile(uintptr(fd), dir)
	t.Cleanup(func() { root.Close() })
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NODEV}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		t.Fatal(err)
	}
	return root
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// torture fills a directory with all that a tree can have.
func torture(t testing.TB, dir string) {
	t.Helper()
	in := func(name string) string { return filepath.Join(dir, name) }
	long := strings.Repeat("n", 255)
	deep := strings.Repeat(strings.Repeat("d", 60)+"/", 6)
	must(t,
		os.WriteFile(in("file"), []byte("content\n"), 0o644),
		os.WriteFile(in("empty"), nil, 0o600),
		os.WriteFile(in("blocks"), bytes.Repeat([]byte("x"), 3*bufferSize), 0o644),
		os.WriteFile(in("almost"), bytes.Repeat([]byte("y"), bufferSize+513), 0o644),
		os.WriteFile(in("\xff\xfe any \n bytes = %"), []byte("z"), 0o644),
		os.WriteFile(in(long), []byte("long"), 0o644),
		os.MkdirAll(in(deep), 0o750),
		os.WriteFile(in(deep+"file"), []byte("deep"), 0o640),
		os.WriteFile(in(deep+long), []byte("deep and long"), 0o640),
		os.Mkdir(in("private"), 0),
		os.Symlink("file", in("link")),
		os.Symlink("/absolute/"+strings.Repeat("t", 200), in("dangling")),
		os.Link(in("file"), in("hard")),
		os.Link(in("link"), in("hardlink-of-link")),
		unix.Mkfifo(in("fifo"), 0o622),
		unix.Mknod(in("char"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		unix.Mknod(in("block"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 70_000))),
		os.WriteFile(in("setuid"), []byte("s"), 0o755),
		os.Lchown(in("setuid"), 1000, 70_000),
		os.Chmod(in("setuid"), 0o755|fs.ModeSetuid|fs.ModeSetgid),
		os.Lchown(in("link"), 3_000_000, 4_000_000),
		os.Mkdir(in("sticky"), 0o755),
		os.Chmod(in("sticky"), 0o777|fs.ModeSticky),
		unix.Setxattr(in("file"), "user.some=%", []byte("\x00binary\n"), 0),
		unix.Setxattr(in("setuid"), "security.capability", []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0),
		unix.Setxattr(in("sticky"), "trusted.mine", []byte("t"), 0),
	)
	holes, err := os.Create(in("holes"))
	must(t, err)
	for _, off := range []int64{1 << 20, 5 << 20} {
		_, err := holes.WriteAt([]byte("island"), off)
		must(t, err)
	}
	must(t, holes.Truncate(9<<20), holes.Close())
	allHole, err := os.Create(in("hole"))
	must(t, err, allHole.Truncate(3<<30), allHole.Close())
	old := time.Unix(-12345, 678_900_000)
	future := time.Unix(1<<33+5, 1)
	must(t, os.Chtimes(in("empty"), old, old), os.Chtimes(in("sticky"), future, future))
	must(t, os.Chtimes(in("private"), old, old))
}

// describe gives a line for each name below a directory, with all that counts.
func describe(t testing.TB, dir string, exactTimes bool) string {
	t.Helper()
	var out strings.Builder
	firsts := make(map[uint64]string)
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		mtime := fmt.Sprint(st.Mtim.Sec)
		if exactTimes {
			mtime += fmt.Sprintf(".%09d", st.Mtim.Nsec)
		}
		fmt.Fprintf(&out, "%q %o %d:%d %s", name, st.Mode, st.Uid, st.Gid, mtime)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data := "large"
			if st.Size < 16<<20 {
				b, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				data = fmt.Sprintf("%x", b[:min(len(b), 64)])
				if len(b) > 64 {
					data += fmt.Sprint(" ", bytes.Count(b, []byte("x")), bytes.Count(b, []byte("y")), bytes.Index(b, []byte("island")))
				}
			}
			fmt.Fprint(&out, " ", st.Size, " ", data)
			if st.Size > 4<<20 && st.Blocks*512 > st.Size/2 {
				fmt.Fprint(&out, " no holes")
			}
		case unix.S_IFLNK:
			target, _ := os.Readlink(path)
			fmt.Fprintf(&out, " -> %q", target)
		case unix.S_IFCHR, unix.S_IFBLK:
			fmt.Fprint(&out, " ", unix.Major(st.Rdev), ":", unix.Minor(st.Rdev))
		}
		if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if firsts[st.Ino] == "" {
				firsts[st.Ino] = name
			}
			fmt.Fprintf(&out, " same as %q", firsts[st.Ino])
		}
		list := make([]byte, 1<<16)
		n, _ := unix.Llistxattr(path, list)
		names := strings.Split(string(list[:max(n, 0)]), "\x00")
		slices.Sort(names)
		for _, name := range names {
			if kept(name) {
				value := make([]byte, 1<<16)
				n, err := unix.Lgetxattr(path, name, value)
				fmt.Fprintf(&out, " %q=%q %v", name, value[:max(n, 0)], err)
			}
		}
		out.WriteByte('\n')
		return nil
	}))
	return out.String()
}

// differ tells in which lines two descriptions differ.
func differ(t testing.TB, what, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	lines := strings.Split(want, "\n")
	for _, l := range strings.Split(got, "\n") {
		if i := slices.Index(lines, l); i >= 0 {
			lines = slices.Delete(lines, i, i+1)
		} else {
			t.Errorf("%s: has %.300s", what, l)
		}
	}
	for _, l := range lines {
		t.Errorf("%s: lacks %.300s", what, l)
	}
}

func written(t testing.TB, dir, path string, o WriteOptions) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := Write(t.Context(), openRoot(t, dir), path, &out, o); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func gnuTar(t testing.TB, in []byte, args ...string) []byte {
	t.Helper()
	path, err := exec.LookPath("tar")
	if err != nil {
		t.Skip("needs GNU tar")
	}
	if v, _ := exec.Command(path, "--version").Output(); !bytes.Contains(v, []byte("GNU tar")) {
		t.Skip("needs GNU tar")
	}
	cmd := exec.Command(path, args...)
	cmd.Stdin = bytes.NewReader(in)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("tar %v: %v: %s", args, err, &stderr)
	}
	return stdout.Bytes()
}

// GNU tar extracts what Write wrote, and Extract what GNU tar wrote, and each
// what the other did.
func TestLikeGNUTar(t *testing.T) {
	needRoot(t)
	from := t.TempDir()
	torture(t, from)
	want := describe(t, from, true)
	ours := written(t, from, "/", WriteOptions{})

	to := t.TempDir()
	gnuTar(t, ours, "-xpf", "-", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-C", to)
	// It leaves no such attribute on a directory that it makes again later.
	differ(t, "by GNU tar", describe(t, to, true), want)

	to = t.TempDir()
	must(t, Extract(t.Context(), openRoot(t, to), "/", bytes.NewReader(ours), ExtractOptions{}))
	got := describe(t, to, true)
	differ(t, "by Extract", rootless(got), rootless(want))

	for _, format := range [][]string{
		{"--format=posix", "--xattrs", "--xattrs-include=*", "-S"},
		{"--format=gnu"},
	} {
		theirs := gnuTar(t, nil, append(format, "-cf", "-", "--exclude=./hole", "--numeric-owner", "-C", from, ".")...)
		byThem, byUs := t.TempDir(), t.TempDir()
		gnuTar(t, theirs, "-xpf", "-", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-C", byThem)
		must(t, Extract(t.Context(), openRoot(t, byUs), "/", bytes.NewReader(theirs), ExtractOptions{}))
		differ(t, strings.Join(format, " "), rootless(describe(t, byUs, true)), rootless(describe(t, byThem, true)))
	}
}

// rootless leaves out the directory itself, whose attributes Extract leaves
// alone, as Docker does.
func rootless(description string) string {
	_, rest, _ := strings.Cut(description, "\n")
	return rest
}

// members reads an archive with archive/tar.
func members(t testing.TB, archive []byte) map[string]*tar.Header {
	t.Helper()
	all := make(map[string]*tar.Header)
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			t.Fatal(err)
		}
		all[h.Name] = h
	}
}

func TestNames(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	must(t,
		os.MkdirAll(filepath.Join(dir, "run/sub"), 0o755),
		os.WriteFile(filepath.Join(dir, "run/file"), nil, 0o644),
		os.Symlink("/run", filepath.Join(dir, "var")),
		os.Symlink("run/file", filepath.Join(dir, "alias")),
	)
	for path, want := range map[string][]string{
		"/run":          {"run/", "run/file", "run/sub/"},
		"run":           {"run/", "run/file", "run/sub/"},
		"/run/":         {"run/", "run/file", "run/sub/"},
		"/run/.":        {"./", "./file", "./sub/"},
		"/var":          {"var"},
		"/var/":         {"var/", "var/file", "var/sub/"},
		"/var/.":        {"./", "./file", "./sub/"},
		"/var/file":     {"file"},
		"/run/../alias": {"alias"},
		"/run/sub/..":   {"./", "./file", "./sub/"},
		"/../../run":    {"run/", "run/file", "run/sub/"},
	} {
		var got []string
		for name := range members(t, written(t, dir, path, WriteOptions{})) {
			got = append(got, name)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	if h := members(t, written(t, dir, "/alias", WriteOptions{Follow: true}))["alias"]; h == nil || h.Typeflag != tar.TypeReg {
		t.Errorf("followed: %+v", h)
	}
}

func TestStat(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	must(t,
		os.MkdirAll(filepath.Join(dir, "a/b"), 0o755),
		os.Symlink("../nothing", filepath.Join(dir, "a/b/up")),
		os.Symlink("/a/b", filepath.Join(dir, "abs")),
		os.Symlink("abs", filepath.Join(dir, "twice")),
		os.Symlink("loop", filepath.Join(dir, "loop")),
	)
	root := openRoot(t, dir)
	for path, want := range map[string]string{"a/b/up": "/a/b/../nothing", "/abs": "/a/b", "twice": "/a/b", "a": ""} {
		info, err := Stat(root, path)
		if err != nil || info.Target != want || info.Name != filepath.Base(path) || want != "" && info.Mode&fs.ModeSymlink == 0 {
			t.Errorf("%s: %+v, %v", path, info, err)
		}
	}
	for path, want := range map[string]error{
		"none":                           errdefs.ErrNotFound,
		"none/x":                         errdefs.ErrNotFound,
		"loop":                           errdefs.ErrInvalidArgument,
		"loop/x":                         errdefs.ErrInvalidArgument,
		"a\x00b":                         errdefs.ErrInvalidArgument,
		strings.Repeat("x", 300):         errdefs.ErrInvalidArgument,
		strings.Repeat("x/", 3000) + "y": errdefs.ErrInvalidArgument,
	} {
		if _, err := Stat(root, path); !errors.Is(err, want) {
			t.Errorf("%.20q: %v", path, err)
		}
		if err := Write(t.Context(), root, path+"/", failingWriter{}, WriteOptions{}); !errors.Is(err, want) {
			t.Errorf("write %.20q: %v", path, err)
		}
	}
}

// failingWriter must not be written to.
type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("written to") }

func TestSocketsAndKernelFilesystems(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "socket"))
	must(t, err)
	defer l.Close()
	must(t, os.Mkdir(filepath.Join(dir, "proc"), 0o755))
	root := inOwnMounts(t, func() (*os.File, error) {
		if err := unix.Mount("proc", filepath.Join(dir, "proc"), "proc", 0, ""); err != nil {
			return nil, err
		}
		fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		return os.NewFile(uintptr(fd), dir), err
	})
	var out bytes.Buffer
	must(t, Write(t.Context(), root, "/", &out, WriteOptions{}))
	all := members(t, out.Bytes())
	if len(all) != 2 || all["./"] == nil || all["./proc/"] == nil {
		t.Errorf("%v", all)
	}
	for _, path := range []string{"/socket", "/proc/1/environ", "/proc/self/root", "/proc/1/."} {
		if err := Write(t.Context(), root, path, failingWriter{}, WriteOptions{}); !errors.Is(err, errdefs.ErrInvalidArgument) && !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, name := range []string{"proc/sys/kernel/x", "proc/x"} {
		err := Extract(t.Context(), root, "/", bytes.NewReader(tarOf(t, tar.Header{Name: name, Typeflag: tar.TypeReg})), ExtractOptions{})
		if !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("extract %s: %v", name, err)
		}
	}
}

// tarOf is an archive of members without data, but of files with Size the bytes
// of their names, again and again.
func tarOf(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range headers {
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		must(t, w.WriteHeader(&h))
		if h.Size > 0 {
			_, err := w.Write(bytes.Repeat([]byte(h.Name), int(h.Size))[:h.Size])
			must(t, err)
		}
	}
	must(t, w.Close())
	return out.Bytes()
}

func TestHostileArchives(t *testing.T) {
	needRoot(t)
	reg := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg, Size: 5} }
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeSymlink}
	}
	hard := func(name, to string) tar.Header { return tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeLink} }
	for _, c := range []struct {
		what    string
		headers []tar.Header
		want    error
		made    string // below root
	}{
		{"..", []tar.Header{reg("../x")}, errdefs.ErrInvalidArgument, ""},
		{".. in the middle", []tar.Header{reg("a/../../x")}, errdefs.ErrInvalidArgument, ""},
		{".. that stays", []tar.Header{reg("a/../x")}, nil, "target/x"},
		{"absolute", []tar.Header{reg("/etc/x")}, nil, "target/etc/x"},
		{"absolute ..", []tar.Header{reg("/../x")}, errdefs.ErrInvalidArgument, ""},
		{"through an absolute link", []tar.Header{link("l", "/"), reg("l/x")}, nil, "x"},
		{"through a relative link", []tar.Header{link("l", "../../../.."), reg("l/x")}, nil, "x"},
		{"through links to links", []tar.Header{link("a", "b"), link("b", "../.."), reg("a/x")}, nil, "x"},
		{"over a link", []tar.Header{link("x", "/outside"), reg("x")}, nil, "target/x"},
		{"hard link out", []tar.Header{hard("x", "../../outside")}, errdefs.ErrInvalidArgument, ""},
		{"hard link through a link", []tar.Header{link("l", "/.."), hard("x", "l/outside")}, unix.ENOENT, ""},
		{"hard link absolute", []tar.Header{reg("y"), hard("x", "/y")}, nil, "target/x"},
		{"hard link to itself", []tar.Header{reg("x"), hard("x", "x")}, nil, "target/x"},
		{"below a file", []tar.Header{reg("x"), reg("x/y")}, errdefs.ErrInvalidArgument, ""},
		{"owner -1", []tar.Header{{Name: "x", Typeflag: tar.TypeReg, Uid: 1<<32 - 1}}, errdefs.ErrInvalidArgument, ""},
		{"unknown type", []tar.Header{{Name: "x", Typeflag: 'Z'}}, errdefs.ErrInvalidArgument, ""},
	} {
		outer := t.TempDir()
		root := filepath.Join(outer, "root")
		must(t, os.MkdirAll(filepath.Join(root, "target"), 0o755), os.WriteFile(filepath.Join(outer, "outside"), []byte("secret"), 0o600))
		outside := describe(t, filepath.Join(outer, "outside"), true)
		err := Extract(t.Context(), openRoot(t, root), "target", bytes.NewReader(tarOf(t, c.headers...)), ExtractOptions{})
		if c.want == nil && err != nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.what, err)
		}
		if c.made != "" {
			if info, err := os.Lstat(filepath.Join(root, c.made)); err != nil || !info.Mode().IsRegular() {
				t.Errorf("%s: %s: %v", c.what, c.made, err)
			}
		}
		if got := describe(t, filepath.Join(outer, "outside"), true); got != outside {
			t.Errorf("%s: outside %s", c.what, got)
		}
		if entries, _ := os.ReadDir(outer); len(entries) != 2 {
			t.Errorf("%s: outside are %v", c.what, entries)
		}
	}
}

func TestReplace(t *testing.T) {
	needRoot(t)
	fill := func() (string, *os.File) {
		dir := t.TempDir()
		must(t,
			os.MkdirAll(filepath.Join(dir, "dir/sub"), 0o700),
			os.WriteFile(filepath.Join(dir, "dir/kept"), []byte("k"), 0o600),
			os.WriteFile(filepath.Join(dir, "file"), []byte("f"), 0o600),
			os.Symlink("dir", filepath.Join(dir, "link")),
		)
		return dir, openRoot(t, dir)
	}
	for _, c := range []struct {
		h       tar.Header
		keep    bool
		refused bool
		want    string
	}{
		{tar.Header{Name: "dir", Typeflag: tar.TypeDir, Mode: 0o711}, false, false, "dir/kept"},
		{tar.Header{Name: "dir", Typeflag: tar.TypeReg}, false, false, "dir"},
		{tar.Header{Name: "dir", Typeflag: tar.TypeReg}, true, true, "dir/kept"},
		{tar.Header{Name: "file", Typeflag: tar.TypeDir, Mode: 0o700}, false, false, "file/."},
		{tar.Header{Name: "file", Typeflag: tar.TypeDir, Mode: 0o700}, true, true, "file"},
		{tar.Header{Name: "file", Typeflag: tar.TypeReg}, true, false, "file"},
		{tar.Header{Name: "link/new", Typeflag: tar.TypeReg}, true, false, "dir/new"},
		{tar.Header{Name: "link", Typeflag: tar.TypeReg}, true, false, "dir/kept"},
	} {
		dir, root := fill()
		err := Extract(t.Context(), root, "/", bytes.NewReader(tarOf(t, c.h)), ExtractOptions{KeepKinds: c.keep})
		if c.refused != errors.Is(err, errdefs.ErrInvalidArgument) || !c.refused && err != nil {
			t.Errorf("%s %c: %v", c.h.Name, c.h.Typeflag, err)
		}
		if _, err := os.Lstat(filepath.Join(dir, c.want)); err != nil {
			t.Errorf("%s %c: %v", c.h.Name, c.h.Typeflag, err)
		}
	}
}

// An archive that ends in the middle, wherever that is, is an error.
func TestTruncated(t *testing.T) {
	needRoot(t)
	all := tarOf(t, tar.Header{Name: "a", Typeflag: tar.TypeReg, Size: 2000}, tar.Header{Name: "b", Typeflag: tar.TypeReg, Size: 700})
	for n := 1; n < len(all)-1024; n += 97 {
		ends := n >= 512+2000 && n <= 512+2048 || n >= len(all)-1024-(1024-700) // a whole member
		err := Extract(t.Context(), openRoot(t, t.TempDir()), "/", bytes.NewReader(all[:n]), ExtractOptions{})
		if !ends && !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	for _, junk := range [][]byte{[]byte("\x1f\x8b\x08 compressed"), bytes.Repeat([]byte("junk"), 1000)} {
		if err := Extract(t.Context(), openRoot(t, t.TempDir()), "/", bytes.NewReader(junk), ExtractOptions{}); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("junk: %v", err)
		}
	}
	for path, want := range map[string]error{"none": errdefs.ErrNotFound, "file": errdefs.ErrInvalidArgument} {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
		if err := Extract(t.Context(), openRoot(t, dir), path, bytes.NewReader(all), ExtractOptions{}); !errors.Is(err, want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestOwner(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	archive := tarOf(t, tar.Header{Name: "d/", Typeflag: tar.TypeDir, Uid: 7}, tar.Header{Name: "d/f", Typeflag: tar.TypeReg, Mode: 0o4755, Gid: 8})
	must(t, Extract(t.Context(), openRoot(t, dir), "/", bytes.NewReader(archive), ExtractOptions{Owner: &Owner{1000, 2000}}))
	for _, name := range []string{"d", "d/f"} {
		var st unix.Stat_t
		must(t, unix.Lstat(filepath.Join(dir, name), &st))
		if st.Uid != 1000 || st.Gid != 2000 || name == "d/f" && st.Mode&0o7777 != 0o4755 {
			t.Errorf("%s: %+v", name, st)
		}
	}
}

// shrinker truncates a file at the first write.
type shrinker struct {
	bytes.Buffer
	path string
	to   int64
}

func (s *shrinker) Write(b []byte) (int, error) {
	if s.path != "" {
		if err := os.Truncate(s.path, s.to); err != nil {
			return 0, err
		}
		s.path = ""
	}
	return s.Buffer.Write(b)
}

func TestFileChangesWhileItIsRead(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	for _, to := range []int64{0, bufferSize + 1, 10 * bufferSize} {
		must(t, os.WriteFile(path, bytes.Repeat([]byte("x"), 3*bufferSize+17), 0o600))
		w := &shrinker{path: path, to: to}
		must(t, Write(t.Context(), openRoot(t, dir), "/file", w, WriteOptions{}))
		r := tar.NewReader(&w.Buffer)
		h, err := r.Next()
		must(t, err)
		data, err := io.ReadAll(r)
		if h.Size != 3*bufferSize+17 || int64(len(data)) != h.Size || err != nil {
			t.Errorf("to %d: %d of %d, %v", to, len(data), h.Size, err)
		}
		if _, err := r.Next(); err != io.EOF {
			t.Errorf("to %d: %v", to, err)
		}
	}
}

func TestContextEnds(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "file"), make([]byte, 8<<20), 0o600))
	ctx, cancel := context.WithCancel(t.Context())
	err := Write(ctx, openRoot(t, dir), "/", writerFunc(func(b []byte) (int, error) { cancel(); return len(b), nil }), WriteOptions{})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("write: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	in := io.MultiReader(bytes.NewReader(tarOf(t, tar.Header{Name: "x", Typeflag: tar.TypeReg, Size: 8 << 20})[:6<<20]), readerFunc(func([]byte) (int, error) {
		cancel()
		return 0, nil
	}))
	if err := Extract(ctx, openRoot(t, t.TempDir()), "/", in, ExtractOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("extract: %v", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

func TestTooDeep(t *testing.T) {
	needRoot(t)
	dir, err := os.OpenFile(t.TempDir(), unix.O_DIRECTORY, 0)
	must(t, err)
	top := dir.Name()
	for range maxDepth + 10 {
		must(t, unix.Mkdirat(int(dir.Fd()), "d", 0o700))
		fd, err := unix.Openat(int(dir.Fd()), "d", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		must(t, err)
		dir.Close()
		dir = os.NewFile(uintptr(fd), "d")
	}
	dir.Close()
	if err := Write(t.Context(), openRoot(t, top), "/", io.Discard, WriteOptions{}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("%v", err)
	}
}

// A disk that is full, or a quota, is told by its error, and the descriptor of
// nothing stays open.
func TestFullDisk(t *testing.T) {
	needRoot(t)
	root := inOwnMounts(t, func() (*os.File, error) {
		fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
		if err != nil {
			return nil, err
		}
		defer unix.Close(fs)
		if err := errors.Join(unix.FsconfigSetString(fs, "size", "1m"), unix.FsconfigCreate(fs)); err != nil {
			return nil, err
		}
		fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
		return os.NewFile(uintptr(fd), "tmpfs"), err
	})
	err := Extract(t.Context(), root, "/", bytes.NewReader(tarOf(t, tar.Header{Name: "x", Typeflag: tar.TypeReg, Size: 4 << 20})), ExtractOptions{})
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), `"x"`) {
		t.Errorf("%v", err)
	}
}
