package runtime

import (
	"encoding/binary"
	"fmt"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// calls are the system calls that programs use, for printing: the name, and a
// letter for each argument: d a decimal number, x hexadecimal, o octal, s a
// string, v a list of strings, f a filter, p an address; a digit is how many
// words the argument points to.
var calls = map[uintptr]struct{ name, arguments string }{
	unix.SYS_CAPSET: {"capset", "13"}, unix.SYS_CHDIR: {"chdir", "s"}, unix.SYS_CHROOT: {"chroot", "s"},
	unix.SYS_CLONE: {"clone", "xdp"}, unix.SYS_CLOSE: {"close", "d"}, unix.SYS_CLOSE_RANGE: {"close_range", "dxx"},
	unix.SYS_DUP3: {"dup3", "ddx"}, unix.SYS_EXECVE: {"execve", "svv"}, unix.SYS_FACCESSAT: {"faccessat", "dsd"},
	unix.SYS_FCHDIR: {"fchdir", "d"}, unix.SYS_FSCONFIG: {"fsconfig", "ddssd"}, unix.SYS_FSMOUNT: {"fsmount", "dxx"},
	unix.SYS_FSOPEN: {"fsopen", "sx"}, unix.SYS_GETTID: {"gettid", ""}, unix.SYS_IOCTL: {"ioctl", "dxs"},
	unix.SYS_GETPID: {"getpid", ""}, unix.SYS_KEYCTL: {"keyctl", "dd"}, unix.SYS_MADVISE: {"madvise", "pxd"}, unix.SYS_MKDIRAT: {"mkdirat", "dso"},
	unix.SYS_MKNODAT: {"mknodat", "dsox"}, unix.SYS_MMAP: {"mmap", "xxxxdd"}, unix.SYS_MOUNT: {"mount", "sssxs"},
	unix.SYS_MOUNT_SETATTR: {"mount_setattr", "dsx4d"}, unix.SYS_MOVE_MOUNT: {"move_mount", "dsdsx"},
	unix.SYS_MUNMAP: {"munmap", "xx"}, unix.SYS_OPENAT: {"openat", "dsxo"}, unix.SYS_OPENAT2: {"openat2", "ds3d"},
	unix.SYS_OPEN_TREE: {"open_tree", "dsx"}, unix.SYS_PIVOT_ROOT: {"pivot_root", "ss"}, unix.SYS_PRCTL: {"prctl", "dd"},
	unix.SYS_PRLIMIT64: {"prlimit64", "dd2p"}, unix.SYS_READ: {"read", "dpd"}, unix.SYS_RECVMSG: {"recvmsg", "dpx"},
	unix.SYS_RT_SIGACTION: {"rt_sigaction", "d4pd"}, unix.SYS_RT_SIGPROCMASK: {"rt_sigprocmask", "d1pd"},
	unix.SYS_SECCOMP: {"seccomp", "dxf"}, unix.SYS_SETDOMAINNAME: {"setdomainname", "sd"}, unix.SYS_SETFSGID: {"setfsgid", "d"}, unix.SYS_SETFSUID: {"setfsuid", "d"},
	unix.SYS_SETGROUPS: {"setgroups", "dp"}, unix.SYS_SETHOSTNAME: {"sethostname", "sd"}, unix.SYS_SETNS: {"setns", "dx"},
	unix.SYS_SETPGID: {"setpgid", "dd"}, unix.SYS_SETRESGID: {"setresgid", "ddd"},
	unix.SYS_SETRESUID: {"setresuid", "ddd"}, unix.SYS_SETSID: {"setsid", ""}, unix.SYS_SIGNALFD4: {"signalfd4", "d1dx"},
	unix.SYS_SOCKET: {"socket", "dxd"}, unix.SYS_UMASK: {"umask", "o"}, unix.SYS_UMOUNT2: {"umount2", "sx"},
	unix.SYS_UNSHARE: {"unshare", "x"}, unix.SYS_WRITE: {"write", "dsd"},
}

// String lists the steps, one a line, what each is for behind it. Results have
// numbers in the order in which they come up: "$1 = openat(...)", then "$1".
func (p *program) String() string {
	results := map[uintptr]int{}
	var b strings.Builder
	for i := range p.steps {
		s := &p.steps[i]
		call := p.call(s, results)
		if s.result != 0 {
			n := results[s.result]
			if n == 0 {
				n = len(results) + 1
				results[s.result] = n
			}
			call = fmt.Sprintf("$%d = %s", n, call)
		}
		fmt.Fprintf(&b, "%-72s %s%s\n", call, s.what, s.exceptions())
	}
	return b.String()
}

// exceptions tells which steps are left out after a step, and which errors are
// none.
func (s *step) exceptions() (text string) {
	errno := func(bits uint64) string {
		if n := bits & 0xffff; n != anyErrno {
			return unix.ErrnoName(syscall.Errno(n))
		}
		return "any error"
	}
	if bits := s.flags >> 16 & 0xffff; bits != 0 {
		text += fmt.Sprintf("; after %s", errno(bits))
		if n := s.flags >> 8 & maxSkip; n > 0 {
			text += fmt.Sprintf(" skip %d", n)
		} else {
			text += " go on"
		}
	}
	if bits := s.flags >> 40 & 0xffff; bits != 0 {
		text += fmt.Sprintf("; after %s go on", errno(bits))
	}
	if n := s.flags >> 32 & maxSkip; n > 0 {
		text += fmt.Sprintf("; else skip %d", n)
	}
	return text
}

// call prints a step as strace would.
func (p *program) call(s *step, results map[uintptr]int) string {
	c, ok := calls[s.nr]
	if !ok {
		c.name, c.arguments = fmt.Sprintf("syscall_%d", s.nr), "xxxxxx"
	}
	var list []string
	for i, kind := range c.arguments {
		a := s.args[i]
		if i == 0 && s.flags&flagArg0 != 0 || i == 2 && s.flags&flagArg2 != 0 {
			if n := results[a]; n != 0 {
				list = append(list, fmt.Sprintf("$%d", n))
				continue
			}
			a = uintptr(p.wordAt(a)) // set by the host
		}
		list = append(list, p.argument(kind, a))
	}
	return c.name + "(" + strings.Join(list, ", ") + ")"
}

func (p *program) argument(kind rune, a uintptr) string {
	switch kind {
	case 'd':
		return fmt.Sprint(int64(a))
	case 'o':
		return fmt.Sprintf("%#o", a)
	case 's':
		return p.stringAt(a)
	case 'v':
		var list []string
		for ; p.wordAt(a) != 0; a += 8 {
			list = append(list, p.stringAt(uintptr(p.wordAt(a))))
		}
		return "[" + strings.Join(list, ", ") + "]"
	case 'f':
		return fmt.Sprintf("{%d instructions}", p.wordAt(a))
	case 'p':
		if a == 0 {
			return "NULL"
		}
		return fmt.Sprintf("@%d", a-progBase)
	case 'x':
		return fmt.Sprintf("%#x", a)
	}
	var words []string
	for i := range uintptr(kind - '0') {
		words = append(words, fmt.Sprintf("%#x", p.wordAt(a+8*i)))
	}
	return "{" + strings.Join(words, ", ") + "}"
}

// wordAt and stringAt read what a program points to.
func (p *program) wordAt(a uintptr) uint64 {
	if a < progBase || int(a-progBase)+8 > len(p.mem) {
		return 0
	}
	return binary.LittleEndian.Uint64(p.mem[a-progBase:])
}

func (p *program) stringAt(a uintptr) string {
	if a < progBase || int(a-progBase) >= len(p.mem) {
		return "NULL"
	}
	text, _, _ := strings.Cut(string(p.mem[a-progBase:]), "\x00")
	return fmt.Sprintf("%q", text)
}
