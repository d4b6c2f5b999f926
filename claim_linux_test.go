package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func init() { helpers["copy"] = helperCopy }

// helperCopy is another program that copies into a container and out of it, until
// its standard input ends: ROOT ID NAME. It says how many copies there were, each
// a file that stays.
func helperCopy(args []string) error {
	ctx := context.Background()
	e, err := Open(WithRoot(args[0]), WithCgroupParent(os.Getenv("INBOARD_TEST_CGROUP")))
	if err != nil {
		return err
	}
	c, err := e.Lookup(ctx, args[1])
	if err != nil {
		return err
	}
	over := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(over)
	}()
	fmt.Println("ready")
	n := 0
	for ended := false; !ended; {
		select {
		case <-over:
			ended = true
		default:
		}
		if err := copyBoth(ctx, c, fmt.Sprintf("%s-%d", args[2], n)); err != nil {
			return err
		}
		n++
	}
	fmt.Println(n)
	return e.Close()
}

// copyBoth copies a file into /data, and looks for it there.
func copyBoth(ctx context.Context, c *Container, name string) error {
	archive, err := tarOfFile(name)
	if err != nil {
		return err
	}
	if err := c.CopyTo(ctx, "/data", bytes.NewReader(archive), CopyToOptions{}); err != nil {
		return err
	}
	var out bytes.Buffer
	if err := c.CopyFrom(ctx, "/data/"+name, &out, CopyFromOptions{}); err != nil {
		return err
	}
	if !bytes.Contains(out.Bytes(), []byte("data of "+name)) {
		return fmt.Errorf("%s is not what it was", name)
	}
	return nil
}

func tarOfFile(name string) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	data := "data of " + name
	err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(data))})
	_, err2 := w.Write([]byte(data))
	return out.Bytes(), errors.Join(err, err2, w.Close())
}

// doubleMounts tells, when it is called, whether the kernel has said since that
// two overlays had one writable layer.
func doubleMounts(t *testing.T) func() bool {
	t.Helper()
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("what the kernel says cannot be read: %v", err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if _, err := unix.Seek(fd, 0, io.SeekEnd); err != nil {
		t.Fatal(err)
	}
	return func() bool {
		line := make([]byte, 8192)
		for {
			n, err := unix.Read(fd, line)
			if errors.Is(err, unix.EPIPE) { // some are lost
				continue
			}
			if err != nil {
				return false
			}
			if bytes.Contains(line[:n], []byte("is in-use as upperdir/workdir of another mount")) {
				return true
			}
		}
	}
}

// foreignTo gives a container of one Engine as others on the root have it.
func foreignTo(t *testing.T, c *Container, engines ...*Engine) (all []*Container) {
	t.Helper()
	for _, e := range engines {
		x, err := e.Lookup(t.Context(), c.ID())
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, x)
	}
	return all
}

// unkept waits until a container's Engine keeps nothing mounted for its next run.
func unkept(t *testing.T, e *Engine, c *Container) {
	t.Helper()
	<-c.own.run.released
	c.own.ready().expire(&e.spares, time.Now().Add(time.Hour))
}

// Two programs copy into a container and out of it while its own one starts it
// again and again. Nothing is lost, and no writable layer is mounted twice.
func TestCopyRacesRestart(t *testing.T) {
	for name, security := range map[string]Security{"host's ids": {}, "user namespace": private} {
		t.Run(name, func(t *testing.T) {
			e, root, ref := foreignRoot(t, nil)
			doubled := doubleMounts(t)
			img, err := e.LookupImage(t.Context(), ref)
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			c := create(t, e, img, Config{Args: []string{"append", "/data/notexec", "x"}, Stdout: &out, Security: security})
			type copier struct {
				stdin  io.Closer
				stdout bytes.Buffer
				wait   func() error
			}
			var copiers []*copier
			for n := range 2 {
				cmd := helperCommand(t, "copy", root, c.ID(), strconv.Itoa(n))
				cmd.Env = append(cmd.Env, "INBOARD_TEST_CGROUP="+cgroupParent)
				k := new(copier)
				if k.stdin, err = cmd.StdinPipe(); err != nil {
					t.Fatal(err)
				}
				ready, err := cmd.StdoutPipe()
				if err == nil {
					err = cmd.Start()
				}
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
				if _, err := io.ReadFull(ready, make([]byte, len("ready\n"))); err != nil {
					t.Fatal(err)
				}
				k.wait = func() error {
					if _, err := io.Copy(&k.stdout, ready); err != nil {
						return err
					}
					return cmd.Wait()
				}
				copiers = append(copiers, k)
			}
			const runs = 8
			own := 0
			for n := range runs {
				out.Reset()
				if err := c.Start(t.Context()); err != nil {
					t.Fatal(err)
				}
				if n%3 == 0 { // of its own program's too
					if err := copyBoth(t.Context(), c, fmt.Sprintf("own-%d", own)); err != nil {
						t.Fatal(err)
					}
					own++
				}
				exits(t, c, Status{Known: true})
				if want := "text" + strings.Repeat("x", n+1) + "\n"; out.String() != want {
					t.Errorf("run %d: %q, want %q", n, &out, want)
				}
				if n%2 == 0 { // the next start mounts the overlay anew
					unkept(t, e, c)
				}
			}
			counts := map[string]int{"own": own}
			for n, k := range copiers {
				k.stdin.Close()
				if err := k.wait(); err != nil {
					t.Errorf("copier %d: %v", n, err)
				}
				counts[strconv.Itoa(n)], _ = strconv.Atoi(strings.TrimSpace(k.stdout.String()))
			}
			all := copiedFrom(t, c, "/data")
			for who, count := range counts {
				if count == 0 {
					t.Errorf("%s has copied nothing", who)
				}
				for i := range count {
					if name := fmt.Sprintf("%s-%d", who, i); all["data/"+name] != "data of "+name {
						t.Errorf("%s: %q", name, all["data/"+name])
					}
				}
			}
			t.Logf("copies: %v", counts)
			if doubled() {
				t.Error("a writable layer was mounted twice at a time")
			}
		})
	}
}

