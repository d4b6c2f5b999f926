package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func init() { programs["host-starve"] = hostStarve }

// hostStarve starts and execs with fewer and fewer free descriptors. What
// cannot be is an error; nothing hangs, runs on unseen, or stays open.
func hostStarve(args []string) int {
	const limit = 512
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
		return exitCode(err)
	}
	r, err := openAsHost(args[0])
	if err != nil {
		return exitCode(err)
	}
	s := DefaultSpec()
	s.Root.Path = args[1]
	s.Process.Args = []string{"/bin/sleep"}
	c, err := r.Start(background, s, CreateOptions{})
	if err != nil {
		return exitCode(err)
	}
	for _, free := range []int{200, 60, 45, 40, 35, 32, 30, 28, 26, 24, 22, 20, 18, 16, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0} {
		one, err1, x, err2 := starved(r, c, s, limit-free)
		for what, err := range map[string]error{"start": err1, "exec": err2} {
			if err != nil && !errors.Is(err, unix.EMFILE) {
				return exitCode(fmt.Errorf("%s with %d descriptors: %w", what, free, err))
			}
		}
		if one != nil {
			if err := one.Delete(background); err != nil {
				return exitCode(err)
			}
		}
		if x != nil {
			if err := x.Signal(background, unix.SIGKILL); err != nil {
				return exitCode(err)
			}
			x.Wait(background)
		}
		if left := inside(c); len(left) != 1 {
			return exitCode(fmt.Errorf("with %d descriptors: processes %v in the container; start: %v, exec: %v", free, left, err1, err2))
		}
	}
	one, err := r.Start(background, s, CreateOptions{})
	if err != nil {
		return exitCode(err)
	}
	if one.Pid() == 0 || c.Pid() == 0 {
		return exitCode(errors.New("a container has ended"))
	}
	fmt.Println("good")
	return exitCode(r.Close())
}

// starved fills the descriptor table, tries, and empties it again.
func starved(r *Runtime, c *Container, s *specs.Spec, fill int) (one *Container, err1 error, x *Process, err2 error) {
	var files []int
	defer func() {
		for _, fd := range files {
			unix.Close(fd)
		}
	}()
	for open := openDescriptors(); open < fill; open++ {
		fd, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			break
		}
		files = append(files, fd)
	}
	one, err1 = r.Start(background, s, CreateOptions{})
	x, err2 = c.Exec(background, s.Process, ProcessOptions{})
	return one, err1, x, err2
}

func openDescriptors() int {
	list, _ := os.ReadDir("/proc/self/fd")
	return len(list) - 1
}

// inside lists the processes in a container's pid namespace.
func inside(c *Container) (list []string) {
	ns, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", c.Pid()))
	all, _ := filepath.Glob("/proc/[0-9]*/ns/pid")
	for _, p := range all {
		if other, _ := os.Readlink(p); other == ns {
			list = append(list, strings.Split(p, "/")[2])
		}
	}
	return list
}

func TestFewDescriptors(t *testing.T) {
	out, err := hostProgram(t, "host-starve", t.TempDir(), newRootfs(t)).Output()
	if err != nil || string(out) != "good\n" {
		t.Errorf("%s, %v", out, err)
	}
}
