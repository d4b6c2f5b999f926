package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// readAll returns copies of all members.
func readAll(b []byte, piece int) ([]entry, error) {
	r := newTarReader(filler(b, piece))
	var all []entry
	for {
		e, err := r.next()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		c := *e
		c.runs, c.xattrs = slices.Clone(e.runs), slices.Clone(e.xattrs)
		all = append(all, c)
	}
}

// TestTarLikeArchiveTar writes members with archive/tar in all its formats
// and expects to read what it reads.
func TestTarLikeArchiveTar(t *testing.T) {
	long := strings.Repeat("directory/", 40)
	headers := []tar.Header{
		{Typeflag: tar.TypeReg, Name: "file", Mode: 0o4755, Uid: 1, Gid: 2, Size: 5, ModTime: time.Unix(1700000000, 0)},
		{Typeflag: tar.TypeReg, Name: "empty", Mode: 0o600, ModTime: time.Unix(0, 0)},
		{Typeflag: tar.TypeReg, Name: "block", Size: 512, ModTime: time.Unix(1, 0)},
		{Typeflag: tar.TypeReg, Name: strings.Repeat("p/", 60) + "prefix", Size: 1, ModTime: time.Unix(1, 0)},
		{Typeflag: tar.TypeDir, Name: "dir/", Mode: 0o1777, ModTime: time.Unix(5, 0)},
		{Typeflag: tar.TypeLink, Name: "link", Linkname: "file", ModTime: time.Unix(5, 0)},
		{Typeflag: tar.TypeSymlink, Name: "symlink", Linkname: "../x", ModTime: time.Unix(5, 0)},
		{Typeflag: tar.TypeChar, Name: "char", Devmajor: 1, Devminor: 3, ModTime: time.Unix(5, 0)},
		{Typeflag: tar.TypeBlock, Name: "block device", Devmajor: 8, Devminor: 1000, ModTime: time.Unix(5, 0)},
		{Typeflag: tar.TypeFifo, Name: "fifo", ModTime: time.Unix(5, 0)},
		{Typeflag: tar.TypeReg, Name: long + "name", Size: 3, ModTime: time.Unix(5, 0), Format: tar.FormatGNU},
		{Typeflag: tar.TypeSymlink, Name: long + "link", Linkname: long, ModTime: time.Unix(5, 0), Format: tar.FormatGNU},
		{Typeflag: tar.TypeReg, Name: "big owner", Uid: 1 << 30, Gid: maxID, ModTime: time.Unix(-5, 0), Format: tar.FormatGNU},
		{Typeflag: tar.TypeReg, Name: long + "pax", Size: 600, ModTime: time.Unix(5, 123456789), Format: tar.FormatPAX,
			PAXRecords: map[string]string{"SCHILY.xattr.user.a": "1\n2\x003"}},
		{Typeflag: tar.TypeReg, Name: "before 1970", ModTime: time.Unix(-100, 5), Uid: 1 << 31, Format: tar.FormatPAX},
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatalf("%s: %v", h.Name, err)
		}
		if _, err := w.Write(bytes.Repeat([]byte("x"), int(h.Size))); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, piece := range []int{1 << 20, 512, 7} {
		all, err := readAll(b.Bytes(), piece)
		if err != nil {
			t.Fatal(err)
		}
		if len(all) != len(headers) {
			t.Fatalf("%d members where %d were written", len(all), len(headers))
		}
		for i, h := range headers {
			e := all[i]
			if e.name != h.Name || e.link != h.Linkname || e.kind != h.Typeflag || int64(e.mode) != h.Mode ||
				int(e.uid) != h.Uid || int(e.gid) != h.Gid || e.sec != h.ModTime.Unix() || int(e.nsec) != h.ModTime.Nanosecond() ||
				e.size != h.Size || int64(e.major) != h.Devmajor || int64(e.minor) != h.Devminor {
				t.Errorf("read %+v where %+v was written", e, h)
			}
			if h.Size > 0 {
				r := e.runs[0]
				data := b.Bytes()[r.physical : r.physical+r.length]
				if len(e.runs) != 1 || len(data) != int(h.Size) || strings.Trim(string(data), "x") != "" {
					t.Errorf("%s: runs %v", e.name, e.runs)
				}
			}
		}
		if x := all[13].xattrs; len(x) != 1 || x[0].name != "user.a" || x[0].value != "1\n2\x003" {
			t.Errorf("xattrs %q", x)
		}
	}
}

