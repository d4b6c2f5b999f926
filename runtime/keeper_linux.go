package runtime

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"
)

var (
	errHostGone   = errors.New("the host program went away")
	errKeeperGone = fmt.Errorf("the keeper process is gone: %w", errdefs.ErrUnavailable)
)

// A keeper is the host's end of a keeper process: pid 1 of a pid namespace
// that ends with the host program, parent of every container's first process
// and of every exec'd one.
//
// What cannot live in that namespace has another keeper, outside, in the host
// program's own: containers that share the host's processes, and whatever enters
// a pid namespace that is not nested in the first keeper's. There the kernel ends
// nothing. The keeper is the reaper of all that descends from it, whoever it runs
// as, and when the host program is gone it kills its children until there are
// none. When itself is killed, the host program kills their cgroups, and the
// kernel kills those children that have not executed a set-uid file
// (PR_SET_PDEATHSIG). When both are killed at once, what is left is for the next
// Open of the directory.
type keeper struct {
	sock    *os.File // sequenced packets; closing it ends the keeper
	conn    syscall.RawConn
	pid     int      // in the host's pid namespace
	pidfd   *os.File // of the keeper
	gone    chan struct{}
	outside bool

	asking   sync.Mutex // held while a request is sent, which may block; mu is not
	mu       sync.Mutex
	asked    []chan cloned // replies come in the order of the requests
	children map[int]*child
	forks    int                     // programs running whose fork's pid is not known yet
	strays   map[int]unix.WaitStatus // ended before their pid was known, while forks > 0
}

// A child is a process that the keeper waits for.
type child struct {
	pid    int           // in the keeper's pid namespace
	pidfd  *os.File      // nil for one made by a fork inside a program
	ended  chan struct{} // closed when the keeper has reaped it, or is gone
	status unix.WaitStatus
	known  bool // that status was seen

	// Of one that ends by forking what takes its place:
	next  func() int    // asked at its end for the other's pid; 0: there is none
	moved chan struct{} // closed when pid is the other's
}

type cloned struct {
	child *child
	err   error
}

// startKeeper starts a keeper process. dir serves where memfds may not execute.
func startKeeper(dir string, outside bool) (*keeper, error) {
	boot, root, err := bootProgram(outside)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	defer boot.close()
	exe, err := keeperExecutable(dir)
	if err != nil {
		return nil, err
	}
	defer exe.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "keeper")
	defer theirs.Close()
	unix.SetNonblock(pair[0], true)
	k := &keeper{sock: os.NewFile(uintptr(pair[0]), "keeper"), gone: make(chan struct{}), outside: outside,
		children: map[int]*child{}, strays: map[int]unix.WaitStatus{}}
	if err := k.boot(exe, boot, theirs, root); err != nil {
		k.sock.Close()
		return nil, err
	}
	go k.receive()
	return k, nil
}

// boot starts the executable, whose process runs the boot program, forks the
// keeper and ends. Were the first process the keeper itself, it would be a
// child of the host program that its own wait calls see: execve resets a
// child's exit signal to SIGCHLD.
func (k *keeper) boot(exe *os.File, boot *program, theirs, root *os.File) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	files := []*os.File{theirs, null, null, nil, boot.file, root}
	if k.outside {
		proc, err := ownProc()
		if err != nil {
			return err
		}
		defer proc.Close()
		files = append(files, proc)
	}
	p, err := os.StartProcess(exe.Name(), []string{keeperName}, &os.ProcAttr{Env: []string{}, Files: files})
	if err != nil {
		return fmt.Errorf("start keeper: %w", err)
	}
	theirs.Close()
	if k.conn, err = k.sock.SyscallConn(); err != nil {
		return err
	}
	var message [16]byte
	n, _, err := k.read(message[:], nil)
	if _, err := p.Wait(); err != nil { // the host program's own wait calls may have been faster; nothing hangs on this status
		p.Release()
	}
	if failed := boot.failure(); failed != nil {
		return fmt.Errorf("start keeper: %w", needsRoot(failed))
	}
	if err != nil || n != len(message) {
		return fmt.Errorf("start keeper: no answer (%v)", err)
	}
	k.pid = int(boot.word(bootPidSlot))
	pidfd, err := unix.PidfdOpen(k.pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	k.pidfd = os.NewFile(uintptr(pidfd), "keeper pidfd")
	return nil
}

