package engine

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

func init() { helpers["follow"] = helperFollow }

// numbered is endless output in which nothing can be missing, or come twice, or
// change, without being seen.
type numbered struct {
	random *rand.Rand
	next   [2]int
	rest   [2][]byte
}

// numberedLine is line n of a stream: up to 100 bytes, or more than a chunk.
func numberedLine(n int) []byte {
	size := n * 7919 % 100
	if n%1000 == 500 {
		size = 100_000 + n%70_000
	}
	return fmt.Appendf(nil, "%d %s\n", n, bytes.Repeat([]byte{byte(n)%25 + 'a'}, size))
}

// log writes so many bytes, in reads of all sizes.
func (o *numbered) log(l *logFile, run, size int) {
	if o.random == nil {
		o.random = rand.New(rand.NewPCG(1, 1))
	}
	buf := make([]byte, headerSize+maxChunk)
	for size > 0 {
		n := 1 + o.random.IntN(500)
		if o.random.IntN(50) == 0 {
			n = 1 + o.random.IntN(maxChunk)
		}
		n = min(n, size)
		s := o.random.IntN(2)
		for len(o.rest[s]) < n {
			o.rest[s] = append(o.rest[s], numberedLine(o.next[s])...)
			o.next[s]++
		}
		copy(buf[headerSize:], o.rest[s][:n])
		o.rest[s] = o.rest[s][n:]
		l.add(run, Stream(s+1), buf[:headerSize+n])
		size -= n
	}
}

// checker looks at the entries of such output.
type checker struct {
	next          [2]int // number of the next line; -1: any
	line          [2][]byte
	lost          [2]bool // the beginning of the next line was before a gap
	cut           bool    // the last entry has no newline
	bytes, missed int64
}

func (c *checker) check(e LogEntry) error {
	if e.Missing > 0 {
		c.missed += e.Missing
		c.line, c.lost, c.cut = [2][]byte{}, [2]bool{true, true}, false
		return nil
	}
	s := e.Stream - Stdout
	c.bytes += int64(len(e.Data))
	c.line[s] = append(c.line[s], e.Data...)
	if e.Partial {
		return nil
	}
	line := c.line[s]
	c.line[s] = nil
	if !bytes.HasSuffix(line, []byte("\n")) {
		c.cut = true // as at a gap, or at the end
		return nil
	}
	if c.cut {
		return fmt.Errorf("%.80q comes after a line without an end", line)
	}
	if c.lost[s] {
		c.lost[s] = false
		c.next[s] = -1
		return nil
	}
	number, _, _ := bytes.Cut(line, []byte(" "))
	n, err := strconv.Atoi(string(number))
	if err != nil || c.next[s] >= 0 && n != c.next[s] || !bytes.Equal(line, numberedLine(n)) {
		return fmt.Errorf("%v: line %d is %.80q (%d bytes)", e.Stream, c.next[s], line, len(line))
	}
	c.next[s] = n + 1
	return nil
}

// follow checks all that comes, until the end.
func (c *checker) follow(ctx context.Context, of *Container, each func()) error {
	for e, err := range of.Logs(ctx, LogsOptions{Follow: true}) {
		if err == nil {
			err = c.check(e)
		}
		if err != nil {
			return err
		}
		each()
	}
	return nil
}

// helperFollow is another program that follows a log: ROOT ID. It says when it
// has the first entry, and in the end how much it has got, and not.
func helperFollow(args []string) error {
	e, err := Open(WithRoot(args[0]))
	if err != nil {
		return err
	}
	of, err := e.Lookup(context.Background(), args[1])
	if err != nil {
		return err
	}
	var c checker
	first := sync.OnceFunc(func() { fmt.Println("first") })
	if err := c.follow(context.Background(), of, first); err != nil {
		return err
	}
	fmt.Println(c.bytes, c.missed)
	return e.Close()
}

// startFollow starts a helperFollow.
func startFollow(t *testing.T, root, id string) (line func() string) {
	t.Helper()
	cmd := helperCommand(t, "follow", root, id)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	out := bufio.NewScanner(stdout)
	return func() string {
		t.Helper()
		if !out.Scan() {
			t.Fatalf("the other program says nothing: %v", out.Err())
		}
		return out.Text()
	}
}

