package layer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// patch writes into the header of the first member, and mends its checksum.
func patch(tar []byte, at int, text string) []byte {
	b := bytes.Clone(tar)
	copy(b[at:], text)
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b[:512] {
		sum += int(c)
	}
	copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// TestStarHeader: star keeps two times where ustar's prefix ends, and says so in
// its last bytes.
func TestStarHeader(t *testing.T) {
	prefix := strings.Repeat("p", 130)
	b := patch(tarOf(member{name: "name", prefix: prefix}), 476, "14371573051\x0014371573051\x00")
	all, err := readAll(patch(b, 508, "tar\x00"), 512)
	if err != nil || len(all) != 1 || all[0].name != prefix+"/name" {
		t.Errorf("%+v, %v", all, err)
	}
}

func TestPAXDetails(t *testing.T) {
	counted := paxOf("path=b", "uid=7")
	all, err := readAll(tarOf(
		member{name: "a", kind: kindChar, pax: []string{"SCHILY.devmajor=4095", "SCHILY.devminor=1048575"}},
		member{kind: 'x', data: counted + strings.Repeat("\x00", 512-len(counted))}, // the padding belongs to the data
		member{name: "a"},
		member{name: "x", pax: []string{"atime=5.5", "ctime=6", "charset=BINARY", "hdrcharset=x", "uname=joe", "gname=joe", "comment=c", "VENDOR.key=v"}},
		member{name: "twice", pax: []string{"path=first", "path=second"}},
	), 512)
	if err != nil || len(all) != 4 {
		t.Fatalf("%d members, %v", len(all), err)
	}
	if e := all[0]; e.major != 4095 || e.minor != 1048575 {
		t.Errorf("%+v", e)
	}
	if e := all[1]; e.name != "b" || e.uid != 7 {
		t.Errorf("%+v", e)
	}
	if e := all[2]; e.name != "x" || e.sec != 0 || len(e.xattrs) != 0 {
		t.Errorf("%+v", e)
	}
	if e := all[3]; e.name != "second" {
		t.Errorf("%+v", e)
	}
	for what, data := range map[string]string{
		"no length":            "path=b\n",
		"no length at the end": paxOf("path=b") + "x",
		"endless length":       strings.Repeat("1", 30) + " a=b\n",
		"zero":                 "0 a=b\n",
		"no newline":           "6 a=bc",
		"no key":               "5 =b\n",
		"NUL, then more":       paxOf("path=b") + "\x00x",
	} {
		if all, err := readAll(tarOf(member{kind: 'x', data: data}, member{name: "a"}), 512); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: %+v, %v", what, all, err)
		}
	}
	if all, err := readAll(patch(tarOf(member{name: "a"}), 136, "no time"), 512); !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), `"a": time`) {
		t.Errorf("%+v, %v", all, err)
	}
	if all, err := readAll(tarOf(member{kind: 'x', data: paxOf("path=b")})[:600], 512); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut in an extension: %+v, %v", all, err)
	}
}

// oldSparse is a member of GNU's first sparse format.
func oldSparse(data string, more []string, pieces ...int64) []byte {
	var b bytes.Buffer
	member{name: "sparse", kind: 'S', data: data, magic: "ustar  \x00"}.append(&b)
	h := b.Bytes()[:512]
	for i, p := range pieces {
		h = patch(h, 386+12*i, fmt.Sprintf("%011o\x00", p))
	}
	h = patch(h, 483, fmt.Sprintf("%011o\x00", 9000))
	if more != nil {
		h = patch(h, 482, "\x01")
	}
	out := bytes.Clone(h)
	for i, text := range more {
		block := make([]byte, 512)
		copy(block, text)
		if i < len(more)-1 {
			block[504] = 1
		}
		out = append(out, block...)
	}
	out = append(out, b.Bytes()[512:]...)
	return append(out, make([]byte, 1024)...)
}

