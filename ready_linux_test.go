package engine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/inboard/engine/runtime"
)

// Containers one after the other have the same superblock, up to a bound.
func TestRootReused(t *testing.T) {
	needReuse(t)
	e := patientEngine(t)
	img := pulled(t, e, nil)
	_, first := ranIn(t, e, img, Config{}, "exit", "0")
	if first.mount == nil {
		t.Fatal("no mount was kept")
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(first.mount.Fd()), "", &st, unix.AT_EMPTY_PATH); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		out, next := ranIn(t, e, img, Config{}, "device", "/")
		if next != first || strings.TrimSpace(out) != strconv.FormatUint(st.Dev, 10) {
			t.Errorf("%+v on device %s, want %+v on %d", next, out, first, st.Dev)
		}
	}
	c := started(t, e, img, Config{Args: []string{"exit", "0"}})
	if got := rootOfContainer(c); got != first {
		t.Errorf("%+v, want %+v", got, first)
	}
	r := &c.own.hold.ready
	r.mu.Lock()
	r.lent[0].loans = maxLoans
	r.mu.Unlock()
	if _, err := c.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	removed(t, c)
	if _, next := ranIn(t, e, img, Config{}, "exit", "0"); next.mount == first.mount {
		t.Error("a superblock was used more often than it should be")
	}
}

// A container that has exited gets its writable layer back, whatever the engine
// has kept, and what others do meanwhile.
func TestRestartOnWritten(t *testing.T) {
	e := sharedEngine(t)
	img := pulled(t, e, nil)
	var out bytes.Buffer
	c := started(t, e, img, Config{Args: []string{"append", "/data/notexec", "x"}, Stdout: &out})
	layer := c.own.layer
	for run := 1; run <= 4; run++ {
		if status, err := c.Wait(t.Context()); err != nil || status.Code != 0 {
			t.Fatalf("run %d: %v, %v", run, status, err)
		}
		if want := "text" + strings.Repeat("x", run) + "\n"; out.String() != want {
			t.Errorf("run %d: %q, want %q", run, out.String(), want)
		}
		out.Reset()
		for range maxReady + 1 {
			got, other := ranIn(t, e, img, Config{}, "read", "/data/notexec")
			if got != "text" || other.layer == layer.name {
				t.Errorf("another container has layer %s and sees %q", other.layer, got)
			}
		}
		if run == 2 { // from then on the overlay is mounted anew
			c.own.hold.ready.expire(&e.spares, time.Now().Add(time.Hour))
		}
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if c.own.layer != layer {
			t.Error("another layer")
		}
		if kept := rootOfContainer(c).mount != nil; kept && (run >= 2 || !kernelHas(t, 6, 15)) {
			t.Errorf("run %d: a mount is kept", run)
		}
	}
}