// Nothing is lost, nothing comes twice, and what is missing is counted, for
// followers in several programs while another writes as fast as it can.
func TestFollowFullSpeed(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	e := testEngine(t, root)
	size := 10 << 20
	if testing.Short() {
		size = 2 << 20
	}
	for _, test := range []struct {
		name    string
		logSize int64
		files   int
	}{
		{"everything is kept", int64(size) * 3 / 2, 100},
		{"small files", 64 << 10, 4},
		{"one file", 1 << 20, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := newLogOwner(t, root, test.logSize, test.files)
			c, err := e.Lookup(t.Context(), o.id)
			if err != nil {
				t.Fatal(err)
			}
			begun := make(chan struct{}, 3)
			asleep := make(chan struct{}) // the last one reads no more until it is closed
			var checkers [3]checker
			var wg sync.WaitGroup
			for i := range checkers {
				once := sync.OnceFunc(func() { begun <- struct{}{} })
				wg.Go(func() {
					err := checkers[i].follow(t.Context(), c, func() {
						if once(); i == 2 {
							<-asleep
						}
					})
					if err != nil {
						t.Error(err)
					}
				})
			}
			other := startFollow(t, root, o.id)
			o.say("start")
			o.say("log 1000")
			for range checkers {
				<-begun
			}
			other()
			o.say("log " + strconv.Itoa(size))
			close(asleep)
			o.say("exit")
			wg.Wait()
			total := int64(size) + 1000
			for i, c := range checkers {
				if c.bytes+c.missed != total || test.files == 100 && c.missed > 0 || test.files < 100 && i == 2 && c.missed == 0 {
					t.Errorf("follower %d: %d bytes and %d missing, of %d", i, c.bytes, c.missed, total)
				}
			}
			var bytes, missed int64
			if _, err := fmt.Sscan(other(), &bytes, &missed); err != nil || bytes+missed != total || test.files == 100 && missed > 0 {
				t.Errorf("the other program's: %d bytes and %d missing, of %d, %v", bytes, missed, total, err)
			}
		})
	}
}

// A writer that is killed while it writes leaves a log that is followed to its
// last whole entry.
func TestFollowKilled(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	e := testEngine(t, root)
	for range 8 {
		o := newLogOwner(t, root, 200_000, 4)
		c, err := e.Lookup(t.Context(), o.id)
		if err != nil {
			t.Fatal(err)
		}
		o.say("start")
		o.tell("log 100000000000") // for longer than it lives
		var check checker
		seen := 0
		var torn error
		for entry, err := range c.Logs(t.Context(), LogsOptions{Follow: true}) {
			if err != nil && !errors.Is(err, ErrDataLoss) {
				t.Fatal(err)
			}
			if err != nil {
				torn = err
			} else if err := check.check(entry); err != nil {
				t.Fatal(err)
			}
			if seen++; seen == 1000 {
				o.die()
			}
		}
		// What the files have is what was given.
		dir := e.root.logDir(c.owner.Engine, c.id)
		chunks, errs, cut := readAll(t, dir)
		last := chunks[len(chunks)-1]
		if end := last.position + int64(len(last.data)); len(errs) > 0 || check.bytes+check.missed != end || cut != (torn != nil) {
			t.Errorf("%d bytes and %d missing, of %d, %v, cut: %v", check.bytes, check.missed, end, torn, cut)
		}
		// Cut off within an entry, it is read to the same end but for that one.
		numbers := logNumbers(t, dir)
		path, size := "", int64(0)
		for i := len(numbers) - 1; size == 0; i-- { // the last one may have been made just now
			path = filepath.Join(dir, strconv.Itoa(numbers[i]))
			st, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			size = st.Size()
		}
		if err := os.Truncate(path, size-1); err != nil {
			t.Fatal(err)
		}
		for _, follow := range []bool{false, true} {
			entries, errs := read(t, c, LogsOptions{Follow: follow})
			if len(errs) != 1 || !errors.Is(errs[0], ErrDataLoss) || !strings.Contains(errs[0].Error(), path) {
				t.Errorf("%v", errs)
			}
			want := last.position - chunks[0].position
			if got, missing := sum(entries); !cut && got != want || missing != 0 {
				t.Errorf("%d bytes, want %d; %d missing", got, want, missing)
			}
		}
		if err := c.Remove(t.Context(), RemoveOptions{}); err != nil {
			t.Error(err)
		}
	}
}

// following reads in the background. It gives the entries as they come, and in
// the end all errors.
func following(ctx context.Context, t *testing.T, c *Container, o LogsOptions) (next func() string, end func() []error) {
	t.Helper()
	o.Follow = true
	entries := make(chan string)
	var errs []error
	go func() {
		defer close(entries)
		for e, err := range c.Logs(ctx, o) {
			if err != nil {
				errs = append(errs, err)
				continue
			}
			select {
			case entries <- fmt.Sprintf("%d %v %s", e.Run, e.Stream, e.Data):
			case <-t.Context().Done():
			}
		}
	}()
	next = func() string { return <-entries }
	end = func() []error {
		t.Helper()
		for e := range entries {
			t.Errorf("one entry too many: %q", e)
		}
		return errs
	}
	return next, end
}

func expect(t *testing.T, next func() string, want ...string) {
	t.Helper()
	for _, w := range want {
		if got := next(); got != w {
			t.Errorf("got %q, want %q", got, w)
		}
	}
}

