package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"
)

// LogsOptions are those of Logs. The zero value gives all that the log has.
// The fields choose together: Tail counts what the others leave.
type LogsOptions struct {
	// Follow goes on with what is written after the call, until the
	// container's run has ended and all of it was given. Of a container that
	// was not started yet it waits for the first run, and of one that has
	// exited it gives what is there: it ends when Wait would return. Entries
	// of a later run are not given. It also ends when the container is
	// removed, or its program has ended; when the clock has passed Until; and
	// with an error when ctx ends, or the Engine is closed.
	Follow bool
	// Tail leaves out all entries but the last ones: so many of those that are
	// complete when Logs is called. Nil or negative: none is left out. Zero,
	// with Follow: only what comes from now on.
	Tail *int
	// Since and Until leave out entries whose Time is before, and after.
	// Zero: none.
	Since, Until time.Time
	// Stream leaves out the other stream. Zero: both are given.
	Stream Stream
}

// LogEntry is a line that a container wrote.
type LogEntry struct {
	// Time is when its first byte was read from the container, in UTC.
	Time time.Time
	// Run tells in which run of the container it was written; the first is 1.
	Run    int
	Stream Stream
	// Data is the line as it was written, any bytes, with its newline, which
	// the last line of a stream and run may lack. It is the caller's to keep.
	Data []byte
	// Partial tells that the line goes on in the next entry of its Stream,
	// because it has more than 64 KiB, which is what each part but the last has.
	Partial bool
	// Missing, if it is not zero, makes this entry one of no stream and no
	// data: so many bytes of output, of both streams, have been here and are
	// lost, because the log was rotated before they were read, or could not be
	// written, or is damaged. What was dropped before the first entry that
	// Logs comes across is not told.
	Missing int64
}

// Logs gives what the container has written to its streams, over all its runs,
// as far as the log keeps it, whichever program the container is of. Entries
// come in the order in which their last bytes were read from the container;
// between the two streams, that is the order of writing as far as two pipes can
// tell it.
//
// The log is read while the loop asks for more. A slow reader holds up nothing:
// if it falls so far behind a running container that the log drops what it has
// still to read, an entry tells how much that is (see LogEntry.Missing). What
// was in the log when Logs was called is given whole, so until it has been
// read, what the log drops of it keeps its place on the disk.
//
// An error that is ErrDataLoss names a file that is damaged, or that was cut
// off when its program was killed, and has been given up to there; what later
// files have comes after it, if the loop goes on. After any other error there
// is nothing more. Each loop over the result reads anew.
func (c *Container) Logs(ctx context.Context, o LogsOptions) iter.Seq2[LogEntry, error] {
	return func(yield func(LogEntry, error) bool) {
		q := logQuery{container: c, options: o, yield: yield}
		defer q.close()
		if err := q.give(ctx); err != nil && !errors.Is(err, errEnough) {
			q.fail(err)
		}
	}
}

// errEnough tells that the caller has left the loop.
var errEnough = errors.New("enough")

// logQuery is one reading of a log.
type logQuery struct {
	container *Container
	options   LogsOptions
	yield     func(LogEntry, error) bool

	chunks  func(chunk) bool // nil, or gets what the run wrote in place of yield
	fromNow bool             // leave out what is there
	begun   func()           // nil, or is called when it has been seen what there is

	log      *logReader // all
	reader   *logReader // what is read: log, or how much of it there was
	follower *follower  // nil unless Follow is set
	state    logState
	lines    lineJoiner
	skip     int // entries to leave out
}

// logState is how a container is, for who reads its log.
type logState struct {
	run    int   // the last one whose output is to be given; 0: any
	ended  bool  // nothing comes any more
	dead   bool  // its program has ended
	logged int64 // position that the log had at the end of the last run that has one
}

func (q *logQuery) close() {
	if q.follower != nil {
		q.follower.close()
	}
	if q.reader != nil {
		q.reader.close()
	}
	if q.log != nil {
		q.log.close()
	}
}

// fail hands an error to the caller. It tells whether the loop goes on.
func (q *logQuery) fail(err error) bool {
	return q.yield(LogEntry{}, failed("read log of container", q.container.id, err))
}