func TestTarOddities(t *testing.T) {
	star := member{name: "name", prefix: strings.Repeat("p", 131) + "00000000000"}
	for _, c := range []struct {
		what  string
		tar   []byte
		names string
	}{
		{"empty stream", nil, ""},
		{"no end marker", tarOf(member{name: "a", data: "x"})[:1024], "a"},
		{"last padding missing", tarOf(member{name: "a", data: "x"})[:513], "a"},
		{"junk behind the end", append(tarOf(member{name: "a"}), "junk"...), "a"},
		{"volume label", tarOf(member{name: "label", kind: 'V'}, member{name: "a"}), "a"},
		{"old directory", tarOf(member{name: "a/"}), "a/"},
		{"old magic", tarOf(member{name: "a", magic: "        "}), "a"},
		{"contiguous file", tarOf(member{name: "a", kind: '7', data: "x"}), "a"},
		{"incremental dump", tarOf(member{name: "d", kind: 'D', data: "Yname\x00\x00"}, member{name: "a"}), "d a"},
		{"data of a link is no data", tarOf(member{name: "l", kind: kindHardlink, link: "a", size: 512}, member{name: "a"}), "l a"},
		{"Solaris's extended header", tarOf(member{kind: 'X', data: paxOf("path=b")}, member{name: "a"}), "b"},
		{"empty PAX values", tarOf(member{name: "a", pax: []string{"path=", "uid=", "mtime="}}), "a"},
		{"GNU's long name wins", tarOf(member{name: "long", long: true, pax: []string{"path=pax"}}), "long"},
		{"global header at the end", tarOf(member{name: "a"}, member{kind: 'g', data: paxOf("comment=x")}), "a"},
		{"star's prefix", tarOf(star), star.prefix + "/name"},
	} {
		all, err := readAll(c.tar, 512)
		var names []string
		for _, e := range all {
			names = append(names, e.name)
		}
		if got := strings.Join(names, " "); got != c.names || err != nil {
			t.Errorf("%s: read %q, %v; want %q", c.what, got, err, c.names)
		}
	}
}

func TestTarRefused(t *testing.T) {
	bad := tarOf(member{name: "a"})
	bad[0] ^= 1
	whole := tarOf(member{name: "first", data: strings.Repeat("x", 3000)}, member{name: "second"})
	for _, c := range []struct {
		what, text string
		tar        []byte
		class      error
	}{
		{"checksum", "checksum", bad, errdefs.ErrInvalidArgument},
		{"cut in a header", "byte 3584", whole[:3700], io.ErrUnexpectedEOF},
		{"cut in data", `"first"`, whole[:2000], io.ErrUnexpectedEOF},
		{"cut after an extension", "header", tarOf(member{name: "a", pax: []string{"uid=1"}})[:1024], io.ErrUnexpectedEOF},
		{"extension before the end", "end marker", tarOf(member{kind: 'x', data: paxOf("uid=1")}), errdefs.ErrInvalidArgument},
		{"type flag", "type flag 'Z'", tarOf(member{name: "a", kind: 'Z'}), errdefs.ErrInvalidArgument},
		{"uid", "uid", tarOf(member{name: "a", uid: 1 << 32}), errdefs.ErrInvalidArgument},
		{"uid that means nobody", "uid", tarOf(member{name: "a", pax: []string{"uid=4294967295"}}), errdefs.ErrInvalidArgument},
		{"PAX uid", `"uid"="-1"`, tarOf(member{name: "a", pax: []string{"uid=-1"}}), errdefs.ErrInvalidArgument},
		{"PAX time", `"mtime"`, tarOf(member{name: "a", pax: []string{"mtime=1.2.3"}}), errdefs.ErrInvalidArgument},
		{"PAX size", `"size"`, tarOf(member{name: "a", pax: []string{"size=99999999999999999999"}}), errdefs.ErrInvalidArgument},
		{"PAX without =", "key", tarOf(member{kind: 'x', data: "6 abc\n"}), errdefs.ErrInvalidArgument},
		{"PAX length", "length", tarOf(member{kind: 'x', data: "99 a=b\n"}), errdefs.ErrInvalidArgument},
		{"PAX length of itself", "length", tarOf(member{kind: 'x', data: "2 a=b\n"}), errdefs.ErrInvalidArgument},
		{"PAX header too large", "extension", tarOf(member{kind: 'x', size: 1<<20 + 1}), errdefs.ErrInvalidArgument},
		{"negative size", "size", tarOf(member{name: "a", size: -1}), errdefs.ErrInvalidArgument},
		{"directory with data", `"a/"`, tarOf(member{name: "a/", data: "x"}), errdefs.ErrInvalidArgument},
		{"size in a global header", "global", tarOf(member{kind: 'g', data: paxOf("size=1")}), errdefs.ErrInvalidArgument},
		{"path in a global header", "global", tarOf(member{kind: 'g', data: paxOf("path=x")}), errdefs.ErrInvalidArgument},
		{"endless extensions", "extension", endless(), errdefs.ErrInvalidArgument},
		{"star's sparse files", "SCHILY.realsize", tarOf(member{name: "a", pax: []string{"SCHILY.realsize=5"}}), errdefs.ErrInvalidArgument},
	} {
		_, err := readAll(c.tar, 512)
		if !errors.Is(err, c.class) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v; want %v and %q", c.what, err, c.class, c.text)
		}
		if c.class == io.ErrUnexpectedEOF && !errors.Is(err, errdefs.ErrDataLoss) {
			t.Errorf("%s: %v is no data loss", c.what, err)
		}
	}
}

