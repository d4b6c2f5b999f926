package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// stdin is our end of a pipe that is a process's standard input (see
// Config.OpenStdin). Each who is attached has a descriptor of his own, so that
// his writing can be stopped alone.
type stdin struct {
	closed chan struct{} // closed when the input is; nil: there is none, or a terminal

	mu    sync.Mutex
	ours  *os.File // nil: closed
	users map[*os.File]bool
}

// open makes the pipe and gives the process's end.
func (s *stdin) open() (*os.File, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("make pipe of stdin: %w", os.NewSyscallError("pipe2", err))
	}
	_ = unix.SetNonblock(p[1], true) // so that Go's poller takes it
	s.ours, s.users, s.closed = os.NewFile(uintptr(p[1]), "stdin"), map[*os.File]bool{}, make(chan struct{})
	return os.NewFile(uintptr(p[0]), "stdin"), nil
}

// attach gives a descriptor to write to.
func (s *stdin) attach() (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ours == nil {
		return nil, fmt.Errorf("standard input has been closed: %w", ErrFailedPrecondition)
	}
	conn, err := s.ours.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	var failed error
	err = conn.Control(func(ours uintptr) { fd, failed = unix.FcntlInt(ours, unix.F_DUPFD_CLOEXEC, 0) })
	if err := errors.Join(err, os.NewSyscallError("dup", failed)); err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "stdin")
	s.users[f] = true
	return f, nil
}

// detach closes one of attach's.
func (s *stdin) detach(f *os.File) {
	s.mu.Lock()
	delete(s.users, f)
	s.mu.Unlock()
	f.Close()
}

// close ends the process's input for all.
func (s *stdin) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for f := range s.users {
		f.Close()
	}
	if s.ours != nil {
		s.ours.Close()
		close(s.closed)
	}
	s.ours = nil
}

// openInput gives a descriptor to write to what a run reads. It is for detach to
// close.
func (o *own) openInput(r *run) (*os.File, error) {
	switch {
	case !o.config.OpenStdin:
		return nil, errNoInput
	case o.config.TTY:
		f, err := r.container.Terminal()
		return f, ended(err)
	}
	return r.output.stdin.attach()
}

// inputEnded is told that the input of one who is attached has ended.
func (o *own) inputEnded(r *run) {
	if o.config.StdinOnce {
		r.output.stdin.close()
	}
}

// inlet is a way to the input of a run, of any program's container.
type inlet struct {
	*os.File // to write to; it is closed with the input
	leave    func()
	end      func(context.Context) error // tells that no more comes through it
}

// openInput opens one to a run that goes on, or is to begin.
func (c *Container) openInput(ctx context.Context, run int) (*inlet, error) {
	if c.own == nil {
		return c.openForeignInput(ctx, run)
	}
	r, err := c.own.runOf(ctx, run)
	if err != nil {
		return nil, err
	}
	f, err := c.own.openInput(r)
	if err != nil {
		return nil, err
	}
	return &inlet{
		File:  f,
		leave: func() { r.output.stdin.detach(f) },
		end: func(context.Context) error {
			c.own.inputEnded(r)
			return nil
		},
	}, nil
}
