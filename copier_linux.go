package engine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// copier copies one stream of a run, or both, to the log and then to a Writer
// of the caller's. Waiting for output it has a goroutine, but no buffer.
//
// Of two streams it reads first what was written first: the pipes are in an
// epoll set, edge-triggered, which tells of them in the order in which they got
// something after they were empty (epoll(7); ep_poll_callback in
// fs/eventpoll.c appends).
type copier struct {
	log    *logFile  // or nil
	writer io.Writer // or nil
	run    int
	fd     int           // the epoll set
	epoll  *os.File      // the same, for Go's poller
	done   chan struct{} // closed when both streams have ended and are copied

	mu    sync.Mutex // held while a pipe is read and logged
	pipes [2]int     // our ends, by stream; -1: closed
	tty   bool       // it is a terminal, and no pipe
	wide  [2]bool    // the pipe was asked to hold more
	ready []Stream   // whose pipes are not known to be empty
	cut   bool       // no more is to be read
	owed  bool       // writer was not given all that was read
	err   error      // the writer's; it is not called again
}

// copyBuffers have room for a header before what is read.
var copyBuffers = sync.Pool{New: func() any {
	b := make([]byte, headerSize+maxChunk)
	return &b
}}

func newCopier(w io.Writer, log *logFile, run int) (*copier, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	_ = unix.SetNonblock(fd, true) // so that Go's poller takes it
	return &copier{
		log:    log,
		writer: w,
		run:    run,
		fd:     fd,
		epoll:  os.NewFile(uintptr(fd), "epoll"),
		done:   make(chan struct{}),
		pipes:  [2]int{-1, -1},
	}, nil
}

// pipe makes the pipe of a stream and gives the process's end.
func (k *copier) pipe(s Stream) (*os.File, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	if err := k.add(p[0], s); err != nil {
		unix.Close(p[1])
		return nil, err
	}
	return os.NewFile(uintptr(p[1]), s.String()), nil
}

// add makes a descriptor the one that a stream is read from. The copier owns it,
// also after an error.
func (k *copier) add(fd int, s Stream) error {
	err := unix.SetNonblock(fd, true)
	if err == nil {
		event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(s)}
		err = unix.EpollCtl(k.fd, unix.EPOLL_CTL_ADD, fd, &event)
	}
	if err != nil {
		unix.Close(fd)
		return os.NewSyscallError("epoll_ctl", err)
	}
	k.pipes[s-Stdout] = fd
	return nil
}

// take is add of a copy of a file's descriptor.
func (k *copier) take(f *os.File, s Stream) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var fd int
	var failed error
	err = conn.Control(func(theirs uintptr) { fd, failed = unix.FcntlInt(theirs, unix.F_DUPFD_CLOEXEC, 0) })
	if err := errors.Join(err, os.NewSyscallError("dup", failed)); err != nil {
		return err
	}
	k.tty = true
	return k.add(fd, s)
}

// copy copies until the streams end. A Writer may end its goroutine
// (runtime.Goexit, as testing.T.FailNow does): then another goes on.
func (k *copier) copy() {
	over := false
	defer func() {
		if !over {
			go k.copy()
		}
	}()
	conn, err := k.epoll.SyscallConn()
	for err == nil {
		var buf *[]byte
		n := 0
		err = conn.Read(func(uintptr) (done bool) {
			buf, n, done = k.next()
			return done
		})
		if n == 0 {
			break
		}
		if k.writer != nil && k.failure() == nil {
			k.write((*buf)[headerSize : headerSize+n])
		}
		copyBuffers.Put(buf)
	}
	over = true
	k.epoll.Close()
	close(k.done)
}

