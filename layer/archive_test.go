package layer

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
)

// A member is written into a test's archive as it is, right or wrong, which
// archive/tar would not do.
type member struct {
	name, link   string
	kind         byte // 0: regular file
	mode         int64
	uid, gid     int64
	major, minor int64
	time         int64
	data         string
	size         int64 // what the header says, if not the length of data
	pad          byte  // of the bytes after the data
	pax          []string
	long         bool // name and link as GNU's long ones
	after        string
	magic        string // default: ustar
	prefix       string
}

func tarOf(members ...member) []byte {
	var b bytes.Buffer
	for _, m := range members {
		m.append(&b)
	}
	b.Write(make([]byte, 1024))
	return b.Bytes()
}

func (m member) append(b *bytes.Buffer) {
	if m.kind == 0 {
		m.kind = kindFile
	}
	if m.mode == 0 {
		m.mode = 0o644
	}
	if len(m.pax) > 0 {
		member{name: "pax", kind: 'x', data: paxOf(m.pax...)}.append(b)
	}
	if m.long {
		member{name: "././@LongLink", kind: 'L', data: m.name + "\x00"}.append(b)
		member{name: "././@LongLink", kind: 'K', data: m.link + "\x00"}.append(b)
	}
	h := make([]byte, 512)
	copy(h[:100], m.name)
	field := func(from, to int, v int64) {
		if v < 0 || v >= 1<<(3*(to-from-1)) {
			for i := to - 1; i >= from; i-- {
				h[i] = byte(v)
				v >>= 8
			}
			h[from] |= 0x80
			return
		}
		copy(h[from:to], fmt.Sprintf("%0*o", to-from-1, v))
	}
	size := m.size
	if size == 0 {
		size = int64(len(m.data))
	}
	field(100, 108, m.mode)
	field(108, 116, m.uid)
	field(116, 124, m.gid)
	field(124, 136, size)
	field(136, 148, m.time)
	h[156] = m.kind
	copy(h[157:257], m.link)
	if m.magic == "" {
		m.magic = "ustar\x0000"
	}
	copy(h[257:], m.magic)
	field(329, 337, m.major)
	field(337, 345, m.minor)
	copy(h[345:500], m.prefix)
	copy(h[148:156], "        ")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
	b.Write(h)
	b.WriteString(m.data)
	b.Write(bytes.Repeat([]byte{m.pad}, int(padding(int64(len(m.data))))))
	b.WriteString(m.after)
}

func paxOf(records ...string) string {
	var b strings.Builder
	for _, r := range records {
		n := len(r) + 3
		for len(fmt.Sprint(n))+len(r)+2 != n {
			n = len(fmt.Sprint(n)) + len(r) + 2
		}
		fmt.Fprintf(&b, "%d %s\n", n, r)
	}
	return b.String()
}

func gzipOf(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// filler returns a tarReader's fill that hands out pieces of n bytes.
func filler(b []byte, n int) func() ([]byte, error) {
	return func() ([]byte, error) {
		if len(b) == 0 {
			return nil, io.EOF
		}
		piece := b[:min(n, len(b))]
		b = b[len(piece):]
		return bytes.Clone(piece), nil
	}
}

// readTree makes the tree of an archive, as an indexBuilder does.
func readTree(b []byte) (*tree, error) {
	x := newIndexBuilder("")
	r := newTarReader(filler(b, 1<<20))
	for {
		e, err := r.next()
		if err == io.EOF {
			return x.tree, x.end(r)
		}
		if err == nil {
			err = x.member(r, e, nil)
		}
		if err != nil {
			return nil, err
		}
	}
}

// list describes a finished tree, a line for each name.
func list(t *tree) []string {
	all := t.finish(func(change) {})
	number := map[*inode]int{}
	for i, n := range all {
		number[n] = i
	}
	var lines []string
	var walk func(path string, n *inode)
	walk = func(path string, n *inode) {
		line := fmt.Sprintf("%s %o", path, n.mode)
		if n.uid != 0 || n.gid != 0 {
			line += fmt.Sprintf(" %d:%d", n.uid, n.gid)
		}
		if n.link() != "" {
			line += " -> " + n.link()
		}
		if n.dir == nil && n.nlink > 1 {
			line += fmt.Sprintf(" inode %d", number[n])
		}
		for _, x := range n.xattrs() {
			line += fmt.Sprintf(" %s=%q", x.name, x.value)
		}
		lines = append(lines, line)
		if n.dir != nil {
			for _, c := range n.dir.children {
				walk(path+"/"+c.name, c.node)
			}
		}
	}
	walk("", t.root)
	return lines
}

func openStore(t testing.TB, f Form) *Store {
	t.Helper()
	s, err := Open(t.TempDir(), Options{Form: f})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func mustAdd(t testing.TB, s *Store, b []byte) *Layer {
	t.Helper()
	l, err := s.Add(context.Background(), bytes.NewReader(b), AddOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return l
}
