//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// room is a mount namespace in which the other engines run: what they mount
// is gone with it, and crun, which refuses machines that have cgroups v1 and
// v2 side by side, does not find the v2 part there.
//
// It is the namespace of one thread, which starts all processes in it.
type room struct {
	work   chan func()
	thread int
	dir    string // the working directory of what runs; empty: ours
}

func openRoom() (*room, error) {
	r := &room{work: make(chan func())}
	ready := make(chan error)
	go r.serve(ready)
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("private mount namespace: %w", err)
	}
	return r, nil
}

// serve does the room's work on its thread.
func (r *room) serve(ready chan<- error) {
	// Never unlocked: the thread ends with the goroutine, the namespace with
	// the thread.
	runtime.LockOSThread()
	r.thread = unix.Gettid()
	if r.thread == os.Getpid() {
		// The main thread never ends, and its namespace is what /proc/self
		// shows. While it is locked here, the next goroutine gets another.
		other := make(chan error)
		go r.serve(other)
		err := <-other
		runtime.UnlockOSThread()
		ready <- err
		return
	}
	err := enterRoom()
	ready <- err
	if err != nil {
		return
	}
	for f := range r.work {
		f()
	}
}

func enterRoom() error {
	host, err := os.Readlink("/proc/thread-self/ns/mnt")
	if err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	// To unmount cgroups for all the machine is not for a bench to do.
	own, err := os.Readlink("/proc/thread-self/ns/mnt")
	if err != nil {
		return err
	}
	if own == host {
		return errors.New("still in the host's")
	}
	// State that engines keep outside of the directories that they are given,
	// as podman's locks, goes with the namespace too.
	for _, dir := range []string{"/run", "/dev/shm"} {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("mount tmpfs on %s: %w", dir, err)
		}
	}
	return leaveHybrid()
}

// leaveHybrid unmounts a v2 hierarchy that stands below v1's.
func leaveHybrid() error {
	f, err := os.Open("/proc/thread-self/mountinfo")
	if err != nil {
		return err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(before)
		if !ok || len(fields) < 5 || !strings.HasPrefix(after, "cgroup2 ") {
			continue
		}
		if dir := fields[4]; strings.HasPrefix(dir, "/sys/fs/cgroup/") {
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				return fmt.Errorf("unmount %s: %w", dir, err)
			}
		}
	}
	return nil
}

// close ends the namespace, once what runs in it has ended.
func (r *room) close() { close(r.work) }

// start starts cmd in the room.
func (r *room) start(cmd *exec.Cmd) error {
	started := make(chan error)
	r.work <- func() { started <- cmd.Start() }
	return <-started
}

// run runs a program with no input and its output dropped, and tells how long
// it took from before its start to its end.
func (r *room) run(ctx context.Context, env []string, name string, args ...string) (time.Duration, error) {
	_, took, err := r.output(ctx, env, name, args...)
	return took, err
}

// output is run for a program whose output matters.
func (r *room) output(ctx context.Context, env []string, name string, args ...string) (string, time.Duration, error) {
	// A file and no pipe: podman's conmon keeps it open for as long as its
	// container lives.
	out, err := memoryFile()
	if err != nil {
		return "", 0, err
	}
	defer out.Close()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = r.dir
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append(os.Environ(), env...)
	var begin time.Time
	started := make(chan error, 1)
	r.work <- func() {
		begin = time.Now()
		started <- cmd.Start()
	}
	if err := <-started; err != nil {
		return "", 0, err
	}
	err = cmd.Wait()
	took := time.Since(begin)
	text := readAll(out)
	if err != nil {
		return "", took, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, text)
	}
	return text, took, nil
}

func memoryFile() (*os.File, error) {
	fd, err := unix.MemfdCreate("output", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd: %w", err)
	}
	return os.NewFile(uintptr(fd), "output"), nil
}

func readAll(f *os.File) string {
	text, _ := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
	return strings.TrimSpace(string(text))
}

// mounts counts the lines of the room's mount table.
func (r *room) mounts() (int, error) {
	return mountLines(fmt.Sprintf("/proc/self/task/%d/mountinfo", r.thread))
}

func mountLines(path string) (int, error) {
	text, err := os.ReadFile(path)
	return strings.Count(string(text), "\n"), err
}

// removeCgroups removes the empty cgroups that a peer leaves under its parent
// in each hierarchy.
func removeCgroups(parent string) error {
	roots, err := filepath.Glob("/sys/fs/cgroup/*/" + parent)
	if err != nil {
		return err
	}
	roots = append(roots, filepath.Join("/sys/fs/cgroup", parent))
	var errs []error
	for _, root := range roots {
		errs = append(errs, removeCgroup(root))
	}
	return errors.Join(errs...)
}

func removeCgroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroup(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return os.Remove(dir)
}
