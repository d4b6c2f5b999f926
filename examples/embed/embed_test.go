//go:build linux

package main_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/inboard/engine"
	"github.com/inboard/engine/enginetest"
)

// service is the example at work, and an engine that looks at its root from
// outside.
type service struct {
	t       *testing.T
	url     string
	root    string
	command *exec.Cmd
	outside *engine.Engine
	told    bool // to end
}

// serve starts the example with an image of the worker.
func serve(t *testing.T, deadline time.Duration) *service {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("go is not installed")
	}
	work := t.TempDir()
	s := &service{t: t, root: filepath.Join(work, "root")}
	program := build(t, ".")
	ref := push(t, build(t, "./testdata/worker"))
	s.command = exec.Command(program, "-root", s.root, "-listen", "127.0.0.1:0", "-deadline", deadline.String(), ref)
	s.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := s.command.StderrPipe()
	if err == nil {
		err = s.command.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stderr)
	line, err := lines.ReadString('\n')
	_, address, found := strings.Cut(strings.TrimSpace(line), "listening on ")
	if err != nil || !found {
		s.command.Wait()
		t.Fatalf("%q, %v", line, err)
	}
	s.url = address
	go io.Copy(t.Output(), lines)
	t.Cleanup(s.stop)
	if s.outside, err = engine.Open(engine.WithRoot(s.root)); err != nil {
		t.Fatal(err)
	}
	return s
}

// push makes an image of the program, and a registry that has it.
func push(t *testing.T, program string) (ref string) {
	t.Helper()
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	return enginetest.NewRegistry(t).Push(t, "worker:v1", enginetest.Image{
		Layers: []enginetest.Layer{enginetest.NewLayer(enginetest.Program("worker", data))},
		Config: ocispec.ImageConfig{Cmd: []string{"/worker"}},
	})
}

// ask posts a request.
func (s *service) ask(ctx context.Context, input string, args ...string) (code int, exit, answer string, err error) {
	target := s.url + "/?" + url.Values{"arg": args}.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, target, strings.NewReader(input))
	if err != nil {
		return 0, "", "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, "", "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, response.Header.Get("Exit-Status"), string(body), err
}

// containers lists the service's, once check is content with them.
func (s *service) containers(what string, check func([]engine.ContainerInfo) bool) []engine.ContainerInfo {
	s.t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		list, err := s.outside.List(s.t.Context(), engine.ListOptions{All: true})
		if err == nil && check(list) {
			return list
		}
		if time.Now().After(end) {
			s.t.Fatalf("not %s: %v, %v", what, list, err)
		}
	}
}

func oneRuns(list []engine.ContainerInfo) bool {
	return len(list) == 1 && list[0].State == engine.StateRunning
}

func none(list []engine.ContainerInfo) bool { return len(list) == 0 }

// tell tells the service to end, once: a second signal would end it at once.
func (s *service) tell() {
	if s.told {
		return
	}
	s.told = true
	if err := s.command.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Error(err)
	}
}

// stop ends the service as its user would, and looks for what it left.
func (s *service) stop() {
	locks, err := filepath.Glob(filepath.Join(s.root, "run", "runtime", "*.lock"))
	var cgroups []string
	for _, lock := range locks {
		content, readErr := os.ReadFile(lock)
		err = errors.Join(err, readErr)
		path, _, _ := strings.Cut(string(content), "\n")
		cgroups = append(cgroups, path)
	}
	if err != nil || len(cgroups) != 1 || cgroups[0] == "" {
		s.t.Errorf("cgroups %q, %v", cgroups, err)
	}
	s.tell()
	if err := s.command.Wait(); err != nil {
		s.t.Error(err)
	}
	if s.outside == nil {
		return
	}
	if list, err := s.outside.List(context.Background(), engine.ListOptions{All: true}); err != nil || len(list) > 0 {
		s.t.Errorf("left behind: %v, %v", list, err)
	}
	if err := s.outside.Close(); err != nil {
		s.t.Error(err)
	}
	for _, pattern := range []string{"engines/*", "run/containers/*/*", "run/runtime/*"} {
		if left, err := filepath.Glob(filepath.Join(s.root, pattern)); err != nil || len(left) > 0 {
			s.t.Errorf("left behind: %q, %v", left, err)
		}
	}
	for _, path := range cgroups {
		for _, hierarchy := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
			if left, err := filepath.Glob(filepath.Join(hierarchy, path)); err != nil || len(left) > 0 {
				s.t.Errorf("left behind: %q, %v", left, err)
			}
		}
	}
}

// TestAnswers has each kind of program, and what becomes of it.
func TestAnswers(t *testing.T) {
	t.Parallel()
	s := serve(t, 20*time.Second)
	large := strings.Repeat("x", 1<<20)
	for _, test := range []struct {
		input  string
		args   []string
		code   int
		exit   string
		answer string // how it begins
	}{
		{"12", nil, 200, "0", "12 144\n"},
		{"12", []string{"/worker", "square"}, 200, "0", "12 144\n"},
		{"twelve", []string{"/worker", "square"}, 422, "3", "strconv.Atoi"},
		{large, []string{"/worker", "echo"}, 200, "0", large},
		{large + "x", []string{"/worker", "echo"}, 413, "", "http: request body too large"},
		{"", []string{"/worker", "eat"}, 507, "137", ""},
		{"", []string{"/worker", "talk"}, 500, "", ""},
		{"", []string{"/worker", "multiply"}, 422, "", ""},
		{"", []string{"/worker", "write"}, 422, "5", "open /file: read-only file system"},
		{"", []string{"/nothing"}, 400, "", ""},
	} {
		code, exit, answer, err := s.ask(t.Context(), test.input, test.args...)
		if err != nil || code != test.code || test.exit != "" && exit != test.exit || !strings.HasPrefix(answer, test.answer) {
			t.Errorf("%v: %d, exit status %s, %.200q, %v", test.args, code, exit, answer, err)
		}
	}
	s.containers("all gone", none)
}

