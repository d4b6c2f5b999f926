// In a container the Go runtime would hold its cgroup's files open.
//
//go:debug containermaxprocs=0

package runtime

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/inboard/engine/enginetest"
	"github.com/inboard/engine/internal/cgroup"
)

// programEnv makes the test binary another program: one that a container runs,
// or a host program that a test wants to kill, starve or run as pid 1.
const programEnv = "INBOARD_TEST_PROGRAM"

// programs by name; the value is the exit code. Each file of tests adds its own.
var programs = map[string]func(args []string) int{}

// testParent is the cgroup below which all of this run's lie.
var testParent = "inboard-runtime-test-" + strconv.Itoa(os.Getpid())

// testBase holds the test binary once, so that every rootfs links to it.
var testBase string

func TestMain(m *testing.M) {
	if name, ok := os.LookupEnv(programEnv); ok {
		run := programs[name]
		if run == nil {
			fmt.Fprintf(os.Stderr, "no program %q\n", name)
			os.Exit(99)
		}
		unix.Exit(run(os.Args[1:])) // os.Exit would let the race detector sleep for a second
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	host, err := cgroup.Detect()
	if err == nil {
		defer host.RemoveAll(context.Background(), testParent)
	}
	if testBase, err = os.MkdirTemp("", "inboard-runtime-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(testBase)
	return enginetest.Main(m, enginetest.Watch{CgroupParents: []string{testParent}}, func() {
		if host != nil { // no Runtime removes what another may use
			_ = host.Prune(testParent)
		}
	})
}
