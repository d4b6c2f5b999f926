package runtime

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func init() { programs["host-without"] = hostWithout }

// deny has the kernel answer a system call as one does that has not got it.
func deny(call uint32) error {
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: call, Jf: 1},
		{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return errno
	}
	return nil
}

// hostWithout starts a container on a kernel that lacks a system call, and
// prints the error.
func hostWithout(args []string) int {
	call, err := strconv.ParseUint(args[2], 10, 32)
	if err == nil {
		err = deny(uint32(call))
	}
	var r *Runtime
	if err == nil {
		r, err = openAsHost(args[0])
	}
	if err != nil {
		return exitCode(err)
	}
	s := DefaultSpec()
	s.Root.Path = args[1]
	s.Process.Args = []string{"/bin/true"}
	c, err := r.Start(background, s, CreateOptions{})
	switch {
	case err == nil:
		st, _ := c.Wait(background)
		fmt.Println(st)
	case errdefs.IsNotImplemented(err) && errors.Is(err, unix.ENOSYS):
		fmt.Println(err)
	default:
		return exitCode(err)
	}
	return exitCode(r.Close())
}

// A kernel without what is needed: the error names the step and the call, or
// what stands for it, and nothing is left.
func TestOldKernel(t *testing.T) {
	root := newRootfs(t)
	for _, x := range []struct {
		call int
		step string
	}{
		{unix.SYS_MEMFD_CREATE, "memfd_create"},
		{unix.SYS_OPEN_TREE, "rootfs " + root},
		{unix.SYS_MOVE_MOUNT, "attach the keeper's root"},
		{unix.SYS_FSOPEN, "fsopen tmpfs"},
		{unix.SYS_FSCONFIG, "tmpfs option"},
		{unix.SYS_FSMOUNT, "mount tmpfs"},
		{unix.SYS_PIDFD_OPEN, "pidfd_open"},
		{unix.SYS_OPENAT2, "/etc/passwd"},
		{unix.SYS_CLOSE_RANGE, "close descriptors"},
		{unix.SYS_MOUNT_SETATTR, "mount_setattr"},
		{unix.SYS_CLONE3, "exit status 0"}, // clone stands in
	} {
		h := hostProgram(t, "host-without", t.TempDir(), root, strconv.Itoa(x.call))
		out, err := h.Output()
		text := strings.TrimSpace(string(out))
		if err != nil || !strings.Contains(text, x.step) || x.call != unix.SYS_CLONE3 && !strings.HasSuffix(text, "containers need Linux 5.14)") {
			t.Errorf("call %d, wanted for %q: %s, %v", x.call, x.step, text, err)
		}
	}
}