// ownProc opens the host's procfs, which must be of the caller's own pid
// namespace: in that of another one a keeper would find wrong numbers.
func ownProc() (*os.File, error) {
	proc, err := os.OpenFile("/proc", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	self := make([]byte, 16)
	n, err := unix.Readlinkat(int(proc.Fd()), "self", self)
	if err == nil && string(self[:n]) != strconv.Itoa(os.Getpid()) {
		err = fmt.Errorf("/proc is of another pid namespace: %w", errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		proc.Close()
		return nil, err
	}
	return proc, nil
}

// needsRoot adds the sentinel that tells missing privileges.
func needsRoot(err error) error {
	if errors.Is(err, unix.EPERM) && unix.Geteuid() != 0 {
		return fmt.Errorf("%w (%w: containers need root)", err, errdefs.ErrPermissionDenied)
	}
	if step := (*StepError)(nil); errors.As(err, &step) && step.Err == unix.EACCES && strings.HasPrefix(step.Step, setOOMScore) {
		return fmt.Errorf("%w (%w: less than the program's own needs CAP_SYS_RESOURCE)", err, errdefs.ErrPermissionDenied)
	}
	return err
}

// keeperName is what the keeper is called in a list of processes.
const keeperName = "inboard-keeper"

const (
	// bootProgramSize is that of the boot program's memfd; the ELF's data page
	// tells the keeper's code.
	bootProgramSize = 16 << 10
	bootPidSlot     = progBase + headerSize // the keeper's pid

	// childrenFD is where a keeper outside has the list of its children: above
	// all descriptors of a request. The assembly has it too.
	childrenFD = 300
)

// bootProgram makes the program that turns a fresh process into the keeper, and
// the directory that becomes its root. Descriptors: 0 socket, 1 and 2 null, 4
// the program, 5 the root, 6 the host's procfs for a keeper outside.
func bootProgram(outside bool) (*program, *os.File, error) {
	root, err := keeperRoot()
	if err != nil {
		return nil, nil, err
	}
	p := newProgram()
	pid := p.slot() // the first word after the header: bootPidSlot
	empty := p.string("")
	slash, dot := p.string("/"), p.string(".")
	p.add("setsid", unix.SYS_SETSID)
	p.add("set umask", unix.SYS_UMASK, 0o022) // for directories that a container's program makes
	// An ignored signal would be inherited through execve.
	deflt := p.words(0, 0, 0, 0)
	for sig := range uintptr(64) {
		p.add("reset signal", unix.SYS_RT_SIGACTION, sig+1, deflt, 0, 8).orSkip(unix.EINVAL, 0)
	}
	p.add("block signals", unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, p.words(^uint64(0)), 0, 8)
	p.add("signalfd", unix.SYS_SIGNALFD4, ^uintptr(0), p.words(1<<(uint(unix.SIGCHLD)-1)), 8, unix.SFD_CLOEXEC|unix.SFD_NONBLOCK)
	// Containers are not to be as protected from the out-of-memory killer as a
	// host program that has lowered its score. Where the kernel does not let a
	// score go down to 0 (CAP_SYS_RESOURCE), it stays.
	score := p.slot()
	p.add("open oom_score_adj", unix.SYS_OPENAT, atCwd, p.string("/proc/self/oom_score_adj"), unix.O_WRONLY|unix.O_CLOEXEC, 0).
		into(score).orSkip(anyErrno, 1)
	p.add("set oom_score_adj to 0", unix.SYS_WRITE, score, p.string("0"), 1).with(flagArg0).orSkip(anyErrno, 0)
	// A mount namespace of its own with one mount in it: the keeper pins nothing
	// of the host, and a child's copy is as small. pivot_root fails where the
	// host lives on the kernel's initial ramfs; chroot must do there.
	p.add("unshare mount namespace", unix.SYS_UNSHARE, unix.CLONE_NEWNS)
	p.add("make mounts private", unix.SYS_MOUNT, empty, slash, empty, unix.MS_REC|unix.MS_PRIVATE, 0)
	p.add("attach the keeper's root", unix.SYS_MOVE_MOUNT, firstFD, empty, atCwd, slash, unix.MOVE_MOUNT_F_EMPTY_PATH)
	p.add("enter the keeper's root", unix.SYS_FCHDIR, firstFD)
	p.add("pivot_root", unix.SYS_PIVOT_ROOT, dot, dot).orSkip(unix.EINVAL, 1)
	p.add("detach the host's mounts", unix.SYS_UMOUNT2, dot, unix.MNT_DETACH)
	p.add("chroot", unix.SYS_CHROOT, dot)
	p.add("chdir", unix.SYS_CHDIR, slash)
	if outside {
		p.add("keep /proc", unix.SYS_DUP3, firstFD+1, childrenFD, unix.O_CLOEXEC)
		p.add("close descriptors", unix.SYS_CLOSE_RANGE, 4, childrenFD-1, 0)
		p.add("close descriptors", unix.SYS_CLOSE_RANGE, childrenFD+1, 0xffffffff, 0)
	} else {
		p.add("close descriptors", unix.SYS_CLOSE_RANGE, 4, 0xffffffff, 0)
	}
	p.add("set no dump", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	p.add("set name", unix.SYS_PRCTL, unix.PR_SET_NAME, p.string(keeperName))
	p.unmapRest()
	if outside {
		p.add("fork", unix.SYS_CLONE, uintptr(unix.SIGCHLD)).into(pid).with(flagFork)
		p.reaper()
	} else {
		p.add("new pid namespace", unix.SYS_CLONE, unix.CLONE_NEWPID|uintptr(unix.SIGCHLD)).into(pid).with(flagFork)
	}
	p.commandLine()
	p.add("tell the host", unix.SYS_WRITE, 0, p.words(0, 0), 16).with(flagKeeper)
	if err := p.write(bootProgramSize); err != nil {
		root.Close()
		p.close()
		return nil, nil, err
	}
	return p, root, nil
}

// reaper makes a keeper outside the parent of all that descends from it and
// loses its own, and finds it the list of its children: what does not become its
// own at once does so when those above it are killed. A kernel without that list
// (CONFIG_PROC_CHILDREN) leaves more to the next Open.
func (p *program) reaper() {
	children := p.slot()
	p.add("become a subreaper", unix.SYS_PRCTL, unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	p.add("open the list of children", unix.SYS_OPENAT, childrenFD, p.string("thread-self/children"), unix.O_RDONLY|unix.O_CLOEXEC, 0).
		into(children).orSkip(unix.ENOENT, 2)
	p.add("keep the list of children", unix.SYS_DUP3, children, childrenFD, unix.O_CLOEXEC).with(flagArg0).into(dataBase + pageChildren)
	p.add("close the list of children", unix.SYS_CLOSE, children).with(flagArg0)
}

// unmapRest leaves the keeper its two pages and the program: what else execve
// has mapped, stack and vdso, would be copied for each child, with page tables
// of its own. Where the address space ends depends on the kernel's configuration.
func (p *program) unmapRest() {
	const from = 1 << 30
	ends := []uintptr{1<<47 - 1<<16}
	if goruntime.GOARCH == "arm64" {
		ends = []uintptr{1 << 48, 1 << 47, 1 << 42, 1 << 39}
	}
	for i, end := range ends {
		p.add("unmap the stack", unix.SYS_MUNMAP, from, end-from).thenSkip(len(ends)-i-1).orSkip(unix.EINVAL, 0)
	}
}

// commandLine gives the keeper one again: it was on the stack, and the kernel
// shows it from anonymous memory alone. Children do not get the page.
func (p *program) commandLine() {
	const at, none = textBase - 64<<10, 1 << 30
	page := uintptr(os.Getpagesize())
	p.add("map command line", unix.SYS_MMAP, at, page, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED, ^uintptr(0), 0)
	p.add("write command line", unix.SYS_PRCTL, unix.PR_GET_NAME, at)
	p.add("keep it from children", unix.SYS_MADVISE, at, page, unix.MADV_DONTFORK)
	// struct prctl_mm_map, Linux 3.18, with CONFIG_CHECKPOINT_RESTORE; without
	// it a list of processes shows the name in brackets.
	p.add("set command line", unix.SYS_PRCTL, unix.PR_SET_MM, unix.PR_SET_MM_MAP, p.words(
		textBase, textBase+pageSize, dataBase, dataBase+pageSize, // code, data
		none, none, none, // brk, stack
		at, uint64(at+len(keeperName)+1), at, at, // arguments, environment
		0, 0xffffffff<<32, // auxiliary vector, executable
	), 13*8, 0).orSkip(anyErrno, 0)
}

// atCwd is AT_FDCWD as a system call's argument.
const atCwd = ^uintptr(99)

// keeperRoot returns a detached read-only tmpfs, the keeper's root directory:
// an empty directory and a null device to mask paths with, and a directory to
// put one mount on.
func keeperRoot() (*os.File, error) {
	root, err := newMount("tmpfs", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC, "mode", "755", "size", "64k")
	if err != nil {
		return nil, fmt.Errorf("keeper's root: %w", needsRoot(err))
	}
	fd := int(root.Fd())
	err = errors.Join(
		os.NewSyscallError("mkdirat", unix.Mkdirat(fd, maskDir, 0o555)),
		os.NewSyscallError("mkdirat", unix.Mkdirat(fd, filesDir, 0o555)),
		os.NewSyscallError("mknodat", unix.Mknodat(fd, maskFile, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3)))),
		os.NewSyscallError("fchmodat", unix.Fchmodat(fd, maskFile, 0o666, 0)),
		os.NewSyscallError("mount_setattr", unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})))
	if err != nil {
		root.Close()
		return nil, fmt.Errorf("keeper's root: %w", needsRoot(err))
	}
	return root, nil
}