// endless is extension headers without a member.
func endless() []byte {
	var b bytes.Buffer
	for range 4 {
		member{kind: 'x', data: paxOf("comment=" + strings.Repeat("x", 1<<19))}.append(&b)
		member{kind: 'L', data: strings.Repeat("x", 1<<19)}.append(&b)
	}
	return b.Bytes()
}

func TestTarGlobalHeader(t *testing.T) {
	all, err := readAll(tarOf(
		member{kind: 'g', data: paxOf("uid=7", "mtime=3.5", "comment=x")},
		member{name: "a", uid: 1},
		member{name: "b", uid: 1, pax: []string{"uid=9"}},
		member{name: "c", uid: 1, pax: []string{"uid="}},
		member{kind: 'g', data: paxOf("gid=8")},
		member{name: "d"},
	), 512)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range [][3]int64{{7, 0, 3}, {9, 0, 3}, {1, 0, 3}, {0, 8, 0}} {
		if e := all[i]; int64(e.uid) != want[0] || int64(e.gid) != want[1] || e.sec != want[2] {
			t.Errorf("%s: %d:%d %d; want %v", e.name, e.uid, e.gid, e.sec, want)
		}
	}
}

func TestParseTime(t *testing.T) {
	for s, want := range map[string][2]int64{
		"0": {0, 0}, "1.5": {1, 5e8}, "-1": {-1, 0}, "-1.5": {-2, 5e8}, "-0.25": {-1, 75e7}, "1.0000000019": {1, 1},
		"-1.0000000001": {-2, 999999999}, ".5": {0, 5e8}, "-.5": {-1, 5e8}, "1.": {1, 0}, "-1.0": {-1, 0},
		"9223372036854775807": {math.MaxInt64, 0}, "-9223372036854775808": {math.MinInt64, 0},
	} {
		sec, nsec, err := parseTime(s)
		if sec != want[0] || int64(nsec) != want[1] || err != nil {
			t.Errorf("%s: %d, %d, %v; want %v", s, sec, nsec, err, want)
		}
	}
	for _, s := range []string{"", ".", "-", "x", "1.x", "1.-5", "1e5", "--1", "9223372036854775808", "-9223372036854775808.5"} {
		if sec, nsec, err := parseTime(s); err == nil {
			t.Errorf("%q: %d, %d; want an error", s, sec, nsec)
		}
	}
}

