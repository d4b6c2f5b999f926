package engine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func init() {
	helpers["states"] = helperStates
	helpers["wait"] = func([]string) error {
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	}
}

// helperStates owns a container that is a record and a log alone, and changes
// both as its standard input says: ROOT LOGSIZE LOGFILES.
func helperStates(args []string) error {
	e, err := Open(WithRoot(args[0]))
	if err != nil {
		return err
	}
	d := e.root.records()
	id := newID()
	if err := createRecord(d, testRecord(e.root.engine, id)); err != nil {
		return err
	}
	size, _ := strconv.ParseInt(args[1], 10, 64)
	files, _ := strconv.Atoi(args[2])
	l := newLogFile(e.root.logDir(e.root.engine, id), size, files, func() error { return d.change(context.Background(), id, logChange{Log: true}) })
	var output numbered
	fmt.Println(id)
	runs := 0
	for in := bufio.NewScanner(os.Stdin); in.Scan(); fmt.Println("done") {
		what, arg, _ := strings.Cut(in.Text(), " ")
		switch what {
		case "log":
			n, _ := strconv.Atoi(arg)
			output.log(l, runs, n)
		case "start":
			runs++
			err = d.change(context.Background(), id, startChange{State: StateRunning, PID: os.Getpid(), Runs: runs})
		case "exit":
			position, logErr := l.close()
			err = errors.Join(logErr, d.change(context.Background(), id, exitChange{State: StateExited, Status: Status{Code: runs, Known: true}, Logged: position}))
		case "long":
			err = errors.Join(d.change(context.Background(), id, map[string]string{"image_name": strings.Repeat("x", longRecord)}),
				d.change(context.Background(), id, map[string]string{"image_name": "x"}))
		case "remove":
			err = errors.Join(os.Remove(d.path(id)), l.remove())
		case "close":
			err = e.Close()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// stateOwner is a helper of that kind.
type stateOwner struct {
	t   *testing.T
	cmd *exec.Cmd
	id  string
	say func(string)
	// tell says it without waiting for the answer.
	tell func(string)
	die  func()
}

func newStateOwner(t *testing.T, root string) *stateOwner {
	t.Helper()
	return newLogOwner(t, root, 0, 0)
}

// newLogOwner is one whose log has that size and number of files.
func newLogOwner(t *testing.T, root string, size int64, files int) *stateOwner {
	t.Helper()
	o := &stateOwner{t: t, cmd: helperCommand(t, "states", root, fmt.Sprint(size), fmt.Sprint(files))}
	stdin, err := o.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := o.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := o.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	o.die = sync.OnceFunc(func() {
		o.cmd.Process.Kill()
		o.cmd.Wait()
	})
	t.Cleanup(o.die)
	out := bufio.NewScanner(stdout)
	out.Scan()
	o.id = out.Text()
	o.tell = func(what string) { fmt.Fprintln(stdin, what) }
	o.say = func(what string) {
		t.Helper()
		o.tell(what)
		if !out.Scan() {
			t.Fatalf("%s failed", what)
		}
	}
	return o
}

// waitFor waits in the background.
func waitFor(t *testing.T, c *Container) func() (Status, error) {
	t.Helper()
	type result struct {
		status Status
		err    error
	}
	ch := make(chan result, 1)
	go func() {
		status, err := c.Wait(t.Context())
		ch <- result{status, err}
	}()
	return func() (Status, error) { r := <-ch; return r.status, r.err }
}

// watching waits until n files are watched: those who wait have begun to.
func (w *watcher) watching(n int) {
	for ; ; time.Sleep(time.Millisecond) {
		w.mu.Lock()
		now := 0
		for _, all := range w.byWD {
			now += len(all)
		}
		w.mu.Unlock()
		if now == n {
			return
		}
	}
}

func TestWaitForeign(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	e := testEngine(t, root)
	o := newStateOwner(t, root)
	c, err := e.Lookup(t.Context(), o.id)
	if err != nil {
		t.Fatal(err)
	}
	// Before the start it waits for one.
	var waits []func() (Status, error)
	for range 4 {
		waits = append(waits, waitFor(t, c))
	}
	watches.watching(8)
	o.say("start")
	o.say("long") // the record is replaced under those who wait
	o.say("exit")
	for _, wait := range waits {
		if status, err := wait(); err != nil || status.Code != 1 || !status.Known {
			t.Errorf("%v, %v", status, err)
		}
	}
	if status, err := c.Wait(t.Context()); err != nil || status.Code != 1 {
		t.Errorf("after the end: %v, %v", status, err)
	}
	o.say("start")
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if status, err := c.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v, %v", status, err)
	}
	wait := waitFor(t, c)
	watches.watching(2)
	o.say("exit")
	o.say("remove")
	if status, err := wait(); err != nil || status.Code != 2 {
		t.Errorf("exit, then removal: %v, %v", status, err)
	}
	if _, err := c.Wait(t.Context()); !errors.Is(err, ErrNotFound) {
		t.Errorf("after removal: %v", err)
	}
	watches.watching(0)
}

// One who waits for a run gets that run's status though the next has begun.
func TestWaitForeignRestarted(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	e := testEngine(t, root)
	o := newStateOwner(t, root)
	o.say("start")
	o.say("exit")
	o.say("start")
	for run, want := range map[int]Status{1: {Code: 1, Known: true}} {
		if status, err := e.waitForeign(t.Context(), o.id, run); err != nil || status != want {
			t.Errorf("run %d: %v, %v", run, status, err)
		}
	}
	o.say("exit")
	o.say("start")
	if status, err := e.waitForeign(t.Context(), o.id, 1); err != nil || status.Known {
		t.Errorf("a run before the last: %v, %v", status, err)
	}
}

// Nobody sees the end of a container whose program is killed, or closes its
// Engine without a word.
func TestWaitForeignDead(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	e := testEngine(t, root)
	o := newStateOwner(t, root)
	c, err := e.Lookup(t.Context(), o.id)
	if err != nil {
		t.Fatal(err)
	}
	o.say("start")
	wait := waitFor(t, c)
	watches.watching(2)
	o.die()
	if status, err := wait(); err != nil || status != (Status{}) {
		t.Errorf("killed: %v, %v", status, err)
	}
	if status, err := c.Wait(t.Context()); err != nil || status.Known {
		t.Errorf("already dead: %v, %v", status, err)
	}
	if err := c.Kill(t.Context(), syscall.SIGKILL); !errors.Is(err, ErrFailedPrecondition) {
		t.Errorf("kill: %v", err)
	}

	o = newStateOwner(t, root)
	if c, err = e.Lookup(t.Context(), o.id); err != nil {
		t.Fatal(err)
	}
	wait = waitFor(t, c)
	watches.watching(2)
	o.die()
	if _, err := wait(); !errors.Is(err, ErrNotFound) {
		t.Errorf("killed before the start: %v", err)
	}
	// Removal of what a dead program left sweeps it.
	if err := c.Remove(t.Context(), RemoveOptions{}); err != nil {
		t.Errorf("remove: %v", err)
	}
	if _, err := e.Lookup(t.Context(), o.id); !errors.Is(err, ErrNotFound) {
		t.Errorf("after removal: %v", err)
	}
}

func TestOpenProcess(t *testing.T) {
	since := bootTime()
	cmd := helperCommand(t, "wait")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid, until := cmd.Process.Pid, bootTime()
	fd, err := openProcess(pid, since, until)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	// One of the same number that started at another time is another.
	for _, shift := range []time.Duration{time.Second, -time.Second} {
		if _, err := openProcess(pid, since+int64(shift), until+int64(shift)); !errors.Is(err, ErrFailedPrecondition) {
			t.Errorf("started %v apart: %v", shift, err)
		}
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := openProcess(pid, since, until); !errors.Is(err, ErrFailedPrecondition) {
		t.Errorf("ended: %v", err)
	}
}
