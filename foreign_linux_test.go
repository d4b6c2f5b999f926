package engine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

func init() {
	helpers["run"] = helperRun
	helpers["run paused"] = func(args []string) error {
		return helperRunThen(args, func(c *Container) error {
			for range c.Logs(context.Background(), LogsOptions{Follow: true}) {
				break // it says that it is ready
			}
			return c.Pause(context.Background())
		})
	}
}

// helperRun is another program that runs a container: ROOT IMAGE NAME ARG...
// It says the ID, then the exit code, and ends with its standard input.
func helperRun(args []string) error {
	return helperRunThen(args, func(*Container) error { return nil })
}

// helperRunThen does something with the container before it says the ID.
func helperRunThen(args []string, then func(*Container) error) error {
	ctx := context.Background()
	e, err := Open(WithRoot(args[0]), WithCgroupParent(os.Getenv("INBOARD_TEST_CGROUP")))
	if err != nil {
		return err
	}
	img, err := e.LookupImage(ctx, args[1])
	if err != nil {
		return err
	}
	config := Config{Name: args[2], Args: args[3:], Network: NetworkNone}
	switch args[2] {
	case "hostpid":
		config.PID = NamespaceHost
	case "restricted":
		config.Security = Security{NoNewPrivileges: true, CapDrop: []string{"NET_RAW"}, CapAdd: []string{"SYS_NICE"}}
		config.Rlimits = []Rlimit{{Name: "nofile", Soft: 100, Hard: 200}}
		config.Resources.Memory = 256 << 20
	}
	c, err := e.Create(ctx, img, config)
	if err != nil {
		return err
	}
	if err := c.Start(ctx); err != nil {
		return err
	}
	if err := then(c); err != nil {
		return err
	}
	fmt.Println(c.ID())
	go func() {
		status, _ := c.Wait(ctx)
		fmt.Println(status.Code)
	}()
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	return e.Close()
}

// otherProgram is a helperRun.
type otherProgram struct {
	id   string
	line func() string
	end  func() // by itself
	kill func() // with SIGKILL
}

func newOtherProgram(t *testing.T, root, ref, name string, args ...string) *otherProgram {
	t.Helper()
	return newOtherProgramOf(t, "run", root, ref, name, args...)
}

// newOtherProgramOf is newOtherProgram of another helper that runs a container.
func newOtherProgramOf(t *testing.T, helper, root, ref, name string, args ...string) *otherProgram {
	t.Helper()
	cmd := helperCommand(t, helper, append([]string{root, ref, name}, args...)...)
	cmd.Env = append(cmd.Env, "INBOARD_TEST_CGROUP="+cgroupParent)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	wait := sync.OnceValue(cmd.Wait)
	out := bufio.NewScanner(stdout)
	o := &otherProgram{
		line: func() string { out.Scan(); return out.Text() },
		end: func() {
			t.Helper()
			stdin.Close()
			if err := wait(); err != nil {
				t.Errorf("the other program: %v", err)
			}
		},
		kill: func() { cmd.Process.Kill(); wait() },
	}
	t.Cleanup(o.kill)
	if o.id = o.line(); !isID(o.id) {
		t.Fatalf("the other program says %q", o.id)
	}
	return o
}

// foreignRoot is a root with an image, and an engine of this program on it.
func foreignRoot(t *testing.T, change func(*v1.ConfigFile)) (e *Engine, root, ref string) {
	needRoot(t)
	root = filepath.Join(t.TempDir(), "root")
	e = testEngine(t, root)
	img := pulled(t, e, change)
	return e, root, img.Names()[0]
}

