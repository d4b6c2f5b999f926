package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// blocking is a Writer that blocks.
type blocking struct {
	called  chan struct{}
	unblock chan struct{}
	calls   atomic.Int32
}

func newBlocking(t *testing.T) *blocking {
	w := &blocking{called: make(chan struct{}), unblock: make(chan struct{})}
	t.Cleanup(func() { close(w.unblock) })
	return w
}

func (w *blocking) Write(p []byte) (int, error) {
	if w.calls.Add(1) == 1 {
		close(w.called)
	}
	<-w.unblock
	return len(p), nil
}

// streamOf gives the log's bytes of one stream.
func streamOf(t *testing.T, c *Container, s Stream) []byte {
	t.Helper()
	var data []byte
	for e, err := range c.Logs(t.Context(), LogsOptions{Stream: s}) {
		if err != nil || e.Missing > 0 {
			t.Fatalf("%+v, %v", e, err)
		}
		data = append(data, e.Data...)
	}
	return data
}

// Whatever bytes a container writes are in the log, those of each stream, and
// with the caller's Writers.
func TestOutputBinary(t *testing.T) {
	e, img := plainImage(t)
	for _, size := range []int{1, 4095, 65536, 65537, 3_000_000} {
		for _, written := range []bool{false, true} {
			var out, errs bytes.Buffer
			c := Config{Args: []string{"bytes", strconv.Itoa(size)}, LogSize: 32 << 20}
			if written {
				c.Stdout, c.Stderr = &out, &errs
			}
			made := started(t, e, img, c)
			if status, err := made.Wait(t.Context()); err != nil || status.Code != 0 {
				t.Fatal(status, err)
			}
			want := testBytes(size)
			for _, stream := range []struct {
				s Stream
				w *bytes.Buffer
			}{{Stdout, &out}, {Stderr, &errs}} {
				if got := streamOf(t, made, stream.s); !bytes.Equal(got, want) {
					t.Errorf("%d bytes: log of %v has %d others", size, stream.s, len(got))
				}
				if written && !bytes.Equal(stream.w.Bytes(), want) {
					t.Errorf("%d bytes: writer of %v has %d others", size, stream.s, stream.w.Len())
				}
				for i := range want {
					want[i] ^= 0xff // as the program does for stderr
				}
			}
		}
	}
}

// What is written first, to whichever stream, is read first.
func TestOutputOrder(t *testing.T) {
	e, img := plainImage(t)
	for i := range few(20) {
		var out bytes.Buffer
		c := Config{Args: []string{"both"}}
		if i%2 == 0 {
			c.Stdout, c.Stderr = &out, &out
		}
		made := started(t, e, img, c)
		if _, err := made.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		entries, errs := read(t, made, LogsOptions{})
		var log []byte
		for _, e := range entries {
			log = append(log, e.Data...)
		}
		const want = "to stdout\nto stderr\n"
		if string(log) != want || len(errs) > 0 || i%2 == 0 && out.String() != want {
			t.Fatalf("log %q, %v, writer %q", log, errs, &out)
		}
	}
}

// A Writer that blocks for ever holds up no other container; the log gets
// everything, also what was still in the pipe; and WaitDelay ends the wait.
func TestWriterBlocks(t *testing.T) {
	e, img := plainImage(t)
	const lines = 5000 // less than a pipe has room for
	for _, stream := range []Stream{Stdout, Stderr} {
		w := newBlocking(t)
		c := Config{Args: []string{"log", strconv.Itoa(lines)}, Stdout: w, WaitDelay: 300 * time.Millisecond}
		if stream == Stderr {
			c.Args = []string{"logerr", strconv.Itoa(lines)}
			c.Stdout, c.Stderr = io.Discard, w
		}
		made := started(t, e, img, c)
		<-w.called
		if out, status := runs(t, Config{}, "echo", "other"); out != "other\n" || status.Code != 0 {
			t.Errorf("%q, %v", out, status)
		}
		status, err := made.Wait(t.Context())
		if status != (Status{Known: true}) || !errors.Is(err, os.ErrDeadlineExceeded) || !strings.Contains(err.Error(), "writer") {
			t.Errorf("%v, %v", status, err)
		}
		n := 0
		for line := range bytes.Lines(streamOf(t, made, stream)) {
			if string(line) != fmt.Sprintf("line %d\n", n) {
				t.Fatalf("line %d is %q", n, line)
			}
			n++
		}
		if n != lines {
			t.Errorf("the log has %d lines, want %d", n, lines)
		}
		if n := w.calls.Load(); n != 1 {
			t.Errorf("%d calls", n)
		}
		if err := made.Remove(t.Context(), RemoveOptions{}); err != nil {
			t.Error(err)
		}
	}
}

