package layer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// huge is more than the octal digits of a header hold (8 GiB), and than 32 bits.
const huge = 9<<30 + 12345

// TestHugeSparse has GNU tar archive a file of 9 GiB, nearly all of it holes, in
// each of its sparse formats, with maps that go on in further blocks.
func TestHugeSparse(t *testing.T) {
	needRoot(t)
	if out, err := exec.Command("tar", "--version").Output(); err != nil || !bytes.Contains(out, []byte("GNU tar")) {
		t.Skip("needs GNU tar")
	}
	src := t.TempDir()
	f, err := os.Create(filepath.Join(src, "huge"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(huge); err != nil {
		t.Skipf("the filesystem has no such files: %v", err)
	}
	at := []int64{huge - 7}
	for i := range int64(60) {
		at = append(at, i*150<<20)
	}
	for _, off := range at {
		if _, err := fmt.Fprintf(io.NewOffsetWriter(f, off), "%7d", off>>20); err != nil {
			t.Fatal(err)
		}
	}
	for _, format := range []string{"--format=oldgnu", "--format=gnu", "--sparse-version=0.0", "--sparse-version=0.1", "--sparse-version=1.0"} {
		t.Run(format, func(t *testing.T) {
			args := []string{"tar", "--sparse", "--hole-detection=seek", format, "-c", "huge"}
			if strings.HasPrefix(format, "--sparse") {
				args = append(args[:3], append([]string{"--format=pax"}, args[3:]...)...)
			}
			archive := command(t, src, args...)
			if len(archive) > 4<<20 {
				t.Fatalf("%d bytes: it has no holes", len(archive))
			}
			for form, s := range bothStores(t) {
				l := mustAdd(t, s, archive)
				got, err := os.Open(mountPath(t, l) + "huge")
				if err != nil {
					t.Fatal(err)
				}
				defer got.Close()
				hasHuge(t, form, got, at)
				if used := diskUse(t, s.dir); used > 16<<20 {
					t.Errorf("%s: the layer takes %d bytes", form, used)
				}
			}
		})
	}
}

func hasHuge(t *testing.T, form string, f *os.File, at []int64) {
	t.Helper()
	if st, err := f.Stat(); err != nil || st.Size() != huge {
		t.Errorf("%s: %v, %v", form, st, err)
	}
	for _, off := range at {
		b := make([]byte, 7)
		if _, err := f.ReadAt(b, off); err != nil || string(b) != fmt.Sprintf("%7d", off>>20) {
			t.Errorf("%s: %q at %d: %v", form, b, off, err)
		}
		if off+7 == huge {
			continue
		}
		hole := make([]byte, 8<<10)
		if _, err := f.ReadAt(hole, off+75<<20); err != nil || len(bytes.Trim(hole, "\x00")) > 0 {
			t.Errorf("%s: no hole behind %d: %v", form, off, err)
		}
	}
	if n, err := f.ReadAt(make([]byte, 1), huge); n != 0 || err != io.EOF {
		t.Errorf("%s: %d bytes at the end: %v", form, n, err)
	}
}

// diskUse counts blocks.
func diskUse(t *testing.T, dir string) (bytes int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		bytes += st.Blocks * 512
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

// hugeTar is a tar of 18 GiB: two files whose sizes stand in base 256 and in a PAX
// record, all zeros but for their last bytes, and a small file behind them. It
// gives what is not zero, and where.
func hugeTar() (pieces map[int64][]byte, size int64) {
	pieces = map[int64][]byte{}
	put := func(b []byte) {
		pieces[size] = b
		size += int64(len(b))
	}
	header := func(m member) []byte {
		var b bytes.Buffer
		m.append(&b)
		return b.Bytes()
	}
	for _, m := range []member{
		{name: "base256", size: huge},
		{name: "pax", pax: []string{fmt.Sprint("size=", int64(huge))}},
	} {
		put(header(m))
		size += huge - 3
		put([]byte("end"))
		size += padding(huge)
	}
	put(header(file("behind")))
	put(make([]byte, 2*tarBlock))
	return pieces, size
}

// hugeFiller reads a tar without having it.
func hugeFiller(pieces map[int64][]byte, size int64) func() ([]byte, error) {
	at := int64(0)
	zeros := make([]byte, 1<<20)
	return func() ([]byte, error) {
		if at == size {
			return nil, io.EOF
		}
		if b := pieces[at]; b != nil {
			at += int64(len(b))
			return b, nil
		}
		next := size
		for p := range pieces {
			if p > at {
				next = min(next, p)
			}
		}
		n := min(next-at, int64(len(zeros)))
		at += n
		return zeros[:n], nil
	}
}

// TestHugeFiles: data that begins or ends behind what 32 bits, or the octal digits
// of a header, can say. The tar is a file of holes here.
func TestHugeFiles(t *testing.T) {
	pieces, size := hugeTar()
	x := newIndexBuilder("")
	r := newTarReader(hugeFiller(pieces, size))
	for {
		e, err := r.next()
		if err == io.EOF {
			break
		}
		if err == nil {
			err = x.member(r, e, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := x.end(r); err != nil {
		t.Fatal(err)
	}
	s := indexStore(t)
	files := map[string]*os.File{}
	for _, name := range []string{tarName, indexName} {
		f, err := os.Create(filepath.Join(s.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files[name] = f
	}
	if err := files[tarName].Truncate(size); err != nil {
		t.Skipf("the filesystem has no such files: %v", err)
	}
	for at, b := range pieces {
		if _, err := files[tarName].WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	w := &indexer{tar: files[tarName], tarSize: size}
	if n, err := w.write(files[indexName], x.tree.finish(func(change) {})); err != nil || n > 8<<10 {
		t.Fatalf("an index of %d bytes, %v", n, err)
	}
	m, err := mountIndex(files[indexName], files[tarName])
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for _, name := range []string{"base256", "pax"} {
		f, err := os.Open(fdPath(m) + name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil || st.Size() != huge {
			t.Errorf("%s: %v, %v", name, st, err)
		}
		end := make([]byte, 5)
		if _, err := f.ReadAt(end, huge-5); err != nil || string(end) != "\x00\x00end" {
			t.Errorf("%s ends with %q, %v", name, end, err)
		}
	}
	if b, err := os.ReadFile(fdPath(m) + "behind"); err != nil || string(b) != "behind" {
		t.Errorf("%q, %v", b, err)
	}
}

// TestNoSuchSize: a file that no filesystem here can have.
func TestNoSuchSize(t *testing.T) {
	for _, form := range testForms() {
		if form == FormIndex {
			needRoot(t) // it becomes a directory
		}
		s := openStore(t, form)
		b := tarOf(member{name: "large", data: "data", pax: []string{"GNU.sparse.size=4611686018427387000", "GNU.sparse.map=5,4"}})
		l, err := s.Add(t.Context(), bytes.NewReader(b), AddOptions{})
		if !errors.Is(err, errdefs.ErrOutOfRange) || !strings.Contains(err.Error(), `"large"`) {
			t.Errorf("%v: %v, %v", form, l, err)
		}
		noLeaks(t, s)
	}
}

// TestLargeDirectory has 100,000 names, of which each is found. Where the layer
// is a directory, it is the machine's file system that has them, and as many as
// take several calls to list are enough.
func TestLargeDirectory(t *testing.T) {
	for form, s := range bothStores(t) {
		n := 100_000
		if testing.Short() || form == "directory" {
			n = 5000
		}
		var b bytes.Buffer
		for i := range n {
			member{name: fmt.Sprintf("d/%d-%s", i, strings.Repeat("n", i%200)), long: i%200 > 80, time: 1}.append(&b)
		}
		b.Write(make([]byte, 1024))
		root := mountPath(t, mustAdd(t, s, gzipOf(t, b.Bytes())))
		entries, err := os.ReadDir(root + "d")
		if err != nil || len(entries) != n {
			t.Fatalf("%s: %d names, %v", form, len(entries), err)
		}
		d, err := os.Open(root + "d")
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		for i := range n {
			var st unix.Stat_t
			name := fmt.Sprintf("%d-%s", i, strings.Repeat("n", i%200))
			if err := unix.Fstatat(int(d.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || st.Mtim.Sec != 1 {
				t.Fatalf("%s: %s: %v", form, name, err)
			}
		}
		noLeaks(t, s)
	}
}

// TestLongNames are as long as Linux has them, everywhere that a name can be. A
// whiteout of such a name is longer, and no file.
func TestLongNames(t *testing.T) {
	n := strings.Repeat("n", maxName)
	deep := strings.Repeat(strings.Repeat("d", 239)+"/", 16) // with a name below, nearly PATH_MAX
	deep += strings.Repeat("e", maxPath-1-len(deep)-2) + "/"
	lower := tarOf(member{name: n, long: true, data: "1"}, member{name: "d/" + n, long: true})
	upper := []member{
		{name: n + "/" + n, data: "2", long: true},
		{name: n + "/hard", kind: kindHardlink, link: n + "/" + n, long: true},
		{name: n + "/link", kind: kindSymlink, link: strings.Repeat("l", maxLink), long: true},
		{name: n + "/pax", pax: []string{"path=" + n + "/pax" + n[:maxName-3]}},
		{name: "d/.wh." + n, long: true},
		{name: deep + "f", data: "3", long: true},
	}
	for form, s := range bothStores(t) {
		var stack []*os.File
		for _, b := range [][]byte{tarOf(upper...), lower} {
			m, err := mustAdd(t, s, b).Mount(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			stack = append(stack, m.File())
		}
		root := fdPath(stack[0])
		for name, want := range map[string]string{n + "/" + n: "2", n + "/hard": "2", n + "/pax" + n[:maxName-3]: ""} {
			if b, err := os.ReadFile(root + name); err != nil || string(b) != want {
				t.Errorf("%s: %s: %q, %v", form, quote(name), b, err)
			}
		}
		if to, err := os.Readlink(root + n + "/link"); err != nil || len(to) != maxLink {
			t.Errorf("%s: a link to %d bytes, %v", form, len(to), err)
		}
		fd, err := unix.Openat(int(stack[0].Fd()), deep+"f", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Errorf("%s: a path of %d bytes: %v", form, len(deep)+1, err)
		} else {
			unix.Close(fd)
		}
		o := overlay(t, stack...)
		defer o.Close()
		if entries, err := os.ReadDir(fdPath(o) + "d"); err != nil || len(entries) != 0 {
			t.Errorf("%s: not hidden: %v, %v", form, entries, err)
		}
	}
	for what, m := range map[string]member{
		"256 bytes":          {name: "a/" + n + "n", long: true},
		"256 bytes, 1 more":  {name: n + "n/f", long: true},
		"of 257 bytes":       {name: "a/.wh." + n + "nn", long: true},
		"260 bytes":          {name: ".wh..wh.x" + n[:251], long: true},
		"path of 4097 bytes": {name: strings.Repeat("a/", maxPath/2) + "f", long: true},
		"path of 5000 bytes": {name: "l", kind: kindHardlink, link: strings.Repeat("a", 5000), long: true},
		`symlink to "` + n:   {name: "l", kind: kindSymlink, link: strings.Repeat(n, 17), long: true},
	} {
		for _, form := range testForms() {
			_, err := openStore(t, form).Add(t.Context(), bytes.NewReader(tarOf(m)), AddOptions{})
			if !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), what) {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
}
