package main

import (
	"bufio"
	"fmt"
	"io"
)

// archive writes a cpio archive in the "newc" format that the kernel unpacks:
// Documentation/driver-api/early-userspace/buffer-format.rst in Linux. All
// entries belong to root and have the time 0, so equal input gives equal bytes.
// It is uncompressed: qemu puts it into memory by itself, and gunzip under
// emulation takes longer than the copy.
type archive struct {
	w     *bufio.Writer
	inode int
	at    int64
	err   error
}

// File types of mode, from stat(2).
const (
	cpioDir  = 0o040000
	cpioFile = 0o100000
)

func newArchive(w io.Writer) *archive {
	return &archive{w: bufio.NewWriter(w)}
}

// dir adds a directory. The kernel makes no parents: they come first.
func (a *archive) dir(name string, perm uint32) {
	a.entry(name, cpioDir|perm&0o7777, nil)
}

// file adds a regular file.
func (a *archive) file(name string, perm uint32, data []byte) {
	a.entry(name, cpioFile|perm&0o7777, data)
}

// close ends the archive and gives the first error of all calls.
func (a *archive) close() error {
	a.inode = -1 // the trailer has inode 0
	a.entry("TRAILER!!!", 0, nil)
	if a.err != nil {
		return a.err
	}
	return a.w.Flush()
}

func (a *archive) entry(name string, mode uint32, data []byte) {
	if int64(len(data)) > 0xffffffff && a.err == nil {
		a.err = fmt.Errorf("cpio: %s is larger than the format holds", name)
	}
	a.inode++
	links := 1
	if mode&cpioDir == cpioDir {
		links = 2
	}
	// ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
	a.write([]byte(fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		a.inode, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)))
	a.write(append([]byte(name), 0))
	a.pad()
	a.write(data)
	a.pad()
}

// pad goes on to the next multiple of four bytes.
func (a *archive) pad() {
	a.write(make([]byte, -a.at&3))
}

func (a *archive) write(p []byte) {
	if a.err != nil {
		return
	}
	var n int
	n, a.err = a.w.Write(p)
	a.at += int64(n)
}