// give gives all entries.
func (q *logQuery) give(ctx context.Context) error {
	if s := q.options.Stream; s != 0 && s != Stdout && s != Stderr {
		return fmt.Errorf("log of %v: %w", s, ErrInvalidArgument)
	}
	if err := q.open(ctx); err != nil {
		return err
	}
	if q.fromNow {
		if err := q.log.skip(); err != nil {
			return err
		}
	}
	if q.begun != nil {
		q.begun()
	}
	if err := q.count(ctx); err != nil {
		return err
	}
	for last := q.follower == nil; ; {
		if err := q.drain(ctx); err != nil {
			return err
		}
		if last || q.state.ended {
			return q.end()
		}
		var err error
		if last, err = q.follower.sleep(ctx, q.options.Until); err != nil {
			return err
		}
		if q.state, err = q.follower.look(); err != nil {
			return err
		}
	}
}

// open looks at the container first and then for its log, so that if it has
// ended, the log is complete.
func (q *logQuery) open(ctx context.Context) error {
	e := q.container.engine
	_, leave, err := e.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	r, err := e.root.records().read(q.container.id)
	if err != nil {
		return err
	}
	dir := e.root.logDir(q.container.owner.Engine, q.container.id)
	if q.options.Follow {
		q.follower = newFollower(q.container, dir)
		q.state, err = q.follower.look()
	} else {
		var alive bool
		alive, err = e.root.alive(r.Owner.Engine)
		q.state = logState{ended: true, dead: !alive, logged: r.Logged}
	}
	if err != nil {
		return err
	}
	q.log = &logReader{dir: dir, position: -1}
	found, err := q.log.find()
	if err != nil {
		return err
	}
	if !found {
		q.log.position = 0 // it is read from the very first byte on
	}
	q.reader = q.log
	if !q.options.Follow {
		q.reader, err = q.log.asOfNow()
	}
	return err
}

// count finds out how many entries Tail leaves out.
func (q *logQuery) count(ctx context.Context) error {
	if q.options.Tail == nil || *q.options.Tail < 0 {
		return nil
	}
	reader, err := q.reader.asOfNow()
	if err != nil {
		return err
	}
	defer reader.close()
	entries := 0
	counting := *q
	counting.reader = reader
	counting.follower = nil
	counting.yield = func(e LogEntry, err error) bool {
		if err == nil && e.Missing == 0 {
			entries++
		}
		return true
	}
	if err := counting.drain(ctx); err != nil {
		return err
	}
	if counting.state.ended {
		counting.lines.end(counting.pass)
	}
	q.skip = max(0, entries-*q.options.Tail)
	return nil
}

// drain gives what there is.
func (q *logQuery) drain(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		before := q.reader.position
		c, err := q.reader.next()
		switch {
		case err == io.EOF:
			if q.follower == nil {
				return nil
			}
			if found, err := q.log.find(); !found || err != nil {
				return err
			}
		case errors.Is(err, ErrDataLoss):
			if !q.fail(err) {
				return errEnough
			}
		case err != nil:
			return err
		case q.state.run > 0 && c.run > q.state.run:
			q.state.ended = true
			return nil
		default:
			if !q.add(c, before) {
				return errEnough
			}
		}
	}
}

// add gives the entries that a chunk ends. Before it comes what was read up to
// the position given.
func (q *logQuery) add(c chunk, before int64) bool {
	if before >= 0 && c.position > before && !q.missing(c.position-before, c.time) {
		return false
	}
	if q.chunks != nil {
		return c.run < q.state.run || q.chunks(c)
	}
	if q.options.Stream != 0 && c.stream != q.options.Stream {
		return true
	}
	return q.lines.add(c, q.pass)
}

// missing tells the caller of a gap. No line goes on across it.
func (q *logQuery) missing(n int64, t time.Time) bool {
	return q.lines.end(q.pass) && q.pass(LogEntry{Time: t, Run: q.lines.run, Missing: n})
}

// pass hands an entry to the caller, if it is one of those asked for.
func (q *logQuery) pass(e LogEntry) bool {
	o := &q.options
	if !o.Since.IsZero() && e.Time.Before(o.Since) || !o.Until.IsZero() && e.Time.After(o.Until) {
		return true
	}
	if q.skip > 0 {
		if e.Missing == 0 {
			q.skip--
		}
		return true
	}
	e.Data = bytes.Clone(e.Data)
	return q.yield(e, nil)
}

// end gives what is still to be told when all has been read.
func (q *logQuery) end() error {
	lost := q.state.logged - q.reader.position
	// What a run that has ended left is whole, or it lacks what is counted
	// here; so what is cut off may be just what another run writes now.
	if q.reader.torn && (q.state.dead || lost > 0) && !q.fail(q.reader.damage(errTorn)) {
		return errEnough
	}
	if !q.lines.end(q.pass) {
		return errEnough
	}
	if lost > 0 && !q.missing(lost, time.Now()) {
		return errEnough
	}
	return nil
}