func TestOldSparse(t *testing.T) {
	piece := func(off, n int64) string { return fmt.Sprintf("%011o\x00%011o\x00", off, n) }
	whole := oldSparse("abcdefgh", []string{piece(5000, 1) + piece(6000, 1), piece(7000, 1)}, 0, 2, 2, 2, 100, 0, 4096, 1)
	all, err := readAll(whole, 100)
	if err != nil || len(all) != 1 {
		t.Fatalf("%+v, %v", all, err)
	}
	// Pieces that follow each other are one, empty ones none.
	data := int64(3 * 512)
	want := []run{{0, data, 4}, {4096, data + 4, 1}, {5000, data + 5, 1}, {6000, data + 6, 1}, {7000, data + 7, 1}}
	if e := all[0]; !slices.Equal(e.runs, want) || e.size != 9000 || e.kind != kindFile {
		t.Errorf("%+v", e)
	}
	for what, c := range map[string]struct {
		tar   []byte
		class error
	}{
		"cut in the map":     {whole[:700], io.ErrUnexpectedEOF},
		"no number":          {oldSparse("a", []string{"x"}, 0, 1), errdefs.ErrInvalidArgument},
		"backwards":          {oldSparse("ab", []string{piece(5, 1)}, 100, 1), errdefs.ErrInvalidArgument},
		"no size":            {patch(whole, 483, "x"), errdefs.ErrInvalidArgument},
		"negative size":      {patch(whole, 483, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), errdefs.ErrInvalidArgument},
		"endless map":        {endlessMap(), errdefs.ErrInvalidArgument},
		"more than is there": {oldSparse("ab", nil, 0, 3), errdefs.ErrInvalidArgument},
	} {
		if all, err := readAll(c.tar, 512); !errors.Is(err, c.class) || !strings.Contains(err.Error(), `"sparse"`) {
			t.Errorf("%s: %d members, %v", what, len(all), err)
		}
	}
}

func endlessMap() []byte {
	more := make([]string, maxPieces/21+100)
	for i := range more {
		more[i] = strings.Repeat(fmt.Sprintf("%011o\x00%011o\x00", 0, 0), 21)
	}
	return oldSparse("", more)
}

// TestStepsAreBounded: a path may not be made of ever more names by links.
func TestStepsAreBounded(t *testing.T) {
	members := []member{dir("d")}
	path := ""
	for i := range maxHops - 1 {
		name := fmt.Sprint("l", i)
		link := member{name: name, kind: kindSymlink, link: strings.Repeat("d/../", maxLink/5), long: true}
		members = append(members, link)
		path += name + "/"
	}
	members = append(members, member{name: path + "f", long: true})
	if tree, err := readTree(tarOf(members...)); !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), "too many names") {
		t.Errorf("%v, %v", tree, err)
	}
}

// TestManyXattrs: a file can have no more than the kernel lists.
func TestManyXattrs(t *testing.T) {
	records := func(n int) (all []string) {
		for i := range n {
			all = append(all, fmt.Sprintf("SCHILY.xattr.user.%0240d=", i))
		}
		return all
	}
	few := records(200)
	tree, err := readTree(tarOf(member{name: "x", pax: few}))
	if err != nil || len(tree.root.dir.kids["x"].xattrs()) != len(few) {
		t.Errorf("%v", err)
	}
	if _, err := readTree(tarOf(member{name: "x", pax: records(300)})); !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), "more xattrs") {
		t.Errorf("%v", err)
	}
}

// TestMembersStandAlone: nothing of a member's extensions reaches the next one.
func TestMembersStandAlone(t *testing.T) {
	plain := member{name: "plain", data: "x"}
	var b bytes.Buffer
	for _, m := range []member{
		{name: "a", pax: []string{"uid=7", "mtime=9.9", "SCHILY.xattr.user.a=1", "size=0"}}, plain,
		{name: "long", link: "l", long: true, kind: kindSymlink}, plain,
		{name: "s", pax: []string{"GNU.sparse.size=9", "GNU.sparse.map=2,1", "GNU.sparse.name=other"}, data: "y"}, plain,
	} {
		m.append(&b)
	}
	all, err := readAll(b.Bytes(), 512)
	if err != nil || len(all) != 6 {
		t.Fatalf("%+v, %v", all, err)
	}
	first := all[1]
	for _, e := range []entry{all[3], all[5]} {
		e.runs[0].physical = first.runs[0].physical
		if !reflect.DeepEqual(e.runs, first.runs) || e.name != "plain" || e.uid != 0 || e.sec != 0 || e.link != "" || len(e.xattrs) > 0 {
			t.Errorf("%+v, where the first is %+v", e, first)
		}
	}
}
