package tools

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// program is the tools in a directory of links, or skips.
func program(t *testing.T) (bin string) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("the tools are for Linux")
	}
	data, err := Build(runtime.GOARCH)
	if errdefs.IsUnavailable(err) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	bin = t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "tools"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range Names {
		if err := os.Symlink("tools", filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	return bin
}

func TestNames(t *testing.T) {
	bin := program(t)
	out, err := exec.Command(filepath.Join(bin, "tools"), "--list").Output()
	if err != nil || !slices.Equal(strings.Fields(string(out)), Names) {
		t.Errorf("%v: %s", err, out)
	}
}

// TestScripts runs lines of shell, each in a directory of its own, with no
// program but the tools.
func TestScripts(t *testing.T) {
	bin := program(t)
	for script, want := range scripts {
		dir := t.TempDir()
		cmd := exec.Command(filepath.Join(bin, "sh"), "-c", script)
		cmd.Dir, cmd.Env = dir, []string{"PATH=" + bin}
		cmd.Stdin = strings.NewReader("input\nsecond\n")
		out, err := cmd.CombinedOutput()
		got := string(out)
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			got += "exit " + exit.String() + "\n"
		} else if err != nil {
			t.Fatal(err)
		}
		got = strings.ReplaceAll(got, dir, "DIR")
		if got != want {
			t.Errorf("%s\n got %q\nwant %q", script, got, want)
		}
	}
}

