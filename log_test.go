package engine

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// newTestLog makes a log in a directory of its own.
func newTestLog(t testing.TB, size int64, files int) *logFile {
	t.Helper()
	if err := checkLogSize(size, files); err != nil {
		t.Fatal(err)
	}
	return newLogFile(filepath.Join(t.TempDir(), "logs", "x"), size, files, func() error { return nil })
}

// logs appends to a log as a copier does.
func logs(t testing.TB, l *logFile, run int, s Stream, p []byte) {
	t.Helper()
	b := append(make([]byte, headerSize), p...)
	l.add(run, s, b)
	if !bytes.Equal(b[headerSize:], p) {
		t.Fatal("add has changed what it was given")
	}
}

func closeLog(t testing.TB, l *logFile) {
	t.Helper()
	if _, err := l.close(); err != nil {
		t.Fatal(err)
	}
}

// logNumbers lists the files of a log.
func logNumbers(t testing.TB, dir string) (numbers []int) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	return numbers
}

// rawLog reads the chunks of a whole log that nobody writes.
func rawLog(t testing.TB, dir string) (chunks []chunk) {
	t.Helper()
	for _, n := range logNumbers(t, dir) {
		data, err := os.ReadFile(filepath.Join(dir, strconv.Itoa(n)))
		if err != nil {
			t.Fatal(err)
		}
		for len(data) > 0 {
			c, size, err := parseChunk(data)
			if err != nil || c.data == nil {
				t.Fatalf("file %d: %v, %d bytes are left", n, err, len(data))
			}
			chunks = append(chunks, c)
			data = data[size:]
		}
	}
	return chunks
}

// readAll reads files as a log, to its end.
func readAll(t testing.TB, dir string) (chunks []chunk, errs []error, torn bool) {
	t.Helper()
	r := &logReader{dir: dir, position: -1}
	defer r.close()
	if _, err := r.find(); err != nil {
		t.Fatal(err)
	}
	for {
		c, err := r.next()
		switch {
		case err == io.EOF:
			return chunks, errs, r.torn
		case err != nil:
			errs = append(errs, err)
		default:
			c.data = bytes.Clone(c.data)
			chunks = append(chunks, c)
		}
	}
}

// readLog gives the lines of a whole log.
func readLog(t testing.TB, dir string) (lines []LogEntry) {
	t.Helper()
	chunks, errs, torn := readAll(t, dir)
	if len(errs) > 0 || torn {
		t.Fatal(errs, torn)
	}
	var j lineJoiner
	yield := func(e LogEntry) bool {
		e.Data = bytes.Clone(e.Data)
		lines = append(lines, e)
		return true
	}
	for _, c := range chunks {
		j.add(c, yield)
	}
	j.end(yield)
	return lines
}

