//go:build linux

package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// settle is how long processes, cgroups and links of a finished test may take
// to go; the kernel removes some of them in the background.
const settle = 5 * time.Second

// places are directories in which a new name counts as left behind.
var places = []string{
	"/", "/bin", "/etc", "/root", "/home/user", "/run", "/tmp", "/dev", "/dev/shm", "/dev/mqueue",
	"/var", "/var/lib", "/var/tmp", "/var/cache", "/var/log", "/sys/fs/bpf",
}

// inventory is what a test must not change: each thing, and how many there are
// of it.
type inventory map[string]int

// takeInventory looks at the machine. What cannot be read is not counted: it
// went away meanwhile.
func takeInventory() inventory {
	inv := inventory{}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 8 {
			rest := f[slices.Index(f, "-"):]
			inv["mount of "+rest[1]+" on "+f[4]]++
		}
	}
	filepath.WalkDir(cgroups, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			inv["cgroup "+path]++
		}
		return nil
	})
	links, _ := os.ReadDir("/sys/class/net")
	for _, e := range links {
		inv["network link "+e.Name()]++
	}
	loops, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, name := range loops {
		file, _ := os.ReadFile(name)
		inv["loop device on "+strings.TrimSpace(string(file))]++
	}
	for _, dir := range places {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			inv["file "+filepath.Join(dir, e.Name())]++
		}
	}
	for _, p := range processes() {
		inv["process "+p.name]++
	}
	taint, _ := os.ReadFile("/proc/sys/kernel/tainted")
	inv["kernel taint "+strings.TrimSpace(string(taint))+", see the console"]++
	return inv
}

// leftBehind waits until the machine is as it was before, or names what is more,
// and kills processes among that so that they do not disturb the next test.
func leftBehind(before inventory) []string {
	var left []string
	for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		left = before.missing(takeInventory())
		if len(left) == 0 || time.Since(start) > settle {
			break
		}
	}
	for _, p := range processes() {
		if p.pid != os.Getpid() && before["process "+p.name] == 0 {
			unix.Kill(p.pid, unix.SIGKILL)
		}
	}
	return left
}

// missing names, sorted, what after has and inv has not, or not as often.
func (inv inventory) missing(after inventory) []string {
	var more []string
	for thing, n := range after {
		switch extra := n - inv[thing]; {
		case extra == 1:
			more = append(more, thing)
		case extra > 1:
			more = append(more, fmt.Sprintf("%s (%d times)", thing, extra))
		}
	}
	slices.Sort(more)
	return more
}

// process is a user process.
type process struct {
	pid  int
	name string // its command line, or [comm] of one that has none left
}

// kernelThread is PF_KTHREAD of linux/sched.h in the flags of /proc/PID/stat.
const kernelThread = 0x00200000

// processes lists all but kernel threads.
func processes() []process {
	var list []process
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue
		}
		// comm is in brackets and may have any byte, so fields count from the last one.
		end := bytes.LastIndexByte(stat, ')')
		fields := strings.Fields(string(stat[end+1:]))
		if end < 0 || len(fields) < 7 {
			continue
		}
		if flags, _ := strconv.ParseUint(fields[6], 10, 64); flags&kernelThread != 0 {
			continue
		}
		args, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		name := strings.TrimSpace(string(bytes.ReplaceAll(args, []byte{0}, []byte{' '})))
		if name == "" {
			name = string(stat[bytes.IndexByte(stat, '('):end+1]) + " in state " + fields[0]
		}
		list = append(list, process{pid, name})
	}
	return list
}