var scripts = map[string]string{
	// the shell
	`echo hi | cat | wc -c`:                                                           "3\n",
	`for i in 1 2 3; do echo $i; done | sort -rn | head -n 2`:                         "3\n2\n",
	`i=0; while [ $i -lt 3 ]; do i=$((i+1)); done; echo $i`:                           "3\n",
	`f() { local a=$1; echo "f $a"; return 4; }; f 2; echo $?`:                        "f 2\n4\n",
	`case abc in b*) echo no;; a*) echo yes;; esac`:                                   "yes\n",
	`x=$(seq 3 | tail -n 1); echo "$x${y:-default}${x#3}"`:                            "3default\n",
	"cat <<X | tr a-z A-Z\ntext\nX":                                                   "TEXT\n",
	`read line; echo "got $line"; cat`:                                                "got input\nsecond\n",
	`false || echo "status $?"; true && echo true`:                                    "status 1\ntrue\n",
	`nothing; echo $?`:                                                                "\"nothing\": executable file not found in $PATH\n127\n",
	`sh -c 'exit 7'; echo $?`:                                                         "7\n",
	`sh -c 'kill -KILL $$'; echo $?`:                                                  "137\n",
	`set -e; false; echo not here`:                                                    "exit exit status 1\n",
	`sleep 0.01 & sleep 0.01 & wait; echo waited`:                                     "waited\n",
	`(sleep 0.01; exit 3) & wait $!; echo $?`:                                         "3\n",
	`trap 'echo bye' EXIT; exit 5`:                                                    "bye\nexit exit status 5\n",
	`trap 'echo got' USR1; kill -USR1 $$; sleep 0.05; echo after`:                     "got\nafter\n",
	`trap 'exit 6' TERM; kill $$; sleep 0.05; echo not here`:                          "exit exit status 6\n",
	`trap '' TERM; kill $$; sleep 0.05; echo alive`:                                   "alive\n",
	`trap 'echo x' TERM; trap - TERM; kill $$; sleep 1; echo no`:                      "exit signal: terminated\n",
	`trap 'echo last' TERM; sh -c "kill $$; sleep 0.05"`:                              "last\n",
	`umask 027; umask; echo >f; stat -c %a f`:                                         "0027\n640\n",
	`echo a >f; echo b >>f; { read x; read y; } <f; echo $y$x; ls nothing 2>&1 | cat`: "ba\nls: nothing: no such file or directory\n",
	`if then`:                "sh:1:1: `if` must be followed by a statement list\nexit exit status 2\n",
	`printf '%s-%03d\n' a 7`: "a-007\n",
	`tools printf '%s\n' x`:  "x\n",
	`tools [ a = a ]; echo $?; tools test 1 -gt 2; echo $?`: "0\n1\n",

	// files
	`mkdir -p a/b && echo x >a/b/f && ln -s b a/l && cp -r a c && find c; rm -r a; ls`:                       "c\nc/b\nc/b/f\nc/l\nc\n",
	`touch f; chmod 4751 f; stat -c '%A %a %F' f; chmod u-s,g=,o+w f; stat -c %a f`:                          "-rwsr-x--x 4751 regular empty file\n703\n",
	`touch -d @1000000000 f; cp -a f g; stat -c %Y f g`:                                                      "1000000000\n1000000000\n",
	`mkfifo p; ln f f 2>/dev/null; stat -c %F p; test -p p; echo $?`:                                         "fifo\n0\n",
	`echo 1 >a; echo 2 >b; mv a b; cat b; mkdir d; mv b d; ls d; rmdir d`:                                    "1\nb\nrmdir: d: directory not empty\nexit exit status 1\n",
	`echo x >f; ln f g; ln -s f s; readlink s; stat -c %h f; realpath s; basename /a/b.c .c; dirname /a/b/c`: "f\n2\nDIR/f\nb\n/a/b\n",
	`touch .h f; ls; ls -A; ls -d .; rm -f f nothing; ls -l | wc -l`:                                         "f\n.h\nf\n.\n0\n",
	`truncate -s 1M f; stat -c %s f; dd if=f bs=1k count=3 status=none | wc -c`:                              "1048576\n3072\n",
	`mkdir d; mktemp -d -p d x.XXXX >n; test -d "$(cat n)" && echo yes`:                                      "yes\n",
	`mkdir d; echo x >d/f; ln -s f d/l; tar cf t.tar d; tar tf t.tar; rm -r d; tar -x -f t.tar; cat d/l`:     "d/\nd/f\nd/l\nx\n",
	`echo text | gzip | gunzip; echo text | base64 | base64 -d; echo text | sha256sum | cut -c 1-8`:          "text\ntext\nb9e68e1b\n",
	`mkdir d; touch d/a.x d/b; find d -name '*.x' -type f; find d -type f -delete; ls d`:                     "d/a.x\n",

	// text
	`printf 'b 2\na 10\n' | sort; printf 'b 2\na 10\n' | sort -n -k 2`:                                                                "a 10\nb 2\nb 2\na 10\n",
	`printf 'a\na\nb\n' | uniq -c | tr -s ' '; printf 'a\na\nb\n' | sort -u`:                                                          " 2 a\n 1 b\na\nb\n",
	`printf 'one\ntwo\n' | grep -n 'o\(n\|x\)e'; printf 'one\n' | grep -E -o 'n|x'; echo a+b | grep a+b; echo x | grep -q y; echo $?`: "1:one\nn\na+b\n1\n",
	`echo a:b:c | cut -d : -f 2-; echo hello | tr -d l; seq 5 | head -n 2 | tail -n 1; seq 3 1; seq 3 -1 1 | tr '\n' ' '`:             "b:c\nheo\n2\n3 2 1 ",
	`seq 3 | xargs -n 2 echo; seq 2 | xargs -I % echo n%; yes | head -n 2 | wc -l; echo a b | wc -w`:                                  "1 2\n3\nn1\nn2\n2\n2\n",
	`echo x | tee f; cat f - </dev/null; echo abc | rev`:                                                                              "x\nx\ncba\n",

	// the system
	`env -i A=1 env; A=2 printenv A`:                                            "A=1\n2\n",
	`timeout 0.05 sleep 5; echo $?; timeout 5 sh -c 'exit 3'; echo $?`:          "124\n3\n",
	`kill -l | grep -c TERM; kill -0 $$ && echo there; which cat | grep -c cat`: "1\nthere\n1\n",
	`sleep x`: "sleep: x: not a number of seconds\nexit exit status 2\n",
	`ls -Z`:   "ls: no option -Z here\nexit exit status 2\n",
	`date -u -d @0 '+%Y-%m-%d %H:%M:%S'; uname | grep Linux; ps -o pid,comm | grep -c "^$$"`: "1970-01-01 00:00:00\nLinux\n1\n",
	`mount | grep -c ' on /proc '; df / | wc -l; tty </dev/null; nproc | grep -c .`:          "1\n2\nnot a tty\n1\n",
}