// TestDeadline: one that takes too long is ended, while its neighbours are served.
func TestDeadline(t *testing.T) {
	t.Parallel()
	s := serve(t, 5*time.Second)
	late := make(chan error, 1)
	go func() {
		code, _, answer, err := s.ask(t.Context(), "1h", "/worker", "nap")
		if err == nil && code != http.StatusGatewayTimeout {
			err = fmt.Errorf("%d, %q", code, answer)
		}
		late <- err
	}()
	box, err := s.outside.Lookup(t.Context(), s.containers("one running", oneRuns)[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	if code, _, answer, err := s.ask(t.Context(), "3", "/worker", "square"); code != 200 || answer != "3 9\n" {
		t.Errorf("a neighbour: %d, %q, %v", code, answer, err)
	}
	if err := <-late; err != nil {
		t.Error(err)
	}
	if status, err := box.Wait(t.Context()); err == nil && status.Signal != syscall.SIGKILL {
		t.Errorf("ended by %v", status)
	}
	s.containers("all gone", none)
}

// TestClientGoes: with the client, the container goes.
func TestClientGoes(t *testing.T) {
	t.Parallel()
	s := serve(t, time.Hour)
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, _, _, err := s.ask(ctx, "1h", "/worker", "nap")
		left <- err
	}()
	s.containers("one running", oneRuns)
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	s.containers("all gone", none)
}

// TestCrowd has more clients than there are places, each of which gets its own
// answer.
func TestCrowd(t *testing.T) {
	s := serve(t, time.Minute)
	most := 0
	stop := make(chan struct{})
	var watch, clients sync.WaitGroup
	watch.Go(func() {
		for {
			list, err := s.outside.List(t.Context(), engine.ListOptions{All: true})
			if err != nil {
				t.Error(err)
			}
			most = max(most, len(list))
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	})
	for n := range 150 {
		clients.Go(func() {
			code, _, answer, err := s.ask(t.Context(), strconv.Itoa(n), "/worker", "square")
			if err != nil || code != http.StatusServiceUnavailable && (code != 200 || answer != fmt.Sprintf("%d %d\n", n, n*n)) {
				t.Errorf("%d: %d, %q, %v", n, code, answer, err)
			}
		})
	}
	clients.Wait()
	close(stop)
	watch.Wait()
	if most < 2 || most > 100 {
		t.Errorf("%d at once", most)
	}
}

// TestShutdown: a request that is there is answered, and then the service ends.
func TestShutdown(t *testing.T) {
	t.Parallel()
	s := serve(t, time.Minute)
	answered := make(chan error, 1)
	go func() {
		code, _, answer, err := s.ask(t.Context(), "2s", "/worker", "nap")
		if err == nil && (code != 200 || answer != "awake\n") {
			err = fmt.Errorf("%d, %q", code, answer)
		}
		answered <- err
	}()
	s.containers("one running", oneRuns)
	s.tell()
	if err := <-answered; err != nil {
		t.Error(err)
	}
}

// TestWrk has a thousand requests of wrk, from more clients than there are
// places; some of the programs take too much time or memory.
func TestWrk(t *testing.T) {
	wrk, err := exec.LookPath("wrk")
	if err != nil {
		t.Skip("wrk is not installed")
	}
	s := serve(t, 10*time.Second)
	requests := 1000
	if testing.Short() {
		requests = 200
	}
	const threads = 2
	cmd := exec.CommandContext(t.Context(), wrk, "--threads", strconv.Itoa(threads), "--connections", "120", "--duration", "10m", "--timeout", "1m",
		"--script", "testdata/requests.lua", s.url, "--", strconv.Itoa(requests/threads))
	var out bytes.Buffer
	cmd.Stdout = &out
	stderr, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	done := 0
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		if lines.Text() != "enough" {
			t.Error(lines.Text())
		} else if done++; done == threads {
			if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
				t.Error(err)
			}
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, out.Bytes())
	}
	answers := map[string]int{}
	for line := range strings.Lines(out.String()) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "answers" {
			answers[f[1]], _ = strconv.Atoi(f[2])
		}
	}
	t.Log(answers)
	if answers["right"] < requests || answers["wrong"] > 0 || answers["hungry"] == 0 || answers["late"] == 0 || strings.Contains(out.String(), "Socket errors") {
		t.Errorf("wrk says:\n%s", out.Bytes())
	}
	// Those that were asked when wrk stopped lose their client.
	s.containers("all gone", none)
	if fields := strings.Fields(mounts(t)); slices.ContainsFunc(fields, func(f string) bool { return strings.HasPrefix(f, s.root) }) {
		t.Errorf("mounts:\n%s", mounts(t))
	}
}

func mounts(t *testing.T) string {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
