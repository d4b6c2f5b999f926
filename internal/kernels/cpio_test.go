package main

import (
	"bytes"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// cpioEntry is what the test's own reader finds.
type cpioEntry struct {
	name  string
	mode  uint64
	inode uint64
	data  string
}

// readCpio reads a newc archive as the kernel does.
func readCpio(t *testing.T, b []byte) []cpioEntry {
	t.Helper()
	var list []cpioEntry
	for at := 0; ; {
		if at+110 > len(b) || string(b[at:at+6]) != "070701" {
			t.Fatalf("no header at byte %d", at)
		}
		var f [13]uint64
		for i := range f {
			v, err := strconv.ParseUint(string(b[at+6+8*i:at+14+8*i]), 16, 32)
			if err != nil {
				t.Fatalf("header at byte %d: %v", at, err)
			}
			f[i] = v
		}
		size, nameSize := int(f[6]), int(f[11])
		name := string(b[at+110 : at+110+nameSize])
		if !strings.HasSuffix(name, "\x00") {
			t.Fatalf("name %q has no end", name)
		}
		name = strings.TrimSuffix(name, "\x00")
		at = (at + 110 + nameSize + 3) &^ 3
		if name == "TRAILER!!!" {
			if at != len(b) {
				t.Errorf("%d bytes after the trailer", len(b)-at)
			}
			return list
		}
		list = append(list, cpioEntry{name, f[1], f[0], string(b[at : at+size])})
		at = (at + size + 3) &^ 3
	}
}

// writeSample makes an archive with names and contents of each length modulo
// four, and gives what should be in it.
func writeSample(t *testing.T) ([]byte, []cpioEntry) {
	t.Helper()
	var b bytes.Buffer
	a := newArchive(&b)
	a.dir("d", 0o750)
	want := []cpioEntry{{name: "d", mode: 0o040750}}
	for i := range 9 {
		e := cpioEntry{name: "d/" + strings.Repeat("n", i+1), mode: 0o100644, data: strings.Repeat("x", i)}
		a.file(e.name, 0o644, []byte(e.data))
		want = append(want, e)
	}
	a.file("init", 0o4755, []byte("#!"))
	want = append(want, cpioEntry{name: "init", mode: 0o104755, data: "#!"})
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), want
}

func TestArchiveReadBack(t *testing.T) {
	b, want := writeSample(t)
	inodes := map[uint64]bool{}
	got := readCpio(t, b)
	for i := range got {
		// Two files with one inode number would be unpacked as hard links.
		if inodes[got[i].inode] {
			t.Errorf("%s: inode %d again", got[i].name, got[i].inode)
		}
		inodes[got[i].inode] = true
		got[i].inode = 0
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestArchiveIsReproducible(t *testing.T) {
	a, _ := writeSample(t)
	b, _ := writeSample(t)
	if !bytes.Equal(a, b) {
		t.Error("two archives of the same files differ")
	}
}

func TestArchiveAgainstCpio(t *testing.T) {
	cpio, err := exec.LookPath("cpio")
	if err != nil {
		t.Skip("no cpio (Debian's package cpio) to compare with")
	}
	b, want := writeSample(t)
	cmd := exec.Command(cpio, "--quiet", "-itv", "--numeric-uid-gid")
	cmd.Stdin = bytes.NewReader(b)
	out, err := output(cmd)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != len(want) {
		t.Fatalf("cpio lists %d entries, want %d:\n%s", len(lines), len(want), out)
	}
	for i, line := range lines {
		f := strings.Fields(line)
		if f[len(f)-1] != want[i].name || f[4] != strconv.Itoa(len(want[i].data)) || f[2] != "0" || f[3] != "0" {
			t.Errorf("cpio lists %q, want %v", line, want[i])
		}
	}
	if !strings.HasPrefix(lines[len(lines)-1], "-rwsr-xr-x") || !strings.HasPrefix(lines[0], "drwxr-x---") {
		t.Errorf("modes: %q, %q", lines[0], lines[len(lines)-1])
	}
}

// failing is a writer that takes n bytes.
type failing struct{ n int }

func (f *failing) Write(p []byte) (int, error) {
	if len(p) > f.n {
		return 0, io.ErrShortWrite
	}
	f.n -= len(p)
	return len(p), nil
}

func TestArchiveWriteFails(t *testing.T) {
	a := newArchive(&failing{100})
	for range 3 {
		a.file("f", 0o644, make([]byte, 10_000))
	}
	if err := a.close(); err != io.ErrShortWrite {
		t.Errorf("close = %v", err)
	}
}
