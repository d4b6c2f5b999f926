//go:build linux

// Package crash takes its machine down, for the end-to-end test.
package crash

import (
	"os"
	"testing"
)

func TestPanicsKernel(t *testing.T) {
	if err := os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0); err != nil {
		t.Fatal(err)
	}
	select {}
}