func TestLog(t *testing.T) {
	l := newTestLog(t, 0, 0)
	closeLog(t, l)
	if _, err := os.Stat(filepath.Dir(l.dir)); !errors.Is(err, os.ErrNotExist) {
		t.Error("files were made before the first byte")
	}
	begun := 0
	l.begun = func() error { begun++; return nil }
	start := time.Now()
	logs(t, l, 1, Stdout, []byte("one\ntw"))
	logs(t, l, 1, Stderr, []byte("err\x00\xff\n"))
	logs(t, l, 1, Stdout, []byte("o\nthree"))
	closeLog(t, l)
	logs(t, l, 2, Stdout, []byte("again"))
	logs(t, l, 2, Stderr, []byte("older"))
	logs(t, l, 2, Stdout, []byte("!"))
	if position, err := l.close(); err != nil || position != 30 {
		t.Errorf("%d, %v", position, err)
	}
	if begun != 1 {
		t.Errorf("begun %d times", begun)
	}
	var got []string
	for _, e := range readLog(t, l.dir) {
		got = append(got, fmt.Sprintf("%d%v:%s", e.Run, e.Stream, e.Data))
		if e.Time.Before(start.Add(-time.Microsecond)) || e.Time.After(time.Now()) || e.Partial || e.Missing != 0 {
			t.Errorf("%+v", e)
		}
	}
	want := "1stdout:one\n|1stderr:err\x00\xff\n|1stdout:two\n|1stdout:three|2stdout:again!|2stderr:older"
	if s := strings.Join(got, "|"); s != want {
		t.Errorf("%q, want %q", s, want)
	}
	if err := l.remove(); err != nil {
		t.Error(err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(l.dir)); len(entries) != 0 {
		t.Errorf("left: %v", entries)
	}
}

// The first byte is lost when nobody can be told that there is a log.
func TestLogNotBegun(t *testing.T) {
	l := newTestLog(t, 0, 0)
	l.begun = func() error { return ErrNotFound }
	logs(t, l, 1, Stdout, []byte("lost"))
	if _, err := os.Stat(l.dir); !errors.Is(err, os.ErrNotExist) {
		t.Error("there is a log")
	}
	if position, err := l.close(); position != 4 || !errors.Is(err, ErrNotFound) {
		t.Errorf("%d, %v", position, err)
	}
}

func TestLogLongLines(t *testing.T) {
	for _, size := range []int{0, 1, maxLine - 1, maxLine, maxLine + 1, 200_000, 4 * maxLine, 1 << 20} {
		for _, newline := range []string{"", "\n"} {
			for _, read := range []int{1000, maxChunk, 3*maxChunk + 5} {
				data := append(bytes.Repeat([]byte("0123456789"), size/10+1)[:size], newline...)
				if len(data) == 0 {
					continue
				}
				l := newTestLog(t, 16<<20, 2)
				for part := range slices.Chunk(append(slices.Clone(data), "x\n"...), read) {
					logs(t, l, 1, Stdout, part)
				}
				closeLog(t, l)
				lines := readLog(t, l.dir)
				if newline != "" {
					lines = lines[:len(lines)-1]
				} else {
					data = append(data, "x\n"...)
				}
				var all []byte
				for i, e := range lines {
					last := i == len(lines)-1
					if e.Partial == last || !last && len(e.Data) != maxLine || len(e.Data) > maxLine {
						t.Errorf("line of %d bytes, part %d of %d: %d bytes, partial: %v", len(data), i, len(lines), len(e.Data), e.Partial)
					}
					all = append(all, e.Data...)
				}
				if !bytes.Equal(all, data) {
					t.Errorf("%d bytes, want %d", len(all), len(data))
				}
			}
		}
	}
}

// The files together never have more than they may; what is dropped is the
// oldest; and nearly as much is kept as may be.
func TestLogRotates(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 4*maxChunk)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	for _, test := range []struct {
		size  int64
		files int
	}{{minLogFile, 1}, {100_000, 1}, {10_000, 2}, {50_000, 10}, {500_000, 100}, {1 << 20, 0}} {
		t.Run(fmt.Sprint(test), func(t *testing.T) {
			l := newTestLog(t, test.size, test.files)
			size := l.limit * int64(l.keep)
			var all []byte
			checked := 0
			for int64(len(all)) < 4*size {
				n := random.IntN(2000)
				if random.IntN(20) == 0 {
					n = random.IntN(2 * maxChunk)
				}
				p := noise[random.IntN(2*maxChunk):][:n+1]
				all = append(all, p...)
				logs(t, l, 1, Stdout, p)
				if random.IntN(50) == 0 {
					closeLog(t, l)
				}
				if l.number != checked {
					checked = l.number
					checkFiles(t, l)
				}
			}
			closeLog(t, l)
			var got []byte
			position := int64(-1)
			for _, c := range rawLog(t, l.dir) {
				if position >= 0 && c.position != position {
					t.Fatalf("chunk at %d after %d", c.position, position)
				}
				got = append(got, c.data...)
				position = c.position + int64(len(c.data))
			}
			if position != int64(len(all)) || !bytes.HasSuffix(all, got) {
				t.Errorf("the last %d bytes are not those", len(got))
			}
		})
	}
}

