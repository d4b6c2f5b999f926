package engine

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// leftovers are what one container may leave for the next, as its root with
// Docker's capabilities. Those of which nothing is left when it is gone say so:
// then the next container gets the same superblock.
var leftovers = map[string]struct {
	leave func() error
	clean bool
}{
	"nothing": {func() error { return nil }, true},
	"looked for in vain": {func() error {
		for i := range 1000 {
			if _, err := os.Lstat(fmt.Sprint("/missing", i)); err == nil {
				return fs.ErrExist
			}
		}
		return nil
	}, true},
	"listed": {func() error {
		_, err := os.ReadDir("/")
		return err
	}, true},
	"created": {func() error { return os.WriteFile("/new", []byte("x"), 0o644) }, false},
	"created and removed": {restored(func() error {
		return errors.Join(os.WriteFile("/new", []byte("x"), 0o644), os.Remove("/new"))
	}), false},
	"directory": {restored(func() error {
		return errors.Join(os.MkdirAll("/new/deep", 0o700), os.RemoveAll("/new"))
	}), false},
	"fifo":     {restored(func() error { return errors.Join(unix.Mkfifo("/fifo", 0o600), os.Remove("/fifo")) }), false},
	"device":   {restored(func() error { return errors.Join(unix.Mknod("/null", unix.S_IFCHR, 1<<8|3), os.Remove("/null")) }), false},
	"socket":   {restored(leaveSocket), false},
	"time":     {func() error { return os.Chtimes("/", time.Unix(1, 0), time.Unix(2, 0)) }, false},
	"no time":  {restored(func() error { return os.Chtimes("/", time.Unix(1, 0), time.Unix(2, 0)) }), false},
	"mode":     {func() error { return os.Chmod("/", 0o700) }, false},
	"no mode":  {restored(func() error { return errors.Join(os.Chmod("/", 0o700), os.Chmod("/", 0o755)) }), false},
	"owner":    {restored(func() error { return os.Chown("/", 1, 2) }), false},
	"no owner": {restored(func() error { return errors.Join(os.Chown("/", 1, 2), os.Chown("/", 0, 0)) }), false},
	"xattr":    {func() error { return unix.Setxattr("/", "user.x", []byte("y"), 0) }, false},
	"no xattr": {restored(func() error {
		return errors.Join(unix.Setxattr("/", "user.x", []byte("y"), 0), unix.Removexattr("/", "user.x"))
	}), false},
	"flags":    {restored(func() error { return setFlags("/", noDump) }), false},
	"no flags": {restored(func() error { return errors.Join(setFlags("/", noDump), setFlags("/", 0)) }), false},
	"project":  {restored(func() error { return setProject("/", 77) }), false},
	"copied up": {func() error {
		f, err := os.OpenFile("/data/notexec", os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString("next")
		return errors.Join(err, f.Close())
	}, false},
	"whiteout":    {restored(func() error { return os.Remove("/data/notexec") }), false},
	"copied mode": {restored(func() error { return errors.Join(os.Chmod("/prog", 0o700), os.Chmod("/prog", 0o755)) }), false},
	"renamed": {restored(func() error {
		return errors.Join(os.Rename("/prog", "/gorp"), os.Rename("/gorp", "/prog"))
	}), false},
	"removed but open": {restored(func() error {
		f, err := os.Create("/new")
		if err != nil {
			return err
		}
		keptOpen = append(keptOpen, f)
		_, err = f.WriteString("data")
		return errors.Join(err, os.Remove("/new"))
	}), false},
	"never named":    {leaveUnnamed, true},
	"locked":         {leaveLocks, true},
	"leased":         {leaveLease, true},
	"watched":        {leaveWatch, true},
	"in flight":      {leaveInFlight, true},
	"a process more": {leaveProcess, true},
}

// noDump is FS_NODUMP_FL, a flag of inodes that asks for no capability.
const noDump = 0x40

// keptOpen are files that stay open until the process ends.
var keptOpen []*os.File

// restored undoes what a change of the root directory shows in its times.
func restored(change func() error) func() error {
	return func() error {
		var st unix.Stat_t
		if err := unix.Stat("/", &st); err != nil {
			return err
		}
		if err := change(); err != nil {
			return err
		}
		return unix.UtimesNanoAt(unix.AT_FDCWD, "/", []unix.Timespec{st.Atim, st.Mtim}, 0)
	}
}

func keepOpen(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, flags, 0o600)
	if err == nil {
		keptOpen = append(keptOpen, f)
	}
	return f, err
}

