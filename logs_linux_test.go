package engine

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// loggedContainer is a container that is a record and a log alone, which this
// test writes.
type loggedContainer struct {
	*Container
	log  *logFile
	runs int
}

func newLoggedContainer(t testing.TB, e *Engine, size int64, files int) *loggedContainer {
	t.Helper()
	d := e.root.records()
	id := newID()
	if err := createRecord(d, testRecord(e.root.engine, id)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(d.path(id)) }) // an engine of its own may be gone with its root
	c, err := e.Lookup(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	begun := func() error { return d.change(t.Context(), id, logChange{Log: true}) }
	l := newLogFile(e.root.logDir(e.root.engine, id), size, files, begun)
	t.Cleanup(func() { _, _ = l.close() })
	return &loggedContainer{Container: c, log: l}
}

func (c *loggedContainer) change(t testing.TB, v any) {
	t.Helper()
	if err := c.engine.root.records().change(t.Context(), c.id, v); err != nil {
		t.Fatal(err)
	}
}

func (c *loggedContainer) start(t testing.TB) {
	t.Helper()
	c.runs++
	c.change(t, startChange{State: StateRunning, Runs: c.runs})
}

func (c *loggedContainer) exit(t testing.TB) {
	t.Helper()
	position, err := c.log.close()
	if err != nil {
		t.Fatal(err)
	}
	c.change(t, exitChange{State: StateExited, Status: Status{Known: true}, Logged: position})
}

// text formats entries to be compared.
func text(entries []LogEntry) string {
	var b strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&b, "%v run %d %v partial %v missing %d: %.100q (%d)\n",
			e.Time.Format(time.StampNano), e.Run, e.Stream, e.Partial, e.Missing, e.Data, len(e.Data))
	}
	return b.String()
}

// read gives the entries and errors of one reading.
func read(t testing.TB, c *Container, o LogsOptions) (entries []LogEntry, errs []error) {
	t.Helper()
	for e, err := range c.Logs(t.Context(), o) {
		if err != nil {
			errs = append(errs, err)
			continue
		}
		entries = append(entries, e)
	}
	return entries, errs
}

// sum gives the bytes that entries have, and those that they miss.
func sum(entries []LogEntry) (data, missing int64) {
	for _, e := range entries {
		data += int64(len(e.Data))
		missing += e.Missing
	}
	return data, missing
}

// modelLine is a line, and when it becomes complete: at a position of the
// output, or a little before.
type modelLine struct {
	LogEntry
	at, began float64
}

// modelLines makes lines of chunks in another way than lineJoiner: each stream
// of each run as a whole, then in the order in which they became complete.
func modelLines(chunks []chunk) []LogEntry {
	var lines []modelLine
	lastRun := 0
	for _, c := range chunks {
		lastRun = max(lastRun, c.run)
	}
	for run := 1; run <= lastRun; run++ {
		end := math.Inf(1) // of the run
		for _, c := range slices.Backward(chunks) {
			if c.run > run {
				end = float64(c.position) - 0.25
			}
		}
		for _, stream := range []Stream{Stdout, Stderr} {
			lines = append(lines, modelStream(chunks, run, stream, end)...)
		}
	}
	slices.SortFunc(lines, func(a, b modelLine) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.began, b.began)) })
	entries := make([]LogEntry, 0, len(lines))
	for _, l := range lines {
		entries = append(entries, l.LogEntry)
	}
	return entries
}

func modelStream(chunks []chunk, run int, stream Stream, end float64) (lines []modelLine) {
	var data []byte
	var times []time.Time
	var positions []float64
	for _, c := range chunks {
		if c.run == run && c.stream == stream {
			for i := range c.data {
				times = append(times, c.time)
				positions = append(positions, float64(c.position)+float64(i))
			}
			data = append(data, c.data...)
		}
	}
	for len(data) > 0 {
		n := bytes.IndexByte(data, '\n') + 1
		at := end
		if n == 0 {
			n = len(data)
		} else {
			at = positions[n-1]
		}
		partial := n > maxLine
		if partial {
			n = maxLine
			at = positions[n] - 0.5
		}
		e := LogEntry{Time: times[0], Run: run, Stream: stream, Data: data[:n], Partial: partial}
		lines = append(lines, modelLine{e, at, positions[0]})
		data, times, positions = data[n:], times[n:], positions[n:]
	}
	return lines
}

