package runtime

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// callNames are the system calls that programs use, for printing.
var callNames = map[uintptr]string{
	unix.SYS_CAPSET: "capset", unix.SYS_CHDIR: "chdir", unix.SYS_CHROOT: "chroot", unix.SYS_CLONE: "clone",
	unix.SYS_CLOSE: "close", unix.SYS_CLOSE_RANGE: "close_range", unix.SYS_DUP3: "dup3",
	unix.SYS_EXECVE: "execve", unix.SYS_FACCESSAT: "faccessat", unix.SYS_FCHDIR: "fchdir",
	unix.SYS_FSCONFIG: "fsconfig", unix.SYS_FSMOUNT: "fsmount", unix.SYS_FSOPEN: "fsopen",
	unix.SYS_GETTID: "gettid", unix.SYS_IOCTL: "ioctl", unix.SYS_KEYCTL: "keyctl",
	unix.SYS_MADVISE: "madvise",
	unix.SYS_MKDIRAT: "mkdirat", unix.SYS_MKNODAT: "mknodat", unix.SYS_MOUNT: "mount",
	unix.SYS_MOUNT_SETATTR: "mount_setattr", unix.SYS_MOVE_MOUNT: "move_mount", unix.SYS_OPENAT: "openat",
	unix.SYS_OPENAT2: "openat2", unix.SYS_OPEN_TREE: "open_tree", unix.SYS_PIVOT_ROOT: "pivot_root",
	unix.SYS_PRCTL: "prctl", unix.SYS_PRLIMIT64: "prlimit64", unix.SYS_READ: "read",
	unix.SYS_RT_SIGACTION: "rt_sigaction", unix.SYS_RT_SIGPROCMASK: "rt_sigprocmask",
	unix.SYS_SECCOMP: "seccomp", unix.SYS_SETDOMAINNAME: "setdomainname", unix.SYS_SETGROUPS: "setgroups",
	unix.SYS_SETHOSTNAME: "sethostname", unix.SYS_SETNS: "setns", unix.SYS_SETRESGID: "setresgid",
	unix.SYS_SETRESUID: "setresuid", unix.SYS_SETSID: "setsid", unix.SYS_SIGNALFD4: "signalfd4",
	unix.SYS_SOCKET: "socket", unix.SYS_UMASK: "umask", unix.SYS_UMOUNT2: "umount2",
	unix.SYS_UNSHARE: "unshare", unix.SYS_WRITE: "write",
}

// call prints a step as strace would: addresses of strings as the strings, other
// addresses as @offset, arguments taken from a slot in brackets.
func (s *step) call(p *program) string {
	name, ok := callNames[s.nr]
	if !ok {
		name = fmt.Sprintf("syscall_%d", s.nr)
	}
	last := len(s.args)
	for last > 0 && s.args[last-1] == 0 {
		last--
	}
	var b strings.Builder
	b.WriteString(name + "(")
	for i, a := range s.args[:last] {
		if i > 0 {
			b.WriteString(", ")
		}
		if i == 0 && s.flags&flagArg0 != 0 || i == 2 && s.flags&flagArg2 != 0 {
			fmt.Fprintf(&b, "[@%d]", a-progBase)
			continue
		}
		b.WriteString(p.argument(a))
	}
	b.WriteString(")")
	if s.result != 0 {
		fmt.Fprintf(&b, " -> @%d", s.result-progBase)
	}
	return b.String()
}

func (p *program) argument(a uintptr) string {
	offset := int64(a) - progBase
	if offset < headerSize || offset >= int64(len(p.mem)) {
		if int64(a) < 0 {
			return fmt.Sprint(int64(a))
		}
		if a > 9 {
			return fmt.Sprintf("%#x", a)
		}
		return fmt.Sprint(a)
	}
	text := p.mem[offset:]
	n := 0
	for n < len(text) && n < 256 && text[n] >= ' ' && text[n] < 0x7f {
		n++
	}
	if n < len(text) && text[n] == 0 && (n > 1 || n == 0 && offset%8 != 0 || n == 1 && text[0] != ' ') {
		return fmt.Sprintf("%q", text[:n])
	}
	return fmt.Sprintf("@%d", offset)
}