func leaveSocket() error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	return errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: "/socket"}), unix.Listen(fd, 1), os.Remove("/socket"))
}

// leaveUnnamed leaves a file that never had a name: no directory changes.
func leaveUnnamed() error {
	f, err := keepOpen("/", unix.O_TMPFILE|os.O_WRONLY)
	if errors.Is(err, unix.EOPNOTSUPP) { // before Linux 6.2
		return nil
	}
	if err == nil {
		_, err = f.Write(make([]byte, 1<<20))
	}
	return err
}

func leaveLocks() error {
	f, err := keepOpen("/data/notexec", os.O_RDONLY)
	if err != nil {
		return err
	}
	lock := unix.Flock_t{Type: unix.F_RDLCK}
	return errors.Join(unix.Flock(int(f.Fd()), unix.LOCK_EX), unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock))
}

func leaveLease() error {
	f, err := keepOpen("/data/notexec", os.O_RDONLY)
	if err != nil {
		return err
	}
	_, err = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_RDLCK)
	return err
}

func leaveWatch() error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return err
	}
	for _, path := range []string{"/", "/data", "/data/notexec"} {
		if _, err := unix.InotifyAddWatch(fd, path, unix.IN_ALL_EVENTS); err != nil {
			return err
		}
	}
	return nil
}

// leaveInFlight leaves the root directory to the kernel's garbage collection:
// on the way through a socket that is on the way through itself.
func leaveInFlight() error {
	root, err := unix.Open("/", unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	return unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(root, pair[0], pair[1]), nil, 0)
}

// leaveProcess leaves one that has the root directory as its own.
func leaveProcess() error {
	p, err := os.StartProcess("/proc/self/exe", []string{"prog", programFlag, "pause"}, &os.ProcAttr{Dir: "/data"})
	if err != nil {
		return err
	}
	return p.Release()
}

func setFlags(path string, flags int) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	now, err := unix.IoctlGetInt(int(dir.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(dir.Fd()), unix.FS_IOC_SETFLAGS, now&^noDump|flags)
	}
	return unlessUnsupported(err)
}

func setProject(path string, project uint32) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	attr := [7]uint32{3: project}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), 0x401c5820, uintptr(unsafe.Pointer(&attr))) // FS_IOC_FSSETXATTR
	if errno != 0 {
		return unlessUnsupported(errno)
	}
	return nil
}

// unlessUnsupported forgives what the file system does not have, so that it
// cannot be left either.
func unlessUnsupported(err error) error {
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) {
		fmt.Println("unsupported")
		return nil
	}
	return err
}

// survey prints all that a container sees of its root filesystem, but for the
// ctimes: the writable layer's tells when it was made ready.
func survey() error {
	var root unix.Stat_t // as it is before the walk reads it
	if err := unix.Lstat("/", &root); err != nil {
		return err
	}
	return filepath.WalkDir("/", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch path {
		case "/proc", "/sys", "/dev":
			return filepath.SkipDir
		case "/etc/hosts", "/etc/hostname", "/etc/resolv.conf": // made for each container
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if path == "/" {
			st = root
		}
		names := make([]byte, 1024)
		n, err := unix.Llistxattr(path, names)
		if err != nil {
			return err
		}
		fmt.Printf("%s %o %d:%d %d %d %v %v %q", path, st.Mode, st.Uid, st.Gid, st.Nlink, st.Size, st.Mtim, st.Atim, names[:n])
		if e.IsDir() || e.Type().IsRegular() {
			err = surveyOpen(path)
		}
		fmt.Println()
		return err
	})
}

// surveyOpen prints what takes a descriptor to see.
func surveyOpen(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	fd := int(f.Fd())
	flags, _ := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
	fmt.Printf(" flags %x project %d", flags, projectOf(fd))
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return err
	}
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_GETLK, &lock); err != nil {
		return err
	}
	lease, _ := unix.FcntlInt(uintptr(fd), unix.F_GETLEASE, 0)
	fmt.Print(" locks ", lock.Type, unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB), " lease ", lease)
	if path == "/data/notexec" {
		data, err := os.ReadFile(path)
		fmt.Printf(" %q %v", data, err)
	}
	return nil
}

// ranRoot is what one container ran in: its writable layer's name, and the
// mount that the engine kept of its overlay, or nil.
type ranRoot struct {
	layer string
	mount *os.File
}