// A container that was never started is copied into by another program, and has
// that when it starts. Its own program and others do so at the same time.
func TestCopyRacesFirstStart(t *testing.T) {
	needRoot(t)
	root := filepath.Join(t.TempDir(), "root")
	e, second, third := testEngine(t, root), testEngine(t, root), testEngine(t, root)
	img := pulled(t, e, nil)
	doubled := doubleMounts(t)
	for range 15 {
		var out bytes.Buffer
		c := create(t, e, img, Config{Args: []string{"list", "/data"}, Stdout: &out})
		var work sync.WaitGroup
		before := make(chan struct{})
		for i, x := range foreignTo(t, c, second, third) {
			work.Go(func() {
				if i == 0 {
					defer close(before)
				}
				if err := copyBoth(t.Context(), x, fmt.Sprint("early-", i)); err != nil {
					t.Errorf("%d: %v", i, err)
				}
			})
		}
		work.Go(func() {
			<-before
			if err := c.Start(t.Context()); err != nil {
				t.Error(err)
			}
		})
		work.Wait()
		exits(t, c, Status{Known: true})
		if !strings.Contains(out.String(), "early-0\n") {
			t.Errorf("it saw %q", &out)
		}
		all := copiedFrom(t, c, "/data")
		for i := range 2 {
			if name := fmt.Sprint("early-", i); all["data/"+name] != "data of "+name {
				t.Errorf("%s: %q", name, all)
			}
		}
		if err := c.Remove(t.Context(), RemoveOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	// Its own program's first start, with nothing done before.
	for range 15 {
		c := create(t, e, img, Config{Args: []string{"exit", "0"}})
		x := foreignTo(t, c, second)[0]
		var work sync.WaitGroup
		work.Go(func() {
			if err := c.Start(t.Context()); err != nil {
				t.Error(err)
			}
		})
		if err := copyBoth(t.Context(), x, "beside"); err != nil {
			t.Error(err)
		}
		work.Wait()
		exits(t, c, Status{Known: true})
		if got := copiedFrom(t, c, "/data/beside"); got["beside"] != "data of beside" {
			t.Errorf("%q", got)
		}
	}
	e.spares.settle()
	if doubled() {
		t.Error("a writable layer was mounted twice at a time")
	}
}

// While another program's copy is at work the container's files are that one's:
// a start waits, and so do further programs. What it has cloned of a run can be
// the next run's if its own Engine has it mounted still.
func TestStartWaitsForCopies(t *testing.T) {
	needRoot(t)
	root := filepath.Join(t.TempDir(), "root")
	e, second, third := testEngine(t, root), testEngine(t, root), testEngine(t, root)
	img := pulled(t, e, nil)
	c := create(t, e, img, Config{Args: []string{"wait"}})
	theirs := foreignTo(t, c, second, third)
	stop := func() {
		t.Helper()
		if err := c.Kill(t.Context(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		unkept(t, e, c)
	}
	begin := func() (*gate, chan error) {
		t.Helper()
		g, result := newGate(), make(chan error, 1)
		go func() { result <- theirs[0].CopyFrom(context.Background(), "/", g, CopyFromOptions{}) }()
		select {
		case <-g.reached:
		case err := <-result:
			t.Fatal(err)
		}
		return g, result
	}
	waits := func(when string, alsoCopies bool) {
		t.Helper()
		soon := func() context.Context {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			t.Cleanup(cancel)
			return ctx
		}
		if err := c.Start(soon()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: start: %v", when, err)
		}
		if !alsoCopies {
			return
		}
		for i, x := range []*Container{c, theirs[1], theirs[0]} {
			if _, err := x.StatPath(soon(), "/"); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: copy %d: %v", when, i, err)
			}
		}
	}
	for _, when := range []string{"created", "exited"} {
		g, result := begin()
		waits(when, true)
		close(g.open)
		if err := <-result; err != nil {
			t.Fatal(err)
		}
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		stop()
	}

	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	g, result := begin()
	if _, err := theirs[1].StatPath(t.Context(), "/"); err != nil { // all of a running one have the same
		t.Error(err)
	}
	stop()
	waits("it ran", true)
	close(g.open)
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop()
	if _, err := theirs[1].StatPath(t.Context(), "/"); err != nil {
		t.Error(err)
	}
}

// A container that is removed under another program's copy is told of, and its
// program's end lets go of what it has.
func TestRemoveUnderForeignCopy(t *testing.T) {
	needRoot(t)
	root := filepath.Join(t.TempDir(), "root")
	e, second := testEngine(t, root), testEngine(t, root)
	c := create(t, e, pulled(t, e, nil), Config{Args: []string{"exit", "0"}})
	theirs := foreignTo(t, c, second)[0]
	g, result := newGate(), make(chan error, 1)
	go func() { result <- theirs.CopyFrom(context.Background(), "/", g, CopyFromOptions{}) }()
	<-g.reached
	if err := c.Remove(t.Context(), RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	close(g.open)
	if err := <-result; !errors.Is(err, ErrNotFound) {
		t.Errorf("copy of what was removed: %v", err)
	}
	if _, err := theirs.StatPath(t.Context(), "/"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

// A container that another program has copied into, and that was never started,
// leaves no writable layer when it is removed.
func TestDonatedLayerRemoved(t *testing.T) {
	needRoot(t)
	root := filepath.Join(t.TempDir(), "root")
	e, second := testEngine(t, root), testEngine(t, root)
	img := pulled(t, e, nil)
	for _, foreign := range []bool{false, true} {
		c := create(t, e, img, Config{Args: []string{"exit", "0"}})
		theirs := foreignTo(t, c, second)[0]
		if err := copyBoth(t.Context(), theirs, "x"); err != nil {
			t.Fatal(err)
		}
		layer := e.layerOf(e.root.engine, c.ID())
		if _, err := os.Stat(layer.dir); err != nil {
			t.Fatal(err)
		}
		if foreign {
			c = theirs
		}
		if err := c.Remove(t.Context(), RemoveOptions{}); err != nil {
			t.Fatal(err)
		}
		e.spares.settle()
		if _, err := os.Stat(layer.dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("foreign %v: %v", foreign, err)
		}
	}
}

// A program that is killed while it makes a container's first writable layer
// leaves nothing that another one takes for it.
func TestHalfMadeLayer(t *testing.T) {
	needRoot(t)
	root := filepath.Join(t.TempDir(), "root")
	e, second := testEngine(t, root), testEngine(t, root)
	img := pulled(t, e, nil)
	for _, foreign := range []bool{false, true} {
		c := create(t, e, img, Config{Args: []string{"exit", "0"}})
		half := e.layerOf(e.root.engine, c.ID())
		if err := os.MkdirAll(filepath.Join(half.upper(), "data/half"), 0o700); err != nil {
			t.Fatal(err)
		}
		if foreign {
			c = foreignTo(t, c, second)[0]
		}
		if err := copyBoth(t.Context(), c, "whole"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.StatPath(t.Context(), "/data/half"); !errors.Is(err, ErrNotFound) {
			t.Errorf("foreign %v: %v", foreign, err)
		}
	}
}

// No claim stays when nothing is mounted any more, or while a container runs.
func TestClaimsEnd(t *testing.T) {
	needRoot(t)
	e := testEngine(t)
	c := create(t, e, pulled(t, e, nil), Config{Args: []string{"wait"}})
	claimed := func(when string, want bool) {
		t.Helper()
		mine, err := e.newForeignClaim(c.ID())
		if err != nil {
			t.Fatal(err)
		}
		defer mine.close()
		if err := mine.try(unix.F_WRLCK); errors.Is(err, errClaimed) != want {
			t.Errorf("%s: %v", when, err)
		}
	}
	claimed("created", false)
	for range 2 {
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		readyFor(t, c)
		claimed("running", false)
		tree, err := c.openTree(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		claimed("running and copied", false)
		if err := c.Kill(t.Context(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		unkept(t, e, c)
		claimed("exited and copied", true)
		tree.close()
		claimed("exited", false)
	}
	c.own.config.Args = []string{"none"}
	c.own.process.Args = []string{"/none"}
	if err := c.Start(t.Context()); err == nil {
		t.Error("it started")
	}
	c.own.ready().expire(&e.spares, time.Now().Add(time.Hour))
	claimed("failed to start", false)
}
