package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func TestRun(t *testing.T) {
	out, status := runs(t, Config{}, "echo", "hello", "world")
	if out != "hello world\n" || status != (Status{Known: true}) {
		t.Errorf("%q, %v", out, status)
	}
	if _, status := runs(t, Config{}, "exit", "3"); status != (Status{Code: 3, Known: true}) {
		t.Errorf("%v", status)
	}
}

func TestLifecycle(t *testing.T) {
	e, img := plainImage(t)
	c := create(t, e, img, Config{Name: "life", Args: []string{"wait"}, Labels: map[string]string{"k": "v"}})
	info, err := c.Inspect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info.ID != c.ID() || info.Name != "life" || info.State != StateCreated || info.Image != img.ID() ||
		info.Process.Labels["k"] != "v" || !info.Owner.Self || !info.Owner.Alive || info.Owner.PID != os.Getpid() ||
		info.PID != 0 || info.Runs != 0 || info.ImageName == "" || !slices.Equal(info.Process.Args, []string{"/prog", programFlag, "wait"}) {
		t.Errorf("created: %+v", info)
	}
	for what, err := range map[string]error{
		"kill": c.Kill(t.Context(), syscall.SIGTERM),
		"exec": func() error { _, err := c.Exec(t.Context(), ExecConfig{Args: []string{"/prog"}}); return err }(),
	} {
		if !errors.Is(err, ErrFailedPrecondition) || !strings.Contains(err.Error(), "not running") {
			t.Errorf("%s before the start: %v", what, err)
		}
	}
	if err := c.Stop(t.Context(), StopOptions{}); err != nil {
		t.Errorf("stop before the start: %v", err)
	}

	var waits sync.WaitGroup
	for range 3 {
		waits.Go(func() {
			if status, err := c.Wait(t.Context()); err != nil || status.Code != int(syscall.SIGUSR1) {
				t.Errorf("%v, %v", status, err)
			}
		})
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context()); !errors.Is(err, ErrFailedPrecondition) || !strings.Contains(err.Error(), "already running") {
		t.Errorf("second start: %v", err)
	}
	if err := c.Remove(t.Context(), RemoveOptions{}); !errors.Is(err, ErrFailedPrecondition) {
		t.Errorf("remove while running: %v", err)
	}
	info, err = c.Inspect(t.Context())
	if err != nil || info.State != StateRunning || info.PID == 0 || info.Runs != 1 || info.Started.Before(info.Created) {
		t.Errorf("running: %+v, %v", info, err)
	}
	if list, err := e.List(t.Context(), ListOptions{}); err != nil || !slices.ContainsFunc(list, func(i ContainerInfo) bool { return i.ID == c.ID() }) {
		t.Errorf("list: %v, %v", list, err)
	}
	awaitLog(t, c, "ready\n")
	if err := c.Kill(t.Context(), syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	waits.Wait()
	info, err = c.Inspect(t.Context())
	if err != nil || info.State != StateExited || info.Status.Code != int(syscall.SIGUSR1) || info.PID != 0 || info.Finished.Before(info.Started) {
		t.Errorf("exited: %+v, %v", info, err)
	}
	for _, ref := range []string{"life", c.ID(), c.ID()[:12], c.ID()[:20]} {
		if found, err := e.Lookup(t.Context(), ref); err != nil || found != c {
			t.Errorf("lookup %s: %v", ref, err)
		}
	}
	if err := c.Remove(t.Context(), RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if status, err := c.Wait(t.Context()); err != nil || status.Code != int(syscall.SIGUSR1) {
		t.Errorf("wait after removal: %v, %v", status, err)
	}
	for what, err := range map[string]error{
		"start":   c.Start(t.Context()),
		"kill":    c.Kill(t.Context(), syscall.SIGTERM),
		"stop":    c.Stop(t.Context(), StopOptions{}),
		"remove":  c.Remove(t.Context(), RemoveOptions{}),
		"inspect": func() error { _, err := c.Inspect(t.Context()); return err }(),
		"lookup":  func() error { _, err := e.Lookup(t.Context(), "life"); return err }(),
	} {
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("%s after removal: %v", what, err)
		}
	}
	for _, err := range c.Logs(t.Context(), LogsOptions{}) {
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("logs after removal: %v", err)
		}
	}
}