// TestKept: another process that builds the program gets what was kept, and
// what was kept of another source is built anew.
func TestKept(t *testing.T) {
	needGo(t)
	if _, err := Build(runtime.GOARCH); errdefs.IsUnavailable(err) {
		t.Skip(err)
	}
	cache := t.TempDir()
	t.Setenv("GOCACHE", goEnv(t, "GOCACHE")) // as if only ours were new
	t.Setenv("XDG_CACHE_HOME", cache)
	t.Setenv("HOME", cache)
	t.Setenv("GOPATH", goEnv(t, "GOPATH"))
	t.Setenv("GOMODCACHE", goEnv(t, "GOMODCACHE"))
	kept := keptAt(runtime.GOARCH)
	if !strings.HasPrefix(kept, cache) {
		t.Skip("the cache directory of this system cannot be moved")
	}
	first, err := compile(runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(kept)
	if err != nil {
		t.Fatal(err)
	}
	second, err := compile(runtime.GOARCH)
	if err != nil || !bytes.Equal(first, second) {
		t.Errorf("%v: %d bytes, then %d", err, len(first), len(second))
	}
	if again, err := os.Stat(kept); err != nil || !os.SameFile(info, again) {
		t.Errorf("it was kept again: %v", err)
	}
	if err := os.WriteFile(kept, []byte("not the program"), 0o755); err != nil {
		t.Fatal(err)
	}
	third, err := compile(runtime.GOARCH)
	if err != nil || !bytes.Equal(first, third) {
		t.Errorf("%v: %d bytes, then %d", err, len(first), len(third))
	}
}

func needGo(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("needs the go command")
	}
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command("go", "env", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// TestMissing has a module cache that is empty, and no network.
func TestMissing(t *testing.T) {
	needGo(t)
	t.Setenv(Env, "")
	t.Setenv("GOMODCACHE", t.TempDir())
	t.Setenv("GOPROXY", "off")
	t.Setenv("GOFLAGS", "-modcacherw")
	_, err := compile(runtime.GOARCH)
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "go mod download golang.org/x/sys@v") || !strings.Contains(err.Error(), "mvdan.cc/sh/v3@v") {
		t.Error(err)
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := compile(runtime.GOARCH); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "no go command") {
		t.Error(err)
	}
	file := filepath.Join(t.TempDir(), "tools")
	if err := os.WriteFile(file, []byte("given"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(Env, file)
	if data, err := Build("any"); err != nil || string(data) != "given" {
		t.Errorf("%q, %v", data, err)
	}
}

// TestVet: the program's module is none of ./..., so it is looked at here.
func TestVet(t *testing.T) {
	needGo(t)
	if _, err := Build(runtime.GOARCH); errdefs.IsUnavailable(err) {
		t.Skip(err)
	}
	dir := t.TempDir()
	if err := Source(dir); err != nil {
		t.Fatal(err)
	}
	arches := []string{"amd64", "arm64"}
	if testing.Short() {
		arches = []string{runtime.GOARCH}
	}
	for _, arch := range arches {
		cmd := exec.Command("go", "vet", "./...")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+arch, "CGO_ENABLED=0", "GOFLAGS=-mod=readonly", "GOWORK=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", arch, err, out)
		}
	}
}
