package engine

import "bytes"

// maxLine is the most data that one LogEntry has.
const maxLine = 64 << 10

// lineJoiner makes lines of chunks. What it yields is good until yield returns.
type lineJoiner struct {
	run  int         // of the last chunk
	open [2]openLine // of each stream, one whose newline has not come
}

type openLine struct {
	LogEntry
	position int64 // of its first byte
}

// add yields the lines that a chunk ends, and those of the run before if it
// begins another. It returns what yield does.
func (j *lineJoiner) add(c chunk, yield func(LogEntry) bool) bool {
	if c.run != j.run && !j.end(yield) {
		return false
	}
	j.run = c.run
	for line := range bytes.Lines(c.data) {
		ok := true
		ended := line[len(line)-1] == '\n'
		if ended && len(line) <= maxLine && len(j.open[c.stream-Stdout].Data) == 0 {
			ok = yield(LogEntry{Time: c.time, Run: c.run, Stream: c.stream, Data: line})
		} else {
			ok = j.join(c, line, ended, yield)
		}
		if !ok {
			return false
		}
	}
	return true
}

// join adds to the open line of a stream, and yields what has become whole, or
// too long. A part is yielded only when more follows.
func (j *lineJoiner) join(c chunk, line []byte, ended bool, yield func(LogEntry) bool) bool {
	open := &j.open[c.stream-Stdout]
	for len(line) > 0 {
		if len(open.Data) == maxLine {
			part := open.LogEntry
			part.Partial = true
			open.Data = nil
			if !yield(part) {
				return false
			}
		}
		if len(open.Data) == 0 {
			open.LogEntry = LogEntry{Time: c.time, Run: c.run, Stream: c.stream}
			open.position = c.position
		}
		n := min(len(line), maxLine-len(open.Data))
		open.Data = append(open.Data, line[:n]...)
		line = line[n:]
	}
	if !ended {
		return true
	}
	whole := open.LogEntry
	open.Data = nil
	return yield(whole)
}

// end yields the lines that have no newline, the older one first.
func (j *lineJoiner) end(yield func(LogEntry) bool) bool {
	first, second := j.open[0], j.open[1]
	if second.position < first.position {
		first, second = second, first
	}
	j.open = [2]openLine{}
	for _, line := range []openLine{first, second} {
		if len(line.Data) > 0 && !yield(line.LogEntry) {
			return false
		}
	}
	return true
}
