//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/inboard/engine/internal/kernels/job"
)

// linger is how long output may stay open after a test binary has ended; a
// process that it left behind may hold it.
const linger = 5 * time.Second

// runTests runs the job's tests one after the other and reports to events.
func runTests(events *os.File) error {
	unix.CloseOnExec(int(events.Fd()))
	text, err := os.ReadFile(job.File)
	if err != nil {
		return err
	}
	if err := os.Remove(job.File); err != nil {
		return err
	}
	var j job.Job
	if err := json.Unmarshal(text, &j); err != nil {
		return fmt.Errorf("%s: %w", job.File, err)
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return err
	}
	report(events, job.Event{Kind: job.Boot, Text: unix.ByteSliceToString(name.Release[:])})
	for _, t := range j.Tests {
		before := takeInventory()
		report(events, job.Event{Kind: job.Start, Package: t.Package})
		code, took := runTest(events, t)
		for _, left := range leftBehind(before) {
			report(events, job.Event{Kind: job.Left, Package: t.Package, Text: left})
		}
		report(events, job.Event{Kind: job.Exit, Package: t.Package, Code: code, Seconds: took.Seconds()})
	}
	report(events, job.Event{Kind: job.Done})
	return nil
}

// runTest runs one test binary in its directory and cgroup and gives its exit
// code, 128 + n after signal n.
func runTest(events *os.File, t job.Test) (int, time.Duration) {
	out := &stream{events: events, pkg: t.Package}
	dir := filepath.Join(job.Tests, t.Dir)
	cmd := exec.Command(filepath.Join(dir, job.Binary), t.Args...)
	cmd.Dir = dir
	cmd.Env = environment
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = linger
	group, err := os.Open(service)
	if err != nil {
		fmt.Fprintln(out, "init:", err)
		return 1, 0
	}
	defer group.Close()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(group.Fd())}

	start := time.Now()
	err = cmd.Run()
	took := time.Since(start)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, took
	case errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signaled():
		signal := exit.Sys().(syscall.WaitStatus).Signal()
		fmt.Fprintln(out, "init: test binary ended by signal:", signal)
		return 128 + int(signal), took
	case errors.As(err, &exit):
		return exit.ExitCode(), took
	}
	fmt.Fprintln(out, "init:", err)
	return 1, took
}

// stream turns writes into Output events. Commands write to it from one
// goroutine for each of their streams.
type stream struct {
	mu     sync.Mutex
	events *os.File
	pkg    string
}

func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	report(s.events, job.Event{Kind: job.Output, Package: s.pkg, Data: p})
	return len(p), nil
}
