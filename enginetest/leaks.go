package enginetest

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience is how long what is being put away may take to go: a goroutine whose
// file was closed, a process that was killed, what the kernel does in the
// background. Nothing is waited for once nothing is left.
var patience = 10 * time.Second

// Watch says where to look for what only a test knows.
type Watch struct {
	// Roots are the roots of Engines, and their run directories where those lie
	// elsewhere. They need not exist yet. Of what is below them that counts as
	// left behind which dies with an Engine or a call: Engines' directories,
	// containers' records and names, downloads that nobody takes up, holds.
	// Images and layers may stay.
	Roots []string
	// Dirs are directories in which everything that was not there counts.
	Dirs []string
	// CgroupParents are the cgroups below which Engines make theirs, as
	// engine.WithCgroupParent has them. Nil: "inboard", the engine's default.
	// What other programs' open Engines have there is not looked at.
	CgroupParents []string
}

func (w *Watch) cgroups() []string {
	if w.CgroupParents == nil {
		return []string{"inboard"}
	}
	return w.CgroupParents
}

// Leaks fails the test, when it and its subtests have ended and its cleanups have
// run, for what it has left behind, and names each thing: a mount, cgroup,
// network link, process, namespace, nftables table, descriptor or goroutine. It
// belongs at a test's beginning, so that its own cleanup comes last; what stands
// then may stay. Given the roots of Engines, which t.TempDir makes before, it looks
// for files there too; [Watch] tells which, and has more to choose.
//
// What is seen. Mounts, links and nftables tables are those of the namespaces
// that this process is in. Processes are those that descend from this one,
// whatever has become of their parents. Namespaces are those that a descriptor, a
// mount or a thread of this process holds; one that only a process holds is told
// of with the process. What Go's runtime keeps for good, and what the engine keeps
// for a process (the roots of the cgroup hierarchies, programs of device rules),
// counts as standing. What is about to go has ten seconds for it.
//
// An Engine keeps things ready for its next container: a test that is watched
// opens one of its own after Leaks, and closes it. Idle connections of
// http.DefaultTransport are closed.
//
// Tests in parallel. While another test that is watched runs, and it is none of
// this one's parents, nobody can tell whose a thing is. Then it is looked for
// again when the last of these tests has ended, which fails with the names of
// all it may be of. So a test in parallel that is not watched, and other programs
// that mount or make links meanwhile, are noise that Leaks takes for a leak if it
// lasts; in such a place watch the whole program, with [Main].
//
// On other systems than Linux goroutines and files are watched. No privileges are
// needed, but nftables tables are seen only with CAP_NET_ADMIN. The soft limit
// RLIMIT_MSGQUEUE of this process becomes its pid, as a mark that processes
// inherit. Leaks takes one to three milliseconds in all (two cores, 100 to 1,700
// processes); it grows with the threads of this process, with mounts, cgroups and
// the processes of the machine.
func Leaks(t testing.TB, roots ...string) {
	t.Helper()
	Watch{Roots: roots}.Leaks(t)
}

// watched are the tests that run now.
var watched struct {
	sync.Mutex
	tests map[*running]struct{}
}

// running is one test that is watched.
type running struct {
	Watch
	name   string
	before stock
	// suspects are what tests that ran at the same time may have left, and
	// their names.
	suspects []thing
	beside   []string
}

// Leaks is the function [Leaks] with more to look at.
func (w Watch) Leaks(t testing.TB) {
	t.Helper()
	prepare()
	r := &running{Watch: w, name: t.Name()}
	r.before = w.look()
	watched.Lock()
	if watched.tests == nil {
		watched.tests = make(map[*running]struct{})
	}
	watched.tests[r] = struct{}{}
	watched.Unlock()
	t.Cleanup(func() {
		t.Helper()
		r.end(t)
	})
}

// end looks at what a test has left, or leaves that to one that still runs.
func (r *running) end(t testing.TB) {
	t.Helper()
	watched.Lock()
	delete(watched.tests, r)
	var other *running
	for o := range watched.tests {
		if !strings.HasPrefix(r.name, o.name+"/") {
			other = o
		}
	}
	if other != nil {
		other.suspects = append(other.suspects, r.left(r.look())...)
		other.beside = append(append(other.beside, r.name), r.beside...)
	}
	watched.Unlock()
	if other != nil {
		return
	}
	left := settle(func() []thing { return r.left(r.look()) })
	if len(left) == 0 {
		return
	}
	who := "left behind"
	if len(r.beside) > 0 {
		slices.Sort(r.beside)
		who = fmt.Sprintf("left behind by this test or one that ran beside it, %s", strings.Join(slices.Compact(r.beside), ", "))
	}
	t.Errorf("%s:%s", who, describe(left))
}

// left are the things of now that were not there before, and the suspects that
// still are.
func (r *running) left(now stock) []thing {
	left := r.before.more(now)
	for _, s := range r.suspects {
		if now[s] > 0 && !slices.Contains(left, s) {
			left = append(left, s)
		}
	}
	return ours(left)
}

// settle waits for nothing to be left.
func settle(look func() []thing) (left []thing) {
	const leastLooks = 5 // on a machine that is slow, too
	for began, looks := time.Now(), 1; ; looks++ {
		if left = look(); len(left) == 0 || looks >= leastLooks && time.Since(began) > patience {
			return left
		}
		http.DefaultClient.CloseIdleConnections()
		time.Sleep(min(time.Duration(looks*looks)*time.Millisecond, 100*time.Millisecond))
	}
}

func describe(left []thing) string {
	var b strings.Builder
	for _, t := range left {
		b.WriteString("\n\t" + t.describe())
	}
	return b.String()
}

// Main runs a package's tests, and fails if all of them together leave something
// behind; it gives the exit code:
//
//	func TestMain(m *testing.M) { os.Exit(enginetest.Main(m, enginetest.Watch{})) }
//
// Temporary files lie in a directory of their own meanwhile, which is removed, and
// in which nothing may be left. After the tests it calls the functions given, for
// what tests share. What the fuzzer starts for itself is not looked at.
func Main(m *testing.M, w Watch, after ...func()) (code int) {
	prepare()
	dir, err := os.MkdirTemp("", "inboard-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_ = os.Chmod(dir, 0o755) // programs of other users have files there too
	temp := "TMPDIR"         // see os.TempDir
	if runtime.GOOS == "windows" {
		temp = "TMP"
	}
	os.Setenv(temp, dir)
	w.Dirs = append(slices.Clone(w.Dirs), dir)
	before := w.look()
	code = m.Run()
	for _, f := range after {
		f()
	}
	if flag.Lookup("test.fuzz").Value.String() == "" {
		if left := settle(func() []thing { return before.more(w.look()) }); len(left) > 0 {
			fmt.Fprintf(os.Stderr, "left behind:%s\n", describe(left))
			code = max(code, 1)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	return code
}
