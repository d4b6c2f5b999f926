package engine

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// readLog reads a log's files as Logs does.
func readLog(t *testing.T, path string) (lines []LogEntry) {
	t.Helper()
	var j lineJoiner
	yield := func(e LogEntry, _ error) bool { lines = append(lines, e); return true }
	for _, p := range []string{path + ".1", path} {
		f, err := openIfThere(p)
		if err != nil {
			t.Fatal(err)
		}
		if f == nil {
			continue
		}
		for entry, err := range readEntries(f, p) {
			if err != nil {
				t.Fatal(err)
			}
			j.add(entry, yield)
		}
		f.Close()
	}
	j.end(yield)
	return lines
}

func TestLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "logs", "x")
	l := newLogFile(path, 0)
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Dir(path)); !errors.Is(err, os.ErrNotExist) {
		t.Error("files were made before the first byte")
	}
	start := time.Now()
	l.add(Stdout, []byte("one\ntw"))
	l.add(Stderr, []byte("err\x00\xff\n"))
	l.add(Stdout, []byte("o\nthree"))
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	l.add(Stderr, []byte("again"))
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range readLog(t, path) {
		got = append(got, e.Stream.String()+":"+string(e.Data))
		if e.Time.Before(start.Add(-time.Microsecond)) || e.Time.After(time.Now()) {
			t.Errorf("time %v", e.Time)
		}
	}
	want := "stdout:one\n|stderr:err\x00\xff\n|stdout:two\n|stdout:three|stderr:again"
	if s := strings.Join(got, "|"); s != want {
		t.Errorf("%q, want %q", s, want)
	}
	if err := l.remove(); err != nil {
		t.Error(err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 0 {
		t.Errorf("left: %v", entries)
	}
}

func TestLogLongLinesAndChunks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	l := newLogFile(path, 0)
	data := bytes.Repeat([]byte("0123456789"), 20_000)
	l.add(Stdout, data)
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	var all []byte
	for _, e := range readLog(t, path) {
		if len(e.Data) > 2*maxChunk {
			t.Errorf("entry of %d bytes", len(e.Data))
		}
		all = append(all, e.Data...)
	}
	if !bytes.Equal(all, data) {
		t.Errorf("%d bytes, want %d", len(all), len(data))
	}
}

func TestLogRotates(t *testing.T) {
	const size = 10_000
	path := filepath.Join(t.TempDir(), "x")
	l := newLogFile(path, size)
	line := strings.Repeat("x", 95)
	for i := range 1000 {
		l.add(Stdout, []byte(line+string(rune('0'+i/100))+string(rune('0'+i/10%10))+string(rune('0'+i%10))+"\n"))
	}
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	var total int64
	for _, p := range []string{path, path + ".1"} {
		st, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		total += st.Size()
	}
	if total < size || total > 2*size+1000 {
		t.Errorf("%d bytes on disk, limit %d", total, size)
	}
	lines := readLog(t, path)
	if len(lines) < size/200 {
		t.Fatalf("%d lines", len(lines))
	}
	for i, e := range lines {
		n := 1000 - len(lines) + i
		if got := string(e.Data[95:98]); got != string(rune('0'+n/100))+string(rune('0'+n/10%10))+string(rune('0'+n%10)) {
			t.Fatalf("line %d of %d is %s, want %d", i, len(lines), got, n)
		}
	}
}

func TestLogDamaged(t *testing.T) {
	good := "2006-01-02T15:04:05.000000000Z stdout 3\nabc"
	tests := []struct {
		data    string
		entries int
		damaged bool
	}{
		{"", 0, false},
		{good, 1, false},
		{good + good, 2, false},
		{good + good[:len(good)-1], 1, false}, // cut off: not there
		{good + good[:10], 1, false},
		{good + "junk\n", 1, true},
		{good + "2006-01-02T15:04:05.000000000Z stdin 3\nabc", 1, true},
		{good + "2006-01-02T15:04:05.000000000Z stdout 99999999999\nabc", 1, true},
		{good + "2006-01-02T15:04:05.000000000Z stdout 0\nabc", 1, true},
		{good + strings.Repeat("z", 100_000), 1, true},
	}
	for _, test := range tests {
		n, damaged := 0, false
		for _, err := range readEntries(strings.NewReader(test.data), "the-file") {
			if err == nil {
				n++
				continue
			}
			damaged = errors.Is(err, ErrDataLoss) && strings.Contains(err.Error(), "the-file")
		}
		if n != test.entries || damaged != test.damaged {
			t.Errorf("%.80q: %d entries, damaged %v", test.data, n, damaged)
		}
	}
}

func FuzzReadEntries(f *testing.F) {
	f.Add([]byte("2006-01-02T15:04:05.000000000Z stdout 3\nabc2006-01-02T15:04:05.000000000Z stderr 1\n\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var j lineJoiner
		yield := func(e LogEntry, _ error) bool { return len(e.Data) > 0 }
		for entry, err := range readEntries(bytes.NewReader(data), "x") {
			if err == nil && !j.add(entry, yield) {
				t.Fatal("an empty line")
			}
		}
		j.end(yield)
	})
}

// A Writer that blocks, and one that fails, lose nothing of the log.
func TestOutputSlowWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	l := newLogFile(path, 0)
	blocked, unblock := io.Pipe()
	var u output
	stdout := u.stream(unblock, u.caller(unblock), Stdout)
	failing := writerFunc(func([]byte) (int, error) { return 0, errors.New("full") })
	stderr := u.stream(failing, u.caller(failing), Stderr)
	u.log = l
	stdout.(*streamWriter).log, stderr.(*streamWriter).log = l, l

	var wg sync.WaitGroup
	wg.Go(func() { io.WriteString(stdout, "out\n") })
	for range 3 {
		if n, err := io.WriteString(stderr, "err\n"); n != 4 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	}
	if got, err := io.ReadAll(io.LimitReader(blocked, 4)); err != nil || string(got) != "out\n" {
		t.Errorf("%q, %v", got, err)
	}
	wg.Wait()
	if err := u.close(); err == nil || !strings.Contains(err.Error(), "full") {
		t.Errorf("the writer's error is lost: %v", err)
	}
	if lines := readLog(t, path); len(lines) != 4 {
		t.Errorf("%d lines in the log", len(lines))
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
