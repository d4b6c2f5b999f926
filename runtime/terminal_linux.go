package runtime

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A terminal is a pseudoterminal of a container's own devpts. The host opens
// both ends, so that it never takes a descriptor from inside: for the first
// process from the mount itself, before anyone else has seen it, and later from
// what it has found to be a devpts.
type terminal struct {
	master *os.File // the host's end, non-blocking
	slave  *os.File // the process's, until it has it

	over atomic.Bool // see hangUp
	rest int         // bytes that are read at most after that
}

// ptsDir is where a container has its devpts.
const ptsDir = "/dev/pts"

// maxRest is more than a terminal holds, of which the kernel bounds a buffer to
// 640 KiB (TTYB_DEFAULT_MEM_LIMIT in drivers/tty/tty_buffer.c).
const maxRest = 1 << 20

// openTerminal opens a new pair through a ptmx: a name in a directory, or an
// absolute path. None of this makes it the caller's controlling terminal.
func openTerminal(dir int, name string) (*terminal, error) {
	const flags = unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC
	fd, err := unix.Openat(dir, name, flags|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("open ptmx", err)
	}
	t := &terminal{master: os.NewFile(uintptr(fd), "terminal"), rest: maxRest}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.close()
		return nil, os.NewSyscallError("unlock terminal", err)
	}
	// The peer itself and not its path: Linux 4.13, commit 54ebbfb16034.
	slave, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, flags)
	if errno != 0 {
		t.close()
		return nil, os.NewSyscallError("open the terminal's other end", errno)
	}
	t.slave = os.NewFile(slave, "terminal")
	return t, nil
}

// openTerminalInside opens a terminal of a running container, whose processes
// may have put anything at the path. So it is looked at before it is opened: of
// a devpts all that can have ptmx's number is ptmx.
func (c *Container) openTerminalInside() (*terminal, error) {
	root, err := c.openInside()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS}
	fd, err := unix.Openat2(int(root.Fd()), ptsDir+"/ptmx", &how)
	for range lookupAttempts {
		if err == unix.EAGAIN {
			fd, err = unix.Openat2(int(root.Fd()), ptsDir+"/ptmx", &how)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open the container's ptmx: %w", err)
	}
	defer unix.Close(fd)
	var fs unix.Statfs_t
	var st unix.Stat_t
	if err := errors.Join(unix.Fstatfs(fd, &fs), unix.Fstat(fd, &st)); err != nil {
		return nil, fmt.Errorf("look at the container's ptmx: %w", err)
	}
	if fs.Type != unix.DEVPTS_SUPER_MAGIC || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(5, 2) {
		return nil, fmt.Errorf("what the container has at %s/ptmx is not that of a devpts: %w", ptsDir, errdefs.ErrFailedPrecondition)
	}
	return openTerminal(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd))
}

// prepare gives the terminal the size and the owner that a process's is to have.
func (t *terminal) prepare(p *specs.Process, who *credential, ids *idMap) error {
	if size := p.ConsoleSize; size != nil {
		if err := t.resize(uint16(size.Height), uint16(size.Width)); err != nil {
			return err
		}
	}
	owner := who.uid
	if ids != nil {
		owner, _, _ = ids.host(who.uid, who.gid) // they have been checked
	}
	if err := t.slave.Chown(int(owner), -1); err != nil {
		return fmt.Errorf("give the terminal to user %d: %w", who.uid, err)
	}
	return nil
}

func (t *terminal) resize(rows, columns uint16) error {
	return t.control("resize terminal", func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns})
	})
}

// control does something with the master, which is closed when the process has
// ended: then the error is errProcessGone.
func (t *terminal) control(what string, f func(fd int) error) (err error) {
	conn, _ := t.master.SyscallConn() // of a file that is not nil there is one
	if conn.Control(func(fd uintptr) { err = os.NewSyscallError(what, f(int(fd))) }) != nil {
		return errProcessGone
	}
	return err
}

