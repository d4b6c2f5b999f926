//go:build linux

// Command init is the whole user space of a test machine. As pid 1 it loads
// modules, makes a root that looks like a server's, starts itself once more to
// run the tests, reaps, and powers the machine off. It is built and packed by
// package kernels and is of no use elsewhere.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/inboard/engine/internal/kernels/job"
)

// self is where this program lies in the machine's final root.
const self = "/sbin/init"

func main() {
	if len(os.Args) == 2 && os.Args[1] == "tests" {
		if err := runTests(os.NewFile(3, "events")); err != nil {
			fmt.Fprintln(os.Stderr, "init:", err)
			os.Exit(1)
		}
		return
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "init: this is pid 1 of a test machine; run internal/kernels instead")
		os.Exit(2)
	}
	if err := boot(); err != nil {
		fmt.Fprintln(os.Stderr, "init:", err)
	}
	powerOff()
}

// boot is pid 1 from the first mount until the tests have ended.
func boot() error {
	if err := mountAll(early); err != nil {
		return err
	}
	text, err := os.ReadFile(job.File)
	if err != nil {
		return err
	}
	var j job.Job
	if err := json.Unmarshal(text, &j); err != nil {
		return fmt.Errorf("%s: %w", job.File, err)
	}
	for _, m := range j.Modules {
		if err := loadModule(m); err != nil {
			return err
		}
	}
	events, err := openPort()
	if err != nil {
		return err
	}
	defer events.Close()
	if err := prepare(j.Time); err != nil {
		report(events, job.Event{Kind: job.Fault, Text: err.Error()})
		return err
	}
	if err := os.WriteFile(job.File, text, 0o600); err != nil {
		return err
	}
	status, err := reap(events)
	if err != nil {
		report(events, job.Event{Kind: job.Fault, Text: err.Error()})
		return err
	}
	if status != 0 {
		report(events, job.Event{Kind: job.Fault, Text: fmt.Sprintf("the tests' parent ended with wait status %#x", uint32(status))})
	}
	return nil
}

// reap starts the tests' parent and collects every orphan until it ends. Two
// processes because a pid 1 that reaps all would steal its own commands'
// statuses.
func reap(events *os.File) (unix.WaitStatus, error) {
	p, err := os.StartProcess(self, []string{self, "tests"}, &os.ProcAttr{
		Dir:   "/",
		Env:   environment,
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr, events},
	})
	if err != nil {
		return 0, err
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, fmt.Errorf("wait: %w", err)
		case pid == p.Pid:
			return status, nil
		}
	}
}

// report writes one event. There is nobody to tell when that fails; the host
// sees the machine end without Done.
func report(to *os.File, e job.Event) {
	line, err := json.Marshal(e)
	if err != nil {
		panic(err) // Event has no value that JSON cannot hold
	}
	to.Write(append(line, '\n'))
}

// powerOff ends the machine. The disk is thrown away, so nothing is synced.
func powerOff() {
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	for { // pid 1 must not return, or the kernel panics
		time.Sleep(time.Hour)
	}
}
