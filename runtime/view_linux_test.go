package runtime

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A view is what a process in a container finds about itself and around it.
type view struct {
	Args, Env  []string
	Cwd        string
	Status     map[string]string // of /proc/self/status
	Rlimits    map[string][2]uint64
	Hostname   string
	Domainname string
	Files      map[string]string // descriptors and what they lead to
	Namespaces map[string]string
	Mounts     map[string]string // mountinfo after the mount point: options, type, super options
	Loopback   bool
	Keyring    int // id of the session keyring
	Dev        map[string]string
	ShmSize    uint64
	Cgroups    []string // lines of /proc/self/cgroup
	OOMScore   string
	Pid, Sid   int
	Pids       []string // processes that /proc shows
	Root       []string // names in /
	Exe        string
}

func init() {
	programs["view"] = func([]string) int {
		v, err := lookAround()
		if err == nil {
			err = json.NewEncoder(os.Stdout).Encode(v)
		}
		if err != nil {
			fmt.Println(err)
			return 1
		}
		return 0
	}
	programs["masked"] = func(paths []string) int {
		for _, p := range paths {
			fmt.Println(maskOf(p))
		}
		return 0
	}
	programs["writable"] = func(trees []string) int {
		for _, tree := range trees[1:] {
			limit, _ := strconv.Atoi(trees[0])
			for _, name := range writable(tree, limit) {
				fmt.Println(name)
			}
		}
		return 0
	}
}

func lookAround() (*view, error) {
	v := &view{Args: os.Args, Env: os.Environ(), Pid: os.Getpid(), Sid: must(unix.Getsid(0))}
	v.Cwd, _ = os.Getwd()
	v.Exe, _ = os.Readlink("/proc/self/exe")
	v.Status, v.Rlimits = map[string]string{}, map[string][2]uint64{}
	v.Files, v.Namespaces, v.Mounts, v.Dev = map[string]string{}, map[string]string{}, map[string]string{}, map[string]string{}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		v.Status[key] = strings.Join(strings.Fields(value), " ")
		if pending, err := strconv.ParseUint(v.Status[key], 16, 64); err == nil && key == "SigPnd" {
			// What Go's scheduler sends this program itself, to preempt a goroutine.
			v.Status[key] = fmt.Sprintf("%016x", pending&^(1<<(uint(unix.SIGURG)-1)))
		}
	}
	for name, number := range limitNames {
		var l unix.Rlimit
		if err := unix.Getrlimit(number, &l); err != nil {
			return nil, err
		}
		v.Rlimits[name] = [2]uint64{l.Cur, l.Max}
	}
	var uts unix.Utsname
	unix.Uname(&uts)
	v.Hostname, v.Domainname = unix.ByteSliceToString(uts.Nodename[:]), unix.ByteSliceToString(uts.Domainname[:])
	for fd := range 1024 {
		if to, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd)); err == nil && !strings.Contains(to, "[eventpoll]") && !strings.Contains(to, "[eventfd]") {
			v.Files[strconv.Itoa(fd)] = to
		}
	}
	for _, ns := range []string{"mnt", "pid", "net", "uts", "ipc", "cgroup", "user"} {
		v.Namespaces[ns], _ = os.Readlink("/proc/self/ns/" + ns)
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		i := slices.Index(f, "-")
		v.Mounts[f[4]] = f[5] + " " + f[i+1] + " " + f[i+3]
	}
	if lo, err := net.InterfaceByName("lo"); err == nil {
		v.Loopback = lo.Flags&net.FlagUp != 0
	}
	v.Keyring, _ = unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)
	filepath.WalkDir("/dev", func(path string, e fs.DirEntry, err error) error {
		if err == nil && path != "/dev" {
			v.Dev[strings.TrimPrefix(path, "/dev/")] = describe(path)
		}
		return nil
	})
	var st unix.Statfs_t
	if unix.Statfs("/dev/shm", &st) == nil {
		v.ShmSize = st.Blocks * uint64(st.Bsize)
	}
	cgroups, _ := os.ReadFile("/proc/self/cgroup")
	v.Cgroups = strings.Split(strings.TrimSpace(string(cgroups)), "\n")
	score, _ := os.ReadFile("/proc/self/oom_score_adj")
	v.OOMScore = strings.TrimSpace(string(score))
	procs, _ := os.ReadDir("/proc")
	for _, e := range procs {
		if _, err := strconv.Atoi(e.Name()); err == nil {
			v.Pids = append(v.Pids, e.Name())
		}
	}
	root, _ := os.ReadDir("/")
	for _, e := range root {
		v.Root = append(v.Root, e.Name())
	}
	return v, nil
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// describe gives a file's type, mode and what is particular to the type.
func describe(path string) string {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err.Error()
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		to, _ := os.Readlink(path)
		return "-> " + to
	case unix.S_IFCHR:
		return fmt.Sprintf("c %o %d:%d %d:%d", st.Mode&0o7777, unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)), st.Uid, st.Gid)
	case unix.S_IFDIR:
		return fmt.Sprintf("d %o", st.Mode&0o7777)
	}
	return fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid)
}

// maskOf tells how a path is masked: "null", "empty" or "absent"; else what is
// to be seen there.
func maskOf(path string) string {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	switch {
	case errors.Is(err, unix.ENOENT):
		return path + " absent"
	case err != nil:
		return path + " " + err.Error()
	case st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3):
		return path + " null"
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		list, err := os.ReadDir(path)
		if made := os.Mkdir(path+"/x", 0o755); made == nil {
			return path + " writable"
		}
		if len(list) == 0 && err == nil {
			return path + " empty"
		}
	}
	return path + " bare: " + describe(path)
}

// writable lists up to limit files below a tree that open for writing, and
// directories in which something can be made.
func writable(tree string, limit int) (list []string) {
	filepath.WalkDir(tree, func(path string, e fs.DirEntry, err error) error {
		if limit--; limit < 0 {
			return fs.SkipAll
		}
		if err != nil {
			return fs.SkipDir
		}
		switch {
		case e.IsDir():
			if os.Mkdir(path+"/inboard", 0o755) == nil {
				os.Remove(path + "/inboard")
				list = append(list, path+"/")
			}
		case e.Type().IsRegular():
			if fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
				unix.Close(fd)
				list = append(list, path)
			}
		}
		return nil
	})
	return list
}
