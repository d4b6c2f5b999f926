package runtime

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func init() {
	programs["watch"] = watch
	programs["scribble"] = scribble
}

// newcomers calls f for each process of the container but this one, again and
// again, until the input ends.
func newcomers(f func(proc string)) {
	done := make(chan struct{})
	go func() {
		os.Stdin.Read(make([]byte, 1))
		close(done)
	}()
	fmt.Println("ready")
	self := strconv.Itoa(os.Getpid())
	for {
		select {
		case <-done:
			return
		default:
		}
		names, _ := os.ReadDir("/proc")
		for _, e := range names {
			if _, err := strconv.Atoi(e.Name()); err == nil && e.Name() != self {
				f("/proc/" + e.Name())
			}
		}
	}
}

// watch looks at every process that enters the container, from the moment it
// can be seen, and prints what is not the container's own: descriptors, maps,
// executables that can be written, and the secrets in its arguments wherever
// they stand in memory. At last it says how often it saw a process before its
// execve.
func watch(secrets []string) int {
	early := 0
	found := map[string]bool{}
	report := func(format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		if !found[text] {
			found[text] = true
			fmt.Println(text)
		}
	}
	newcomers(func(proc string) {
		exe, _ := os.Readlink(proc + "/exe")
		if strings.Contains(exe, "memfd:") {
			early++
		} else if exe != "" && !strings.HasPrefix(exe, "/bin/") {
			report("executable %s", exe)
		}
		// The container's own files are its to write, once they do not run.
		if f, err := os.OpenFile(proc+"/exe", os.O_WRONLY, 0); err == nil && strings.HasPrefix(exe, "/bin/") {
			f.Close()
		} else if err == nil {
			report("executable %s opens for writing", exe)
			f.Close()
		}
		fds, _ := os.ReadDir(proc + "/fd")
		for _, e := range fds {
			if n, _ := strconv.Atoi(e.Name()); n > 2 {
				to, err := os.Readlink(proc + "/fd/" + e.Name())
				report("descriptor %d of %s: %s %v", n, exe, to, err)
			}
		}
		for _, link := range []string{"cwd", "root"} {
			if to, err := os.Readlink(proc + "/" + link); err == nil && to != "/" {
				report("%s of %s: %s", link, exe, to)
			}
		}
		environ, _ := os.ReadFile(proc + "/environ")
		maps, _ := os.ReadFile(proc + "/maps")
		mem, err := os.Open(proc + "/mem")
		if err != nil {
			return
		}
		defer mem.Close()
		for line := range strings.Lines(string(maps)) {
			f := strings.Fields(line)
			if len(f) == 6 && f[5][0] != '[' && !strings.HasPrefix(f[5], "/bin/") && f[5] != "/memfd:inboard-keeper" && f[5] != "/memfd:inboard-program" {
				report("mapping %s", f[5])
			}
			from, to, _ := strings.Cut(f[0], "-")
			a, _ := strconv.ParseInt(from, 16, 64)
			b, _ := strconv.ParseInt(to, 16, 64)
			if a <= 0 || b-a > 4<<20 {
				continue
			}
			data := make([]byte, b-a)
			n, _ := mem.ReadAt(data, a)
			for _, secret := range secrets {
				if bytes.Contains(data[:n], []byte(secret)) || bytes.Contains(environ, []byte(secret)) {
					report("secret %q in %s of %s", secret, line, exe)
				}
			}
		}
	})
	fmt.Println("early", early)
	return 0
}

// slowProcess is one that is on its way to execve for long: the search in PATH
// takes a thousand calls.
func slowProcess(t *testing.T, file string) *specs.Process {
	p := fileSpec(t, "/", file).Process
	p.Env = []string{"PATH=" + strings.Repeat("/nothing/here:", few(1000)) + "/bin"}
	return p
}

// attacker starts a container with the capabilities given, whose program's
// lines come through the writer; stop ends it and gives the rest of them.
func attacker(t *testing.T, r *Runtime, program string, capabilities []string, args ...string) (c *Container, stop func() []string) {
	t.Helper()
	s := newSpec(t, newRootfs(t), program, args...)
	caps := append(DefaultCapabilities(), capabilities...)
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Permitted: caps, Effective: caps}
	var err error
	if s.Linux.Seccomp, err = DefaultSeccomp(caps); err != nil {
		t.Fatal(err)
	}
	in, feed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out := newLines()
	c = start(t, r, s, CreateOptions{ProcessOptions: ProcessOptions{Stdin: in, Stdout: out, Stderr: os.Stderr}})
	in.Close()
	t.Cleanup(func() { feed.Close() })
	out.want(t, "ready")
	return c, func() (rest []string) {
		feed.Close()
		go func() {
			wait(t, c)
			out.Writer.(interface{ Close() error }).Close()
		}()
		for {
			line, err := out.from.ReadString('\n')
			if err != nil {
				return rest
			}
			rest = append(rest, strings.TrimSpace(line))
		}
	}
}