// One stream's Writer that blocks does not hold up the other stream.
func TestWriterBlocksOneStream(t *testing.T) {
	e, img := plainImage(t)
	w := newBlocking(t)
	c := started(t, e, img, Config{Args: []string{"both"}, Stdout: w, WaitDelay: time.Hour})
	<-w.called
	awaitLog(t, c, "to stderr\n")
	awaitLog(t, c, "to stdout\n")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait: %v", err)
	}
	w.unblock <- struct{}{}
	if status, err := c.Wait(t.Context()); err != nil || status.Code != 0 {
		t.Errorf("%v, %v", status, err)
	}
}

// Removal by force, and Close, do not wait for it for ever.
func TestWriterBlocksRemoval(t *testing.T) {
	needRoot(t)
	e, err := Open(WithRoot(filepath.Join(t.TempDir(), "root")), WithCgroupParent(cgroupParent))
	if err != nil {
		t.Fatal(err)
	}
	img := pulled(t, e, nil)
	blocked := func() *Container {
		w := newBlocking(t)
		c, err := e.Create(t.Context(), img, Config{Args: []string{"log", "100000"}, Stdout: w, Network: NetworkNone})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-w.called
		return c
	}
	killed, running, closed := blocked(), blocked(), blocked()
	if err := killed.Kill(t.Context(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*Container{killed, running} {
		if err := c.Remove(t.Context(), RemoveOptions{Force: true}); err != nil {
			t.Error(err)
		}
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	for _, c := range []*Container{killed, running, closed} {
		if status, err := c.Wait(t.Context()); status.Signal != syscall.SIGKILL || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v, %v", status, err)
		}
	}
}

func tellsPanic(value any) func(error) bool {
	return func(err error) bool {
		var p *PanicError
		return errors.As(err, &p) && p.Value == value && strings.Contains(string(p.Stack), "TestWriterFails")
	}
}

// A Writer that goes wrong, in whatever way, is not called again; the log gets
// everything, and Wait tells.
func TestWriterFails(t *testing.T) {
	e, img := plainImage(t)
	const lines = 2000
	full := errors.New("no room")
	is := func(target error) func(error) bool {
		return func(err error) bool { return errors.Is(err, target) }
	}
	tests := map[string]struct {
		write writerFunc
		tells func(error) bool
	}{
		"error":       {func([]byte) (int, error) { return 0, full }, is(full)},
		"short":       {func(p []byte) (int, error) { return len(p) - 1, nil }, is(io.ErrShortWrite)},
		"too much":    {func(p []byte) (int, error) { return len(p) + 1, nil }, is(io.ErrShortWrite)},
		"panic":       {func([]byte) (int, error) { panic("boom") }, tellsPanic("boom")},
		"error panic": {func([]byte) (int, error) { panic(full) }, func(err error) bool { return is(full)(err) && tellsPanic(full)(err) }},
		"goexit": {func([]byte) (int, error) { runtime.Goexit(); return 0, nil }, func(err error) bool {
			return strings.Contains(err.Error(), "ended the goroutine")
		}},
	}
	for name, test := range tests {
		for _, same := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " same ", same), func(t *testing.T) {
				calls := 0
				w := writerFunc(func(p []byte) (int, error) { calls++; return test.write(p) })
				config := Config{Args: []string{"count", strconv.Itoa(lines)}, Stdout: &w}
				if same {
					config.Stderr = config.Stdout
				}
				c := started(t, e, img, config)
				status, err := c.Wait(t.Context())
				if status != (Status{Known: true}) || err == nil || !test.tells(err) {
					t.Errorf("%v, %v", status, err)
				}
				if calls != 1 {
					t.Errorf("%d calls", calls)
				}
				for _, s := range []Stream{Stdout, Stderr} {
					if n := bytes.Count(streamOf(t, c, s), []byte("\n")); n != lines {
						t.Errorf("the log has %d lines of %v", n, s)
					}
				}
			})
		}
	}
}

