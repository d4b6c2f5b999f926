//go:build linux

package main_test

import (
	"archive/tar"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// programImage is an image of programs of this machine, with the libraries and
// the descriptions of terminals that they need.
func (x *example) programImage(programs ...string) (ref string) {
	x.t.Helper()
	var missing []string
	files := map[string]bool{}
	for _, name := range programs {
		path, err := exec.LookPath(name)
		if err != nil {
			missing = append(missing, name)
			continue
		}
		files[path] = true
		out, _ := exec.Command("ldd", path).Output() // fails for a static one
		for _, library := range regexp.MustCompile(`/\S+`).FindAllString(string(out), -1) {
			files[library] = true
		}
	}
	if len(missing) > 0 {
		x.t.Skipf("not installed: %s", strings.Join(missing, ", "))
	}
	for _, kind := range []string{"s/screen", "x/xterm"} {
		for _, dir := range []string{"/lib/terminfo/", "/usr/share/terminfo/"} {
			if _, err := os.Stat(dir + kind); err == nil {
				files[dir+kind] = true
			}
		}
	}
	headers := []*tar.Header{{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}}
	for path := range files {
		headers = append(headers, &tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(path, "/"), Mode: 0o755, Linkname: path})
	}
	return x.push("programs", []string{"bash"}, headers...)
}

// pane is a shell in a terminal of tmux, which has a server of its own.
type pane struct {
	t      *testing.T
	socket string
	tokens int
}

func newPane(t *testing.T, columns, rows int) *pane {
	t.Helper()
	if _, err := exec.LookPath("tmux"); err != nil {
		t.Skip("not installed: tmux")
	}
	p := &pane{t: t, socket: filepath.Join(t.TempDir(), "tmux")}
	t.Cleanup(func() { _ = exec.Command("tmux", "-S", p.socket, "kill-server").Run() })
	p.tmux("-f", "/dev/null", "new-session", "-d", "-x", fmt.Sprint(columns), "-y", fmt.Sprint(rows),
		"env", "-u", "TMUX", "PS1=host> ", "bash", "--norc", "--noprofile")
	p.await("host>")
	return p
}

func (p *pane) tmux(args ...string) string {
	p.t.Helper()
	out, err := exec.Command("tmux", append([]string{"-S", p.socket}, args...)...).CombinedOutput()
	if err != nil {
		p.t.Fatalf("tmux %q: %v\n%s", args, err, out)
	}
	return string(out)
}

// press presses keys, by tmux's names of them.
func (p *pane) press(keys ...string) {
	p.t.Helper()
	p.tmux(append([]string{"send-keys"}, keys...)...)
}

// enter types a line.
func (p *pane) enter(line string) {
	p.t.Helper()
	p.tmux("send-keys", "-l", line)
	p.press("Enter")
}

// await waits until the screen has a text.
func (p *pane) await(text string) {
	p.t.Helper()
	p.awaitMatch(func(screen string) bool { return strings.Contains(screen, text) }, text)
}

func (p *pane) awaitMatch(matches func(screen string) bool, what string) {
	p.t.Helper()
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) { // tmux tells of no change
		screen := p.tmux("capture-pane", "-p")
		if matches(screen) {
			return
		}
		if time.Since(began) > time.Minute {
			p.t.Fatalf("no %q on the screen:\n%s", what, screen)
		}
	}
}

// prompt waits until the last line is a prompt and nothing else.
func (p *pane) prompt(text string) {
	p.t.Helper()
	p.awaitMatch(func(screen string) bool { return strings.HasSuffix("\n"+strings.TrimSpace(screen), "\n"+text) }, text)
}

// gives runs a command in the shell that is in front, until it prints what is
// wanted, and its prompt is back.
func (p *pane) gives(command, want string) {
	p.t.Helper()
	for began := time.Now(); ; {
		p.tokens++
		p.enter(fmt.Sprintf("%s; echo %d-$((%d*2))", command, p.tokens, p.tokens))
		p.await(fmt.Sprintf("\n%d-%d\n", p.tokens, p.tokens*2))
		screen := p.tmux("capture-pane", "-p")
		if strings.Contains(screen, want+"\n") {
			return
		}
		if time.Since(began) > time.Minute {
			p.t.Fatalf("%s does not give %q:\n%s", command, want, screen)
		}
	}
}

func (p *pane) resize(columns, rows int) {
	p.t.Helper()
	p.tmux("resize-window", "-x", fmt.Sprint(columns), "-y", fmt.Sprint(rows))
}

// TestTerminal has bash, vim and top in the example's terminal, which is in one
// of tmux.
func TestTerminal(t *testing.T) {
	x := newExample(t)
	ref := x.programImage("bash", "vim", "top", "stty", "tty", "sleep", "cat", "clear")
	p := newPane(t, 100, 30)
	mode := filepath.Join(t.TempDir(), "mode")
	p.gives("stty -g >"+mode+" && echo saved", "saved")
	asBefore := func() {
		t.Helper()
		p.gives("stty -g | cmp - "+mode+" && echo as before", "as before")
	}
	run := fmt.Sprintf("%s -root %s -i -t -e PS1='inside> ' --rm %s ", x.program, x.root, ref)
	p.enter(run + "bash --norc --noprofile")
	p.await("inside>")

	t.Log("typing")
	p.gives("tty", "/dev/pts/0")
	p.gives("stty size </dev/console", "30 100")
	p.gives("echo $TERM", "xterm")
	p.tmux("send-keys", "-l", "echo mistake")
	p.press("BSpace", "BSpace", "BSpace", "BSpace")
	p.enter("sed")
	p.await("\nmissed\n")

	t.Log("resizing")
	p.resize(90, 25)
	p.gives("stty size", "25 90")

	t.Log("^C")
	p.enter("sleep 1000")
	p.press("C-c")
	p.gives("echo code $?", "code 130")

	t.Log("^Z")
	p.enter("sleep 2000")
	p.press("C-z")
	p.await("Stopped")
	// wait could see it stopped still.
	p.gives("kill -KILL %1 && while jobs %1 &>/dev/null; do :; done; echo code $?", "code 0")

	t.Log("vim")
	p.enter("vim -u NONE -N /tmp/file")
	p.await("~\n")
	p.press("i")
	p.tmux("send-keys", "-l", "hello from vim")
	p.press("Escape")
	p.await("hello from vim")
	p.resize(80, 20)
	p.enter(":set lines? columns?")
	p.await("lines=20")
	p.enter(":w")
	p.await("written")
	p.press("C-z")
	p.await("Stopped")
	p.enter("fg")
	p.await("hello from vim")

	t.Log("detaching")
	p.press("C-p", "C-q")
	p.await("\nhost>")
	asBefore()
	p.resize(85, 22)
	p.enter("clear; fg")
	p.awaitMatch(func(screen string) bool {
		return strings.Contains(screen, "hello from vim") && strings.Contains(screen, "~\n")
	}, "vim again")
	p.enter(":set lines?")
	p.await("lines=22")
	p.enter(":q")
	p.prompt("inside>") // a program that restores its terminal drops what was typed ahead
	p.gives("cat /tmp/file", "hello from vim")

	t.Log("top")
	p.enter("clear; top")
	p.await("PID USER")
	p.await("bash")
	p.resize(100, 30)
	p.press("q")
	p.prompt("inside>")
	p.gives("stty size", "30 100")

	p.enter("exit 7")
	p.prompt("host>")
	p.gives("echo status $?", "status 7")
	asBefore()
	p.enter("clear; " + run + "/missing")
	p.prompt("host>")
	p.gives("echo status $?", "status 127")
	asBefore()
}
