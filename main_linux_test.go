package engine

import (
	"bytes"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// helpers are programs that tests run beside themselves: this test binary with
// the helper's name in helperEnv.
var helpers = map[string]func(args []string) error{}

const helperEnv = "INBOARD_TEST_HELPER"

// cgroupParent keeps the cgroups of this test run apart.
var cgroupParent = "inboard-test-" + strconv.Itoa(os.Getpid())

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == programFlag {
		syscall.Exit(program(os.Args[2:])) // os.Exit would write coverage data
	}
	if name := os.Getenv(helperEnv); name != "" {
		if err := helpers[name](os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "helper", name+":", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(runTests(m))
}

// runTests runs the tests, and checks that they left nothing behind.
func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "inboard-engine-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	os.Setenv("TMPDIR", dir)
	before := takeInventory()
	code := m.Run()
	closeShared()
	// What the fuzzer starts for itself is not looked at.
	fuzzing := flag.Lookup("test.fuzz").Value.String() != ""
	if !fuzzing {
		if left := leftBehind(before); len(left) > 0 {
			fmt.Fprintf(os.Stderr, "left behind:\n\t%s\n", strings.Join(left, "\n\t"))
			code = 1
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// parents are the directories that engines make their cgroups below.
func parents() []string {
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*/" + cgroupParent)
	unified, _ := filepath.Glob("/sys/fs/cgroup/" + cgroupParent)
	return append(dirs, unified...)
}

// inventory is what tests could leave behind.
type inventory struct {
	mounts, fds, children, cgroups, files []string
	goroutines                            int
}

func takeInventory() inventory {
	var i inventory
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	i.mounts = strings.Split(string(mounts), "\n")
	fds, _ := os.ReadDir("/proc/self/fd")
	for _, fd := range fds {
		target, err := os.Readlink("/proc/self/fd/" + fd.Name())
		if err == nil && !strings.HasPrefix(target, "/proc/") && !strings.HasPrefix(target, "anon_inode:[event") && !keptForProcess(target) {
			i.fds = append(i.fds, fd.Name()+" "+target)
		}
	}
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	for _, task := range tasks {
		children, _ := os.ReadFile(task)
		i.children = append(i.children, strings.Fields(string(children))...)
	}
	i.cgroups = parents()
	_ = filepath.WalkDir(os.TempDir(), func(path string, _ fs.DirEntry, err error) error {
		i.files = append(i.files, path)
		return err
	})
	i.goroutines = runtime.NumGoroutine()
	return i
}

// leftBehind compares with an earlier inventory. What ends by itself, as a
// goroutine whose file was closed, has a while to do so.
func leftBehind(before inventory) []string {
	var left []string
	for wait := time.Millisecond; wait < 5*time.Second; wait *= 2 {
		left = nil
		now := takeInventory()
		for _, list := range []struct {
			what        string
			before, now []string
		}{
			{"mount", before.mounts, now.mounts},
			{"descriptor", before.fds, now.fds},
			{"child process", before.children, now.children},
			{"cgroup", before.cgroups, now.cgroups},
			{"file", before.files, now.files},
		} {
			for _, x := range list.now {
				if !slices.Contains(list.before, x) {
					left = append(left, list.what+" "+x)
				}
			}
		}
		if now.goroutines > before.goroutines {
			var stacks bytes.Buffer
			_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1)
			left = append(left, stacks.String())
		}
		if len(left) == 0 {
			break
		}
		time.Sleep(wait)
	}
	return left
}

// helperCommand is a helper that is not started yet.
func helperCommand(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), helperEnv+"="+name)
	cmd.Stderr = os.Stderr
	return cmd
}

// testEngine opens an engine of a root of its own, or of the root given.
func testEngine(t *testing.T, root ...string) *Engine {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "root")
	if len(root) > 0 {
		dir = root[0]
	}
	e, err := Open(WithRoot(dir), WithCgroupParent(cgroupParent))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// keptForProcess tells what package cgroup keeps open as long as the process
// lives, however many engines it opens: the hierarchies, and programs that
// enforce device rules.
func keptForProcess(target string) bool {
	return target == "/sys/fs/cgroup" || filepath.Dir(target) == "/sys/fs/cgroup" || target == "anon_inode:bpf-prog"
}
