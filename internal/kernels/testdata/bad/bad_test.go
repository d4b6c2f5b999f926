//go:build linux

// Package bad fails and leaves things behind, for the end-to-end test.
package bad

import (
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

func TestFails(t *testing.T) { t.Error("this is wrong") }

func TestLeavesAllBehind(t *testing.T) {
	for _, dir := range []string{"/tmp/left-mount", "/sys/fs/cgroup/left-cgroup"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("none", "/tmp/left-mount", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("ip", "link", "add", "left-link", "type", "veth", "peer", "name", "left-peer").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := exec.Command("sleep", "1234").Start(); err != nil {
		t.Fatal(err)
	}
}

func TestHangs(t *testing.T) {
	if testing.Short() {
		<-make(chan int)
	}
}
