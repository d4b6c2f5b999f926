//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const (
	cgroups = "/sys/fs/cgroup"
	// service is where the tests run: not in the root, which alone may have
	// processes beside children that get controllers.
	service = cgroups + "/system.slice/tests.service"
)

// enableControllers hands all controllers to the root's children and makes the
// tests' cgroup.
func enableControllers() error {
	text, err := os.ReadFile(filepath.Join(cgroups, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(text)) {
		err := os.WriteFile(filepath.Join(cgroups, "cgroup.subtree_control"), []byte("+"+name), 0)
		if err != nil {
			return fmt.Errorf("enable cgroup controller %s: %w", name, err)
		}
	}
	return os.MkdirAll(service, 0o755)
}