// What the keeper's root holds.
const (
	maskDir  = "empty"
	maskFile = "null"
	filesDir = "files"
)

// keeperExecutable returns a sealed memfd with the keeper's ELF; where
// vm.memfd_noexec forbids those, an unlinked file in dir.
func keeperExecutable(dir string) (*os.File, error) {
	elf, err := checkedELF()
	if err != nil {
		return nil, err
	}
	fd, err := memfd("inboard-keeper", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING, mfdExec)
	if errors.Is(err, unix.EACCES) {
		return keeperFile(dir, elf)
	}
	if err != nil {
		return nil, err
	}
	f, err := aboveLow(fd)
	if err != nil {
		return nil, err
	}
	fd = int(f.Fd())
	if _, err := f.Write(elf); err != nil {
		f.Close()
		return nil, err
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		f.Close()
		return nil, os.NewSyscallError("seal memfd", err)
	}
	return f, nil
}

// keeperFile is keeperExecutable without memfds. The file is opened again for
// reading, as a file open for writing does not execute, and has no name left.
func keeperFile(dir string, elf []byte) (*os.File, error) {
	w, err := os.CreateTemp(dir, "keeper-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(w.Name())
	_, err = w.Write(elf)
	if err := errors.Join(err, w.Chmod(0o700), w.Close()); err != nil {
		return nil, err
	}
	fd, err := unix.Open(filepath.Clean(w.Name()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("open", err)
	}
	return aboveLow(fd)
}

// aboveLow moves a descriptor out of the way of those that a new process gets,
// which are in place by the time that it executes this one by its number.
func aboveLow(fd int) (*os.File, error) {
	moved, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, firstFD+1)
	unix.Close(fd)
	if err != nil {
		return nil, os.NewSyscallError("dup", err)
	}
	return os.NewFile(uintptr(moved), fmt.Sprintf("/proc/self/fd/%d", moved)), nil
}

// read receives one message, waiting for it.
func (k *keeper) read(b, oob []byte) (n, oobn int, err error) {
	var failed error
	err = k.conn.Read(func(fd uintptr) bool {
		for {
			n, oobn, _, _, failed = unix.Recvmsg(int(fd), b, oob, unix.MSG_CMSG_CLOEXEC)
			if failed != unix.EINTR {
				return failed != unix.EAGAIN
			}
		}
	})
	if err == nil {
		err = failed
	}
	return n, oobn, err
}

// receive takes the keeper's messages until it is gone.
func (k *keeper) receive() {
	b, oob := make([]byte, 16), make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, err := k.read(b, oob)
		if err != nil || n != len(b) {
			break
		}
		pid := int(int64(binary.LittleEndian.Uint64(b)))
		status := binary.LittleEndian.Uint64(b[8:])
		if status>>32 != 0 {
			k.cloned(pid, descriptor(oob[:oobn]))
		} else {
			k.exited(pid, unix.WaitStatus(status))
		}
	}
	// The socket of a keeper that is killed closes before the kernel kills what
	// lives in its namespace. Nothing does any more when its pidfd is readable.
	k.conn.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_RDWR) })
	waitReadable(context.Background(), k.pidfd)
	k.mu.Lock()
	defer k.mu.Unlock()
	close(k.gone)
	for _, reply := range k.asked {
		reply <- cloned{err: errKeeperGone}
	}
	for _, c := range k.children {
		if c.next != nil {
			c.next()
		}
		close(c.ended)
	}
	k.asked, k.children = nil, nil
}