// CVE-2016-9962, CVE-2019-5736, CVE-2024-21626, CVE-2020-14370: a container in
// which everything may be traced finds nothing of the host in what enters it.
func TestCVE_2016_9962(t *testing.T) {
	t.Setenv("INBOARD_SECRET", "the-host-s-own")
	r := openTest(t)
	c, stop := attacker(t, r, "watch", []string{"CAP_SYS_PTRACE"}, "the-host-s-own", testBase, testParent)
	for i := range few(60) {
		o := ProcessOptions{Stdin: strings.NewReader(""), Stdout: new(bytes.Buffer), User: "user"}
		if i%2 == 0 {
			o = ProcessOptions{}
		}
		x, err := c.Exec(background, slowProcess(t, "true"), o)
		if err != nil {
			t.Fatal(err)
		}
		wait(t, x)
	}
	lines := stop()
	if len(lines) != 1 || lines[0] == "early 0" {
		t.Errorf("found:\n%s", strings.Join(lines, "\n"))
	}
}

// Without that capability it does not even get to see the process before its
// execve, though both are the same root: it is not dumpable.
func TestCVE_2016_9962_NotDumpable(t *testing.T) {
	r := openTest(t)
	c, stop := attacker(t, r, "watch", nil)
	for range few(30) {
		x, err := c.Exec(background, slowProcess(t, "true"), ProcessOptions{})
		if err != nil {
			t.Fatal(err)
		}
		wait(t, x)
	}
	if lines := stop(); !slices.Equal(lines, []string{"early 0"}) {
		t.Errorf("found:\n%s", strings.Join(lines, "\n"))
	}
}

// scribble overwrites the program of every process that enters the container.
func scribble(args []string) int {
	junk := bytes.Repeat([]byte{0xff}, 1<<16)
	if len(args) > 0 { // a failure record alone: a step that is none
		junk = binary.LittleEndian.AppendUint64(nil, 0xfffffff000000001)
	}
	hits := 0
	newcomers(func(proc string) {
		exe, _ := os.Readlink(proc + "/exe")
		if !strings.Contains(exe, "memfd:") {
			return
		}
		mem, err := os.OpenFile(proc+"/mem", os.O_WRONLY, 0)
		if err != nil {
			return
		}
		defer mem.Close()
		if len(args) > 0 {
			mem.WriteAt(junk, progBase+8)
			hits++
			return
		}
		maps, _ := os.ReadFile(proc + "/maps")
		for line := range strings.Lines(string(maps)) {
			var a, b int64
			if n, _ := fmt.Sscanf(line, "%x-%x", &a, &b); n == 2 && strings.Contains(line, "inboard-program") {
				for at := a; at < b; at += 4096 {
					mem.WriteAt(junk[:4096], at)
					hits++
				}
			}
		}
	})
	fmt.Println("hits", hits)
	return 0
}

// What a container writes into the program of a process that enters it reaches
// neither the host program nor another container. No exec hangs, and no process
// is taken for one of somebody else.
func TestScribbledProgram(t *testing.T) {
	r := openTest(t)
	for _, args := range [][]string{nil, {"record"}} {
		c, stop := attacker(t, r, "scribble", []string{"CAP_SYS_PTRACE"}, args...)
		bystander := idle(t, r, nil)
		y, err := bystander.Exec(background, fileSpec(t, "/", "/bin/sleep").Process, ProcessOptions{})
		if err != nil {
			t.Fatal(err)
		}
		failed := 0
		for range few(60) {
			x, err := c.Exec(background, slowProcess(t, "true"), ProcessOptions{})
			if err != nil {
				failed++
				continue
			}
			x.Wait(background)
		}
		if bystander.Pid() == 0 || y.Pid() == 0 {
			t.Error("another container's process was hit")
		}
		lines := stop()
		if len(lines) != 1 || lines[0] == "hits 0" {
			t.Error(lines)
		}
		t.Logf("%s, %d of %d execs failed", lines, failed, few(60))
		c.Delete(background) // which waits for all that entered it
		k := c.process.keeper
		k.mu.Lock()
		if len(k.strays) != 0 || k.forks != 0 || len(k.children) != 2 {
			t.Errorf("the keeper's books: %d strays, %d forks, %d children", len(k.strays), k.forks, len(k.children))
		}
		k.mu.Unlock()
		bystander.Delete(background)
	}
}

// CVE-2019-5736: the program that enters containers is a sealed copy. A command
// that is /proc/self/exe gets that, cannot write it, and harms nobody.
func TestCVE_2019_5736(t *testing.T) {
	r := openTest(t)
	root := newRootfs(t)
	s := fileSpec(t, root, "/proc/self/exe")
	for range 3 {
		c, err := r.Start(background, s, CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if st := wait(t, c); !st.Known {
			t.Error(st)
		}
		c.Delete(background)
	}
	elf, err := checkedELF()
	if err != nil {
		t.Fatal(err)
	}
	f, err := keeperExecutable(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := os.OpenFile(f.Name(), os.O_RDWR, 0)
	if err == nil {
		defer w.Close()
		if _, err := w.WriteAt([]byte{0xcc}, 0); err == nil {
			t.Error("the keeper's executable can be written")
		}
		if err := w.Truncate(0); err == nil {
			t.Error("the keeper's executable can be cut off")
		}
	}
	now := make([]byte, len(elf))
	if _, err := f.ReadAt(now, 0); err != nil || !bytes.Equal(now, elf) {
		t.Error("the keeper's executable has changed", err)
	}
}
