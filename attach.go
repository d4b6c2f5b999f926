package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"sync"
)

// AttachOptions are those of Attach. With the zero value it waits for the end of
// the container's run.
type AttachOptions struct {
	// Stdin is copied to the process until it ends, if the container has
	// Config.OpenStdin. An *os.File is not read any more once Attach has
	// returned, and its mode is left alone; of another Reader one Read may
	// still be at work then, and what it gives is dropped.
	Stdin io.Reader
	// Stdout and Stderr get what the process writes from now on, in the order
	// in which it was read; a terminal's output is all Stdout's. Nil: that
	// stream is not asked for.
	//
	// A Writer that is slow, or blocks, holds up neither the container nor
	// others: it is behind until the log drops what it has not taken, and then
	// Attach fails with ErrDataLoss. One that fails, writes less than it was
	// given or panics (see PanicError) ends Attach. It may be at work still
	// when Attach has returned early, but is not called again.
	Stdout, Stderr io.Writer
	// Replay begins with what the log has of this run of the container.
	Replay bool
	// Attached, if it is not nil, is called when nothing that is written from
	// then on is left out: a program that draws on a whole terminal does so anew
	// when that has been resized.
	Attached func()
	// DetachKeys end Attach when they come from Stdin one after the other, and
	// are not passed on then: names with commas between, each a single
	// character, "ctrl-" and one of a to z, @, [, \, ], ^ and _, or "DEL".
	// Empty: "ctrl-p,ctrl-q" if the container has a terminal, else none.
	DetachKeys string
	// NoDetachKeys passes everything on.
	NoDetachKeys bool
}

// defaultDetachKeys are Docker's.
const defaultDetachKeys = "ctrl-p,ctrl-q"

// ErrDetached is inside of the error of an Attach that its DetachKeys ended.
var ErrDetached = errors.New("detached")

var errNoInput = fmt.Errorf("standard input is not open: %w", ErrFailedPrecondition)

// Attach connects the caller's streams with those of the container's process,
// until its run has ended and all output was given: then the error is nil. When
// the detach keys come, it is ErrDetached. It also ends when ctx ends, the
// container is removed, or a stream of the caller's fails. None of that means
// anything to the container. Many may be attached at once; what they type is
// mixed as it comes.
//
// A container that was not started yet is waited for, and nothing of its output
// is left out; one that has exited gives ErrFailedPrecondition. Output comes
// from the log, so a stream that is not logged (see Config) cannot be attached
// to, and containers of other programs can. For Stdin their program gives a
// descriptor, once, as it does what it is asked for: see Pause.
func (c *Container) Attach(ctx context.Context, o AttachOptions) error {
	return failed("attach to container", c.id, c.attach(ctx, o))
}

func (c *Container) attach(ctx context.Context, o AttachOptions) error {
	info, err := c.Inspect(ctx)
	if err != nil {
		return err
	}
	keys, err := o.detachKeys(info.TTY)
	if err != nil {
		return err
	}
	switch {
	case info.State == StateExited:
		return notRunning(StateExited)
	case o.Stdin != nil && !info.OpenStdin:
		return errNoInput
	case (o.Stdout != nil || o.Stderr != nil) && c.own != nil && c.own.log == nil:
		return fmt.Errorf("container has no log to get its output from: %w", ErrFailedPrecondition)
	}
	ctx, cancel := context.WithCancel(ctx)
	a := attachment{container: c, options: o, keys: detacher{keys: keys}, begun: make(chan struct{})}
	written, typed, left := make(chan error, 1), make(chan error, 1), make(chan struct{})
	go callOut(written, func() error { return a.write(ctx) })
	if o.Stdin != nil {
		go func() {
			defer close(left)
			select {
			case <-a.begun: // else the answer to what is typed could be left out
				callOut(typed, func() error { return a.read(ctx) })
			case <-ctx.Done():
			}
		}()
	}
	defer func() {
		cancel()
		a.cut()
		if _, file := o.Stdin.(*os.File); file {
			<-left
		}
	}()
	for {
		select {
		case err := <-written:
			return err
		case err := <-typed:
			if err != nil {
				return err
			}
			typed = nil // the process goes on without
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// callOut calls what calls the caller's Readers or Writers, which may panic, or
// end their goroutine.
func callOut(result chan<- error, f func() error) {
	err := errors.New("a stream has ended the goroutine that called it")
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		}
		result <- err
	}()
	err = f()
}

// attachment is one Attach.
type attachment struct {
	container *Container
	options   AttachOptions
	keys      detacher
	begun     chan struct{} // closed when no output is left out any more
	run       int           // whose output that is; set before

	mu   sync.Mutex
	over bool  // no Writer is called any more
	err  error // why the output has ended early
}

// cut has the Writers not called again.
func (a *attachment) cut() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.over = true
}