// descriptor takes the one descriptor out of a control message, or gives nil.
func descriptor(oob []byte) *os.File {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) != 1 {
		return nil
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil
	}
	return os.NewFile(uintptr(fds[0]), "pidfd")
}

// cloned handles the answer to the oldest request.
func (k *keeper) cloned(pid int, pidfd *os.File) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.asked) == 0 {
		return // no answer without a question
	}
	reply := k.asked[0]
	k.asked = k.asked[1:]
	if pid < 0 {
		reply <- cloned{err: os.NewSyscallError("clone", syscall.Errno(-pid))}
		return
	}
	c := &child{pid: pid, pidfd: pidfd, ended: make(chan struct{})}
	k.children[pid] = c
	if pidfd == nil { // the host is out of descriptors: the child cannot be held on to
		reply <- cloned{child: c, err: os.NewSyscallError("receive pidfd", unix.EMFILE)}
		return
	}
	reply <- cloned{child: c}
}

func (k *keeper) exited(pid int, status unix.WaitStatus) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := k.children[pid]
	if c == nil {
		if k.forks > 0 {
			k.strays[pid] = status
		}
		return
	}
	delete(k.children, pid)
	if c.next != nil {
		next := c.next()
		c.next = nil
		stray, ended := k.strays[next]
		ended = ended && !k.hasChild(next)
		delete(k.strays, next)
		k.forkSeen()
		if next > 0 && k.children[next] == nil {
			c.pid = next
			close(c.moved)
			if !ended {
				k.children[next] = c
				return
			}
			status = stray
		}
	}
	c.status, c.known = status, true
	close(c.ended)
}