// next reads and logs what is there: n bytes, behind the room for a header. It
// is not done if there is nothing now; when the streams have ended, n is 0.
func (k *copier) next() (buf *[]byte, n int, done bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for !k.cut && k.pipes != [2]int{-1, -1} {
		k.poll()
		if len(k.ready) == 0 {
			break
		}
		if buf == nil {
			buf = copyBuffers.Get().(*[]byte)
		}
		s := k.ready[0]
		k.ready = slices.Delete(k.ready, 0, 1)
		n, err := readPipe(k.pipes[s-Stdout], (*buf)[headerSize:])
		switch {
		case n > 0:
			k.ready = append(k.ready, s) // behind the other, which has waited
			if k.log != nil {
				k.log.add(k.run, s, (*buf)[:headerSize+n])
			}
			if n >= usualPipe {
				k.widen(s)
			}
			k.owed = k.writer != nil && k.err == nil
			return buf, n, true
		case !errors.Is(err, unix.EAGAIN):
			k.closePipe(s)
		}
	}
	if buf != nil {
		copyBuffers.Put(buf)
	}
	return nil, 0, k.cut || k.pipes == [2]int{-1, -1}
}

// A pipe that was once found full, usualPipe, is made to hold busyPipe: waking up
// is what a process costs that writes without a pause. The kernel allows that
// to anyone (fs.pipe-max-size in proc(5)), until a user has many such pipes;
// then they stay as they are.
const (
	usualPipe = 64 << 10
	busyPipe  = 256 << 10
)

func (k *copier) widen(s Stream) {
	if !k.wide[s-Stdout] {
		k.wide[s-Stdout] = true
		_, _ = unix.FcntlInt(uintptr(k.pipes[s-Stdout]), unix.F_SETPIPE_SZ, busyPipe)
	}
}

// poll adds the pipes that have become ready.
func (k *copier) poll() {
	var events [2]unix.EpollEvent
	n, _ := unix.EpollWait(k.fd, events[:], 0)
	for _, e := range events[:max(n, 0)] {
		if s := Stream(e.Fd); !slices.Contains(k.ready, s) {
			k.ready = append(k.ready, s)
		}
	}
}

func readPipe(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Read(fd, b)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

func (k *copier) closePipe(s Stream) {
	unix.Close(k.pipes[s-Stdout])
	k.pipes[s-Stdout] = -1
}

// write gives the Writer what was read.
func (k *copier) write(p []byte) {
	err := errors.New("it has ended the goroutine that called it")
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		k.owed = false
		if k.err == nil {
			k.err = err
		}
	}()
	n, failed := k.writer.Write(p)
	if failed == nil && n != len(p) {
		failed = io.ErrShortWrite
	}
	err = failed
}

// failure is what went wrong with the Writer.
func (k *copier) failure() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.err
}

// stop ends copying, though the Writer may be at work: it may go on with what
// it was given, and is not called again. What is in the pipes still goes to the
// log.
func (k *copier) stop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cut {
		return
	}
	k.cut = true
	for _, s := range []Stream{Stdout, Stderr} {
		if k.pipes[s-Stdout] < 0 {
			continue
		}
		if k.rescue(s) && k.writer != nil {
			k.owed = true
		}
		k.closePipe(s)
	}
	k.epoll.Close() // wakes copy
	if k.owed && k.err == nil {
		k.err = fmt.Errorf("it has not taken all when the delay had passed: %w", os.ErrDeadlineExceeded)
	}
}

// maxTerminal is more than a terminal holds (TTYB_DEFAULT_MEM_LIMIT in
// drivers/tty/tty_buffer.c).
const maxTerminal = 1 << 20

// rescue logs what is in a pipe, and no more: others may be writing. It tells
// whether there was anything.
func (k *copier) rescue(s Stream) (found bool) {
	fd := k.pipes[s-Stdout]
	left, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
	if k.tty {
		left = maxTerminal // that call does not know of all
	}
	if err != nil || left == 0 {
		return false
	}
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	for left > 0 {
		n, err := readPipe(fd, (*buf)[headerSize:][:min(left, maxChunk)])
		if n <= 0 || err != nil {
			break
		}
		left -= n
		found = true
		if k.log != nil {
			k.log.add(k.run, s, (*buf)[:headerSize+n])
		}
	}
	return found
}
