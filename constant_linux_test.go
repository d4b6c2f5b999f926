package engine

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// opened counts what is opened in directories, and how often they are read.
type opened struct{ fd int }

func countOpened(t *testing.T, dirs ...string) opened {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	for _, dir := range dirs {
		if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_OPEN); err != nil {
			t.Fatal(err)
		}
	}
	return opened{fd}
}

// count gives how many files, and how many times the directories themselves, have
// been opened since the last count.
func (o opened) count(t *testing.T) (files, dirs int) {
	t.Helper()
	buf := make([]byte, 1<<16)
	for {
		n, err := unix.Read(o.fd, buf)
		if err == unix.EAGAIN {
			return files, dirs
		}
		if err != nil {
			t.Fatal(err)
		}
		for events := buf[:n]; len(events) >= unix.SizeofInotifyEvent; {
			if binary.NativeEndian.Uint32(events[4:])&unix.IN_ISDIR != 0 {
				dirs++
			} else {
				files++
			}
			events = events[unix.SizeofInotifyEvent+binary.NativeEndian.Uint32(events[12:]):]
		}
	}
}

// Among thousands of containers the verbs of one open no more files than among
// few, and read no directory of all.
func TestConstantCost(t *testing.T) {
	needRoot(t)
	e := testEngine(t)
	img := pulled(t, e, nil)
	var few map[string]int
	for _, crowd := range []int{0, 2000} {
		addCrowd(t, e, img, crowd)
		watch := countOpened(t, string(e.root.records()), string(e.root.names()))
		now := map[string]int{}
		step := func(what string, err error) {
			t.Helper()
			if err != nil {
				t.Fatal(what, err)
			}
			files, dirs := watch.count(t)
			if dirs > 0 {
				t.Errorf("%s, among %d: a directory of all containers was read", what, crowd)
			}
			now[what] = files
		}
		grace := time.Duration(0)
		ctx := t.Context()
		config := Config{Name: fmt.Sprintf("among-%d", crowd), Args: []string{"pause"}, Network: NetworkNone}
		c, err := e.Create(ctx, img, config)
		step("create", err)
		step("start", c.Start(ctx))
		_, err = e.Lookup(ctx, config.Name)
		step("look up a name", err)
		_, err = e.Lookup(ctx, c.ID())
		step("look up an ID", err)
		_, err = c.Inspect(ctx)
		step("inspect", err)
		_, err = c.Exec(ctx, ExecConfig{Args: []string{"/prog", programFlag, "exit", "0"}})
		step("exec", err)
		step("stop", c.Stop(ctx, StopOptions{Grace: &grace}))
		_, err = c.Wait(ctx)
		step("wait", err)
		step("remove", c.Remove(ctx, RemoveOptions{}))
		if few == nil {
			few = now
		}
		for what, n := range now {
			if n > few[what] {
				t.Errorf("%s: %d files opened, among few containers %d", what, n, few[what])
			}
		}
	}
	list, err := e.List(t.Context(), ListOptions{All: true})
	if err != nil || len(list) != 2000 {
		t.Errorf("%d containers, %v", len(list), err)
	}
}

// addCrowd makes records and names of containers that were never started.
func addCrowd(t *testing.T, e *Engine, img *Image, n int) {
	t.Helper()
	for i := range n {
		r := e.newRecord(newID(), img, &Config{Name: fmt.Sprintf("crowd-%d", i), Network: NetworkNone}, Process{Args: []string{"x"}, WorkingDir: "/"})
		data, err := json.Marshal(r)
		if err == nil {
			err = os.WriteFile(e.root.records().path(r.ID), append(data, '\n'), 0o600)
		}
		if err == nil {
			err = e.root.names().claim(r.Name, r.Owner.Engine, r.ID)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