// modelChoice chooses as LogsOptions say.
func modelChoice(entries []LogEntry, o LogsOptions) (chosen []LogEntry) {
	for _, e := range entries {
		if (o.Stream == 0 || e.Stream == o.Stream) && !e.Time.Before(o.Since) && (o.Until.IsZero() || !e.Time.After(o.Until)) {
			chosen = append(chosen, e)
		}
	}
	if o.Tail != nil && *o.Tail >= 0 {
		chosen = chosen[max(0, len(chosen)-*o.Tail):]
	}
	return chosen
}

// randomOutput writes lines of all kinds, in reads of all sizes.
func randomOutput(t testing.TB, random *rand.Rand, c *loggedContainer, chunks int) {
	for range chunks {
		size := random.IntN(300)
		switch random.IntN(40) {
		case 0:
			size = maxChunk
		case 1:
			size = random.IntN(3 * maxChunk)
		}
		p := make([]byte, size+1)
		newlines := uint32(random.IntN(60))
		for i := range p {
			if p[i] = byte(random.Uint32()); random.Uint32N(1000) < newlines {
				p[i] = '\n'
			}
		}
		if random.IntN(3) == 0 {
			p[size] = '\n'
		}
		if size >= maxChunk/2 && random.IntN(2) == 0 {
			p = bytes.ReplaceAll(p, []byte("\n"), []byte("-"))
		}
		logs(t, c.log, c.runs, Stream(1+random.IntN(2)), p)
	}
}

// All options, alone and together, against a model.
func TestLogsModel(t *testing.T) {
	e := testEngine(t)
	for seed := range uint64(few(8)) {
		random := rand.New(rand.NewPCG(seed, 7))
		files := 1 + random.IntN(6)
		c := newLoggedContainer(t, e, []int64{0, 48 << 10, 200_000, 64 << 20}[seed%4], files)
		for range random.IntN(4) {
			c.start(t)
			randomOutput(t, random, c, random.IntN(60))
			c.exit(t)
		}
		var chunks []chunk
		if c.log.made {
			chunks = rawLog(t, c.log.dir)
		}
		lines := modelLines(chunks)
		times := []time.Time{{}, {}, {}}
		for _, c := range chunks {
			times = append(times, c.time, c.time.Add(1), c.time.Add(-1))
		}
		tails := []*int{nil, new(-1), new(0), new(1), new(2), new(random.IntN(50)), new(len(lines)), new(len(lines) + 1), new(math.MaxInt)}
		for i := range 40 {
			o := LogsOptions{
				Tail:   tails[random.IntN(len(tails))],
				Since:  times[random.IntN(len(times))],
				Until:  times[random.IntN(len(times))],
				Stream: Stream(random.IntN(3)),
				Follow: c.runs > 0 && random.IntN(2) == 0,
			}
			if i == 0 {
				o = LogsOptions{}
			}
			got, errs := read(t, c.Container, o)
			if got, want := text(got), text(modelChoice(lines, o)); got != want || len(errs) > 0 {
				t.Fatalf("seed %d, %+v: got\n%s%v\nwant\n%s", seed, o, got, errs, want)
			}
		}
	}
}

func TestLogsArguments(t *testing.T) {
	e := testEngine(t)
	c := newLoggedContainer(t, e, 0, 0)
	if got, errs := read(t, c.Container, LogsOptions{Stream: 3}); len(got) > 0 || len(errs) != 1 || !errors.Is(errs[0], ErrInvalidArgument) {
		t.Errorf("%v, %v", got, errs)
	}
	for _, o := range []LogsOptions{{}, {Tail: new(3)}} {
		if got, errs := read(t, c.Container, o); len(got) > 0 || len(errs) > 0 {
			t.Errorf("%+v of no log: %v, %v", o, got, errs)
		}
	}
	c.start(t)
	logs(t, c.log, 1, Stdout, []byte("1\n2\n3\n"))
	// The caller leaves the loop where he likes.
	for want := 1; want <= 4; want++ {
		n := 0
		for e, err := range c.Logs(t.Context(), LogsOptions{}) {
			if n++; err != nil || n == want {
				break
			}
			clear(e.Data) // it is the caller's
		}
		if n != min(want, 3) {
			t.Errorf("%d entries of %d", n, want)
		}
	}
}

// missingLog is an ended container with lines of one size, in ten files.
func missingLog(t *testing.T, e *Engine) (c *loggedContainer, size int64, line int) {
	t.Helper()
	c = newLoggedContainer(t, e, 10*minLogFile, 10)
	c.start(t)
	for i := range 300 {
		text := fmt.Appendf(nil, "%03d %s\n", i, strings.Repeat("x", 40))
		logs(t, c.log, 1, Stdout, text)
		line = len(text)
		size += int64(line)
	}
	c.exit(t)
	if got, errs := read(t, c.Container, LogsOptions{}); len(got) != 300 || len(errs) > 0 {
		t.Fatalf("%d entries, %v", len(got), errs)
	}
	return c, size, line
}

