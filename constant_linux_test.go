package engine

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// reads counts what is opened in directories, and what is read of themselves.
type reads struct {
	fd   int
	dirs map[int32]string // by watch
}

// cost is what was read.
type cost struct {
	files int // opened
	lists int // of directories
	names int // in these
}

func countReads(t *testing.T, dirs ...string) *reads {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	r := &reads{fd, make(map[int32]string)}
	for _, dir := range dirs {
		// With the ends, or the same event twice would be one.
		wd, err := unix.InotifyAddWatch(fd, dir, unix.IN_OPEN|unix.IN_CLOSE)
		if err != nil {
			t.Fatal(err)
		}
		r.dirs[int32(wd)] = dir
	}
	return r
}

// since gives what there was since the last call.
func (r *reads) since(t *testing.T) cost {
	t.Helper()
	c, listed := r.drain(t)
	for _, dir := range listed {
		names, err := dirNames(dir)
		if err != nil {
			t.Fatal(err)
		}
		c.names += len(names)
	}
	r.drain(t) // of this
	return c
}

func (r *reads) drain(t *testing.T) (c cost, listed []string) {
	t.Helper()
	buf := make([]byte, 1<<16)
	for {
		n, err := unix.Read(r.fd, buf)
		if err == unix.EAGAIN {
			return c, listed
		}
		if err != nil {
			t.Fatal(err)
		}
		for events := buf[:n]; len(events) >= unix.SizeofInotifyEvent; {
			wd := int32(binary.NativeEndian.Uint32(events))
			mask := binary.NativeEndian.Uint32(events[4:])
			name := binary.NativeEndian.Uint32(events[12:])
			events = events[unix.SizeofInotifyEvent+name:]
			switch {
			case mask&unix.IN_Q_OVERFLOW != 0:
				t.Fatal("more is read than the kernel tells of")
			case mask&unix.IN_OPEN == 0:
			case mask&unix.IN_ISDIR == 0:
				c.files++
			case name == 0: // else the directory above tells it again
				c.lists++
				listed = append(listed, r.dirs[wd])
			}
		}
	}
}

// Among thousands of containers, of which few run, each verb opens no more files
// and lists no more directories than among few, and these have few names in them.
func TestConstantCost(t *testing.T) {
	needRoot(t)
	e := testEngine(t)
	img := pulled(t, e, nil)
	d := e.root.records()
	watched := []string{string(d), string(e.root.names()), e.root.runningDir(), filepath.Join(e.root.dir, "engines")}
	for i := range 256 {
		dir := filepath.Join(string(d), fmt.Sprintf("%02x", i))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		watched = append(watched, dir)
	}
	const running, most = 3, 2500
	for range running {
		started(t, e, img, Config{Args: []string{"pause"}})
	}
	var few map[string]cost
	for _, crowd := range []int{0, most} {
		addCrowd(t, e, img, crowd)
		reads := countReads(t, watched...)
		now := map[string]cost{}
		step := func(what string, err error) {
			t.Helper()
			if err != nil {
				t.Fatal(what, err)
			}
			now[what] = reads.since(t)
		}
		grace := time.Duration(0)
		ctx := t.Context()
		among := "among-" + strconv.Itoa(crowd)
		config := Config{Name: among, Args: []string{"pause"}, Network: NetworkNone}
		c, err := e.Create(ctx, img, config)
		step("create", err)
		step("start", c.Start(ctx))
		list, err := e.List(ctx, ListOptions{})
		step("list", err)
		if len(list) != running+1 || list[0].ID != c.ID() {
			t.Errorf("%d run, the newest is %+v", len(list), list[0])
		}
		for what, ref := range map[string]string{"name": among, "ID": c.ID(), "short ID": c.ID()[:shortID], "digits": c.ID()[:8]} {
			found, err := e.Lookup(ctx, ref)
			if err == nil && found != c {
				err = errors.New("it is another one")
			}
			step("look up by "+what, err)
		}
		for what, ref := range map[string]string{"name": "no-such", "ID": newID(), "short ID": newID()[:shortID], "digits": newID()[:8]} {
			_, err := e.Lookup(ctx, ref)
			if errors.Is(err, ErrNotFound) {
				err = nil
			}
			step("look up an unknown "+what, err)
		}
		_, err = c.Inspect(ctx)
		step("inspect", err)
		step("rename", c.Rename(ctx, among+"-renamed"))
		step("rename to what is like an ID", c.Rename(ctx, newID()[:shortID]))
		_, err = c.Exec(ctx, ExecConfig{Args: []string{"/prog", programFlag, "exit", "0"}})
		step("exec", err)
		step("stop", c.Stop(ctx, StopOptions{Grace: &grace}))
		_, err = c.Wait(ctx)
		step("wait", err)
		step("remove", c.Remove(ctx, RemoveOptions{}))
		config.Name = newID()[:shortID]
		c, err = e.Create(ctx, img, config)
		step("create with a name like an ID", err)
		step("remove what was not started", c.Remove(ctx, RemoveOptions{}))
		if few == nil {
			few = now
		}
		for what, n := range now {
			was := few[what]
			if n.files > was.files || n.lists > was.lists || n.names > was.names+crowd/50 {
				t.Errorf("%s: %d files opened, %d directories listed with %d names; among few containers %d, %d with %d",
					what, n.files, n.lists, n.names, was.files, was.lists, was.names)
			}
		}
	}
	list, err := e.List(t.Context(), ListOptions{All: true})
	if err != nil || len(list) != most+running {
		t.Errorf("%d containers, %v", len(list), err)
	}
}

// addCrowd makes records of containers, half of which have names and have exited.
func addCrowd(t *testing.T, e *Engine, img *Image, n int) {
	t.Helper()
	for i := range n {
		c := Config{Network: NetworkNone}
		if i%2 == 1 {
			c.Name = fmt.Sprintf("crowd-%d", i)
		}
		r := e.newRecord(newID(), img, &c, Process{Args: []string{"x"}, WorkingDir: "/"})
		if c.Name != "" {
			r.State, r.Runs = StateExited, 1
		}
		data, err := json.Marshal(r)
		if err == nil {
			err = os.WriteFile(e.root.records().path(r.ID), append(data, '\n'), 0o600)
		}
		if err == nil && c.Name != "" {
			err = e.root.names().claim(r.Name, r.Owner.Engine, r.ID)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
