package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
)

// diskSize is what the machine has at /var, in bytes. The file is sparse.
const diskSize = 4 << 30

// makeDisk makes a file at path with an ext4 file system that holds a copy of
// the directory from. It needs no privileges and mounts nothing.
func makeDisk(ctx context.Context, path, from string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	err = f.Truncate(diskSize)
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	_, err = output(exec.CommandContext(ctx, findTool("mkfs.ext4"), "-q", "-F", "-E", "root_owner=0:0,lazy_itable_init=1,nodiscard", "-d", from, path))
	return err
}

// findTool looks for a program, in the directories of system programs also when
// an ordinary user's PATH has them not.
func findTool(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/sbin/", "/sbin/"} {
		if _, err := os.Stat(dir + name); err == nil {
			return dir + name
		}
	}
	return name
}