// checkFiles looks at number and sizes of a log's files.
func checkFiles(t *testing.T, l *logFile) {
	t.Helper()
	numbers := logNumbers(t, l.dir)
	if len(numbers) > l.keep || numbers[len(numbers)-1]-numbers[0] != len(numbers)-1 {
		t.Fatalf("files %v", numbers)
	}
	var total int64
	for i, number := range numbers {
		st, err := os.Stat(l.path(number))
		if err != nil {
			t.Fatal(err)
		}
		if i < len(numbers)-1 && st.Size() < l.limit*7/8 {
			t.Errorf("file %d of %d has %d bytes", i, len(numbers), st.Size())
		}
		total += st.Size()
	}
	if total > l.limit*int64(l.keep) {
		t.Fatalf("%d bytes in %d files of at most %d", total, len(numbers), l.limit)
	}
}

func TestCheckLogSize(t *testing.T) {
	for _, test := range []struct {
		size  int64
		files int
		ok    bool
	}{
		{0, 0, true}, {-1, 0, true}, {minLogFile, 1, true}, {4 * minLogFile, 0, true}, {1 << 40, 100, true}, {0, 100, true},
		{4*minLogFile - 1, 0, false}, {1, 1, false}, {0, -1, false}, {1 << 40, 101, false}, {-1, 101, false},
	} {
		err := (&Config{Network: NetworkNone, LogSize: test.size, LogFiles: test.files}).check()
		if (err == nil) != test.ok || err != nil && !errors.Is(err, ErrInvalidArgument) {
			t.Errorf("%d bytes in %d files: %v", test.size, test.files, err)
		}
	}
}

// encode makes a chunk by hand.
func encode(position int64, data string) []byte {
	c := chunk{time: time.Unix(1, 2), stream: Stderr, run: 3, position: position}
	b := append(make([]byte, headerSize), data...)
	c.header(b, len(data))
	return b
}

