package enginetest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// leaks are what leaves something behind, by its kind, and how it is named. It
// runs in a process with mount, network, uts and pid namespaces of its own, which
// take it with them.
var leaks = map[string]struct {
	leak func() error
	want string // a regular expression
}{
	"mount": {func() error {
		return unix.Mount("leaked", "/root", "tmpfs", 0, "")
	}, `^mount tmpfs on /root$`},
	"second mount on the same directory": {func() error {
		return unix.Mount("leaked", "/proc", "proc", 0, "")
	}, `^mount proc on /proc$`},
	"cgroup": {func() error {
		dir, err := anyCgroup()
		if err != nil {
			return err
		}
		return os.MkdirAll(filepath.Join(dir, os.Getenv(parentEnv), "leaked"), 0o755)
	}, `^cgroup /sys/fs/cgroup.*/inboard-leak-[\d-]+/leaked$`},
	"link": {func() error {
		var err error
		for _, kind := range []string{"dummy", "veth", "bridge", "ipvlan", "vlan"} { // of which not every kernel has all
			if err = addLink("leaked0", kind); !errors.Is(err, unix.EOPNOTSUPP) {
				return err
			}
		}
		return errSkip("the kernel has no virtual links")
	}, `^link (leaked0|veth0)$`},
	"process": {func() error {
		return exec.Command("/proc/self/exe").Start()
	}, `^process \d+ .* parent \d+, state `},
	"process of a process that has ended": {func() error {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), programEnv+"=orphan")
		return cmd.Run()
	}, `^process \d+ .* parent 1, state `},
	"zombie": {func() error {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), programEnv+"=nothing")
		if err := cmd.Start(); err != nil {
			return err
		}
		var info unix.Siginfo
		return unix.Waitid(unix.P_PID, cmd.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil)
	}, `^process \d+ .* state Z`},
	"namespace that a descriptor holds": {func() error {
		cmd := exec.Command("/proc/self/exe")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUTS}
		if err := cmd.Start(); err != nil {
			return err
		}
		_, err := unix.Open(fmt.Sprintf("/proc/%d/ns/uts", cmd.Process.Pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		err = errors.Join(err, cmd.Process.Kill())
		_ = cmd.Wait()
		return err
	}, `^namespace uts:\[\d+\]: number \d+$`},
	"namespace that a mount holds": {func() error {
		return unix.Mount("/proc/self/ns/net", "/etc/group", "", unix.MS_BIND, "")
	}, `^namespace net:\[\d+\] mounted on /etc/group$`},
	"namespace that a thread is in": {func() error {
		in := make(chan error)
		go func() {
			runtime.LockOSThread()
			in <- unix.Unshare(unix.CLONE_NEWUTS)
			select {}
		}()
		return <-in
	}, `^namespace uts:\[\d+\] that a thread is in$`},
	"nftables table": {func() error {
		out, err := exec.Command("nft", "add", "table", "inet", "leaked").CombinedOutput()
		if errors.Is(err, exec.ErrNotFound) {
			return errSkip("nft is not installed")
		}
		if err != nil && bytes.Contains(out, []byte("Unable to initialize Netlink")) || bytes.Contains(out, []byte("not supported")) {
			return errSkip("the kernel has no nftables")
		}
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}, `^nftables table inet leaked$`},
	"descriptor of a file": {func() error {
		_, err := unix.Open("/etc/passwd", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	}, `^descriptor /etc/passwd: number \d+$`},
	"descriptor of a socket": {func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrInet4{Port: 4711})
	}, `^descriptor socket:\[\d+\]: number \d+ at 0\.0\.0\.0:4711$`},
	"goroutine": {func() error {
		go func() { select {} }()
		return nil
	}, `^goroutine \d+ \[`},
}

type errSkip string

func (e errSkip) Error() string { return string(e) }

// parentEnv names the cgroup below which a test's are.
const parentEnv = "INBOARD_TEST_LEAK_PARENT"

// anyCgroup is the root of a hierarchy in which a cgroup can be made.
func anyCgroup() (string, error) {
	for _, dir := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
			return dir, nil
		}
	}
	return "", errSkip("no cgroup hierarchy is mounted")
}

