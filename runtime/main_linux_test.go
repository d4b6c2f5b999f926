// In a container the Go runtime would hold its cgroup's files open.
//
//go:debug containermaxprocs=0

package runtime

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	goruntime "runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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
	var err error
	if testBase, err = os.MkdirTemp("", "inboard-runtime-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(testBase)
	mark()
	before := look()
	code := m.Run()
	if left := leftBehind(before); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "left behind:\n  %s\n", strings.Join(left, "\n  "))
		code = 1
	}
	if host, err := cgroup.Detect(); err == nil {
		host.RemoveAll(context.Background(), testParent)
	}
	return code
}

// markLimit is the soft RLIMIT_MSGQUEUE of this process. Whatever descends from
// it, through any keeper, has the same, and can be told from the processes of
// other programs on the machine.
var markLimit = uint64(1<<20 + os.Getpid())

func mark() {
	l := unix.Rlimit{Cur: markLimit, Max: markLimit}
	unix.Setrlimit(unix.RLIMIT_MSGQUEUE, &l)
	// What stays by design is there before the first look: the poller of the Go
	// runtime, the goroutine of os/signal, and the roots of the cgroup hierarchies.
	signal.Stop(notified())
	if r, w, err := os.Pipe(); err == nil {
		r.SetReadDeadline(time.Now())
		r.Close()
		w.Close()
	}
	cgroup.Detect()
}

func notified() chan os.Signal {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, unix.SIGUSR1)
	return ch
}

// A scene is what a test may leave something in.
type scene struct {
	files, mounts, processes, cgroups map[string]int
	goroutines                        int
}

func look() scene {
	s := scene{map[string]int{}, map[string]int{}, map[string]int{}, map[string]int{}, goruntime.NumGoroutine()}
	fds, _ := os.ReadDir("/proc/self/fd")
	for _, e := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			kind, _, _ := strings.Cut(to, ":[")
			if kind != "anon_inode:bpf-prog" { // internal/cgroup keeps the last device programs
				s.files["descriptor of "+kind]++
			}
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		_, on, _ := strings.Cut(strings.TrimSpace(line), " ")
		s.mounts["mount "+on]++
		if f := strings.Fields(line); len(f) > 4 && strings.Contains(line, " - cgroup") {
			below, _ := os.ReadDir(filepath.Join(f[4], testParent))
			for _, e := range below {
				if e.IsDir() {
					s.cgroups["cgroup "+filepath.Join(f[4], testParent, e.Name())]++
				}
			}
		}
	}
	for _, pid := range marked() {
		s.processes["process "+pid]++
	}
	return s
}

// marked lists the processes that descend from this one, zombies too.
func marked() []string {
	var list []string
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		limits, err := os.ReadFile("/proc/" + e.Name() + "/limits")
		if err != nil || e.Name() == strconv.Itoa(os.Getpid()) {
			continue
		}
		if slices.Contains(strings.Fields(string(limits)), strconv.FormatUint(markLimit, 10)) {
			comm, _ := os.ReadFile("/proc/" + e.Name() + "/comm")
			list = append(list, e.Name()+" "+strings.TrimSpace(string(comm)))
		}
	}
	return list
}

// leftBehind names what is there now and was not before. What the kernel or a
// goroutine is just putting away gets a few seconds.
func leftBehind(before scene) (left []string) {
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		left = before.missing(look())
		if len(left) == 0 || time.Now().After(end) {
			return left
		}
	}
}

func (s scene) missing(now scene) (left []string) {
	for _, kind := range [][2]map[string]int{{s.files, now.files}, {s.mounts, now.mounts}, {s.processes, now.processes}, {s.cgroups, now.cgroups}} {
		for thing, n := range kind[1] {
			if n > kind[0][thing] {
				left = append(left, fmt.Sprintf("%s (%d more)", thing, n-kind[0][thing]))
			}
		}
	}
	if now.goroutines > s.goroutines {
		var stacks bytes.Buffer
		pprof.Lookup("goroutine").WriteTo(&stacks, 1)
		left = append(left, fmt.Sprintf("%d goroutines: %s", now.goroutines-s.goroutines, &stacks))
	}
	slices.Sort(left)
	return left
}
