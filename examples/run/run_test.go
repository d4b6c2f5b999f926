//go:build linux

package main_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/inboard/engine/enginetest"
)

// example is the built example, a root for it, and a registry.
type example struct {
	t             *testing.T
	program, root string
	registry      *enginetest.Registry
}

func newExample(t *testing.T) *example {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("go is not installed")
	}
	work := t.TempDir()
	return &example{t, build(t, "."), filepath.Join(work, "root"), enginetest.NewRegistry(t)}
}

// push makes an image of one layer, without an entrypoint.
func (x *example) push(repository string, command []string, files ...*tar.Header) (ref string) {
	x.t.Helper()
	var entries []enginetest.Entry
	for _, h := range files {
		e := enginetest.Entry{Header: *h}
		if h.Typeflag == tar.TypeReg { // its link name says where the content comes from
			data, err := os.ReadFile(h.Linkname)
			if err != nil {
				x.t.Fatal(err)
			}
			e.Linkname, e.Data = "", string(data)
		}
		entries = append(entries, e)
	}
	return x.registry.Push(x.t, repository+":v1", enginetest.Image{
		Layers: []enginetest.Layer{{Entries: entries, Compression: enginetest.Uncompressed}},
		Config: ocispec.ImageConfig{Cmd: command},
		Docker: true,
	})
}

// pushProbe pushes an image of the probe, with "/probe exit 7" as its command.
func (x *example) pushProbe() (ref string) {
	x.t.Helper()
	probe := build(x.t, "./testdata/probe")
	return x.push("probe", []string{"/probe", "exit", "7"},
		&tar.Header{Typeflag: tar.TypeReg, Name: "probe", Mode: 0o755, Linkname: probe},
		&tar.Header{Typeflag: tar.TypeReg, Name: "text", Mode: 0o644, Linkname: "testdata/probe/main.go"})
}

func (x *example) command(args ...string) *exec.Cmd {
	return exec.CommandContext(x.t.Context(), x.program, append([]string{"-root", x.root}, args...)...)
}