// The same with Exec, whose output is not logged, and with input.
func TestExecStreamsFail(t *testing.T) {
	e, img := plainImage(t)
	c := started(t, e, img, Config{Args: []string{"pause"}})
	wait := func(x ExecConfig) (Status, error) {
		t.Helper()
		x.Args = append([]string{"/prog", programFlag}, x.Args...)
		p, err := c.Exec(t.Context(), x)
		if err != nil {
			t.Fatal(err)
		}
		return p.Wait(t.Context())
	}
	w := newBlocking(t)
	if status, err := wait(ExecConfig{Args: []string{"both"}, Stdout: w, WaitDelay: 50 * time.Millisecond}); status.Code != 0 || !errors.Is(err, os.ErrDeadlineExceeded) || w.calls.Load() != 1 {
		t.Errorf("blocked: %v, %v", status, err)
	}
	timeout := writerFunc(func([]byte) (int, error) { return 0, os.ErrDeadlineExceeded })
	if _, err := wait(ExecConfig{Args: []string{"both"}, Stdout: timeout}); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a deadline of the writer's own: %v", err)
	}
	var p *PanicError
	boom := writerFunc(func([]byte) (int, error) { panic("boom") })
	if _, err := wait(ExecConfig{Args: []string{"both"}, Stderr: boom}); !errors.As(err, &p) || p.Value != "boom" {
		t.Errorf("panic: %v", err)
	}
	gone := writerFunc(func([]byte) (int, error) { runtime.Goexit(); return 0, nil })
	if _, err := wait(ExecConfig{Args: []string{"both"}, Stdout: gone}); err == nil || !strings.Contains(err.Error(), "ended the goroutine") {
		t.Errorf("goexit: %v", err)
	}
	in := readerFunc(func([]byte) (int, error) { panic("input") })
	if _, err := wait(ExecConfig{Args: []string{"cat"}, Stdin: in}); !errors.As(err, &p) || p.Value != "input" {
		t.Errorf("reader: %v", err)
	}
	if info, err := c.Inspect(t.Context()); err != nil || info.State != StateRunning {
		t.Errorf("%+v, %v", info, err)
	}
}

// A reader of the log that never reads holds up neither the container nor its
// log, and learns what it has missed when it reads on.
func TestLogReaderNeverReads(t *testing.T) {
	e, img := plainImage(t)
	const lines = 20_000
	c := create(t, e, img, Config{Args: []string{"count", strconv.Itoa(lines)}, LogSize: 64 << 10})
	stopped, goOn := make(chan struct{}), make(chan struct{})
	var got, missing int64
	stop := sync.OnceFunc(func() {
		close(stopped)
		<-goOn
	})
	var reading sync.WaitGroup
	reading.Go(func() {
		for e, err := range c.Logs(t.Context(), LogsOptions{Follow: true}) {
			if err != nil {
				t.Error(err)
			}
			stop()
			got += int64(len(e.Data))
			missing += e.Missing
		}
	})
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-stopped
	if status, err := c.Wait(t.Context()); err != nil || status.Code != 0 {
		t.Errorf("%v, %v", status, err)
	}
	close(goOn)
	reading.Wait()
	var total int64
	for i := range lines {
		total += 2 * int64(len(fmt.Sprintf("stdout %d\n", i)))
	}
	if missing == 0 || got+missing != total {
		t.Errorf("%d bytes and %d missing, of %d", got, missing, total)
	}
}