// addLink makes a network link (rtnetlink(7)).
func addLink(name, kind string) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	attribute := func(kind uint16, value []byte) []byte {
		b := order.AppendUint16(nil, uint16(4+len(value)))
		b = append(order.AppendUint16(b, kind), value...)
		return append(b, make([]byte, (4-len(b)%4)%4)...)
	}
	body := make([]byte, unix.SizeofIfInfomsg)
	body = append(body, attribute(unix.IFLA_IFNAME, append([]byte(name), 0))...)
	body = append(body, attribute(unix.IFLA_LINKINFO, attribute(unix.IFLA_INFO_KIND, []byte(kind)))...)
	message := order.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	message = order.AppendUint16(message, unix.RTM_NEWLINK)
	message = order.AppendUint16(message, unix.NLM_F_REQUEST|unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	message = append(message, make([]byte, 8)...)
	if err := unix.Sendto(fd, append(message, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	reply := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, reply, 0)
	if err != nil || n < unix.SizeofNlMsghdr+4 {
		return fmt.Errorf("answer of %d bytes: %w", n, err)
	}
	if errno := -int32(order.Uint32(reply[unix.SizeofNlMsghdr:])); errno != 0 {
		return syscall.Errno(errno)
	}
	return nil
}

func init() {
	programs["holder"] = func() error { // has another mark, as another program's process
		if err := unix.Setrlimit(unix.RLIMIT_MSGQUEUE, &unix.Rlimit{Cur: 1, Max: 1}); err != nil {
			return err
		}
		if _, err := os.Create(os.Getenv("INBOARD_TEST_LOCK")); err != nil {
			return err
		}
		fmt.Print("x")
		_, err := os.Stdin.Read(make([]byte, 1)) // until it is closed
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	}
	programs["nothing"] = func() error { return nil }
	programs["sleep"] = func() error {
		time.Sleep(time.Hour)
		return nil
	}
	programs["orphan"] = func() error {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), programEnv+"=sleep")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		return cmd.Start()
	}
	programs["leak"] = func() error {
		os.Setenv(programEnv, "sleep") // of what it starts
		err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		if err == nil {
			err = unix.Mount("proc", "/proc", "proc", 0, "")
		}
		if err != nil {
			return err
		}
		patience = 300 * time.Millisecond
		r := &recorder{name: "TestLeaking"}
		Watch{CgroupParents: []string{os.Getenv(parentEnv)}}.Leaks(r)
		err = leaks[os.Getenv("INBOARD_TEST_LEAK")].leak()
		var skip errSkip
		if errors.As(err, &skip) {
			fmt.Println("SKIP", skip)
			return nil
		}
		if err != nil {
			return err
		}
		r.end()
		fmt.Println(strings.Join(r.failures, "\n"))
		return nil
	}
}

// TestLeaksNames leaks one thing of each kind on purpose, and sees that named
// and nothing else.
func TestLeaksNames(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make mounts, cgroups and links")
	}
	// What comes with a thing of another kind.
	related := map[string]string{
		"cgroup": "cgroup ", "namespace that a thread is in": "goroutine ",
		"process": "descriptor anon_inode:[pidfd]", "zombie": "descriptor anon_inode:[pidfd]",
	}
	for n, name := range slices.Sorted(maps.Keys(leaks)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			parent := fmt.Sprintf("inboard-leak-%d-%d", os.Getpid(), n)
			t.Cleanup(func() { removeCgroups(t, parent) })
			var out bytes.Buffer
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), programEnv+"=leak", "INBOARD_TEST_LEAK="+name, parentEnv+"="+parent)
			cmd.Stdout, cmd.Stderr = &out, &out
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWPID}
			if err := cmd.Run(); err != nil {
				t.Fatalf("%v: %s", err, &out)
			}
			if why, ok := strings.CutPrefix(out.String(), "SKIP "); ok {
				t.Skip(why)
			}
			head, rest, _ := strings.Cut(out.String(), "\n")
			if head != "left behind:" {
				t.Errorf("%q", head)
			}
			want, found := regexp.MustCompile(leaks[name].want), false
			for line := range strings.SplitSeq(strings.TrimSpace(rest), "\n\t") {
				with, ok := related[name]
				switch {
				case want.MatchString(line):
					found = true
				case strings.HasPrefix(line, "\t"), ok && strings.HasPrefix(line, with):
				default:
					t.Errorf("named, and not wanted: %q", line)
				}
			}
			if !found {
				t.Errorf("no %s in %s", want, &out)
			}
		})
	}
}

// removeCgroups removes what the test of cgroups leaves.
func removeCgroups(t *testing.T, parent string) {
	for _, hierarchy := range []string{"", "*"} {
		dirs, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup", hierarchy, parent))
		for _, dir := range dirs {
			if err := errors.Join(os.Remove(filepath.Join(dir, "leaked")), os.Remove(dir)); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestLeaksOfOthers: a process that this one did not start is no leak, nor is a
// cgroup of an Engine that another program has open.
func TestLeaksOfOthers(t *testing.T) {
	if !descends(strconv.Itoa(os.Getpid())) {
		t.Error("this process does not carry its own mark")
	}
	for _, pid := range []string{"1", "0"} {
		if descends(pid) {
			t.Error("the mark is on pid", pid)
		}
	}
	const id = "0123456789ab"
	lock := filepath.Join(t.TempDir(), id+".lock")
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), programEnv+"=holder", "INBOARD_TEST_LOCK="+lock)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	foreign := thing{kindCgroup, "/sys/fs/cgroup/inboard/" + id + "/3"}
	own := thing{kindCgroup, "/sys/fs/cgroup/inboard/ba9876543210/3"}
	if left := ours([]thing{foreign, own}); len(left) != 1 || left[0] != own {
		t.Errorf("%v", left)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