// run gives both outputs and the exit status.
func (x *example) run(stdin string, args ...string) (stdout, stderr string, code int) {
	x.t.Helper()
	var out, errs bytes.Buffer
	cmd := x.command(args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		x.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// TestRun has the flags and the exit statuses, as docker run has them.
func TestRun(t *testing.T) {
	x := newExample(t)
	ref := x.pushProbe()
	shared := t.TempDir()
	for _, test := range []struct {
		args, stdin  string
		code         int
		stdout, says string
	}{
		{"IMAGE", "", 7, "", ""},
		{"IMAGE /probe exit 0", "", 0, "", ""},
		{"--rm IMAGE /probe exit 3", "", 3, "", ""},
		{"IMAGE /probe look -e x", "", 0, "0 0 / [] [-e x]\n", "to stderr\n"},
		{"-e PROBE_A=1 -e PROBE_B=x=y -w /made/for/it -u 1000:2000 --rm IMAGE /probe look", "", 0, "1000 2000 /made/for/it [PROBE_A=1 PROBE_B=x=y] []\n", "to stderr\n"},
		{"-i IMAGE /probe cat", "some input", 0, "some input", ""},
		{"IMAGE /probe cat", "not passed on", 0, "", ""},
		{"-m 32m IMAGE /probe eat", "", 137, "", ""},
		{"-m 33554432 IMAGE /probe eat", "", 137, "", ""},
		{"-m 1g IMAGE /probe exit 4", "", 4, "", ""},
		{"-m 512mb IMAGE /probe exit 4", "", 4, "", ""},
		{"-v SHARED:/data IMAGE /probe write /data/a", "", 0, "", ""},
		{"-v SHARED:/data:ro IMAGE /probe write /data/b", "", 1, "", "read-only file system"},
		{"--tmpfs /t:size=1m,mode=700 --read-only IMAGE /probe write /t/a", "", 0, "", ""},
		{"--read-only IMAGE /probe write /a", "", 1, "", "read-only file system"},
		{"--cap-drop all --cap-add kill IMAGE /probe capabilities", "", 0, "CapBnd:\t0000000000000020\n", ""},
		{"--privileged IMAGE /probe write /proc/sys/kernel/domainname", "", 0, "", ""},
		{"--device /dev/null:/dev/other:rw IMAGE /probe write /dev/other", "", 0, "", ""},
		{"--device /dev/none IMAGE", "", 125, "", "/dev/none"},
		{"-v /none/there:/data IMAGE", "", 125, "", "/none/there"},
		{"-v SHARED IMAGE", "", 125, "", "no target"},
		{"--pid container:nobody IMAGE", "", 125, "", `"nobody", whose pid namespace`},
		{"--ipc none IMAGE", "", 125, "", `ipc namespace "none"`},
		{"--network bridge IMAGE", "", 125, "", `network "bridge"`},
		{"--userns host IMAGE", "", 125, "", `user namespace "host"`},
		{"--userns private --pid host IMAGE", "", 125, "", "user namespace"},
		{"--init IMAGE /probe exit 9", "", 9, "", ""},
		{"IMAGE /missing", "", 127, "", `exec "/missing"`},
		{"IMAGE missing", "", 127, "", `exec "missing"`},
		{"IMAGE /text", "", 126, "", `exec "/text"`},
		{"IMAGE /proc", "", 126, "", `exec "/proc"`},
		{"-m 1m IMAGE", "", 125, "", "memory 1048576"},
		{"-m 32x IMAGE", "", 125, "", "-m"},
		{"-m 17179869184g IMAGE", "", 125, "", "-m"},
		{"-u stranger IMAGE", "", 125, "", `"stranger"`},
		{"-w relative IMAGE", "", 125, "", `"relative"`},
		{"--name - IMAGE", "", 125, "", `name "-"`},
		{"--nothing IMAGE", "", 125, "", "-nothing"},
		{"IMAGE-none", "", 125, "", "404 Not Found"},
		{"", "", 125, "", "Usage"},
	} {
		args := strings.Fields(strings.NewReplacer("IMAGE", ref, "SHARED", shared).Replace(test.args))
		stdout, stderr, code := x.run(test.stdin, args...)
		if code != test.code || stdout != test.stdout || !strings.Contains(stderr, test.says) || test.says == "" && stderr != "" {
			t.Errorf("run %s: %d, %q, %q; want %d, %q, %q", test.args, code, stdout, stderr, test.code, test.stdout, test.says)
		}
	}
	if engines, err := os.ReadDir(filepath.Join(x.root, "engines")); err != nil || len(engines) > 0 {
		t.Errorf("left behind: %v, %v", engines, err)
	}
	if records, err := filepath.Glob(filepath.Join(x.root, "run", "containers", "*", "*")); err != nil || len(records) > 0 {
		t.Errorf("left behind: %v, %v", records, err)
	}
}

// TestNamespaces has each kind as the container's own, the host's, and another
// container's.
func TestNamespaces(t *testing.T) {
	x := newExample(t)
	ref := x.pushProbe()
	kinds := []string{"pid", "ipc", "uts", "network", "userns"}
	host := make([]string, len(kinds))
	for i, file := range []string{"pid", "ipc", "uts", "net", "user"} {
		host[i], _ = os.Readlink("/proc/self/ns/" + file)
	}
	other := x.command("-i", "--name", "box", ref, "/probe", "namespaces", "stay")
	stdin, err1 := other.StdinPipe()
	stdout, err2 := other.StdoutPipe()
	if err := errors.Join(err1, err2, other.Start()); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	box := strings.Fields(line)
	if err != nil || len(box) != len(kinds)+1 {
		t.Fatalf("%q, %v", line, err)
	}
	look := func(args ...string) []string {
		t.Helper()
		stdout, stderr, code := x.run("", append(args, ref, "/probe", "namespaces")...)
		seen := strings.Fields(stdout)
		if code != 0 || len(seen) != len(kinds)+1 {
			t.Fatalf("%v: %q, %q, %d", args, stdout, stderr, code)
		}
		return seen
	}
	for _, test := range []struct {
		flag, whose string
		is          []string
	}{
		{"", "", nil},
		{"pid", "host", host}, {"ipc", "host", host}, {"uts", "host", host}, {"network", "host", host},
		{"pid", "container:box", box}, {"ipc", "container:box", box}, {"uts", "container:box", box}, {"network", "container:box", box},
		{"userns", "private", nil},
	} {
		var args []string
		if test.flag != "" {
			args = []string{"--" + test.flag, test.whose}
		}
		seen := look(args...)
		for i, kind := range kinds {
			shared := kind == "userns" && test.flag != "userns" || kind == test.flag && test.is != nil
			is := host
			if kind == test.flag && test.is != nil {
				is = test.is
			}
			if (seen[i] == is[i]) != shared || !shared && seen[i] == box[i] {
				t.Errorf("%v: %s namespace %s, on the host %s, in the other container %s", args, kind, seen[i], host[i], box[i])
			}
		}
		if first := seen[len(kinds)] == "1"; first != (test.flag != "pid") {
			t.Errorf("%v: process %s", args, seen[len(kinds)])
		}
	}
	if seen := look("--init"); seen[len(kinds)] == "1" {
		t.Error("under an init it is the first process")
	}
	stdin.Close()
	if err := other.Wait(); err != nil {
		t.Error(err)
	}
}

// TestSignals: what run gets goes to the program, whose name is taken meanwhile.
func TestSignals(t *testing.T) {
	x := newExample(t)
	ref := x.pushProbe()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGWINCH} {
		cmd := x.command("--name", "box", "--rm", ref, "/probe", "wait")
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
			t.Errorf("%q, %v", line, err)
		}
		if sig == syscall.SIGTERM {
			if _, stderr, code := x.run("", "--name", "box", ref); code != 125 || !strings.Contains(stderr, `name "box": taken`) {
				t.Errorf("a name that is taken: %d, %q", code, stderr)
			}
		}
		if err := cmd.Process.Signal(sig); err != nil {
			t.Error(err)
		}
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != int(sig) {
			t.Errorf("%v: exit status %d", sig, code)
		}
	}
}