// What the log lacks is told.
func TestLogsMissing(t *testing.T) {
	e := testEngine(t)
	c, size, _ := missingLog(t, e)
	numbers := logNumbers(t, c.log.dir)
	if err := os.Remove(c.log.path(numbers[len(numbers)/2])); err != nil {
		t.Fatal(err)
	}
	got, errs := read(t, c.Container, LogsOptions{})
	if data, missing := sum(got); len(errs) > 0 || missing == 0 || data+missing != size {
		t.Errorf("%d bytes and %d missing, of %d, %v", data, missing, size, errs)
	}
	if err := os.RemoveAll(c.log.dir); err != nil {
		t.Fatal(err)
	}
	for _, o := range []LogsOptions{{}, {Follow: true}, {Tail: new(5), Stream: Stderr}} {
		got, errs := read(t, c.Container, o)
		if len(got) != 1 || got[0].Missing != size || len(errs) > 0 {
			t.Errorf("%+v: %v, %v", o, got, errs)
		}
	}
}

// So is what it lacks at its end, be it cut off within an entry or before one.
func TestLogsCutOff(t *testing.T) {
	e := testEngine(t)
	c, size, line := missingLog(t, e)
	numbers := logNumbers(t, c.log.dir)
	last := c.log.path(numbers[len(numbers)-1])
	st, err := os.Stat(last)
	if err != nil {
		t.Fatal(err)
	}
	entry := headerSize + line
	for _, cut := range []int{1, line, entry - 1, entry, entry + 1} {
		if err := os.Truncate(last, st.Size()-int64(cut)); err != nil {
			t.Fatal(err)
		}
		for _, o := range []LogsOptions{{}, {Follow: true}, {Tail: new(5)}} {
			got, errs := read(t, c.Container, o)
			if data, missing := sum(got); o.Tail == nil && data+missing != size {
				t.Errorf("cut %d, %+v: %d bytes and %d missing, of %d", cut, o, data, missing, size)
			}
			want := int64(line)
			if cut > entry {
				want *= 2
			}
			if end := got[len(got)-1]; end.Data != nil || end.Missing != want {
				t.Errorf("cut %d, %+v: the end is %+v", cut, o, end)
			}
			if told := len(errs) == 1 && errors.Is(errs[0], ErrDataLoss) && strings.Contains(errs[0].Error(), last); told != (cut != entry) {
				t.Errorf("cut %d, %+v: %v", cut, o, errs)
			}
		}
	}
}

// detachedTmpfs gives a directory on a tmpfs that is mounted nowhere.
func detachedTmpfs(t *testing.T, size string) string {
	t.Helper()
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fs)
	if err := errors.Join(unix.FsconfigSetString(fs, "size", size), unix.FsconfigCreate(fs)); err != nil {
		t.Fatal(err)
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(mount) })
	return fmt.Sprintf("/proc/self/fd/%d", mount)
}

// A disk that is full for a while costs the log what comes meanwhile, which
// Wait's error and readers are told of.
func TestLogDiskFull(t *testing.T) {
	needRoot(t)
	dir := detachedTmpfs(t, "256k")
	l := newLogFile(filepath.Join(dir, "log"), 1<<20, 2, func() error { return nil })
	line := []byte(strings.Repeat("x", 4999) + "\n")
	for range 100 {
		logs(t, l, 1, Stdout, line)
	}
	if position, err := l.close(); !errors.Is(err, unix.ENOSPC) || position != 100*int64(len(line)) {
		t.Errorf("%d, %v", position, err)
	}
	before := rawLog(t, l.dir) // every chunk is whole
	if len(before) == 0 || len(before) >= 100 {
		t.Errorf("%d chunks", len(before))
	}
	if err := os.Remove(filepath.Join(dir, "log", "1")); err != nil {
		t.Fatal(err)
	}
	logs(t, l, 1, Stdout, line)
	if position, err := l.close(); err != nil || position != 101*int64(len(line)) {
		t.Errorf("%d, %v", position, err)
	}
	if after := rawLog(t, l.dir); len(after) != 1 || after[0].position != 100*int64(len(line)) {
		t.Errorf("%d chunks", len(after))
	}
}
