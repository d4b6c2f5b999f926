package engine

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func init() { helpers["ids"] = helperIDs }

// helperIDs takes ranges of ids, tells their numbers, and waits to be killed:
// FILE COUNT.
func helperIDs(args []string) error {
	p := idRanges{path: args[0], etc: "/nothing/there"}
	n, _ := strconv.Atoi(args[1])
	for range n {
		r, err := p.take()
		if err != nil {
			return err
		}
		fmt.Println(r.number)
	}
	time.Sleep(time.Hour) // with nothing to run, the Go runtime would end the program
	return nil
}

var private = Security{UserNamespace: UserNamespacePrivate}

// firstIDOf gives the host's id of a container's root, as the container has it.
func firstIDOf(t *testing.T, uidMap string) int64 {
	t.Helper()
	fields := strings.Fields(uidMap)
	if len(fields) != 3 || fields[0] != "0" || fields[2] != strconv.Itoa(rangeSize) {
		t.Fatalf("id map %q", uidMap)
	}
	id, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil || id < firstID || (id-firstID)%rangeSize != 0 {
		t.Fatalf("id map %q", uidMap)
	}
	return id
}

// What a container with a user namespace sees is what one without sees; on the
// host, its processes have ids that no other container's have.
func TestUserNamespace(t *testing.T) {
	e, img := plainImage(t)
	for _, args := range [][]string{
		{"look", "prog", "etc/passwd", "data/notexec", "tmp", ""},
		{"id"}, {"stat", "/tmp"}, {"write", "/new", "x"}, {"write", "/data/notexec", "x"}, {"chmod", "/data"}, {"read", "/etc/hosts"}, {"list", "/"},
	} {
		want, status := runs(t, Config{Hostname: "same"}, args...)
		got, mapped := runs(t, Config{Hostname: "same", Security: private}, args...)
		if got != want || status != mapped || status.Code != 0 {
			t.Errorf("%v: %q, %v, want %q, %v", args, got, mapped, want, status)
		}
	}
	if out, _ := runs(t, Config{User: "app:extra", Security: private}, "id"); out != "1000 2000 [2000] /\n" {
		t.Error(out)
	}
	seen := make(map[int64]bool)
	for range 3 {
		c := started(t, e, img, Config{Args: []string{"wait"}, Security: private})
		awaitLog(t, c, "ready\n")
		var out strings.Builder
		x, err := c.Exec(t.Context(), ExecConfig{Args: []string{"/prog", programFlag, "read", "/proc/self/uid_map"}, Stdout: &out})
		if err != nil {
			t.Fatal(err)
		}
		if status, err := x.Wait(t.Context()); err != nil || status.Code != 0 {
			t.Fatal(status, err)
		}
		id := firstIDOf(t, out.String())
		if seen[id] {
			t.Errorf("two containers have the ids from %d on", id)
		}
		seen[id] = true
		info, err := c.Inspect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Stat(fmt.Sprint("/proc/", info.PID), &st); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(fmt.Sprint("/proc/", info.PID, "/status"))
		if want := fmt.Sprintf("\nUid:\t%d\t%d\t%d\t%d\nGid:\t%d\t%d\t%d\t%d\n", id, id, id, id, id, id, id, id); err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%v, %s\nwant %s", err, text, want)
		}
	}
}

// Containers with user namespaces have a superblock one after the other, with
// the same ids, and never one that containers without have.
func TestUserNamespaceReused(t *testing.T) {
	needReuse(t)
	e := patientEngine(t)
	img := pulled(t, e, nil)
	read := []string{"read", "/proc/self/uid_map"}
	devices := make(map[string]int64)
	for range 8 {
		out, plain := ranIn(t, e, img, Config{}, "stat", "/prog")
		if !strings.HasPrefix(out, "755 0 0 ") {
			t.Error(out)
		}
		uidMap, mapped := ranIn(t, e, img, Config{Security: private}, read...)
		if mapped.mount == plain.mount || mapped.layer == plain.layer {
			t.Errorf("one root for both: %+v", mapped)
		}
		id := firstIDOf(t, uidMap)
		if before, ok := devices[mapped.layer]; ok && before != id {
			t.Errorf("layer %s is shown with the ids from %d on, and from %d", mapped.layer, before, id)
		}
		devices[mapped.layer] = id
		if out, _ := ranIn(t, e, img, Config{Security: private}, "stat", "/prog"); !strings.HasPrefix(out, "755 0 0 ") {
			t.Error(out)
		}
	}
	if len(devices) > maxReady+2 {
		t.Errorf("%d roots for containers that ran one after the other", len(devices))
	}
	e.ids.mu.Lock()
	defer e.ids.mu.Unlock()
	if len(e.ids.held) > maxReady+3 {
		t.Errorf("%d ranges are held", len(e.ids.held))
	}
}