// write gives the output to the Writers, as the log gets it.
func (a *attachment) write(ctx context.Context) error {
	var q logQuery
	q = logQuery{
		container: a.container,
		options:   LogsOptions{Follow: true},
		chunks:    a.give,
		fromNow:   !a.options.Replay,
		begun: func() {
			a.run = q.state.run
			if a.options.Attached != nil {
				a.options.Attached()
			}
			close(a.begun)
		},
		yield: func(e LogEntry, err error) bool {
			if a.err = err; err == nil {
				a.err = fmt.Errorf("output was written faster than it was taken, %d bytes are missing: %w", e.Missing, ErrDataLoss)
			}
			return false
		},
	}
	defer q.close()
	err := q.give(ctx)
	if errors.Is(err, errEnough) {
		err = a.err
	}
	return err
}

func (a *attachment) give(c chunk) bool {
	w := a.options.Stdout
	if c.stream == Stderr {
		w = a.options.Stderr
	}
	a.mu.Lock()
	over := a.over
	a.mu.Unlock()
	if over {
		return false
	}
	if w == nil {
		return true
	}
	n, err := w.Write(c.data)
	if err == nil && n != len(c.data) {
		err = io.ErrShortWrite
	}
	if err != nil {
		a.err = fmt.Errorf("write %v: %w", c.stream, err)
	}
	return err == nil
}

// detachKeys are the keys as they come from a terminal.
func (o *AttachOptions) detachKeys(tty bool) ([]byte, error) {
	names := o.DetachKeys
	if names == "" && tty {
		names = defaultDetachKeys
	}
	if names == "" || o.NoDetachKeys {
		return nil, nil
	}
	var keys []byte
	for name := range strings.SplitSeq(names, ",") {
		c, control := strings.CutPrefix(name, "ctrl-")
		switch {
		case name == "DEL":
			keys = append(keys, 0x7f)
		case len(c) != 1, control && !strings.Contains(`@abcdefghijklmnopqrstuvwxyz[\]^_`, c):
			return nil, fmt.Errorf("detach keys %q: %q is no key: %w", names, name, ErrInvalidArgument)
		case control:
			keys = append(keys, c[0]&0x1f)
		default:
			keys = append(keys, c[0])
		}
	}
	return keys, nil
}

// detacher finds the detach keys in what is typed.
type detacher struct {
	keys []byte
	held int // how many of them have come, and were not passed on
}

// pass gives what of b is to be passed on, and tells whether all keys have come.
func (d *detacher) pass(b []byte) (out []byte, detached bool) {
	if len(d.keys) == 0 {
		return b, false
	}
	for _, c := range b {
		for d.held > 0 && c != d.keys[d.held] {
			out = d.release(out)
		}
		if c != d.keys[d.held] {
			out = append(out, c)
		} else if d.held++; d.held == len(d.keys) {
			return out, true
		}
	}
	return out, false
}

// release passes on as few of the held keys as it takes for those that follow to
// be a beginning of the sequence again.
func (d *detacher) release(out []byte) []byte {
	held := d.keys[:d.held]
	n := 1
	for !strings.HasPrefix(string(held), string(held[n:])) {
		n++
	}
	d.held -= n
	return append(out, held[:n]...)
}

// rest gives the keys that are held when there is no more input.
func (d *detacher) rest() []byte { return d.keys[:d.held] }