// awaitLog waits until the log has a line.
func awaitLog(t testing.TB, c *Container, line string) {
	t.Helper()
	for entry, err := range c.Logs(t.Context(), LogsOptions{Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if string(entry.Data) == line {
			return
		}
	}
	t.Fatalf("the log has no %q", line)
}

func TestWaitCanceled(t *testing.T) {
	e, img := plainImage(t)
	c := create(t, e, img, Config{Args: []string{"pause"}})
	for _, step := range []string{"before the start", "running"} {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Millisecond, cancel)
		if _, err := c.Wait(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", step, err)
		}
		if step == "running" {
			break
		}
		// A context that ends after Start has returned kills nothing.
		ctx, cancel = context.WithCancel(t.Context())
		if err := c.Start(ctx); err != nil {
			t.Fatal(err)
		}
		cancel()
	}
	if info, err := c.Inspect(t.Context()); err != nil || info.State != StateRunning {
		t.Errorf("%+v, %v", info, err)
	}
	other := create(t, e, img, Config{})
	ch := make(chan error, 1)
	go func() { _, err := other.Wait(t.Context()); ch <- err }()
	if err := other.Remove(t.Context(), RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := <-ch; !errors.Is(err, ErrNotFound) {
		t.Errorf("removed before the start: %v", err)
	}
}

func TestStop(t *testing.T) {
	e, img := plainImage(t)
	tests := []struct {
		name, program, signal string
		grace                 *time.Duration
		want                  Status
	}{
		{"default signal", "wait", "", nil, Status{Code: 15, Known: true}},
		{"own signal", "wait", "INT", nil, Status{Code: 2, Known: true}},
		{"stubborn", "stubborn", "", new(20 * time.Millisecond), Status{Code: 137, Signal: 9, Known: true}},
		{"at once", "wait", "", new(time.Duration(0)), Status{Code: 137, Signal: 9, Known: true}},
		{"no kill", "wait", "USR1", new(time.Duration(-1)), Status{Code: 10, Known: true}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := started(t, e, img, Config{Args: []string{test.program}, StopSignal: test.signal})
			awaitLog(t, c, "ready\n")
			if err := c.Stop(t.Context(), StopOptions{Grace: test.grace}); err != nil {
				t.Fatal(err)
			}
			info, err := c.Inspect(t.Context())
			if err != nil || info.State != StateExited || info.Status != test.want {
				t.Errorf("%+v, %v; want %v", info.Status, err, test.want)
			}
			if err := c.Stop(t.Context(), StopOptions{}); err != nil {
				t.Errorf("second stop: %v", err)
			}
		})
	}
	c := started(t, e, img, Config{Args: []string{"stubborn"}})
	awaitLog(t, c, "ready\n")
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := c.Stop(ctx, StopOptions{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("context ended: %v", err)
	}
	if info, err := c.Inspect(t.Context()); err != nil || info.State != StateRunning {
		t.Errorf("context ended: %+v, %v", info, err)
	}
	if err := c.Kill(t.Context(), 99); !errors.Is(err, ErrInvalidArgument) {
		t.Errorf("signal 99: %v", err)
	}
}

// Start on an exited container runs it again, on what it has written.
func TestRestart(t *testing.T) {
	e, img := plainImage(t)
	c := started(t, e, img, Config{Args: []string{"write", "/data/new", "x"}})
	for run := 1; run <= 3; run++ {
		if status, err := c.Wait(t.Context()); err != nil || status.Code != 0 {
			t.Fatalf("run %d: %v, %v", run, status, err)
		}
		info, err := c.Inspect(t.Context())
		if err != nil || info.Runs != run {
			t.Errorf("run %d: %+v, %v", run, info, err)
		}
		if run < 3 {
			if err := c.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	var out bytes.Buffer
	c = started(t, e, img, Config{Args: []string{"list", "/data"}, Stdout: &out})
	if _, err := c.Wait(t.Context()); err != nil || out.String() != "notexec\n" {
		t.Errorf("another container sees %q, %v", out.String(), err)
	}
}

// A writable layer that was left empty serves another container, at once or by
// way of a root filesystem made ahead; one that was written to, or changed
// itself, does not.
func TestWritableReused(t *testing.T) {
	e := testEngine(t)
	needRoot(t)
	img := pulled(t, e, nil)
	run := func(args ...string) string {
		c := started(t, e, img, Config{Args: args})
		if status, err := c.Wait(t.Context()); err != nil || status.Code != 0 {
			t.Fatalf("%v: %v, %v", args, status, err)
		}
		name := c.own.layer.name
		if err := c.Remove(t.Context(), RemoveOptions{}); err != nil {
			t.Fatal(err)
		}
		c.own.hold.ready.work.Wait()
		e.spares.settle()
		return name
	}
	const some = 3 * (maxReady + 1)
	names := map[string]bool{}
	for range some {
		names[run("exit", "0")] = true
	}
	if len(names) > maxReady+1 {
		t.Errorf("%d containers, one after the other, had %d layers", some, len(names))
	}
	for _, change := range [][]string{{"write", "/file", "x"}, {"chmod", "/"}} {
		changed := run(change...)
		for range some {
			if run("exit", "0") == changed {
				t.Errorf("a layer was used again after %v", change)
			}
		}
	}
	if entries, _ := os.ReadDir(e.spares.dir); len(entries) > maxReady+1 {
		t.Errorf("%d layers on disk", len(entries))
	}
}

// The root directory is as the topmost layer has it that names it.
func TestRootDirectory(t *testing.T) {
	e := sharedEngine(t)
	when := time.Unix(1_000_000_000, 0)
	img := pulled(t, e, nil,
		tarLayer(t, tarFile{tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o1751, Uid: 7, Gid: 8, ModTime: when}, ""}),
		tarLayer(t, file("unnamed", "")))
	for range 2 {
		c := started(t, e, img, Config{Args: []string{"stat", "/"}, User: "0"})
		if status, err := c.Wait(t.Context()); err != nil || status.Code != 0 {
			t.Fatalf("%v, %v", status, err)
		}
		if got := logOf(t, c); got != "stdout 1751 7 8 1000000000\n" {
			t.Errorf("%q", got)
		}
	}
}

func TestStreams(t *testing.T) {
	e, img := plainImage(t)
	var out bytes.Buffer
	c := started(t, e, img, Config{Args: []string{"cat"}, Stdin: strings.NewReader("some input"), Stdout: &out})
	if _, err := c.Wait(t.Context()); err != nil || out.String() != "some input" {
		t.Errorf("%q, %v", out.String(), err)
	}
	// A Reader that never ends is not waited for.
	endless, never := io.Pipe()
	defer never.Close()
	c = started(t, e, img, Config{Args: []string{"exit", "4"}, Stdin: endless})
	if status, err := c.Wait(t.Context()); err != nil || status.Code != 4 {
		t.Errorf("%v, %v", status, err)
	}
	// A file is handed over, and not logged.
	path := filepath.Join(t.TempDir(), "out")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	c = started(t, e, img, Config{Args: []string{"both"}, Stdout: file})
	if _, err := c.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if data, _ := os.ReadFile(path); string(data) != "to stdout\n" {
		t.Errorf("%q", data)
	}
	if got := logOf(t, c); got != "stderr to stderr\n" {
		t.Errorf("log: %q", got)
	}
	// Both streams to one Writer, and no log.
	out.Reset()
	c = started(t, e, img, Config{Args: []string{"both"}, Stdout: &out, Stderr: &out, LogSize: -1})
	if _, err := c.Wait(t.Context()); err != nil || out.String() != "to stdout\nto stderr\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
	if got := logOf(t, c); got != "" {
		t.Errorf("log: %q", got)
	}
	// The error of a Writer is Wait's, beside the status.
	fails := writerFunc(func([]byte) (int, error) { return 0, errors.New("no room") })
	c = started(t, e, img, Config{Args: []string{"both"}, Stdout: fails})
	if status, err := c.Wait(t.Context()); err == nil || !strings.Contains(err.Error(), "no room") || !status.Known || status.Code != 0 {
		t.Errorf("%v, %v", status, err)
	}
	if got := logOf(t, c); got != "stdout to stdout\nstderr to stderr\n" {
		t.Errorf("log: %q", got)
	}
}

// logOf gives the log, lines sorted by stream.
func logOf(t testing.TB, c *Container) string {
	t.Helper()
	var lines []string
	for entry, err := range c.Logs(t.Context(), LogsOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, entry.Stream.String()+" "+string(entry.Data))
	}
	slices.SortStableFunc(lines, func(a, b string) int { return strings.Compare(b[:6], a[:6]) })
	return strings.Join(lines, "")
}

// Output that a descendant holds open ends after the WaitDelay; what outlives
// the first process dies with it, so that there is little to wait for.
func TestWaitDelay(t *testing.T) {
	out, status := runs(t, Config{WaitDelay: time.Minute}, "orphan")
	if status.Code != 0 || !status.Known {
		t.Errorf("%v, %q", status, out)
	}
}

func TestProcessIsAsConfigured(t *testing.T) {
	e := sharedEngine(t)
	img := pulled(t, e, func(c *v1.ConfigFile) {
		c.Config.Env = []string{"FROM=image", "PATH=/image"}
		c.Config.User = "app"
		c.Config.WorkingDir = "/made/for/it"
	})
	run := func(c Config) string {
		var out bytes.Buffer
		c.Stdout, c.Stderr = &out, &out
		made := started(t, e, img, c)
		if _, err := made.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	if got := run(Config{Args: []string{"id"}}); got != "1000 1000 [1000 2000] /made/for/it\n" {
		t.Errorf("image's user and directory: %q", got)
	}
	if got := run(Config{Args: []string{"id"}, User: "0:extra", WorkingDir: "/tmp"}); got != "0 2000 [2000] /tmp\n" {
		t.Errorf("own user and directory: %q", got)
	}
	got := run(Config{Args: []string{"env"}, Env: []string{"FROM=me", "MORE=1"}, Hostname: "box"})
	want := "PATH=/image\nHOSTNAME=box\nFROM=me\nMORE=1\nHOME=/home/app\n"
	if got != want {
		t.Errorf("environment %q, want %q", got, want)
	}
	if got := run(Config{Args: []string{"read", "/etc/hostname"}, Hostname: "box"}); got != "box\n" {
		t.Errorf("hostname %q", got)
	}
	if got := run(Config{Args: []string{"read", "/etc/hosts"}}); got != localHosts {
		t.Errorf("hosts %q", got)
	}
	if got := run(Config{Args: []string{"list", "/sys/class/net"}}); got != "lo\n" {
		t.Errorf("network none: %q", got)
	}
	own, _ := os.ReadFile("/proc/net/dev")
	if got := run(Config{Args: []string{"read", "/proc/net/dev"}, Network: NetworkHost}); strings.Count(got, ":") != strings.Count(string(own), ":") {
		t.Errorf("network host: %q, want %q", got, own)
	}
	if got := run(Config{Args: []string{"read", "/proc/self/limits"}, Rlimits: []Rlimit{{"msgqueue", 77, 99}}}); !strings.Contains(strings.Join(strings.Fields(got), " "), "Max msgqueue size 77 99") {
		t.Errorf("limits: %q", got)
	}
	// CVE-2024-21626: no descriptor but the streams, and what a Go program opens.
	for _, line := range strings.Split(strings.TrimSpace(run(Config{Args: []string{"links"}})), "\n") {
		fd, target, _ := strings.Cut(line, " ")
		if fd > "2" && !strings.HasPrefix(target, "/proc/") && !strings.HasPrefix(target, "/sys/fs/cgroup/") && !strings.HasPrefix(target, "anon_inode:[event") {
			t.Errorf("descriptor %s", line)
		}
	}
}

func TestExec(t *testing.T) {
	e, img := plainImage(t)
	c := started(t, e, img, Config{Args: []string{"pause"}, Env: []string{"A=1"}, User: "app", WorkingDir: "/tmp"})
	run := func(x ExecConfig) (string, Status) {
		t.Helper()
		var out bytes.Buffer
		x.Args = append([]string{"/prog", programFlag}, x.Args...)
		x.Stdout, x.Stderr = &out, &out
		p, err := c.Exec(t.Context(), x)
		if err != nil {
			t.Fatal(err)
		}
		status, err := p.Wait(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return out.String(), status
	}
	if out, status := run(ExecConfig{Args: []string{"id"}}); out != "1000 1000 [1000 2000] /tmp\n" || status.Code != 0 {
		t.Errorf("%q, %v", out, status)
	}
	if out, _ := run(ExecConfig{Args: []string{"id"}, User: "0:0", WorkingDir: "/data"}); out != "0 0 [0] /data\n" {
		t.Errorf("%q", out)
	}
	if out, _ := run(ExecConfig{Args: []string{"env"}, Env: []string{"A=2", "B=3"}}); !strings.Contains(out, "A=2\n") || !strings.Contains(out, "B=3\n") {
		t.Errorf("%q", out)
	}
	if out, _ := run(ExecConfig{Args: []string{"cat"}, Stdin: strings.NewReader("in")}); out != "in" {
		t.Errorf("%q", out)
	}
	if _, status := run(ExecConfig{Args: []string{"exit", "9"}}); status.Code != 9 || !status.Known {
		t.Errorf("%v", status)
	}
	p, err := c.Exec(t.Context(), ExecConfig{Args: []string{"/prog", programFlag, "pause"}})
	if err != nil {
		t.Fatal(err)
	}
	if p.PID() == 0 {
		t.Error("no pid")
	}
	if err := p.Kill(t.Context(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if status, err := p.Wait(t.Context()); err != nil || status.Signal != syscall.SIGKILL {
		t.Errorf("%v, %v", status, err)
	}
	for _, test := range []struct {
		x    ExecConfig
		code int
		is   error
	}{
		{ExecConfig{Args: []string{"/missing"}}, 127, nil},
		{ExecConfig{Args: []string{"/data/notexec"}}, 126, nil},
		{ExecConfig{}, 0, ErrInvalidArgument},
		{ExecConfig{Args: []string{"/prog"}, WorkingDir: "rel"}, 0, ErrInvalidArgument},
		{ExecConfig{Args: []string{"/prog"}, User: "stranger"}, 0, ErrInvalidArgument},
		{ExecConfig{Args: []string{"/prog"}, Env: []string{"=x"}}, 0, ErrInvalidArgument},
	} {
		_, err := c.Exec(t.Context(), test.x)
		var command *CommandError
		if test.code != 0 && (!errors.As(err, &command) || command.Code != test.code) || test.is != nil && !errors.Is(err, test.is) {
			t.Errorf("%v: %v", test.x, err)
		}
	}
}

// A host program that reaps all children itself steals no status.
func TestHostWaits(t *testing.T) {
	e, img := plainImage(t)
	// The first container starts the keeper, by a process of which a program's
	// own wait calls may see the end.
	if status, err := started(t, e, img, Config{Args: []string{"exit", "6"}}).Wait(t.Context()); err != nil || status.Code != 6 {
		t.Fatal(status, err)
	}
	own := exec.Command("/proc/self/exe", programFlag, "exit", "5")
	if err := own.Start(); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var reaper sync.WaitGroup
	reaped := make(map[int]int)
	reaper.Go(func() {
		for {
			var ws syscall.WaitStatus
			pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
			if err == nil && pid > 0 {
				reaped[pid] = ws.ExitStatus()
			}
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Microsecond):
			}
		}
	})
	for range 20 {
		c := started(t, e, img, Config{Args: []string{"exit", "6"}})
		if status, err := c.Wait(t.Context()); err != nil || status.Code != 6 || !status.Known {
			t.Errorf("%v, %v", status, err)
		}
	}
	for own.Process.Signal(syscall.Signal(0)) == nil {
		time.Sleep(time.Millisecond)
	}
	close(stop)
	reaper.Wait()
	if len(reaped) != 1 || reaped[own.Process.Pid] != 5 {
		t.Errorf("reaped %v, want the program's own child alone", reaped)
	}
	own.Process.Release()
}

// Each of many at once has a root filesystem of its own, as new.
func TestManyAtOnce(t *testing.T) {
	e, img := plainImage(t)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for n := range 5 {
				var out bytes.Buffer
				args := []string{"alone"}
				if (i+n)%2 == 0 {
					args = append(args, "and write")
				}
				c, err := e.Create(t.Context(), img, Config{Args: args, Stdout: &out, Stderr: &out, Network: NetworkNone})
				if err != nil {
					t.Error(err)
					return
				}
				if err := c.Start(t.Context()); err != nil {
					t.Error(err)
				} else if status, err := c.Wait(t.Context()); err != nil || status.Code != 0 || out.String() != "x\n" {
					t.Errorf("%d: %v, %v, %q", i, status, err, out.String())
				}
				if err := c.Remove(t.Context(), RemoveOptions{Force: true}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// Starts, kills and forced removals of one container that race end in its
// removal, once.
func TestRemoveRace(t *testing.T) {
	e, img := plainImage(t)
	for range 5 {
		c := create(t, e, img, Config{Args: []string{"pause"}})
		var wg sync.WaitGroup
		removed := make(chan error, 4)
		for range 4 {
			wg.Go(func() { _ = c.Start(t.Context()) })
			wg.Go(func() { _ = c.Kill(t.Context(), syscall.SIGKILL) })
			wg.Go(func() { removed <- c.Remove(t.Context(), RemoveOptions{Force: true}) })
		}
		wg.Wait()
		close(removed)
		wins := 0
		for err := range removed {
			if err == nil {
				wins++
			} else if !errors.Is(err, ErrNotFound) {
				t.Error(err)
			}
		}
		if wins != 1 {
			t.Errorf("removed %d times", wins)
		}
	}
}