// A writable layer has the container's ids on the disk, so that the next run has
// other ids of the host's and the same files.
func TestUserNamespaceRestart(t *testing.T) {
	e := testEngine(t)
	img := pulled(t, e, nil)
	var out strings.Builder
	c := started(t, e, img, Config{Args: []string{"append", "/data/notexec", "x"}, Security: private, Stdout: &out})
	ids := make(map[int64]bool)
	for run := 1; run <= 3; run++ {
		if status, err := c.Wait(t.Context()); err != nil || status.Code != 0 {
			t.Fatalf("run %d: %v, %v: %s", run, status, err, out.String())
		}
		if want := "text" + strings.Repeat("x", run) + "\n"; out.String() != want {
			t.Errorf("run %d: %q, want %q", run, out.String(), want)
		}
		out.Reset()
		ids[c.own.run.ids.number] = true
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(c.own.layer.upper(), "data/notexec"), &st); err != nil || st.Uid != 0 || st.Gid != 0 {
			t.Errorf("on the disk: %d:%d, %v", st.Uid, st.Gid, err)
		}
		if run == 3 {
			break
		}
		// The overlay is mounted anew, with ids that another has had.
		<-c.own.run.released
		c.own.ready().expire(&e.spares, time.Now().Add(time.Hour))
		taken, err := e.ids.take()
		if err != nil {
			t.Fatal(err)
		}
		defer e.ids.release(taken)
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(ids) < 2 {
		t.Errorf("ranges %v", ids)
	}
}

// Without clones of mounts, and where the program mounts the overlay.
func TestUserNamespaceWithoutClones(t *testing.T) {
	withoutClones(t)
	e := testEngine(t)
	img := pulled(t, e, nil)
	for range 3 {
		out, _ := ranIn(t, e, img, Config{Security: private}, "stat", "/prog")
		if !strings.HasPrefix(out, "755 0 0 ") {
			t.Error(out)
		}
	}
}

func TestUserNamespaceRefused(t *testing.T) {
	e, img := plainImage(t)
	for what, c := range map[string]Config{
		"privileged": {Network: NetworkNone, Security: Security{UserNamespace: UserNamespacePrivate, Privileged: true}},
		"network":    {Network: NetworkHost, Security: private},
		"keep-id":    {Network: NetworkNone, Security: Security{UserNamespace: "keep-id"}},
	} {
		if _, err := e.Create(t.Context(), img, c); !errors.Is(err, ErrInvalidArgument) || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	c := create(t, e, img, Config{User: "65536", Args: []string{"id"}, Security: private})
	if err := c.Start(t.Context()); !errors.Is(err, ErrInvalidArgument) || !strings.Contains(err.Error(), "65536") {
		t.Error(err)
	}
	if n := c.own.ready().ranges; n != &e.ids {
		t.Error("ranges of another engine")
	}
}

// Root inside can do nothing to the host's files, unless the mount says that it
// is the host's there.
func TestUserNamespaceMount(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	mount := func(options ...string) Config {
		return Config{Security: private, Mounts: []Mount{{Type: MountBind, Source: dir, Target: "/host", Options: options}}}
	}
	if out, _ := runs(t, mount(), "read", "/host/secret"); !strings.Contains(out, "permission denied") {
		t.Error(out)
	}
	if out, _ := runs(t, mount("idmap"), "read", "/host/secret"); out != "secret" {
		t.Error(out)
	}
	if out, status := runs(t, mount(), "write", "/host/made", "x"); status.Code != 0 {
		t.Error(out)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "made"), &st); err != nil || st.Uid < firstID || st.Gid != st.Uid {
		t.Errorf("made by %d:%d, %v", st.Uid, st.Gid, err)
	}
}