// TestShell has a shell and the usual tools as an image of one layer.
func TestShell(t *testing.T) {
	x := newExample(t)
	ref := x.registry.Push(t, "shell:v1", enginetest.Shell(t))
	for _, test := range []struct {
		args          []string
		stdin, stdout string
		code          int
	}{
		{[]string{"-i", ref}, "echo from a shell; exit 3\n", "from a shell\n", 3},
		{[]string{ref, "true"}, "", "", 0},
		{[]string{ref, "false"}, "", "", 1},
		{[]string{ref, "ls", "/"}, "", "bin\ndev\netc\nhome\nproc\nroot\nsys\ntmp\n", 0},
		{[]string{ref, "sh", "-c", "seq 100000 | wc -l"}, "", "100000\n", 0},
		{[]string{ref, "sh", "-c", "mkdir -p /a/b && echo text >/a/b/c && cat /a/b/c; cat /nothing 2>/dev/null; exit $?"}, "", "text\n", 1},
		{[]string{"-u", "7:8", ref, "id"}, "", "uid=7 gid=8 groups=8\n", 0},
		{[]string{ref, "sh", "-c", "sh -c 'kill -9 $$'; exit $?"}, "", "", 137},
		{[]string{ref, "ps", "-o", "pid,args"}, "", "PID\tARGS\n1\tps -o pid,args\n", 0},
	} {
		stdout, stderr, code := x.run(test.stdin, test.args...)
		if code != test.code || stdout != test.stdout {
			t.Errorf("%q: %d, %q, %q; want %d, %q", test.args, code, stdout, stderr, test.code, test.stdout)
		}
	}
}