// ranIn runs a container to its end, and removes it.
func ranIn(t *testing.T, e *Engine, img *Image, c Config, args ...string) (output string, root ranRoot) {
	t.Helper()
	var out bytes.Buffer
	c.Args, c.Stdout, c.Stderr = args, &out, &out
	made := started(t, e, img, c)
	root = rootOfContainer(made)
	if status, err := made.Wait(t.Context()); err != nil || status.Code != 0 {
		t.Fatalf("%v: %v, %v\n%s", args, status, err, out.String())
	}
	made.own.ready().work.Wait()
	removed(t, made)
	return out.String(), root
}

func rootOfContainer(c *Container) ranRoot {
	root := ranRoot{layer: c.own.layer.name}
	r := c.own.ready()
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := r.lentTo(c.own.layer); i >= 0 {
		root.mount = r.lent[i].mount
	}
	return root
}

// removed removes a container, and waits for what is done in the background.
func removed(t *testing.T, c *Container) {
	t.Helper()
	if err := c.Remove(t.Context(), RemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	c.own.ready().work.Wait()
	c.engine.spares.settle()
}

// withoutClones has the engine do as on a kernel that cannot clone detached
// mounts.
func withoutClones(t *testing.T) {
	t.Helper()
	before := cloneMount
	cloneMount = func(*os.File) (*os.File, error) { return nil, ErrNotImplemented }
	t.Cleanup(func() { cloneMount = before })
}

// needReuse skips a test of what needs a kernel that can give one superblock to
// several containers.
func needReuse(t *testing.T) {
	t.Helper()
	needRoot(t)
	if !kernelHas(t, 6, 15) {
		t.Skip("needs clones of detached mounts, Linux 6.15")
	}
}

func kernelHas(t *testing.T, major, minor int) bool {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	var a, b int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &a, &b); err != nil {
		t.Fatal(err)
	}
	return a > major || a == major && b >= minor
}

// patientEngine is an engine that keeps what no container uses for longer than
// a test takes, be the machine ever so busy.
func patientEngine(t *testing.T) *Engine {
	t.Helper()
	e := testEngine(t)
	e.spares.idle = time.Hour
	return e
}

// Of what a container leaves the next one of the image sees nothing, whatever
// the kernel can do. Where it can give both the same superblock, it does so only
// if nothing is left. Only a kernel that has something can be without it.
func TestLeftovers(t *testing.T) {
	needRoot(t)
	for _, way := range []string{"as it is", "no clones", "no exact ctimes"} {
		t.Run(way, func(t *testing.T) {
			e := patientEngine(t)
			reuses := way == "as it is" && kernelHas(t, 6, 15)
			switch {
			case way == "no clones" && !kernelHas(t, 6, 15), way == "no exact ctimes" && !kernelHas(t, 6, 13):
				t.Skip("the same as it is, before Linux 6.15 and 6.13")
			case way == "no clones":
				withoutClones(t)
			case way == "no exact ctimes":
				e.spares.probe.Do(func() {})
			}
			img := pulled(t, e, nil)
			want, _ := ranIn(t, e, img, Config{}, "survey")
			surveyed := func(after ...string) ranRoot {
				got, root := ranIn(t, e, img, Config{}, "survey")
				if got != want {
					t.Errorf("after %q: %s\nwant %s", after, got, want)
				}
				return root
			}
			kinds := slices.Sorted(maps.Keys(leftovers))
			if !reuses {
				// What is used again by way of another mount comes after those
				// that are ready: so many may leave something in a row.
				for some := range slices.Chunk(kinds, maxReady) {
					var mounts []*os.File
					for _, kind := range some {
						if _, root := ranIn(t, e, img, Config{}, "leave", kind); root.mount != nil {
							mounts = append(mounts, root.mount)
						}
					}
					for range maxReady + 1 {
						if root := surveyed(some...); slices.Contains(mounts, root.mount) {
							t.Errorf("after %q a superblock was used again", some)
						}
					}
				}
				return
			}
			for _, kind := range kinds {
				said, first := ranIn(t, e, img, Config{}, "leave", kind)
				second := surveyed(kind)
				reused := first.mount != nil && first.mount == second.mount
				if want := leftovers[kind].clean; reused != want && said == "" {
					t.Errorf("after %q the superblock was used again: %v, want %v", kind, reused, want)
				}
			}
		})
	}
}