// Root filesystems that nobody takes are let go of, and so are those of
// containers that run for long. The containers do not notice.
func TestReadyRootsExpire(t *testing.T) {
	needRoot(t)
	e := testEngine(t)
	img := pulled(t, e, nil)
	c := started(t, e, img, Config{Args: []string{"wait"}})
	awaitLog(t, c, "ready\n")
	r := &c.own.hold.ready
	r.work.Wait()
	if r.stopped {
		t.Skip("needs an overlay that the host can mount: Linux 6.5")
	}
	count := func() (ready, lent int) {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.roots), len(r.lent)
	}
	wantLent := 0
	if kernelHas(t, 6, 15) {
		wantLent = 1
	}
	if ready, lent := count(); ready != maxReady || lent != wantLent {
		t.Errorf("%d roots are ready, %d lent, want %d, %d", ready, lent, maxReady, wantLent)
	}
	r.expire(&e.spares, time.Now())
	if ready, lent := count(); ready != maxReady || lent != wantLent {
		t.Errorf("at once: %d roots are ready, %d lent, want %d, %d", ready, lent, maxReady, wantLent)
	}
	// The rest is up to the timer.
	for range 10 * idleHold / time.Millisecond {
		if ready, lent := count(); ready+lent == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if ready, lent := count(); ready+lent != 0 {
		t.Errorf("%d roots are ready, %d lent", ready, lent)
	}
	if err := c.Kill(t.Context(), unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if status, err := c.Wait(t.Context()); err != nil || status.Code != int(unix.SIGUSR1) {
		t.Errorf("%v, %v", status, err)
	}
}

// What Close leaves: no mount, in the keeper neither, and no superblock.
func TestCloseUnmounts(t *testing.T) {
	needRoot(t)
	e := testEngine(t)
	img := pulled(t, e, nil)
	for range 2 {
		ranIn(t, e, img, Config{}, "exit", "0")
	}
	c := started(t, e, img, Config{Args: []string{"pause"}})
	info, err := c.Inspect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", parentOf(t, info.PID)))
	if err != nil || bytes.Count(mounts, []byte("\n")) != 1 {
		t.Errorf("the keeper's mounts: %s, %v", mounts, err)
	}
	// A watch tells of the end of the superblock that it is in: inotify(7), IN_UNMOUNT.
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(watch)
	roots := []string{fmt.Sprintf("/proc/%d/root", info.PID)}
	r := &c.own.hold.ready
	r.work.Wait()
	for _, root := range append(r.roots, r.lent...) {
		roots = append(roots, fmt.Sprintf("/proc/self/fd/%d", root.mount.Fd()))
	}
	watched := map[int]bool{}
	for _, root := range roots {
		wd, err := unix.InotifyAddWatch(watch, root, unix.IN_DELETE_SELF)
		if err != nil {
			t.Fatal(err)
		}
		watched[wd] = true
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	for len(watched) > 0 {
		var event [unix.SizeofInotifyEvent]byte // no names come with these
		if _, err := unix.Read(watch, event[:]); err != nil {
			t.Fatalf("%d of %d superblocks live: %v", len(watched), len(roots), err)
		}
		if mask := binary.NativeEndian.Uint32(event[4:]); mask&unix.IN_UNMOUNT != 0 {
			delete(watched, int(binary.NativeEndian.Uint32(event[:])))
		}
	}
}

// A descriptor of a container's root directory that got out of it before it
// ended does not lead into the next container.
func TestRootDescriptorKept(t *testing.T) {
	needRoot(t)
	e := testEngine(t)
	img := pulled(t, e, nil)
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: "@inboard-test-" + strconv.Itoa(os.Getpid()), Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	pair := func() (ours *os.File, theirs *os.File) {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	}
	for way, send := range map[string]func() (*os.File, *Container){
		"network": func() (*os.File, *Container) {
			c := started(t, e, img, Config{Args: []string{"send-root", listener.Addr().String()}, Network: NetworkHost})
			conn, err := listener.AcceptUnix()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			f, err := conn.File()
			if err != nil {
				t.Fatal(err)
			}
			return f, c
		},
		"stream": func() (*os.File, *Container) {
			ours, theirs := pair()
			defer theirs.Close()
			return ours, started(t, e, img, Config{Args: []string{"send-root"}, Stdin: theirs})
		},
		"stream of an exec": func() (*os.File, *Container) {
			ours, theirs := pair()
			defer theirs.Close()
			c := started(t, e, img, Config{Args: []string{"pause"}})
			if _, err := c.Exec(t.Context(), ExecConfig{Args: []string{"/prog", programFlag, "send-root"}, Stdin: theirs}); err != nil {
				t.Fatal(err)
			}
			return ours, c
		},
	} {
		t.Run(way, func(t *testing.T) {
			socket, c := send()
			root := receiveFile(t, socket)
			defer unix.Close(root)
			removed(t, c)
			fd, err := unix.Openat(root, "planted", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
			if err == nil { // the old overlay lives as long as the descriptor
				unix.Close(fd)
			}
			for range 2 * (maxReady + 1) {
				if out, _ := ranIn(t, e, img, Config{}, "list", "/"); strings.Contains(out, "planted") {
					t.Errorf("another container sees %q", out)
				}
			}
		})
	}
}

// sendRoot sends the root directory to a socket that others are in too: standard
// input, or one of the name given.
func sendRoot(args []string) error {
	root, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	socket := 0
	if len(args) > 0 {
		if socket, err = unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET, 0); err != nil {
			return err
		}
		if err := unix.Connect(socket, &unix.SockaddrUnix{Name: args[0]}); err != nil {
			return err
		}
	}
	return unix.Sendmsg(socket, []byte{0}, unix.UnixRights(root), nil, 0)
}

// receiveFile takes a descriptor out of a socket, which it closes.
func receiveFile(t *testing.T, socket *os.File) int {
	t.Helper()
	defer socket.Close()
	fd := int(socket.Fd())
	if err := unix.SetNonblock(fd, false); err != nil {
		t.Fatal(err)
	}
	control := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(fd, make([]byte, 1), control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%v, %v", messages, err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		t.Fatal(err)
	}
	return fds[0]
}

// Whether a container's root can serve another one is read from its spec.
func TestConfined(t *testing.T) {
	if s := runtime.DefaultSpec(); !confined(s) || !confinedProcess(s.Process, &runtime.ProcessOptions{Stdin: os.Stdin}) {
		t.Error("the default spec is not")
	}
	sharing := func(kind specs.LinuxNamespaceType, path string) func(*specs.Spec) {
		return func(s *specs.Spec) {
			for i := range s.Linux.Namespaces {
				if s.Linux.Namespaces[i].Type == kind {
					s.Linux.Namespaces[i].Path = path
				}
			}
		}
	}
	for name, change := range map[string]func(*specs.Spec){
		"admin": func(s *specs.Spec) {
			s.Process.Capabilities.Bounding = append(runtime.DefaultCapabilities(), "CAP_SYS_ADMIN")
		},
		"ambient":   func(s *specs.Spec) { s.Process.Capabilities.Ambient = []string{"CAP_SYS_TIME"} },
		"permitted": func(s *specs.Spec) { s.Process.Capabilities.Permitted = []string{"CAP_DAC_READ_SEARCH"} },
		"host network": func(s *specs.Spec) {
			s.Linux.Namespaces = namespaces(s.Linux.Namespaces, &Config{Network: NetworkHost})
		},
		"its network": sharing(specs.NetworkNamespace, "/proc/1/ns/net"),
		"its pids":    sharing(specs.PIDNamespace, "/proc/1/ns/pid"),
		"its ipc":     sharing(specs.IPCNamespace, "/proc/1/ns/ipc"),
		"its mounts":  sharing(specs.MountNamespace, "/proc/1/ns/mnt"),
		"bind mount": func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/run", Type: "bind", Source: "/run"})
		},
		"device": func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/fuse"}} },
	} {
		s := runtime.DefaultSpec()
		change(s)
		if confined(s) && confinedProcess(s.Process, &runtime.ProcessOptions{}) {
			t.Errorf("%s: is", name)
		}
	}
}

// diskOf makes a file system of Linux's ext family and mounts it. The file that
// is its disk lies on a tmpfs of the size given, to be filled.
func diskOf(t *testing.T, size int, mkfs ...string) (mounted, disk string) {
	t.Helper()
	needRoot(t)
	tool, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		if tool, err = exec.LookPath("/usr/sbin/mkfs.ext4"); err != nil {
			t.Skip("no mkfs.ext4 (Debian's package e2fsprogs)")
		}
	}
	backing, mounted := t.TempDir(), t.TempDir()
	if err := unix.Mount("tmpfs", backing, "tmpfs", 0, fmt.Sprint("size=", size)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(backing, 0); err != nil {
			t.Error(err)
		}
	})
	disk = filepath.Join(backing, "disk")
	if err := errors.Join(os.WriteFile(disk, nil, 0o600), os.Truncate(disk, int64(size)/4*3)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(tool, append(mkfs, "-q", "-F", "-b", "4096", disk)...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	loop, err := attachLoop(disk)
	if err != nil {
		t.Skip("needs a loop device:", err)
	}
	// Room for all blocks, so that the disk fails only where a test wants it to.
	file, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err == nil {
		err = errors.Join(unix.Fallocate(int(file.Fd()), 0, 0, int64(size)/4*3), file.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	defer loop.Close() // from now on the mount holds it
	if err := unix.Mount(loop.Name(), mounted, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mounted, 0); err != nil {
			t.Error(err)
		}
	})
	return mounted, disk
}

// attachLoop gives a loop device that goes when it is closed.
func attachLoop(path string) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	for range 100 { // others take them too
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, err
		}
		loop, err := os.OpenFile(fmt.Sprint("/dev/loop", n), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		config := unix.LoopConfig{Fd: uint32(file.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
		if err = unix.IoctlLoopConfigure(int(loop.Fd()), &config); err == nil {
			return loop, nil
		}
		loop.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, err
		}
	}
	return nil, unix.EBUSY
}

// When the disk could not write something, the fsync of later containers does
// not fail for it: not on an overlay that was mounted before, nor does the mount
// of a new one.
func TestReadyRootAfterWriteError(t *testing.T) {
	dir, disk := diskOf(t, 160<<20)
	e := testEngine(t, filepath.Join(dir, "root"))
	img := pulled(t, e, nil)
	x, err := e.holds.take(t.Context(), img.ID())
	if err != nil {
		t.Fatal(err)
	}
	defer e.holds.drop(img.ID(), x)
	ranIn(t, e, img, Config{}, "exit", "0")
	x.ready.mu.Lock()
	x.ready.expiry.Stop() // for as long as filling a disk takes
	ready := len(x.ready.roots)
	x.ready.mu.Unlock()
	if x.ready.stopped {
		t.Skip("needs an overlay that the host can mount: Linux 6.5")
	}
	if ready < maxReady {
		t.Fatalf("%d roots are ready", ready)
	}
	failWrite(t, dir, disk)
	for range ready + 1 { // all of them, and a new one
		ranIn(t, e, img, Config{}, "sync", "/new")
	}
}

// failWrite has the file system meet an error of writing: the disk's file has no
// room for a block.
func failWrite(t *testing.T, dir, disk string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "block"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 4096)
	if _, err := f.Write(block); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	at, err := unix.IoctlGetInt(int(f.Fd()), 1) // FIBMAP, of block 0
	if err != nil {
		t.Fatal(err)
	}
	d, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := unix.Fallocate(int(d.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(at)*4096, 4096); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(filepath.Dir(disk), "filler")
	defer os.Remove(filler)
	if err := os.WriteFile(filler, make([]byte, 160<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatal("the disk's file system is not full:", err)
	}
	if _, err := f.WriteAt(block, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err == nil {
		t.Fatal("the block was written")
	}
}

// A change of a directory shows in its ctime on new kernels, and it is known
// where it does not.
func TestExactChanges(t *testing.T) {
	needRoot(t)
	seconds, _ := diskOf(t, 16<<20, "-I", "128")
	for name, test := range map[string]struct {
		dir  string
		want bool
	}{
		"tmpfs":            {"/dev/shm", kernelHas(t, 6, 13)},
		"ext4":             {"", kernelHas(t, 6, 13)},
		"ext4, no nanosec": {seconds, false},
	} {
		dir := t.TempDir()
		if name == "ext4" {
			dir, _ = diskOf(t, 16<<20)
		} else if test.dir != "" {
			var err error
			if dir, err = os.MkdirTemp(test.dir, "inboard-test-"); err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
		}
		if got := exactChanges(dir); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}
