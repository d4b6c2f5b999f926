package engine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"sync"

	"github.com/inboard/engine/runtime"
)

// output is where the streams of one run go: to the log, then to the caller.
type output struct {
	log    *logFile
	copies []*callerWriter
}

// connect sets the output streams of o.
func (u *output) connect(o *runtime.ProcessOptions, c *Config, log *logFile) {
	u.log = log
	stdout := u.caller(c.Stdout)
	stderr := stdout
	if !sameWriter(c.Stdout, c.Stderr) {
		stderr = u.caller(c.Stderr)
	}
	o.Stdout = u.stream(c.Stdout, stdout, Stdout)
	if log == nil && stdout != nil && stdout == stderr {
		o.Stderr = o.Stdout // one pipe, which keeps the order of what is written
		return
	}
	o.Stderr = u.stream(c.Stderr, stderr, Stderr)
}

// sameWriter tells whether both streams go to one Writer, as in os/exec.
func sameWriter(a, b io.Writer) bool {
	return a != nil && b != nil && reflect.TypeOf(a).Comparable() && reflect.TypeOf(b).Comparable() && a == b
}

func (u *output) caller(w io.Writer) *callerWriter {
	if w == nil {
		return nil
	}
	c := &callerWriter{w: w}
	u.copies = append(u.copies, c)
	return c
}

// stream gives what the runtime writes one stream to.
func (u *output) stream(w io.Writer, caller *callerWriter, s Stream) io.Writer {
	if file, ok := w.(*os.File); ok {
		return file
	}
	if u.log == nil && caller == nil {
		return nil
	}
	return &streamWriter{log: u.log, stream: s, caller: caller}
}

// close ends the run's part of the log, and tells what was lost.
func (u *output) close() error {
	var errs []error
	if u.log != nil {
		if err := u.log.close(); err != nil {
			errs = append(errs, fmt.Errorf("write log: %w", err))
		}
	}
	for _, c := range u.copies {
		if err := c.failure(); err != nil {
			errs = append(errs, fmt.Errorf("write output to its writer: %w", err))
		}
	}
	return errors.Join(errs...)
}

// streamWriter writes one stream of a container. It never fails: a caller's
// Writer that does must not end the copying, nor the log.
type streamWriter struct {
	log    *logFile
	stream Stream
	caller *callerWriter
}

func (w *streamWriter) Write(p []byte) (int, error) {
	if w.log != nil {
		w.log.add(w.stream, p)
	}
	if w.caller != nil {
		w.caller.write(p)
	}
	return len(p), nil
}

// callerWriter is a Writer of the caller's. It has a lock of its own, so that
// one that blocks keeps only its own stream from the log.
type callerWriter struct {
	w io.Writer

	writing sync.Mutex // held while w writes
	mu      sync.Mutex // guards err
	err     error
}

func (c *callerWriter) write(p []byte) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.failure() != nil {
		return
	}
	n, err := c.w.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

func (c *callerWriter) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}