// Read gives what the terminal shows. It ends when nobody has the other end any
// more, or after hangUp.
func (t *terminal) Read(b []byte) (n int, err error) {
	n, err = t.master.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) && t.over.Load() {
		err = t.control("read", func(fd int) (err error) {
			n, err = unix.Read(fd, b[:min(len(b), t.rest)])
			return err
		})
		if err != nil || n == 0 {
			return 0, io.EOF
		}
		t.rest -= n
	}
	if errors.Is(err, unix.EIO) {
		err = io.EOF
	}
	return n, err
}

// hangUp has Read give what has been written until now, and then end. As on any
// terminal, who has the other end still, when its process has ended, is not
// waited for.
func (t *terminal) hangUp() {
	t.over.Store(true)
	t.master.SetReadDeadline(time.Unix(1, 0))
}

func (t *terminal) close() {
	t.master.Close()
	if t.slave != nil {
		t.slave.Close()
	}
}

// terminal makes a new terminal the standard streams of a container's first
// process, and its controlling one. It is the first of the container's devpts,
// and also the console (runtime-spec 1.3, config-linux, "Default Devices").
// The bind mount is of what nobody else has touched (CVE-2025-52565).
func (b *builder) terminal(p *specs.Process) {
	if !p.Terminal || b.err != nil {
		return
	}
	if b.pts == 0 {
		b.invalid(errdefs.ErrInvalidArgument, "a terminal without a devpts on %s", ptsDir)
		return
	}
	fd := ^uintptr(0)
	if b.explained == nil {
		var err error
		if b.console, err = openTerminal(int(b.devpts.Fd()), "ptmx"); err != nil {
			b.fail(fmt.Errorf("terminal: %w", err))
			return
		}
		fd = b.console.slave.Fd()
	}
	n := b.send(int(fd))
	b.explained.note(n, "the terminal, number 0 of the devpts")
	for i := range uintptr(3) {
		b.add("set up the terminal", unix.SYS_DUP3, n, i, 0)
	}
	if b.pidNS == 0 { // else the session is made later
		b.controllingTerminal()
	}
	const what = "mount the terminal on /dev/console"
	b.attachInRoot(what, b.cloneTree(what, b.pts, "0", flagArg0), "/dev/console", false)
}

// controllingTerminal makes standard input the terminal of the session, which
// must be new.
func (b *builder) controllingTerminal() {
	b.add("make it the controlling terminal", unix.SYS_IOCTL, 0, unix.TIOCSCTTY, 0)
}

// Resize tells the process's terminal a new size, in characters; the foreground
// processes get SIGWINCH if it differs. The error is
// errdefs.ErrFailedPrecondition for a process without a terminal, and
// errdefs.ErrNotFound when it has ended.
func (p *Process) Resize(rows, columns uint16) error {
	if p.terminal == nil {
		return errNoTerminal
	}
	return p.terminal.resize(rows, columns)
}

// Terminal is a new descriptor of the host's end of the process's terminal, for
// the caller to write what is to be typed, and to close. What is read from it
// ProcessOptions.Stdout or TakeTerminal do not get. The errors are those of
// Resize.
func (p *Process) Terminal() (*os.File, error) {
	if p.terminal == nil {
		return nil, errNoTerminal
	}
	return p.terminal.copy()
}

func (t *terminal) copy() (*os.File, error) {
	var copied int
	err := t.control("dup", func(fd int) (err error) {
		copied, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(copied), "terminal"), nil
}

var errNoTerminal = fmt.Errorf("the process has no terminal: %w", errdefs.ErrFailedPrecondition)

// Resize is Process.Resize for the first process.
func (c *Container) Resize(rows, columns uint16) error { return c.process.Resize(rows, columns) }

// Terminal is Process.Terminal for the first process.
func (c *Container) Terminal() (*os.File, error) { return c.process.Terminal() }