// Follow goes on for one run: the one that there is, or the first.
func TestFollowRuns(t *testing.T) {
	e := testEngine(t)
	c := newLoggedContainer(t, e, 0, 0)
	first, firstEnd := following(t.Context(), t, c.Container, LogsOptions{})
	watches.watching(2)
	c.start(t)
	logs(t, c.log, 1, Stdout, []byte("one\ntw"))
	expect(t, first, "1 stdout one\n")
	logs(t, c.log, 1, Stderr, []byte("err\n"))
	expect(t, first, "1 stderr err\n")
	late, lateEnd := following(t.Context(), t, c.Container, LogsOptions{})
	expect(t, late, "1 stdout one\n", "1 stderr err\n")
	none, noneEnd := following(t.Context(), t, c.Container, LogsOptions{Tail: new(0)})
	errOnly, errOnlyEnd := following(t.Context(), t, c.Container, LogsOptions{Tail: new(1), Stream: Stderr})
	expect(t, errOnly, "1 stderr err\n")
	watches.watching(12)
	logs(t, c.log, 1, Stdout, []byte("o\nthree"))
	for _, next := range []func() string{first, late, none} {
		expect(t, next, "1 stdout two\n")
	}
	c.exit(t)
	for _, next := range []func() string{first, late, none} {
		expect(t, next, "1 stdout three")
	}
	for _, end := range []func() []error{firstEnd, lateEnd, noneEnd, errOnlyEnd} {
		if errs := end(); len(errs) > 0 {
			t.Error(errs)
		}
	}
	// Of one that has ended, what there is.
	next, end := following(t.Context(), t, c.Container, LogsOptions{Tail: new(2)})
	expect(t, next, "1 stdout two\n", "1 stdout three")
	if errs := end(); len(errs) > 0 {
		t.Error(errs)
	}
	// The next run's output is not given to who follows the one before.
	c.start(t)
	logs(t, c.log, 2, Stdout, []byte("a\n"))
	second, secondEnd := following(t.Context(), t, c.Container, LogsOptions{Tail: new(1)})
	expect(t, second, "2 stdout a\n")
	watches.watching(3)
	watches.mu.Lock() // the follower sees nothing of this until all of it has happened
	logs(t, c.log, 2, Stdout, []byte("b\n"))
	c.exit(t)
	c.start(t)
	logs(t, c.log, 3, Stdout, []byte("c\n"))
	watches.mu.Unlock()
	expect(t, second, "2 stdout b\n")
	if errs := secondEnd(); len(errs) > 0 {
		t.Error(errs)
	}
	watches.watching(0)
}

func TestFollowEnds(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	e := testEngine(t, root)
	begin := func(o LogsOptions) (*loggedContainer, func(), func() []error) {
		c := newLoggedContainer(t, e, 0, 0)
		c.start(t)
		logs(t, c.log, 1, Stdout, []byte("one\n"))
		ctx, cancel := context.WithCancel(t.Context())
		next, end := following(ctx, t, c.Container, o)
		expect(t, next, "1 stdout one\n")
		watches.watching(3)
		return c, cancel, func() []error { defer watches.watching(0); return end() }
	}
	t.Run("context", func(t *testing.T) {
		_, cancel, end := begin(LogsOptions{})
		cancel()
		if errs := end(); len(errs) != 1 || !errors.Is(errs[0], context.Canceled) {
			t.Error(errs)
		}
	})
	t.Run("removed", func(t *testing.T) {
		c, cancel, end := begin(LogsOptions{})
		defer cancel()
		c.exit(t)
		if err := c.Remove(t.Context(), RemoveOptions{}); err != nil {
			t.Error(err)
		}
		if errs := end(); len(errs) > 0 {
			t.Error(errs)
		}
	})
	t.Run("removed before the start", func(t *testing.T) {
		c := newLoggedContainer(t, e, 0, 0)
		_, end := following(t.Context(), t, c.Container, LogsOptions{})
		watches.watching(2)
		if err := c.Remove(t.Context(), RemoveOptions{}); err != nil {
			t.Error(err)
		}
		if errs := end(); len(errs) > 0 {
			t.Error(errs)
		}
		_, end = following(t.Context(), t, c.Container, LogsOptions{})
		if errs := end(); len(errs) != 1 || !errors.Is(errs[0], ErrNotFound) {
			t.Error(errs)
		}
	})
	t.Run("until", func(t *testing.T) {
		until := time.Now().Add(200 * time.Millisecond)
		c, cancel, end := begin(LogsOptions{Until: until})
		defer cancel()
		if errs := end(); len(errs) > 0 || time.Now().Before(until) {
			t.Error(errs)
		}
		logs(t, c.log, 1, Stdout, []byte("two\n"))
		next, end := following(t.Context(), t, c.Container, LogsOptions{Until: until})
		expect(t, next, "1 stdout one\n")
		if errs := end(); len(errs) > 0 {
			t.Error(errs)
		}
	})
	t.Run("record replaced", func(t *testing.T) {
		c, cancel, end := begin(LogsOptions{})
		defer cancel()
		c.change(t, map[string]string{"image_name": strings.Repeat("x", longRecord)})
		c.change(t, map[string]string{"image_name": "x"})
		c.exit(t)
		if errs := end(); len(errs) > 0 {
			t.Error(errs)
		}
	})
	t.Run("engine closed", func(t *testing.T) {
		second, err := Open(WithRoot(root))
		if err != nil {
			t.Fatal(err)
		}
		c := newLoggedContainer(t, e, 0, 0)
		theirs, err := second.Lookup(t.Context(), c.ID())
		if err != nil {
			t.Fatal(err)
		}
		_, end := following(t.Context(), t, theirs, LogsOptions{})
		watches.watching(2)
		if err := second.Close(); err != nil {
			t.Error(err)
		}
		if errs := end(); len(errs) != 1 || !errors.Is(errs[0], ErrFailedPrecondition) || !strings.Contains(errs[0].Error(), "engine is closed") {
			t.Error(errs)
		}
	})
}

