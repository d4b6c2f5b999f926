//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/inboard/engine/internal/kernels/job"
)

// appears is how long a device may take to show up after its driver is loaded:
// probing is asynchronous, and emulated.
const appears = 30 * time.Second

// loadModule loads the module in the file at path; one that is there already is
// no error.
func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && err != unix.EEXIST {
		return fmt.Errorf("load module %s: %w", path, err)
	}
	return nil
}

// openPort opens the virtio port that is called job.Port.
func openPort() (*os.File, error) {
	dir, err := find("/sys/class/virtio-ports/*/name", job.Port)
	if err != nil {
		return nil, err
	}
	return os.OpenFile("/dev/"+filepath.Base(dir), os.O_WRONLY, 0)
}

// findDisk gives the device node of the virtio disk with serial job.Disk.
func findDisk() (string, error) {
	dir, err := find("/sys/block/*/serial", job.Disk)
	if err != nil {
		return "", err
	}
	return "/dev/" + filepath.Base(dir), nil
}

// find waits for a file that matches pattern and whose content is value, and
// gives its directory. sysfs has no event for a process without a netlink
// socket of its own to wait for, and this runs once a boot: it looks again
// every few milliseconds.
func find(pattern, value string) (string, error) {
	for start := time.Now(); time.Since(start) < appears; time.Sleep(5 * time.Millisecond) {
		names, err := filepath.Glob(pattern)
		if err != nil {
			return "", err
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err == nil && strings.TrimSpace(string(text)) == value {
				return filepath.Dir(name), nil
			}
		}
	}
	return "", fmt.Errorf("no device with %s = %s after %v", pattern, value, appears)
}
