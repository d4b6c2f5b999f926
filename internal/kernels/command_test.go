package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// kernelsCommand runs the command and gives its exit code and all that it
// printed.
func kernelsCommand(t *testing.T, args ...string) (int, string) {
	t.Helper()
	var out bytes.Buffer
	code := command(t.Context(), args, &out, &out)
	return code, out.String()
}

func TestUsage(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"-arch mips", `kernels: unknown architecture "mips"; there are amd64, arm64`},
		{"-kernel 2.4", `kernels: unknown kernel "2.4"; there are 6.1`},
		{"-arch=", `kernels: unknown architecture ""`},
		{"-nonsense", "flag provided but not defined"},
	} {
		if code, out := kernelsCommand(t, strings.Fields(c.args)...); code != 2 || !strings.Contains(out, c.want) {
			t.Errorf("%s: exit code %d, %s", c.args, code, out)
		}
	}
}

func TestLeftOutWithoutQemu(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	const want = "left out: kernel 6.1 for arm64: no qemu-system-aarch64 (Debian's package qemu-system-arm): unavailable\n"
	if code, out := kernelsCommand(t, "-arch", "arm64"); code != 0 || out != want {
		t.Errorf("exit code %d, %q", code, out)
	}
	if code, out := kernelsCommand(t, "-arch", "arm64", "-must"); code != 1 || out != want {
		t.Errorf("with -must: exit code %d, %q", code, out)
	}
}

func TestLeftOutWithoutArchive(t *testing.T) {
	for _, name := range []string{"apt-get", "qemu-system-x86_64", "mkfs.ext4"} {
		if _, err := exec.LookPath(findTool(name)); err != nil {
			t.Skip("needs ", name)
		}
	}
	home := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", home)
	code, out := kernelsCommand(t, "-arch", "amd64", "-mirror", "file:///nonexistent")
	if code != 0 || !strings.HasPrefix(out, "left out: kernel 6.1 for amd64: ") || strings.Count(out, "\n") != 1 {
		t.Errorf("exit code %d, %q", code, out)
	}
	if left, err := os.ReadDir(filepath.Join(home, "inboard-kernels")); err != nil || len(left) != 0 {
		t.Errorf("left in the cache: %v, %v", left, err)
	}
}

// needMachine skips unless the command can boot Debian's 6.1 on this machine's
// kind of processor or another one, and gives an architecture for which it can.
func needMachine(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: boots a machine")
	}
	why := "no emulator"
	for _, s := range cached(t) {
		_, err := exec.LookPath(s.arch.qemu)
		if err == nil && s.kernel.version == "6.1" {
			return s.arch.name
		}
		why = s.arch.pkg + " is not installed"
	}
	t.Skip(why)
	return ""
}

// checkClean fails when the command left a file in TMPDIR or a machine running.
func checkClean(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	t.Cleanup(func() {
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("left in TMPDIR: %v, %v", left, err)
		}
		lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range lines {
			if line, err := os.ReadFile(name); err == nil && bytes.Contains(line, []byte(dir)) {
				t.Errorf("still running: %q", line)
			}
		}
	})
}

func TestMachine(t *testing.T) {
	arch := needMachine(t)
	checkClean(t)
	code, out := kernelsCommand(t, "-arch", arch, "-kernel", "6.1", "-timeout", "10s", "./testdata/bad", "./testdata/sample", "./testdata/nobuild")
	if code != 1 {
		t.Errorf("exit code %d", code)
	}
	for _, want := range []string{
		"testdata/nobuild  0.0s  0 tests\ngo: exit status 1: ",
		"undefined: undefined",
		", 2 failed\n",
		"bad_test.go:14: this is wrong\n",
		"panic: test timed out after 10s",
		"      failed: TestFails, TestHangs\n",
		"      exit code: 2\n",
		"      left behind: cgroup /sys/fs/cgroup/left-cgroup\n",
		"      left behind: file /tmp/left-mount\n",
		"      left behind: mount of tmpfs on /tmp/left-mount\n",
		"      left behind: network link left-link\n",
		"      left behind: process sleep 1234\n",
		"ok    " + arch + " 6.1.",
		" 8 tests, 2 skipped\n      skipped: TestSkipped/sub, TestSkipped: the go command is missing\n",
		"done  " + arch + " 6.1.",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in the output", want)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
}

func TestMachinePanics(t *testing.T) {
	arch := needMachine(t)
	checkClean(t)
	code, out := kernelsCommand(t, "-arch", arch, "-kernel", "6.1", "-v", "./testdata/crash", "./testdata/sample")
	if code != 1 || strings.Count(out, "FAIL  ") != 2 || strings.Contains(out, "\nok ") {
		t.Errorf("exit code %d", code)
	}
	for _, want := range []string{
		"machine: it ended before its tests did\nlast lines of its console:\n",
		"Kernel panic - not syncing: sysrq triggered crash",
		"testdata/sample  0.0s  0 tests\nmachine: it ended before\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in the output", want)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
}

func TestMachineIsInterrupted(t *testing.T) {
	arch := needMachine(t)
	checkClean(t)
	ctx, cancel := context.WithCancel(t.Context())
	w := &trigger{word: "=== RUN   TestHangs", do: cancel}
	start := time.Now()
	code := command(ctx, []string{"-arch", arch, "-kernel", "6.1", "-v", "-run", "TestHangs", "./testdata/bad"}, w, w)
	if code != 1 || !strings.HasSuffix(w.out.String(), "kernels: context canceled\n") {
		t.Errorf("after %v: exit code %d, %s", time.Since(start), code, w.out.String())
	}
}

// trigger calls do once word was written to it.
type trigger struct {
	out  bytes.Buffer
	word string
	do   func()
}

func (w *trigger) Write(p []byte) (int, error) {
	w.out.Write(p)
	if strings.Contains(w.out.String(), w.word) {
		w.do()
	}
	return len(p), nil
}
