//go:build linux

package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestWantedPeers(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if err := os.WriteFile(filepath.Join(os.Getenv("PATH"), "crun"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	got, err := wantedPeers("docker,crun,umoci", &log)
	if err != nil || len(got) != 1 || got[0] != "crun" {
		t.Errorf("got %q, %v", got, err)
	}
	if want := "peers left out because they are not installed: docker, umoci\n"; log.String() != want {
		t.Errorf("said %q, want %q", log.String(), want)
	}
	if got, err := wantedPeers("", &log); err != nil || len(got) != 0 {
		t.Errorf("none wanted: got %q, %v", got, err)
	}
	if _, err := wantedPeers("lxc", &log); err == nil || !strings.Contains(err.Error(), `"lxc"`) {
		t.Errorf("unknown peer: %v", err)
	}
}

// need skips a test on a machine that lacks a program.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s is not installed", p)
		}
	}
}

// TestRoom shows that what a peer mounts is seen by peers alone.
func TestRoom(t *testing.T) {
	need(t, "sh", "mount", "cat")
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	before, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	r, err := openRoom()
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	lines, err := r.mounts()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if took, err := r.run(t.Context(), nil, "mount", "-t", "tmpfs", "none", dir); err != nil || took <= 0 {
		t.Fatalf("took %v, %v", took, err)
	}
	if now, err := r.mounts(); err != nil || now != lines+1 {
		t.Errorf("%d mounts in the room, then %d, %v", lines, now, err)
	}
	out, _, err := r.output(t.Context(), []string{"GREETING=hello"}, "sh", "-c", `echo "$GREETING"; cat /proc/self/mounts`)
	if err != nil || !strings.HasPrefix(out, "hello\n") || !strings.Contains(out, dir) {
		t.Errorf("got %q, %v", out, err)
	}
	if strings.Contains(out, "cgroup2 /sys/fs/cgroup/") {
		t.Error("the v2 part of a hybrid machine is still there")
	}
	after, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if string(before) != string(after) {
		t.Errorf("the host's mounts changed from\n%sto\n%s", before, after)
	}
}

func TestRoomErrors(t *testing.T) {
	need(t, "sh", "sleep")
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	r, err := openRoom()
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	_, err = r.run(t.Context(), nil, "sh", "-c", "echo what went wrong >&2; exit 3")
	if err == nil || !strings.Contains(err.Error(), "what went wrong") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("got %v", err)
	}
	if _, err := r.run(t.Context(), nil, "/nowhere/program"); err == nil {
		t.Error("no error for a program that is not there")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := r.run(ctx, nil, "sleep", "1000"); err == nil {
		t.Error("no error for a context that ended")
	}
}

func TestRemoveCgroups(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	parent := "inboard-bench-test"
	hierarchy := "/sys/fs/cgroup"
	if dirs, _ := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs"); len(dirs) > 0 {
		hierarchy = filepath.Dir(dirs[0])
	}
	if err := os.MkdirAll(filepath.Join(hierarchy, parent, "a/b"), 0o755); err != nil {
		t.Skip("no cgroup can be made:", err)
	}
	if err := removeCgroups(parent); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(hierarchy, parent)); !os.IsNotExist(err) {
		t.Errorf("still there: %v", err)
	}
	if err := removeCgroups(parent); err != nil {
		t.Errorf("nothing to remove: %v", err)
	}
}