func TestNumber(t *testing.T) {
	for s, want := range map[string]int64{
		"0000644\x00": 0o644, "   644 \x00": 0o644, "\x00\x00\x00": 0, "    ": 0, "777": 0o777, "12\x0034": 0o12,
		"\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00": 256,
		"\x80\x00\x00\x00\x80\x00\x00\x00":                 1 << 31,
		"\xff\xff\xff\xff\xff\xff\xff\xff":                 -1,
		"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe": -2,
		"\xff\xff\xff\xff\x80\x00\x00\x00\x00\x00\x00\x00": math.MinInt64,
		"\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff": math.MaxInt64,
	} {
		if got, err := number([]byte(s)); got != want || err != nil {
			t.Errorf("%q: %d, %v; want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"8", "-1", "x", "1 2",
		"\x80\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00", "\x80\x00\x00\x00\x80\x00\x00\x00\x00\x00\x00\x00",
		"\xff\xff\xff\xff\x7f\xff\xff\xff\xff\xff\xff\xff"} {
		if got, err := number([]byte(s)); err == nil {
			t.Errorf("%q: %d; want an error", s, got)
		}
	}
}

func TestSparseRefused(t *testing.T) {
	v1 := []string{"GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.realsize=1000"}
	pad := func(s string) string { return s + strings.Repeat("\x00", int(padding(int64(len(s))))) }
	for what, m := range map[string]member{
		"odd map":              {pax: []string{"GNU.sparse.size=9", "GNU.sparse.map=0,1,2"}},
		"overlap":              {pax: []string{"GNU.sparse.size=9", "GNU.sparse.map=0,2,1,2"}, data: "1234"},
		"beyond the end":       {pax: []string{"GNU.sparse.size=9", "GNU.sparse.map=8,2"}, data: "12"},
		"more than is stored":  {pax: []string{"GNU.sparse.size=9", "GNU.sparse.map=0,2"}, data: "1"},
		"less than is stored":  {pax: []string{"GNU.sparse.size=9", "GNU.sparse.map=0,2"}, data: "123"},
		"huge length":          {pax: []string{"GNU.sparse.size=9", "GNU.sparse.map=1,4611686018427387903"}, data: "1"},
		"length first":         {pax: []string{"GNU.sparse.size=9", "GNU.sparse.numbytes=1", "GNU.sparse.offset=0"}, data: "1"},
		"unknown format":       {pax: []string{"GNU.sparse.major=2", "GNU.sparse.minor=0"}},
		"map without end":      {pax: v1, data: "1\n0\n"},
		"map of letters":       {pax: v1, data: pad("x")},
		"map of empty lines":   {pax: v1, data: pad("\n")},
		"map of too many":      {pax: v1, data: pad("1048577\n")},
		"map that goes on":     {pax: v1, data: pad("1048576\n" + strings.Repeat("0\n", 200))},
		"1.0 without its size": {pax: v1[:2], data: pad("0\n")},
	} {
		m.name = "sparse"
		if all, err := readAll(tarOf(m), 512); !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), `"sparse"`) {
			t.Errorf("%s: %v, %v", what, all, err)
		}
	}
}

// TestCVE_2017_14992 and the archives of CVE-2023-25153 and CVE-2021-20291
// took memory without bound: here a header that announces much gets none.
func TestCVE_2017_14992(t *testing.T) {
	for what, b := range map[string][]byte{
		"size of 1 EiB":  tarOf(member{name: "a", size: 1 << 60}),
		"PAX size":       tarOf(member{name: "a", pax: []string{"size=1152921504606846976"}}),
		"long name":      tarOf(member{kind: 'L', size: 1 << 40}),
		"PAX header":     tarOf(member{kind: 'x', size: 1 << 40}),
		"sparse map":     tarOf(member{name: "a", kind: 'S', size: 1 << 40}),
		"many zero runs": tarOf(member{name: "a", pax: []string{"GNU.sparse.size=1", "GNU.sparse.map=" + strings.Repeat("0,0,", 1<<17) + "0,0"}}),
	} {
		n := testing.AllocsPerRun(1, func() {
			if _, err := readTree(b); err == nil && what != "many zero runs" {
				t.Errorf("%s: accepted", what)
			}
		})
		if n > 1000 {
			t.Errorf("%s: %v allocations", what, n)
		}
	}
}