// Two programs have no range in common. What one had is free when it is killed.
func TestIDRanges(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ids")
	cmd := helperCommand(t, "ids", file, "3")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := sync.OnceFunc(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	t.Cleanup(kill)
	lines := bufio.NewScanner(out)
	for want := range 3 {
		if !lines.Scan() || lines.Text() != strconv.Itoa(want) {
			t.Fatalf("%q, want %d", lines.Text(), want)
		}
	}
	p := idRanges{path: file, etc: "/nothing/there"}
	defer p.close()
	take := func(p *idRanges, want int64) *idRange {
		t.Helper()
		r, err := p.take()
		if err != nil {
			t.Fatal(err)
		}
		if r.number != want {
			t.Errorf("range %d, want %d", r.number, want)
		}
		return r
	}
	three, four := take(&p, 3), take(&p, 4)
	p.share(three)
	p.release(three)
	five := take(&p, 5)
	p.release(three)
	take(&p, 3)
	kill()
	other := idRanges{path: file, etc: "/nothing/there"}
	defer other.close()
	for n := range int64(3) {
		take(&other, n)
	}
	take(&other, 6)
	// Beyond some, those that nobody has are free for others.
	p.release(four)
	p.release(five)
	var many []*idRange
	for n := range int64(maxFreeRanges + 2) {
		many = append(many, take(&p, []int64{5, 4, 7 + n - 2}[min(n, 2)]))
	}
	for _, r := range many {
		p.release(r)
	}
	if len(p.free) != maxFreeRanges || len(p.held) != maxFreeRanges+1 {
		t.Errorf("%d are free, %d held", len(p.free), len(p.held))
	}
	take(&other, many[maxFreeRanges].number)
	// The last one is followed by the first.
	last := idRanges{path: filepath.Join(t.TempDir(), "ids"), etc: "/nothing/there", next: rangeCount - 1}
	defer last.close()
	take(&last, rangeCount-1)
	take(&last, 0)
	for n := range int64(rangeCount) {
		if last.held != nil {
			last.held[n] = true
		}
	}
	if _, err := last.take(); !errors.Is(err, ErrResourceExhausted) {
		t.Error(err)
	}
}

// Ranges in which others have ids are left out.
func TestTakenRanges(t *testing.T) {
	etc := t.TempDir()
	for name, text := range map[string]string{
		"passwd": fmt.Sprintf("root:x:0:0::/:/\n# comment\n\nbad:x:y:z\nremote:x:%d:5::/:/\n", firstID+3),
		"group":  fmt.Sprintf("many:x:%d:%s\n", firstID+2*rangeSize-1, strings.Repeat("member,", 20000)),
		"subuid": fmt.Sprintf("a:100000:65536\nb:%d:2\nc:4000000000:65536\n", firstID+4*rangeSize-1),
		"subgid": fmt.Sprintf("d:500000:%d\nhuge:%d:4294967295\n", firstID+1-500000, firstID+(rangeCount-1)*rangeSize),
	} {
		if err := os.WriteFile(filepath.Join(etc, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	taken, err := takenRanges(etc)
	want := fmt.Sprint(map[int64]bool{0: true, 1: true, 3: true, 4: true, rangeCount - 1: true})
	if err != nil || fmt.Sprint(taken) != want {
		t.Errorf("%v, %v, want %s", taken, err, want)
	}
	p := idRanges{path: filepath.Join(t.TempDir(), "ids"), etc: etc}
	defer p.close()
	for _, want := range []int64{2, 5} {
		if r, err := p.take(); err != nil || r.number != want {
			t.Errorf("%+v, %v, want %d", r, err, want)
		}
	}
}

// What another program runs in a container has the container's ids, and no
// rights outside.
func TestUserNamespaceExecOtherPrograms(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	e, other := testEngine(t, root), testEngine(t, root)
	c := started(t, e, pulled(t, e, nil), Config{Args: []string{"pause"}, Security: Security{UserNamespace: UserNamespacePrivate}})
	theirs, err := other.Lookup(t.Context(), c.ID())
	if err != nil {
		t.Fatal(err)
	}
	x, err := theirs.Exec(t.Context(), ExecConfig{Args: []string{"/prog", programFlag, "pause"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"uid_map", "gid_map", "ns/user"} {
		look := os.ReadFile
		if file == "ns/user" {
			look = func(name string) ([]byte, error) {
				target, err := os.Readlink(name)
				return []byte(target), err
			}
		}
		first, err1 := look(fmt.Sprintf("/proc/%d/%s", c.own.run.container.Pid(), file))
		second, err2 := look(fmt.Sprintf("/proc/%d/%s", x.PID(), file))
		if err1 != nil || err2 != nil || string(first) != string(second) {
			t.Errorf("%s: %q, %v; %q, %v", file, first, err1, second, err2)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d", x.PID()), &st); err != nil || st.Uid < firstID {
		t.Errorf("on the host it is of user %d, %v", st.Uid, err)
	}
	s := newScreen(t)
	y, err := theirs.Exec(t.Context(), ExecConfig{
		Args: []string{"/prog", programFlag, "tty"}, User: "app", TTY: true, WindowSize: WindowSize{6, 60}, Stdin: s.in, Stdout: s})
	if err != nil {
		t.Fatal(err)
	}
	if status, err := y.Wait(t.Context()); err != nil || status.Code != 0 {
		t.Errorf("%v, %v", status, err)
	}
	s.await(t, "terminal 6x60 of user 1000, TERM xterm\r\n")
}
