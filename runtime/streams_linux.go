package runtime

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/inboard/engine/internal/input"
)

// streams connect a process's standard streams with the caller's.
type streams struct {
	child  [3]int     // descriptors for the process
	theirs []*os.File // the process's ends of pipes, closed once it has them
	input  *os.File   // our end of its standard input, or nil
	output []*outputCopy
	mu     sync.Mutex
	err    error // the first that a copy met

	terminal *terminal     // in place of pipes, or nil
	typing   *input.Reader // reads a file for it, or nil
}

// outputCopy copies an output of the process's to a Writer of the caller's.
type outputCopy struct {
	writer io.Writer
	ours   *os.File
	from   io.Reader     // ours, or a terminal that it is the end of
	done   chan struct{} // closed when the copy has ended

	mu      sync.Mutex
	cut     bool // writer is not called again
	writing bool // writer is at work
}

// openStreams makes the pipes. null is a descriptor of the null device, which is
// all that a process has until it gets its terminal.
func openStreams(o *ProcessOptions, null *os.File, terminal bool) (*streams, error) {
	s := &streams{}
	if terminal {
		s.child = [3]int{int(null.Fd()), int(null.Fd()), int(null.Fd())}
		return s, nil
	}
	var err error
	if s.child[0], err = s.reader(o.Stdin, null); err != nil {
		s.close()
		return nil, err
	}
	if s.child[1], err = s.writer(o.Stdout, null); err != nil {
		s.close()
		return nil, err
	}
	if o.Stderr != nil && sameWriter(o.Stdout, o.Stderr) {
		s.child[2] = s.child[1]
		return s, nil
	}
	if s.child[2], err = s.writer(o.Stderr, null); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// sameWriter compares two writers; those of a type that does not compare differ.
func sameWriter(a, b io.Writer) bool {
	defer func() { _ = recover() }()
	return a == b
}

func (s *streams) reader(r io.Reader, null *os.File) (int, error) {
	switch r := r.(type) {
	case nil:
		return int(null.Fd()), nil
	case *os.File:
		return givenFile(r)
	}
	ours, theirs, err := newPipe(1)
	if err != nil {
		return 0, err
	}
	s.theirs, s.input = append(s.theirs, theirs), ours
	go func() {
		s.copyInput(ours, r)
		ours.Close()
	}()
	return int(theirs.Fd()), nil
}

// copyInput copies a Reader. Nobody waits for it, which may never end.
func (s *streams) copyInput(ours *os.File, r io.Reader) {
	err := guard(func() error { _, err := io.Copy(ours, r); return err })
	for _, end := range []error{syscall.EPIPE, syscall.EIO, os.ErrClosed} {
		if errors.Is(err, end) {
			return // the process's, or of what it is given
		}
	}
	s.note("standard input", err)
}

func (s *streams) writer(w io.Writer, null *os.File) (int, error) {
	switch w := w.(type) {
	case nil:
		return int(null.Fd()), nil
	case *os.File:
		return givenFile(w)
	}
	ours, theirs, err := newPipe(0)
	if err != nil {
		return 0, err
	}
	s.theirs = append(s.theirs, theirs)
	s.copyOutput(&outputCopy{writer: w, ours: ours, from: ours, done: make(chan struct{})})
	return int(theirs.Fd()), nil
}

// connect makes a terminal the streams of a process, which is to have been given
// its end when started is called.
func (s *streams) connect(t *terminal, o *ProcessOptions) error {
	s.terminal, s.theirs = t, []*os.File{t.slave}
	if o.TakeTerminal != nil {
		f, err := t.copy()
		if err == nil {
			err = o.TakeTerminal(f)
		}
		if err != nil {
			return err
		}
	}
	in := o.Stdin
	if f, ok := in.(*os.File); ok {
		var err error
		if s.typing, err = input.New(f); err != nil {
			return fmt.Errorf("read %s: %w", f.Name(), err)
		}
		in = s.typing
	}
	if in != nil {
		go s.copyInput(t.master, in)
	}
	if o.TakeTerminal != nil {
		return nil
	}
	out := o.Stdout
	if out == nil {
		out = io.Discard
	}
	s.copyOutput(&outputCopy{writer: out, ours: t.master, from: t, done: make(chan struct{})})
	return nil
}

func (s *streams) copyOutput(c *outputCopy) {
	s.output = append(s.output, c)
	go func() {
		err := errGoexit
		defer func() { // also when the Writer ends the goroutine
			if !errors.Is(err, os.ErrClosed) && !errors.Is(err, errCut) {
				s.note("output", err)
			}
			c.ours.Close() // a process that still writes gets SIGPIPE, as with os/exec
			close(c.done)
		}()
		err = guard(c.copy)
	}()
}

var (
	errCut    = errors.New("cut")
	errGoexit = errors.New("the writer has ended the goroutine that called it")
	errBusy   = fmt.Errorf("the writer has not returned when the delay had passed: %w", os.ErrDeadlineExceeded)
)

func (c *outputCopy) copy() error {
	_, err := io.Copy(c, c.from)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut && errors.Is(err, os.ErrDeadlineExceeded) {
		return errCut
	}
	return err
}

// Write calls the Writer, unless the copy has been cut.
func (c *outputCopy) Write(p []byte) (int, error) {
	c.mu.Lock()
	cut := c.cut
	c.writing = !cut
	c.mu.Unlock()
	if cut {
		return 0, errCut
	}
	defer func() {
		c.mu.Lock()
		c.writing = false
		c.mu.Unlock()
	}()
	return c.writer.Write(p)
}

// stop ends the copy. It tells whether the Writer is at work, which may take
// for ever; if it is not, it is not called again.
func (c *outputCopy) stop() (busy bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = true
	// The copy may own its file at any moment, so it is interrupted, and
	// closes it.
	c.ours.SetReadDeadline(time.Unix(1, 0))
	return c.writing
}

// guard keeps a panic of the caller's Reader or Writer from ending the program.
func guard(copy func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	return copy()
}

// givenFile is the descriptor of a caller's file, in blocking mode as a program
// expects it.
func givenFile(f *os.File) (int, error) {
	if f == nil {
		return 0, os.ErrInvalid
	}
	fd := f.Fd()
	if fd == ^uintptr(0) {
		return 0, fmt.Errorf("%s: %w", f.Name(), os.ErrClosed)
	}
	return int(fd), nil
}

func (s *streams) note(what string, err error) {
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.err == nil {
			s.err = fmt.Errorf("copy %s: %w", what, err)
		}
	}
}