// Follows leave no descriptor, goroutine or watch behind, however they end.
func TestFollowsLeaveNothing(t *testing.T) {
	e := testEngine(t)
	c := newLoggedContainer(t, e, 64<<10, 4)
	c.start(t)
	var output numbered
	output.log(c.log, 1, 200_000)
	logs(t, c.log, 1, Stdout, []byte("\n"))
	// One follower stays, and with it what they share.
	begun := make(chan struct{})
	var idle sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	idle.Go(func() {
		for range c.Logs(ctx, LogsOptions{Follow: true, Tail: new(1)}) {
			if ctx.Err() == nil {
				close(begun)
				<-ctx.Done()
			}
		}
	})
	<-begun
	count := func() (fds, goroutines int) {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries), runtime.NumGoroutine()
	}
	fds, goroutines := count()
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			seen := 0
			for range c.Logs(ctx, LogsOptions{Follow: true, Tail: new(i % 10)}) {
				if seen++; seen == i%7 {
					break
				}
				if i%2 == 0 {
					cancel()
				}
			}
		})
	}
	output.log(c.log, 1, 200_000)
	c.exit(t)
	wg.Wait()
	// A goroutine of WaitGroup.Go counts a little longer than Wait waits.
	for wait := time.Millisecond; ; wait *= 2 {
		nowFDs, nowGoroutines := count()
		if nowFDs <= fds && nowGoroutines <= goroutines {
			break
		}
		if wait > time.Second {
			t.Fatalf("%d descriptors, then %d; %d goroutines, then %d", fds, nowFDs, goroutines, nowGoroutines)
		}
		time.Sleep(wait)
	}
	cancel()
	idle.Wait()
	watches.watching(0)
}

// The whole way, with containers of another program: one that ends, and one
// whose program is killed.
func TestFollowContainers(t *testing.T) {
	e, root, ref := foreignRoot(t, nil)
	const lines = 10_000
	other := newOtherProgram(t, root, ref, "theirs", "count", strconv.Itoa(lines))
	c, err := e.Lookup(t.Context(), "theirs")
	if err != nil {
		t.Fatal(err)
	}
	counts := map[Stream]int{}
	for e, err := range c.Logs(t.Context(), LogsOptions{Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("%v %d\n", e.Stream, counts[e.Stream]); e.Missing > 0 || string(e.Data) != want {
			t.Fatalf("%d missing, %q, want %q", e.Missing, e.Data, want)
		}
		counts[e.Stream]++
	}
	if counts[Stdout] != lines || counts[Stderr] != lines {
		t.Errorf("%v lines, want %d of each", counts, lines)
	}
	if err := c.Remove(t.Context(), RemoveOptions{}); err != nil {
		t.Error(err)
	}
	other.end()

	other = newOtherProgram(t, root, ref, "theirs", "count", "1000000000")
	if c, err = e.Lookup(t.Context(), "theirs"); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, err := range c.Logs(t.Context(), LogsOptions{Follow: true}) {
		if err != nil && !errors.Is(err, ErrDataLoss) {
			t.Fatal(err)
		}
		if seen++; seen == 2000 {
			other.kill()
		}
	}
	if info, err := c.Inspect(t.Context()); seen < 2000 || err != nil || info.State != StateExited || info.Owner.Alive {
		t.Errorf("%d entries, %+v, %v", seen, info, err)
	}
	testEngine(t, root) // sweeps its cgroup
}
