package runtime

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A program is a flat list of system calls, its steps, and the memory that
// they point to. It is laid out for progBase, where the child maps it:
//
//	0   address of the first step
//	8   what failed: the step's offset << 32 | errno, written by the child
//	16  data and steps
//
// A program is written in one or more pieces. Each ends in a jump that leaves,
// until the next piece makes it lead there; so the host can add to a program
// whose child waits for it.
type program struct {
	mem   []byte
	steps []step
	laid  int        // steps that lie in mem already
	jump  int        // offset of the argument of the last jump; 0, the header's first word, at the start
	fds   []int      // sent along: descriptors firstFD, firstFD+1, ... in the child
	owned []*os.File // closed with the program

	file    *os.File // the memfd, once written
	size    int      // of the memfd
	written int      // bytes of mem in it
}

// A step is one system call: in memory, nine words.
type step struct {
	what   string // for people: "mount proc on /proc"
	nr     uintptr
	args   [6]uintptr
	result uintptr // address at which the result is stored, or 0
	flags  uint64
	at     int // offset in the program, once laid out
}

const (
	stepSize   = 72
	headerSize = 16

	// firstFD is the number of the first descriptor sent with a program. Those
	// below are 0 to 2, in the beginning the keeper's socket and two null
	// devices; linkFD, in the beginning the keeper's signalfd; 4, the program.
	firstFD = 5
	// linkFD is where a program puts its link to the host: a pipe that execve
	// closes, or a socket over which host and child wait for each other.
	linkFD = 3

	jumpNumber = ^uintptr(0) // in place of a system call: go on at args[0], or leave if that is 0

	flagFork   = 1 << 0 // a clone: the parent half stores the child's pid and leaves, the child half goes on
	flagEOF    = 1 << 1 // a result of 0 is a failure
	flagKeeper = 1 << 2 // after success, become the keeper
	flagArg0   = 1 << 3 // the first argument is the address of a slot
	flagArg2   = 1 << 4 // so is the third
	flagInit   = 1 << 5 // with flagFork: the parent half stays, as the child's init

	anyErrno = 0xffff // in place of an errno
	maxSkip  = 0xff   // steps that can be left out at once
)

// orSkip makes an errno (or anyErrno) of the step no failure: n steps after it
// are left out.
func (s *step) orSkip(errno syscall.Errno, n int) *step {
	s.flags |= uint64(errno)<<16 | uint64(n)<<8
	return s
}

// or makes an errno as good as success.
func (s *step) or(errno syscall.Errno) *step {
	s.flags |= uint64(errno) << 40
	return s
}

// thenSkip leaves out n steps after success.
func (s *step) thenSkip(n int) *step {
	s.flags |= uint64(n) << 32
	return s
}

// into stores the result in a slot: also that of a failure that is none.
func (s *step) into(slot uintptr) *step {
	s.result = slot
	return s
}

func (s *step) with(flag uint64) *step {
	s.flags |= flag
	return s
}

// programMemory is the memory of programs that were closed, for the next ones.
// A host with a large heap seldom collects garbage: what each start leaves there
// is taken from pages that nobody has touched before, and the kernel's work to
// provide them is most of what the heap adds to a start.
var programMemory = sync.Pool{New: func() any { return &program{mem: make([]byte, 0, 32<<10), steps: make([]step, 0, 256)} }}

func newProgram() *program {
	m := programMemory.Get().(*program)
	p := &program{mem: m.mem, steps: m.steps}
	p.zeros(headerSize)
	return p
}

// add appends a step. The pointer is good until the next add.
func (p *program) add(what string, nr uintptr, args ...uintptr) *step {
	p.steps = append(p.steps, step{what: what, nr: nr})
	s := &p.steps[len(p.steps)-1]
	copy(s.args[:], args)
	return s
}

// send passes a descriptor along and returns its number in the child. The
// caller keeps it open until the program has been handed to the keeper.
func (p *program) send(fd int) uintptr {
	p.fds = append(p.fds, fd)
	return uintptr(firstFD + len(p.fds) - 1)
}

// sendOwned is send of a file that the program closes.
func (p *program) sendOwned(f *os.File) uintptr {
	p.owned = append(p.owned, f)
	return p.send(int(f.Fd()))
}

// bytes puts data into the program and returns its address in the child.
func (p *program) bytes(b []byte) uintptr {
	p.align()
	p.mem = append(p.mem, b...)
	return progBase + uintptr(len(p.mem)-len(b))
}

func (p *program) string(s string) uintptr {
	p.mem = append(append(p.mem, s...), 0)
	return progBase + uintptr(len(p.mem)-len(s)-1)
}

// strings puts a vector of strings as execve wants it, ended by a null.
func (p *program) strings(list []string) uintptr {
	addresses := make([]uint64, len(list)+1)
	for i, s := range list {
		addresses[i] = uint64(p.string(s))
	}
	return p.words(addresses...)
}

// words puts 64-bit numbers.
func (p *program) words(list ...uint64) uintptr {
	p.align()
	start := len(p.mem)
	for _, w := range list {
		p.mem = binary.LittleEndian.AppendUint64(p.mem, w)
	}
	return progBase + uintptr(start)
}

