package main

import (
	"os/exec"
	"syscall"
)

// dieWithParent has the kernel kill cmd when the calling thread ends, so that a
// kill -9 of this program leaves no machine running.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
