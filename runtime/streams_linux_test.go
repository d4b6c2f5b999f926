package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func init() {
	programs["cat"] = func([]string) int {
		_, err := io.Copy(os.Stdout, os.Stdin)
		return exitCode(err)
	}
	// both writes many lines to both streams.
	programs["both"] = func(args []string) int {
		n, _ := strconv.Atoi(args[0])
		for i := range n {
			fmt.Fprintf(os.Stdout, "out %d\n", i)
			fmt.Fprintf(os.Stderr, "err %d\n", i)
		}
		return 0
	}
	// leave ends at once and leaves a child that holds its output open until its
	// input ends, or for ever.
	programs["leave"] = func(args []string) int {
		_, err := os.StartProcess("/test", []string{"/test"}, &os.ProcAttr{
			Env: []string{programEnv + "=" + args[0]}, Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
		fmt.Println("left")
		return exitCode(err)
	}
	programs["init"] = func(args []string) int {
		for {
			var ws unix.WaitStatus
			if _, err := unix.Wait4(-1, &ws, 0, nil); err == unix.ECHILD {
				unix.Pause()
			}
		}
	}
	programs["exit"] = func(args []string) int { n, _ := strconv.Atoi(args[0]); return n }
}

func exitCode(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func TestStdinReader(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	for _, size := range []int{0, 1, 65536, 3 << 20} { // less and more than a pipe holds
		in := bytes.Repeat([]byte("x"), size)
		var out bytes.Buffer
		c := start(t, r, newSpec(t, root, "cat"), CreateOptions{ProcessOptions: ProcessOptions{Stdin: bytes.NewReader(in), Stdout: &out}})
		if st := wait(t, c); st != (Status{Known: true}) || !bytes.Equal(out.Bytes(), in) {
			t.Errorf("%d bytes: %v, %d came back", size, st, out.Len())
		}
		c.Delete(context.Background())
	}
}

// endless is a Reader that never ends by itself.
type endless struct {
	reads chan struct{}
	once  sync.Once
	over  chan struct{}
}

func (e *endless) Read([]byte) (int, error) {
	e.once.Do(func() { close(e.reads) })
	<-e.over
	return 0, io.EOF
}

// Wait does not wait for a Reader that never ends, of a process that does not
// care for its input.
func TestStdinThatNeverEnds(t *testing.T) {
	r := openTest(t)
	in := &endless{reads: make(chan struct{}), over: make(chan struct{})}
	defer close(in.over)
	c := start(t, r, fileSpec(t, newRootfs(t), "/bin/true"), CreateOptions{ProcessOptions: ProcessOptions{Stdin: in}})
	<-in.reads
	if st := wait(t, c); st != (Status{Known: true}) {
		t.Error(st)
	}
}

// A process that ends before it has read all is no error, as with os/exec.
func TestStdinThatNobodyReads(t *testing.T) {
	r := openTest(t)
	in := bytes.NewReader(make([]byte, 10<<20))
	c := start(t, r, fileSpec(t, newRootfs(t), "/bin/true"), CreateOptions{ProcessOptions: ProcessOptions{Stdin: in}})
	if st := wait(t, c); st != (Status{Known: true}) {
		t.Error(st)
	}
}

func TestStdinThatFails(t *testing.T) {
	r := openTest(t)
	broken := errors.New("broken reader")
	in := io.MultiReader(strings.NewReader("begin"), readerFunc(func([]byte) (int, error) { return 0, broken }))
	var out bytes.Buffer
	c := start(t, r, newSpec(t, newRootfs(t), "cat"), CreateOptions{ProcessOptions: ProcessOptions{Stdin: in, Stdout: &out}})
	st, err := c.Wait(context.Background())
	if st != (Status{Known: true}) || !errors.Is(err, broken) || out.String() != "begin" {
		t.Errorf("%v, %v, %q", st, err, &out)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// Files are handed over as they are: no copying, no goroutine.
func TestFiles(t *testing.T) {
	r := openTest(t)
	in, err := os.CreateTemp(t.TempDir(), "in")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	in.WriteString("skipped and read")
	in.Seek(12, io.SeekStart)
	out, err := os.CreateTemp(t.TempDir(), "out")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	c := start(t, r, newSpec(t, newRootfs(t), "cat"), CreateOptions{ProcessOptions: ProcessOptions{Stdin: in, Stdout: out}})
	wait(t, c)
	text, _ := os.ReadFile(out.Name())
	if at, _ := in.Seek(0, io.SeekCurrent); string(text) != "read" || at != 16 {
		t.Errorf("%q; offset %d", text, at)
	}
	var none *os.File
	if _, err := r.Start(context.Background(), fileSpec(t, newRootfs(t), "/bin/true"), CreateOptions{ProcessOptions: ProcessOptions{Stdout: none}}); !errors.Is(err, os.ErrInvalid) {
		t.Errorf("nil file: %v", err)
	}
	closed, _ := os.Open(os.DevNull)
	closed.Close()
	if _, err := r.Start(context.Background(), fileSpec(t, newRootfs(t), "/bin/true"), CreateOptions{ProcessOptions: ProcessOptions{Stdin: closed}}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed file: %v", err)
	}
}

// One writer for both streams is called by one goroutine at a time, and gets
// both in the order in which they were written. The race detector watches.
func TestSameWriter(t *testing.T) {
	r := openTest(t)
	n := few(20000)
	var out bytes.Buffer
	c := start(t, r, newSpec(t, newRootfs(t), "both", strconv.Itoa(n)), CreateOptions{ProcessOptions: ProcessOptions{Stdout: &out, Stderr: &out}})
	wait(t, c)
	lines := strings.Split(out.String(), "\n")
	if len(lines) != 2*n+1 {
		t.Fatalf("%d lines", len(lines))
	}
	for i, line := range lines[:2*n] {
		if want := fmt.Sprintf("%s %d", []string{"out", "err"}[i%2], i/2); line != want {
			t.Fatalf("line %d: %q, want %q", i, line, want)
		}
	}
}

// incomparable is a Writer that == panics on.
type incomparable struct{ f []func([]byte) (int, error) }

func (w incomparable) Write(b []byte) (int, error) { return w.f[0](b) }

func TestTwoWriters(t *testing.T) {
	r := openTest(t)
	n := few(1000)
	var out, errs bytes.Buffer
	c := start(t, r, newSpec(t, newRootfs(t), "both", strconv.Itoa(n)), CreateOptions{ProcessOptions: ProcessOptions{
		Stdout: incomparable{[]func([]byte) (int, error){out.Write}}, Stderr: incomparable{[]func([]byte) (int, error){errs.Write}}}})
	wait(t, c)
	if strings.Count(out.String(), "out ") != n || strings.Count(errs.String(), "err ") != n || strings.Contains(out.String(), "err") {
		t.Errorf("%d and %d bytes", out.Len(), errs.Len())
	}
}

// A writer that fails gives the error of Wait; the process meets a closed pipe.
func TestWriterThatFails(t *testing.T) {
	r := openTest(t)
	full := errors.New("disk full")
	c := start(t, r, newSpec(t, newRootfs(t), "both", "100000"), CreateOptions{ProcessOptions: ProcessOptions{
		Stdout: writerFunc(func(b []byte) (int, error) { return 0, full })}})
	st, err := c.Wait(context.Background())
	if !errors.Is(err, full) || st.Code == 0 || !st.Known { // 2 and no signal: it is pid 1
		t.Errorf("%v, %v", st, err)
	}
}

// What a descendant holds open ends after WaitDelay; without one, Wait has all.
func TestWaitDelay(t *testing.T) {
	r := openTest(t)
	c := start(t, r, newSpec(t, newRootfs(t), "init"), CreateOptions{})
	leave := func(program string, o ProcessOptions) (*Process, *bytes.Buffer) {
		t.Helper()
		var out bytes.Buffer
		o.Stdout = &out
		p := newProgramProcess(newSpec(t, "/", ""), "leave", program)
		x, err := c.Exec(context.Background(), p, o)
		if err != nil {
			t.Fatal(err)
		}
		return x, &out
	}
	x, out := leave("idle", ProcessOptions{WaitDelay: time.Millisecond})
	if st := wait(t, x); st != (Status{Known: true}) || out.String() != "left\n" {
		t.Errorf("%v, %q", st, out)
	}
	in, feed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	x, out = leave("cat", ProcessOptions{Stdin: in})
	<-x.child.ended
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := x.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Error("Wait returned while output was open:", err)
	}
	io.WriteString(feed, "late")
	feed.Close()
	if st := wait(t, x); st != (Status{Known: true}) || out.String() != "left\nlate" {
		t.Errorf("%v, %q", st, out)
	}
}

// Nothing is read of a process's output after Wait has given up on it.
func TestNoWriteAfterWait(t *testing.T) {
	r := openTest(t)
	c := start(t, r, newSpec(t, newRootfs(t), "init"), CreateOptions{})
	var over, late bool
	out := writerFunc(func(b []byte) (int, error) { late = late || over; return len(b), nil })
	x, err := c.Exec(context.Background(), newProgramProcess(newSpec(t, "/", ""), "leave", "idle"), ProcessOptions{Stdout: out, WaitDelay: 1})
	if err != nil {
		t.Fatal(err)
	}
	wait(t, x)
	over = true // a data race, if a copy still ran
	c.Delete(context.Background())
	if late {
		t.Error("written after Wait")
	}
}
