package engine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"time"
)

// forcedDelay is how long the end of a container that is removed by force waits
// for the caller's Writers, if its WaitDelay sets no bound.
const forcedDelay = time.Second

// output is where the streams of one run go: to the log, then to the caller.
type output struct {
	input          io.Reader // for the runtime
	stdout, stderr io.Writer // the same

	log     *logFile   // nil: none is kept
	theirs  []*os.File // the process's ends of pipes
	copiers []*copier
	stdin   stdin // not open without Config.OpenStdin
}

// connect makes the pipes of a run. A file of the caller's is handed over as it
// is. Streams of one Writer have one copier, so that it is called by one
// goroutine, and gets them in order; those of two have two, because one Writer
// may block.
func (u *output) connect(c *Config, log *logFile, run int) (err error) {
	u.input, u.log = c.Stdin, log
	if c.TTY {
		_, err := u.copier(c.Stdout, run)
		return err
	}
	if c.OpenStdin {
		theirs, err := u.stdin.open()
		if err != nil {
			return err
		}
		u.input, u.theirs = theirs, append(u.theirs, theirs)
	}
	u.stdout, u.stderr = c.Stdout, c.Stderr
	if u.copies(c.Stdout) {
		k, err := u.copier(c.Stdout, run)
		if err == nil {
			u.stdout, err = u.pipe(k, Stdout)
		}
		if err != nil {
			return err
		}
	}
	if !u.copies(c.Stderr) {
		return nil
	}
	var k *copier
	switch same := sameWriter(c.Stdout, c.Stderr); {
	case same && log == nil:
		u.stderr = u.stdout // one pipe keeps the order exactly
		return nil
	case same:
		k = u.copiers[0]
	default:
		if k, err = u.copier(c.Stderr, run); err != nil {
			return err
		}
	}
	u.stderr, err = u.pipe(k, Stderr)
	return err
}

// takeTerminal has the output of a terminal copied, as that of stdout.
func (u *output) takeTerminal(f *os.File) error {
	defer f.Close()
	if err := u.copiers[0].take(f, Stdout); err != nil {
		return fmt.Errorf("copy from terminal: %w", err)
	}
	return nil
}

// copies tells whether a stream is to be copied from a pipe.
func (u *output) copies(w io.Writer) bool {
	_, file := w.(*os.File)
	return !file && (w != nil || u.log != nil)
}

// sameWriter tells whether both streams go to one Writer, as in os/exec.
func sameWriter(a, b io.Writer) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return reflect.TypeOf(a).Comparable() && reflect.TypeOf(b).Comparable() && a == b
}

func (u *output) copier(w io.Writer, run int) (*copier, error) {
	k, err := newCopier(w, u.log, run)
	if err == nil {
		u.copiers = append(u.copiers, k)
	}
	return k, err
}

// pipe makes the pipe of a stream, and gives the process's end.
func (u *output) pipe(k *copier, s Stream) (io.Writer, error) {
	theirs, err := k.pipe(s)
	if err != nil {
		return nil, fmt.Errorf("make pipe of %v: %w", s, err)
	}
	u.theirs = append(u.theirs, theirs)
	return theirs, nil
}

// begin copies what a process writes that has been started.
func (u *output) begin() {
	u.closeTheirs()
	for _, k := range u.copiers {
		go k.copy()
	}
}

func (u *output) closeTheirs() {
	for _, f := range u.theirs {
		f.Close()
	}
	u.theirs = nil
}

// drop gives all up, for a process that never came to be.
func (u *output) drop() {
	u.closeTheirs()
	u.stdin.close()
	for _, k := range u.copiers {
		k.stop()
	}
}

// wait returns when the output of an ended process is copied, at the latest
// after delay, if that is not zero, or soon after forced is closed. The log has
// then all that was written. It tells how many bytes of output the log was
// given, and what was lost.
func (u *output) wait(delay time.Duration, forced <-chan struct{}) (logged int64, err error) {
	u.stdin.close()
	var over <-chan time.Time
	if delay > 0 {
		over, forced = time.After(delay), nil
	}
	late := false
	for _, k := range u.copiers {
		for copied := false; !copied && !late; {
			select {
			case <-k.done:
				copied = true
			case <-forced:
				over, forced = time.After(forcedDelay), nil
			case <-over:
				late = true
			}
		}
		if late {
			k.stop()
		}
	}
	var errs []error
	if u.log != nil {
		if logged, err = u.log.close(); err != nil {
			errs = append(errs, fmt.Errorf("write log: %w", err))
		}
	}
	for _, k := range u.copiers {
		if err := k.failure(); err != nil {
			errs = append(errs, fmt.Errorf("write output to its writer: %w", err))
		}
	}
	return logged, errors.Join(errs...)
}
