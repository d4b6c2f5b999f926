package cgroup

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// An actor is a process of the test in a cgroup.
type actor struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// command prepares a copy of the test binary that enters c and then plays a role.
func command(c *Cgroup, role string, args ...string) (*exec.Cmd, error) {
	join, err := c.Join()
	if err != nil {
		return nil, err
	}
	dir, err := c.Dir()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe", append([]string{strconv.Itoa(len(join)), role}, args...)...)
	cmd.Args = cmd.Args[1:]
	cmd.Env = []string{roleEnv + "=join"}
	cmd.ExtraFiles = join
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if dir != nil {
		cmd.SysProcAttr.UseCgroupFD = true
		cmd.SysProcAttr.CgroupFD = int(dir.Fd())
	}
	return cmd, nil
}

func start(t *testing.T, c *Cgroup, role string, args ...string) *actor {
	t.Helper()
	cmd, err := command(c, role, args...)
	if err != nil {
		t.Fatal(err)
	}
	return run(t, c, cmd)
}

// run starts what command has prepared.
func run(t *testing.T, c *Cgroup, cmd *exec.Cmd) *actor {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	// Pdeathsig is sent when the thread ends that started the process.
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.Release()
	a := &actor{cmd, in, bufio.NewReader(out)}
	t.Cleanup(func() { a.cmd.Process.Kill(); a.cmd.Wait() })
	return a
}

// line returns the next line of the actor's output.
func (a *actor) line(t *testing.T) string {
	t.Helper()
	s, err := a.out.ReadString('\n')
	if err != nil {
		t.Fatalf("actor said %q: %v; %v", s, err, a.cmd.Wait())
	}
	return strings.TrimSpace(s)
}

// play is the other side. A role starts with "join": its first thread enters
// the v1 hierarchies and executes the rest of the arguments.
func play(role string) {
	args := os.Args[1:]
	switch role {
	case "join":
		runtime.LockOSThread()
		n, _ := strconv.Atoi(os.Args[0])
		for fd := 3; fd < 3+n; fd++ {
			if _, err := unix.Write(fd, []byte("0")); err != nil {
				fmt.Fprintln(os.Stderr, "join:", err)
				os.Exit(3)
			}
			unix.CloseOnExec(fd)
		}
		err := unix.Exec("/proc/self/exe", args, []string{roleEnv + "=" + args[0]})
		fmt.Fprintln(os.Stderr, "exec:", err)
		os.Exit(3)
	case "sleep":
		fmt.Println("ready")
		io.Copy(io.Discard, os.Stdin)
	case "echo":
		fmt.Println("ready")
		io.Copy(os.Stdout, os.Stdin)
	case "eat":
		eat(args[0])
	case "hold": // memory, until the input ends
		eat(args[0])
		io.Copy(io.Discard, os.Stdin)
	case "cache":
		fmt.Println(fillCache(args[0], args[1]))
		io.Copy(io.Discard, os.Stdin)
	case "direct":
		fmt.Println(writeDirect(args[0]))
	case "spin":
		fmt.Println("ready")
		for n := uint64(0); ; n++ {
			_ = n
		}
	case "bomb":
		bomb()
	case "chain":
		chain()
	case "storm":
		storm(args)
	case "cpus":
		var set unix.CPUSet
		err := unix.SchedGetaffinity(0, &set)
		fmt.Println(set.Count(), set.IsSet(0), err)
	case "self":
		self(args[0])
	case "devices":
		for _, f := range args {
			fmt.Println(try(f))
		}
	}
}

// self tries to end the cgroup that it is in.
func self(path string) {
	h, err := Detect()
	if err != nil {
		fmt.Println(err)
		return
	}
	c, err := h.Open(path)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("kill", errdefs.IsFailedPrecondition(c.Kill(context.Background())))
	fmt.Println("remove", errdefs.IsFailedPrecondition(h.RemoveAll(context.Background(), path)))
}

// eat touches megabytes of memory.
func eat(megabytes string) {
	n, _ := strconv.Atoi(megabytes)
	b, err := unix.Mmap(-1, 0, n<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	for i := 0; err == nil && i < len(b); i += 4096 {
		b[i] = 1
	}
	fmt.Println("ate", err)
}

// fillCache leaves megabytes of a file in the page cache, not dirty.
func fillCache(dir, megabytes string) error {
	n, _ := strconv.Atoi(megabytes)
	f, err := os.Create(filepath.Join(dir, "cached"))
	if err != nil {
		return err
	}
	defer f.Close()
	for range n {
		if _, err := f.Write(make([]byte, mb)); err != nil {
			return err
		}
	}
	return f.Sync()
}

// writeDirect writes a megabyte past the page cache and reads it back.
func writeDirect(dir string) error {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_DIRECT, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	b, err := unix.Mmap(-1, 0, mb, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	if _, err := unix.Pwrite(fd, b, 0); err != nil {
		return err
	}
	_, err = unix.Pread(fd, b, 0)
	return err
}

// try opens a device, or makes the node of one: "mknod c 1 5".
func try(what string) error {
	fields := strings.Fields(what)
	if fields[0] != "mknod" {
		f, err := os.OpenFile(what, os.O_RDWR, 0)
		if err == nil {
			f.Close()
		}
		return err
	}
	dir, err := os.MkdirTemp("", "cgroup-test-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	major, _ := strconv.Atoi(fields[2])
	minor, _ := strconv.Atoi(fields[3])
	return unix.Mknod(filepath.Join(dir, "node"), unix.S_IFCHR|0o600, int(unix.Mkdev(uint32(major), uint32(minor))))
}

const bombMax = 500

// bomb forks children that do nothing until a fork fails, and reports how many.
func bomb() {
	runtime.LockOSThread()
	n := 0
	for ; n < bombMax; n++ {
		pid, _, errno := unix.RawSyscall(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0)
		if errno != 0 {
			break
		}
		if pid == 0 {
			for {
				pause()
			}
		}
	}
	fmt.Println(n)
	io.Copy(io.Discard, os.Stdin)
}

// pause sleeps for a second, without the Go runtime.
func pause() {
	ts := unix.Timespec{Sec: 1}
	unix.RawSyscall6(unix.SYS_CLOCK_NANOSLEEP, unix.CLOCK_MONOTONIC, 0, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
}

// chain is a process that is never there when one looks: it forks and ends,
// and its child does the same.
func chain() {
	runtime.LockOSThread()
	fmt.Println("ready")
	for {
		pid, _, errno := unix.RawSyscall(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0)
		if errno == 0 && pid != 0 {
			unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
}

// storm starts chains in the cgroup whose files it was given. It stays outside
// and reaps: what a chain leaves would otherwise wait for the machine's init.
func storm(args []string) {
	signal.Ignore(syscall.SIGCHLD)
	unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	n, _ := strconv.Atoi(args[0])
	useDir := args[1] == "dir"
	var join []*os.File
	for i := range n {
		join = append(join, os.NewFile(uintptr(3+i), "tasks"))
	}
	for range 8 {
		cmd := exec.Command("/proc/self/exe", strconv.Itoa(n), "chain")
		cmd.Args = cmd.Args[1:]
		cmd.Env = []string{roleEnv + "=join"}
		cmd.ExtraFiles = join
		cmd.Stderr = os.Stderr
		if useDir {
			cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: 3 + n}
		}
		out, _ := cmd.StdoutPipe()
		if err := cmd.Start(); err != nil {
			fmt.Println(err)
			return
		}
		bufio.NewReader(out).ReadString('\n')
	}
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
}