// slot is a word for a result.
func (p *program) slot() uintptr { return p.words(0) }

// pageSlot is a slot in a page, of the kernel's size, that holds nothing else.
func (p *program) pageSlot() (slot, size uintptr) {
	page := os.Getpagesize()
	p.zeros(-len(p.mem)&(page-1) + page)
	return progBase + uintptr(len(p.mem)-page), uintptr(page)
}

func (p *program) align() { p.zeros(-len(p.mem) & 7) }

func (p *program) zeros(n int) {
	p.mem = slices.Grow(p.mem, n)[:len(p.mem)+n]
	clear(p.mem[len(p.mem)-n:])
}

// layOut ends a piece: the steps added since the last one get their place in
// memory, and the jump that ended the piece before leads to them.
func (p *program) layOut() {
	p.align()
	le := binary.LittleEndian
	le.PutUint64(p.mem[p.jump:], uint64(progBase+len(p.mem)))
	for i := p.laid; i < len(p.steps); i++ {
		s := &p.steps[i]
		s.at = len(p.mem)
		p.mem = le.AppendUint64(p.mem, uint64(s.nr))
		for _, a := range s.args {
			p.mem = le.AppendUint64(p.mem, uint64(a))
		}
		p.mem = le.AppendUint64(p.mem, uint64(s.result))
		p.mem = le.AppendUint64(p.mem, s.flags)
	}
	p.laid = len(p.steps)
	j := jumpNumber
	p.mem = le.AppendUint64(p.mem, uint64(j))
	p.jump = len(p.mem)
	p.zeros(stepSize - 8)
}

// write lays out what was added and puts it into the memfd, where a child that
// waits finds it. The first write makes the memfd, of at least size bytes.
func (p *program) write(size int) error {
	jump := p.jump
	p.layOut()
	if p.file == nil {
		p.size = (max(size, len(p.mem)) + pageSize - 1) &^ (pageSize - 1)
		if err := p.makeFile(); err != nil {
			return fmt.Errorf("program: %w", err)
		}
		_, err := p.file.WriteAt(p.mem, 0)
		p.written = len(p.mem)
		return err
	}
	if len(p.mem) > p.size {
		return fmt.Errorf("program: %d bytes do not fit into %d", len(p.mem), p.size)
	}
	if _, err := p.file.WriteAt(p.mem[p.written:], int64(p.written)); err != nil {
		return err
	}
	p.written = len(p.mem)
	// The jump comes last: a child must not run what is not all there.
	_, err := p.file.WriteAt(p.mem[jump:jump+8], int64(jump))
	return err
}

// makeFile makes the memfd. Its size is sealed: whoever can reach the mapping
// of a child in a shared pid namespace cannot make the host's reads fail.
func (p *program) makeFile() error {
	const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
	fd, err := memfd("inboard-program", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING, mfdNoexecSeal)
	if err != nil {
		return err
	}
	p.file = os.NewFile(uintptr(fd), "program")
	if err := unix.Ftruncate(fd, int64(p.size)); err != nil {
		return err
	}
	_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
	return err
}

const (
	mfdNoexecSeal = 0x8  // MFD_NOEXEC_SEAL, Linux 6.3, commit 105ff5339f49
	mfdExec       = 0x10 // MFD_EXEC, the same
)

// memfd makes a memfd with a flag that older kernels refuse as unknown.
func memfd(name string, flags, newer int) (int, error) {
	fd, err := unix.MemfdCreate(name, flags|newer)
	if err == unix.EINVAL {
		fd, err = unix.MemfdCreate(name, flags)
	}
	return fd, os.NewSyscallError("memfd_create", err)
}

// close frees the memfd, the files that the program owns, and its memory.
func (p *program) close() {
	if p.file != nil {
		p.file.Close()
		p.file = nil
	}
	for _, f := range p.owned {
		f.Close()
	}
	p.owned = nil
	if p.mem != nil {
		clear(p.steps)
		programMemory.Put(&program{mem: p.mem[:0], steps: p.steps[:0]})
		p.mem, p.steps = nil, nil
	}
}

// word reads back a slot, or 0 where the program cannot be read.
func (p *program) word(slot uintptr) uint64 {
	var b [8]byte
	if _, err := p.file.ReadAt(b[:], int64(slot-progBase)); err != nil {
		return 0
	}
	return binary.LittleEndian.Uint64(b[:])
}

// failure reads back which step failed. The record is input from a stranger
// where the child was visible to others: an offset that is no step's is
// reported as such.
func (p *program) failure() *StepError {
	record := p.word(progBase + 8)
	if record == 0 {
		return nil
	}
	e := &StepError{Step: "unknown step", Err: syscall.Errno(record & 0xfff)}
	if record&0xffffffff == 0 {
		e.Err = errHostGone
	}
	for i := range p.steps {
		if s := &p.steps[i]; s.at != 0 && uint64(s.at) == record>>32 {
			e.Step = s.what
		}
	}
	return e
}
