package input

import (
	"errors"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Reader reads a file. While there is nothing to read it holds no thread, also
// where the file is a blocking one, as a terminal mostly is: it waits in an epoll
// set, of which Go's poller waits. Only what is not worth waiting for in one, as
// a regular file, is read directly.
type Reader struct {
	file  syscall.RawConn
	epoll *os.File // nil: reading never blocks for long
	set   syscall.RawConn
}

// New makes a Reader, to be stopped in the end. The file stays the caller's.
func New(f *os.File) (*Reader, error) {
	file, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	set, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	_ = unix.SetNonblock(set, true) // so that Go's poller takes it
	r := &Reader{file: file, epoll: os.NewFile(uintptr(set), "epoll")}
	var added error
	err = file.Control(func(fd uintptr) {
		added = unix.EpollCtl(set, unix.EPOLL_CTL_ADD, int(fd), &unix.EpollEvent{Events: unix.EPOLLIN})
	})
	if err == nil && !errors.Is(added, unix.EPERM) {
		err = os.NewSyscallError("epoll_ctl", added)
	}
	if err == nil && added == nil {
		r.set, err = r.epoll.SyscallConn()
	}
	if err != nil || added != nil {
		r.epoll.Close()
		r.epoll = nil
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// Read waits until there is something, or the end. After Stop it fails with
// os.ErrClosed.
func (r *Reader) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for {
		if err := r.wait(); err != nil {
			return 0, err
		}
		n, err := 0, error(nil)
		if closed := r.file.Control(func(fd uintptr) { n, err = unix.Read(int(fd), b) }); closed != nil {
			return 0, closed
		}
		switch {
		case err == unix.EINTR || err == unix.EAGAIN && r.epoll != nil:
		case err != nil:
			return 0, os.NewSyscallError("read", err)
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// wait returns when the file is ready.
func (r *Reader) wait() (err error) {
	if r.epoll == nil {
		return nil
	}
	if r.set.Read(func(set uintptr) bool {
		var event [1]unix.EpollEvent
		var n int
		n, err = unix.EpollWait(int(set), event[:], 0)
		if errors.Is(err, unix.EINTR) {
			err = nil
		}
		return n > 0 || err != nil
	}) != nil {
		return os.ErrClosed
	}
	return err
}

// Stop ends a Read that waits, and all to come. What has not been read by then
// stays in the file.
func (r *Reader) Stop() {
	if r.epoll != nil {
		r.epoll.Close()
	}
}