// started closes what is the process's alone.
func (s *streams) started() {
	for _, f := range s.theirs {
		f.Close()
	}
	s.theirs = nil
}

// close gives all up, for a process that never came to be.
func (s *streams) close() {
	s.started()
	if s.input != nil {
		s.input.Close()
	}
	for _, c := range s.output {
		c.stop() // there was nothing to write, so the Writer is not at work
		<-c.done
	}
	s.closeTerminal()
}

func (s *streams) closeTerminal() {
	if s.typing != nil {
		s.typing.Stop()
	}
	if s.terminal != nil {
		s.terminal.master.Close()
	}
}

// wait returns when the output of an ended process is copied, at the latest
// after delay if that is not zero, with the first error of a copy.
func (s *streams) wait(delay time.Duration) error {
	if s.input != nil {
		s.input.Close()
	}
	if s.terminal != nil {
		s.terminal.hangUp()
		defer s.closeTerminal()
	}
	var over <-chan time.Time
	if delay > 0 && len(s.output) > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		over = timer.C
	}
	late := false
	for _, c := range s.output {
		if !late {
			select {
			case <-c.done:
				continue
			case <-over:
				late = true
			}
		}
		if c.stop() {
			s.note("output", errBusy)
			c.ours.Close()
			continue
		}
		<-c.done
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// newPipe makes a pipe whose end number ours (0 reads, 1 writes) is for the Go
// poller; the other one blocks, as the process that gets it expects.
func newPipe(ours int) (our, their *os.File, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	unix.SetNonblock(p[ours], true)
	return os.NewFile(uintptr(p[ours]), "pipe"), os.NewFile(uintptr(p[1-ours]), "pipe"), nil
}
