package engine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/inboard/engine/enginetest"
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
	os.Exit(enginetest.Main(m, enginetest.Watch{CgroupParents: []string{cgroupParent}}, closeShared))
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