// hasChild tells of a keeper outside, which reaps others' orphans too, that a pid
// which has ended is a living child's by now.
func (k *keeper) hasChild(pid int) bool {
	if !k.outside {
		return false
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return err == nil && bytes.Contains(status, fmt.Appendf(nil, "\nPPid:\t%d\n", k.pid))
}

// forkSeen ends what expectFork has begun; k.mu is held.
func (k *keeper) forkSeen() {
	if k.forks--; k.forks == 0 {
		clear(k.strays)
	}
}

// replace tells that a child's program, which waits, will fork what takes the
// child's place; next, which is called once, gives its pid.
func (k *keeper) replace(c *child, next func() int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.children[c.pid] == c {
		c.next, c.moved = next, make(chan struct{})
		k.forks++
	} else { // it has ended before
		c.moved = make(chan struct{})
		next()
	}
}

// pidOf is a child's pid in the keeper's pid namespace.
func (k *keeper) pidOf(c *child) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return c.pid
}

// clone has the keeper clone a child that runs the program, written already.
// The program's descriptors are not needed any more when it returns.
func (k *keeper) clone(p *program, flags uint64, intoCgroup int) (*child, error) {
	if len(p.fds) >= maxRequestFDs {
		return nil, fmt.Errorf("program with %d descriptors", len(p.fds))
	}
	message := request(flags, p.size, intoCgroup)
	rights := unix.UnixRights(append([]int{int(p.file.Fd())}, p.fds...)...)
	reply := make(chan cloned, 1)
	k.asking.Lock()
	k.mu.Lock()
	select {
	case <-k.gone:
		k.mu.Unlock()
		k.asking.Unlock()
		return nil, errKeeperGone
	default:
	}
	k.asked = append(k.asked, reply)
	k.mu.Unlock()
	var failed error
	err := k.conn.Write(func(fd uintptr) bool {
		for {
			failed = unix.Sendmsg(int(fd), message, rights, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
			if failed != unix.EINTR {
				return failed != unix.EAGAIN
			}
		}
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		k.mu.Lock()
		if n := len(k.asked); n > 0 { // ours is the last one
			k.asked = k.asked[:n-1]
		}
		k.mu.Unlock()
	}
	k.asking.Unlock()
	if err != nil {
		if errors.Is(err, unix.EPIPE) || errors.Is(err, os.ErrClosed) {
			err = errKeeperGone
		}
		return nil, fmt.Errorf("ask the keeper: %w", err)
	}
	r := <-reply
	return r.child, r.err
}

// expectFork tells that a program with a fork is about to run; adopt or
// forgetFork must follow.
func (k *keeper) expectFork() {
	k.mu.Lock()
	k.forks++
	k.mu.Unlock()
}

// adopt returns the child that a program's fork made, from its pid in the
// keeper's pid namespace, or nil: pid 0 says that there is none, and one that
// is known already is somebody else's.
func (k *keeper) adopt(pid int) *child {
	k.mu.Lock()
	defer k.mu.Unlock()
	var c *child
	if pid > 0 && k.children[pid] == nil {
		c = &child{pid: pid, ended: make(chan struct{})}
		status, ended := k.strays[pid]
		ended = ended && !k.hasChild(pid)
		switch {
		case ended:
			c.status, c.known = status, true
			close(c.ended)
		case k.children == nil: // the keeper is gone
			close(c.ended)
		default:
			k.children[pid] = c
		}
		delete(k.strays, pid)
	}
	k.forkSeen()
	return c
}

// close ends the keeper and with it all that lives in its pid namespace, and
// returns when that is gone.
func (k *keeper) close() error {
	k.conn.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_RDWR) })
	<-k.gone
	err := waitReadable(context.Background(), k.pidfd)
	// Where the host program is pid 1 or a subreaper, the keeper became its child.
	unix.Waitid(unix.P_PIDFD, int(k.pidfd.Fd()), nil, unix.WEXITED|unix.WNOHANG|unix.WALL, nil)
	return errors.Join(err, k.pidfd.Close(), k.sock.Close())
}
