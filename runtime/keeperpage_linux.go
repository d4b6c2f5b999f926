package runtime

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	goruntime "runtime"
	"sync"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Where the keeper's two pages and a child's program are mapped: in one range of
// 2 MiB, for which one page table does, as each child gets a copy of them all.
// The values are fixed in the assembly too.
const (
	textBase = 0x400000
	dataBase = 0x410000
	progBase = 0x420000
)

// The keeper's data page, by offset. The assembly uses the same numbers.
const (
	pageRequestHdr = 0x000 // msghdr of a request
	pageRequestIov = 0x040
	pageReplyHdr   = 0x060 // msghdr of a reply
	pageReplyIov   = 0x0A0
	pagePollfds    = 0x0C0 // socket, signalfd
	pageRequest    = 0x200 // a received request: struct clone_args, then the program's size
	pageReply      = 0x300 // pid, and a wait status or 1<<32
	pageReplyCtl   = 0x320 // control message with one descriptor, which clone itself stores
	pageReplyPidfd = 0x330
	pageChildren   = 0x3C8 // of a keeper outside: the descriptor of the list of its children
	pageSignals    = 0x3D0 // of an init: the set of all signals
	pageRequestCtl = 0x800 // control message of a request: its descriptors
	pageSize       = 0x1000

	cloneArgsSize = 88 // struct clone_args, CLONE_ARGS_SIZE_VER2
	requestSize   = cloneArgsSize + 8

	// controlSize is the room for the descriptors of a request; the assembly
	// has it too. The kernel sends at most SCM_MAX_FD (253) at once.
	controlSize = 0x400
)

// maxRequestFDs is how many descriptors may come with a request.
const maxRequestFDs = (controlSize - unix.SizeofCmsghdr) / 4

var errNoEndMark = errors.New("the keeper's code has no end mark")

// keeperELF returns an executable made of the keeper's code and a page of
// prepared data. The boot program that it will find in descriptor 4 has
// progSize bytes.
func keeperELF(progSize int) ([]byte, error) {
	machine, ok := map[string]uint16{"amd64": 62, "arm64": 183}[goruntime.GOARCH]
	if !ok {
		return nil, fmt.Errorf("no keeper for %s: %w", goruntime.GOARCH, errdefs.ErrNotImplemented)
	}
	text := unsafe.Slice((*byte)(keeperAddress()), pageSize)
	n := bytes.Index(text, []byte{0xCC, 0xE2, 0x9D, 0x87, 0x5A, 0x11, 0x3C, 0xCC})
	if n < 0 {
		return nil, errNoEndMark
	}
	// Text and data lie 64 KiB apart, for kernels with such pages.
	const textAt, dataAt = 0x10000, 0x20000
	f := make([]byte, dataAt+pageSize)
	le := binary.LittleEndian
	copy(f, "\x7fELF\x02\x01\x01")
	le.PutUint16(f[16:], 2) // ET_EXEC
	le.PutUint16(f[18:], machine)
	le.PutUint32(f[20:], 1)
	le.PutUint64(f[24:], textBase)
	le.PutUint64(f[32:], 64) // program headers follow
	le.PutUint16(f[52:], 64)
	le.PutUint16(f[54:], 56)
	le.PutUint16(f[56:], 3)
	segment := func(i int, kind, flags uint32, off, addr, size uint64) {
		p := f[64+56*i:]
		le.PutUint32(p, kind)
		le.PutUint32(p[4:], flags)
		le.PutUint64(p[8:], off)
		le.PutUint64(p[16:], addr)
		le.PutUint64(p[24:], addr)
		le.PutUint64(p[32:], size)
		le.PutUint64(p[40:], size)
		le.PutUint64(p[48:], 0x10000)
	}
	const load, gnuStack, r, w, x = 1, 0x6474e551, 4, 2, 1
	segment(0, load, r|x, textAt, textBase, uint64(n))
	segment(1, load, r|w, dataAt, dataBase, pageSize)
	segment(2, gnuStack, r|w, 0, 0, 0)
	le.PutUint64(f[64+56*2+48:], 16)
	copy(f[textAt:], text[:n])
	copy(f[dataAt:], keeperData(progSize))
	return f, nil
}

// keeperData returns the keeper's data page as it is at its start.
func keeperData(progSize int) []byte {
	d := make([]byte, pageSize)
	le := binary.LittleEndian
	put := func(off int, v uint64) { le.PutUint64(d[off:], v) }
	message := func(hdr, iov, base, size, control int) { // struct msghdr, struct iovec
		put(hdr+0x10, uint64(dataBase+iov))
		put(hdr+0x18, 1)
		put(hdr+0x20, uint64(dataBase+control))
		put(iov, uint64(dataBase+base))
		put(iov+8, uint64(size))
	}
	message(pageRequestHdr, pageRequestIov, pageRequest, requestSize, pageRequestCtl)
	message(pageReplyHdr, pageReplyIov, pageReply, 16, pageReplyCtl)
	le.PutUint32(d[pagePollfds:], 0)
	le.PutUint16(d[pagePollfds+4:], unix.POLLIN)
	le.PutUint32(d[pagePollfds+8:], 3)
	le.PutUint16(d[pagePollfds+12:], unix.POLLIN)
	put(pageReplyCtl, unix.SizeofCmsghdr+4)
	le.PutUint32(d[pageReplyCtl+8:], unix.SOL_SOCKET)
	le.PutUint32(d[pageReplyCtl+12:], unix.SCM_RIGHTS)
	put(pageRequest+cloneArgsSize, uint64(progSize))
	put(pageSignals, ^uint64(0))
	return d
}

// request encodes a clone with a program of progSize bytes. flags are clone3's;
// intoCgroup is the index among the descriptors sent along of a v2 cgroup for
// CLONE_INTO_CGROUP, or -1.
func request(flags uint64, progSize, intoCgroup int) []byte {
	b := make([]byte, requestSize)
	le := binary.LittleEndian
	if intoCgroup >= 0 {
		flags |= unix.CLONE_INTO_CGROUP
		le.PutUint64(b[80:], uint64(firstFD+intoCgroup))
	}
	le.PutUint64(b, flags|unix.CLONE_PIDFD)
	le.PutUint64(b[8:], dataBase+pageReplyPidfd)
	le.PutUint64(b[32:], uint64(unix.SIGCHLD))
	le.PutUint64(b[cloneArgsSize:], uint64(progSize))
	return b
}

// checkedELF is keeperELF for the boot program's fixed size, made once.
var checkedELF = sync.OnceValues(func() ([]byte, error) {
	elf, err := keeperELF(bootProgramSize)
	if err != nil {
		return nil, fmt.Errorf("keeper: %w", err)
	}
	return elf, nil
})