func TestOtherProgramsContainer(t *testing.T) {
	e, root, ref := foreignRoot(t, nil)
	other := newOtherProgram(t, root, ref, "theirs", "wait")
	c, err := e.Lookup(t.Context(), "theirs")
	if err != nil || c.ID() != other.id {
		t.Fatal(err)
	}
	info, err := c.Inspect(t.Context())
	if err != nil || info.State != StateRunning || info.Owner.Self || !info.Owner.Alive || info.Owner.PID == os.Getpid() || info.PID == 0 {
		t.Errorf("%+v, %v", info, err)
	}
	if err := c.Start(t.Context()); !errors.Is(err, ErrNotImplemented) {
		t.Errorf("start: %v", err)
	}
	if err := c.Remove(t.Context(), RemoveOptions{}); !errors.Is(err, ErrFailedPrecondition) {
		t.Errorf("remove while running: %v", err)
	}
	img, err := e.LookupImage(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Create(t.Context(), img, Config{Name: "theirs", Network: NetworkNone}); !errors.Is(err, ErrAlreadyExists) {
		t.Errorf("their name: %v", err)
	}
	if _, err := img.Remove(t.Context(), RemoveImageOptions{}); !errors.Is(err, ErrConflict) {
		t.Errorf("their image: %v", err)
	}
	awaitLog(t, c, "ready\n")
	wait := waitFor(t, c)
	if err := c.Kill(t.Context(), syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if status, err := wait(); err != nil || status != (Status{Code: 10, Known: true}) {
		t.Errorf("%v, %v", status, err)
	}
	if line := other.line(); line != "10" {
		t.Errorf("they saw %q", line)
	}
	if err := c.Kill(t.Context(), syscall.SIGUSR1); !errors.Is(err, ErrFailedPrecondition) {
		t.Errorf("kill after the end: %v", err)
	}
	if err := c.Remove(t.Context(), RemoveOptions{}); err != nil {
		t.Errorf("remove: %v", err)
	}
	if layers, _ := filepath.Glob(filepath.Join(root, "engines", "*", "layers", "*", "upper", "*")); len(layers) != 0 {
		t.Errorf("left: %v", layers)
	}
	other.end()
}

func TestStopOtherPrograms(t *testing.T) {
	e, root, ref := foreignRoot(t, func(c *v1.ConfigFile) { c.Config.StopSignal = "SIGINT" })
	other := newOtherProgram(t, root, ref, "theirs", "wait")
	c, err := e.Lookup(t.Context(), other.id[:10])
	if err != nil {
		t.Fatal(err)
	}
	awaitLog(t, c, "ready\n")
	if err := c.Stop(t.Context(), StopOptions{}); err != nil {
		t.Fatal(err)
	}
	if status, err := c.Wait(t.Context()); err != nil || status.Code != int(syscall.SIGINT) {
		t.Errorf("%v, %v", status, err)
	}
	other.end()

	other = newOtherProgram(t, root, ref, "theirs", "pause")
	if c, err = e.Lookup(t.Context(), "theirs"); err != nil {
		t.Fatal(err)
	}
	if err := c.Remove(t.Context(), RemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	if line := other.line(); line != "137" {
		t.Errorf("they saw %q", line)
	}
	if _, err := e.Lookup(t.Context(), "theirs"); !errors.Is(err, ErrNotFound) {
		t.Errorf("after removal: %v", err)
	}
	other.end()
}

// A container dies with its program, and the next Open sweeps what is left:
// record, name, log, writable layer, cgroup, and the hold of its image.
func TestKillNine(t *testing.T) {
	e, root, ref := foreignRoot(t, nil)
	other := newOtherProgram(t, root, ref, "theirs", "stubborn")
	c, err := e.Lookup(t.Context(), "theirs")
	if err != nil {
		t.Fatal(err)
	}
	awaitLog(t, c, "ready\n")
	info, err := c.Inspect(t.Context())
	if err != nil || info.PID == 0 {
		t.Fatalf("%+v, %v", info, err)
	}
	pidfd, err := unix.PidfdOpen(info.PID, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	wait := waitFor(t, c)
	watches.watching(2)
	other.kill()
	if status, err := wait(); err != nil || status.Known {
		t.Errorf("%v, %v", status, err)
	}
	// The kernel ends the container: its pidfd becomes readable.
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, -1)
		if err == nil {
			break
		} else if !errors.Is(err, unix.EINTR) {
			t.Fatal(err)
		}
	}
	info, err = c.Inspect(t.Context())
	if err != nil || info.State != StateExited || info.Status.Known || info.Owner.Alive || info.PID != 0 {
		t.Errorf("before the sweep: %+v, %v", info, err)
	}
	if left := ownedBy(t, root, info.Owner.Engine); len(left) == 0 {
		t.Error("nothing is left to sweep: the test sees nothing")
	}

	next := testEngine(t, root)
	if left := ownedBy(t, root, info.Owner.Engine); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := next.Lookup(t.Context(), "theirs"); !errors.Is(err, ErrNotFound) {
		t.Errorf("lookup: %v", err)
	}
	img, err := next.LookupImage(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := img.Remove(t.Context(), RemoveImageOptions{}); err != nil {
		t.Errorf("image: %v", err)
	}
}

// ownedBy lists all files of a root that an engine owns by their name or what
// they link to.
func ownedBy(t *testing.T, root, engine string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		target, _ := os.Readlink(path)
		data := []byte{}
		if strings.Contains(path, "/containers/") {
			data, _ = os.ReadFile(path)
		}
		if strings.Contains(path, engine) || strings.Contains(target, engine) || strings.Contains(string(data), engine) {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// Several Opens that race sweep a dead engine, and no live one.
func TestSweepRace(t *testing.T) {
	_, root, ref := foreignRoot(t, nil)
	live := newOtherProgram(t, root, ref, "live", "pause")
	var dead []*otherProgram
	for i := range 3 {
		dead = append(dead, newOtherProgram(t, root, ref, "dead"+strconv.Itoa(i), "pause"))
	}
	for _, d := range dead {
		d.kill()
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			e, err := Open(WithRoot(root), WithCgroupParent(cgroupParent))
			if err != nil {
				t.Error(err)
				return
			}
			if err := e.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	e := testEngine(t, root)
	list, err := e.List(t.Context(), ListOptions{All: true})
	if err != nil || len(list) != 1 || list[0].ID != live.id || list[0].State != StateRunning {
		t.Errorf("%+v, %v", list, err)
	}
	live.end()
}

// Programs that want one name get it once.
func TestNameRace(t *testing.T) {
	e, root, ref := foreignRoot(t, nil)
	img, err := e.LookupImage(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	second := testEngine(t, root)
	img2, err := second.LookupImage(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	results := make([]error, 8)
	for i := range results {
		wg.Go(func() {
			engine, image := e, img
			if i%2 == 1 {
				engine, image = second, img2
			}
			_, results[i] = engine.Create(t.Context(), image, Config{Name: "mine", Network: NetworkNone})
		})
	}
	wg.Wait()
	won := 0
	for _, err := range results {
		if err == nil {
			won++
		} else if !errors.Is(err, ErrAlreadyExists) {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d have the name", won)
	}
	list, err := e.List(t.Context(), ListOptions{All: true})
	if err != nil || len(list) != 1 || !slices.Equal([]string{list[0].Name}, []string{"mine"}) {
		t.Errorf("%+v, %v", list, err)
	}
}

// An Engine that is closed takes its containers with it, and others see how
// they ended.
func TestCloseEndsContainers(t *testing.T) {
	e, root, ref := foreignRoot(t, nil)
	second, err := Open(WithRoot(root), WithCgroupParent(cgroupParent))
	if err != nil {
		t.Fatal(err)
	}
	img, err := second.LookupImage(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := second.Create(t.Context(), img, Config{Args: []string{"pause"}, Network: NetworkNone})
	if err != nil {
		t.Fatal(err)
	}
	if err := theirs.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	seen, err := e.Lookup(t.Context(), theirs.ID())
	if err != nil || seen == theirs {
		t.Fatal(err)
	}
	wait := waitFor(t, seen)
	watches.watching(2)
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	for who, w := range map[string]func() (Status, error){
		"another engine": wait,
		"its own":        func() (Status, error) { return theirs.Wait(t.Context()) },
	} {
		if status, err := w(); err != nil || status.Signal != syscall.SIGKILL || !status.Known {
			t.Errorf("%s: %v, %v", who, status, err)
		}
	}
	if list, err := e.List(t.Context(), ListOptions{All: true}); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	if err := theirs.Start(t.Context()); !errors.Is(err, ErrFailedPrecondition) {
		t.Errorf("start after Close: %v", err)
	}
	if holders, err := e.images.Holders(); err != nil || len(holders) != 0 {
		t.Errorf("holds: %v, %v", holders, err)
	}
}