func TestChunkFormat(t *testing.T) {
	want := "IL\x01\x02" + "\x03\x00\x00\x00" + "\x07\x01\x00\x00\x00\x00\x00\x00" +
		"\x01\x00\x00\x00\x00\x00\x00\x00" + "\x02\x00\x00\x00" + "\x03\x00\x00\x00" + "abc"
	if got := string(encode(263, "abc")); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// A damaged file is read up to the damage, which is told; later files are read.
func TestLogDamaged(t *testing.T) {
	first, second := encode(0, "abc"), encode(3, "defg")
	flip := func(at int, v byte) string {
		b := slices.Clone(second)
		b[at] = v
		return string(first) + string(b)
	}
	whole := string(first) + string(second)
	short := whole + "junk, less than a header has"
	tests := []struct {
		data    string
		chunks  int
		damaged string
	}{
		{"", 0, ""},
		{whole, 2, ""},
		{short, 2, ""}, // may still become a header
		{whole + "junk, more than a header has bytes.", 2, "is no header"},
		{whole + strings.Repeat("\x00", 300_000), 2, "is no header"},
		{flip(0, 'X'), 1, "is no header"},
		{flip(2, 2), 1, "is no header"},
		{flip(3, 0), 1, "header of stream 0"},
		{flip(3, 3), 1, "header of stream 3"},
		{flip(4, 0), 1, "header of 0 bytes"},
		{flip(6, 2), 1, "header of 131076 bytes"},
		{flip(8, 2), 1, "output goes on at 2 after 3"},
		{flip(15, 0xff), 1, "position"},
		{flip(27, 0xff), 1, "ns"},
		{flip(28, 0), 1, "run 0"},
	}
	for _, test := range tests {
		for _, more := range []bool{false, true} {
			dir := t.TempDir()
			write := func(number int, data string) {
				t.Helper()
				if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(number)), []byte(data), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write(9, test.data)
			want, damaged := test.chunks, test.damaged
			if more {
				write(10, string(encode(1000, "later")))
				want++
				if test.data == short {
					damaged = errTorn.Error()
				}
			}
			chunks, errs, _ := readAll(t, dir)
			if len(chunks) != want {
				t.Errorf("%.80q: %d chunks", test.data, len(chunks))
			}
			if damaged == "" && len(errs) == 0 {
				continue
			}
			if len(errs) != 1 || damaged == "" || !errors.Is(errs[0], ErrDataLoss) ||
				!strings.Contains(errs[0].Error(), damaged) || !strings.Contains(errs[0].Error(), filepath.Join(dir, "9")) {
				t.Errorf("%.80q: %v, want %q", test.data, errs, damaged)
			}
		}
	}
}

// Wherever a file is cut off, what is before is read; the rest may be on its
// way, unless there is a later file.
func TestLogCutOff(t *testing.T) {
	first, second := encode(0, "abc"), encode(3, "defg")
	whole := slices.Concat(first, second)
	for n := range len(whole) {
		dir := t.TempDir()
		path := filepath.Join(dir, "1")
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		r := &logReader{dir: dir, position: -1}
		if _, err := r.find(); err != nil {
			t.Fatal(err)
		}
		count := 0
		read := func() error {
			for {
				if _, err := r.next(); err != nil {
					return err
				}
				count++
			}
		}
		boundary := n == 0 || n == len(first)
		before := 0
		if n >= len(first) {
			before = 1
		}
		if err := read(); err != io.EOF || count != before || r.torn == boundary {
			t.Errorf("cut at %d: %d chunks, %v, torn: %v", n, count, err, r.torn)
		}
		// Its writer goes on.
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(whole[n:]); err != nil {
			t.Fatal(err)
		}
		if err := read(); err != io.EOF || count != 2 || r.torn {
			t.Errorf("cut at %d, then whole: %d chunks, %v, torn: %v", n, count, err, r.torn)
		}
		r.close()
		// Or never does.
		if err := errors.Join(f.Truncate(int64(n)), f.Close(), os.WriteFile(filepath.Join(dir, "2"), encode(7, "x"), 0o600)); err != nil {
			t.Fatal(err)
		}
		chunks, errs, _ := readAll(t, dir)
		if len(chunks) != before+1 || (len(errs) == 0) != boundary || len(errs) > 0 && !errors.Is(errs[0], errTorn) {
			t.Errorf("cut at %d: %d chunks, %v", n, len(chunks), errs)
		}
	}
}

// Whatever files hold, reading them ends, and what it gives is in them.
func FuzzLogReader(f *testing.F) {
	f.Add(slices.Concat(encode(0, "abc"), encode(3, "\n")), encode(4, "x"))
	f.Add(encode(0, "abc")[:20], encode(90, "line\nline"))
	dir := f.TempDir() // making one takes longer than all the rest
	f.Fuzz(func(t *testing.T, one, two []byte) {
		for name, data := range map[string][]byte{"1": one, "2": two} {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		chunks, errs, torn := readAll(t, dir)
		if len(errs) > 2 {
			t.Errorf("%d errors of two files: %v", len(errs), errs)
		}
		var j lineJoiner
		given, size, lines := 0, 0, 0
		yield := func(e LogEntry) bool {
			if len(e.Data) == 0 || len(e.Data) > maxLine || e.Partial && bytes.HasSuffix(e.Data, []byte("\n")) {
				t.Errorf("%+v", e)
			}
			lines += len(e.Data)
			return true
		}
		rest := [][]byte{one, two}
		for _, c := range chunks {
			// It stands in one of the files as it would be written now.
			b := append(make([]byte, headerSize), c.data...)
			c.header(b, len(c.data))
			for !bytes.HasPrefix(rest[0], b) {
				if len(rest) == 1 {
					t.Fatalf("%q is in no file", b)
				}
				rest = rest[1:]
			}
			rest[0] = rest[0][len(b):]
			given += len(b)
			size += len(c.data)
			j.add(c, yield)
		}
		j.end(yield)
		if lines != size {
			t.Errorf("%d bytes in lines, of %d", lines, size)
		}
		if whole := given == len(one)+len(two); whole == (len(errs) > 0 || torn) {
			t.Errorf("%d of %d bytes, %v, torn: %v", given, len(one)+len(two), errs, torn)
		}
	})
}
