package runtime

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A joinedNamespace is one that a container shares with others.
type joinedNamespace struct {
	kind specs.LinuxNamespaceType
	path string
	flag uintptr
}

// join has the child enter the namespaces that the spec gives by path, but for
// that of pids, in which only what it forks will be. A path is opened here, once.
func (b *builder) join() {
	for _, ns := range b.joined {
		fd, ok := b.obtain(ns.open, func() string { return fmt.Sprintf("the %s namespace %s", ns.kind, ns.path) })
		if !ok {
			return
		}
		if ns.flag == unix.CLONE_NEWPID {
			b.pidNS = fd
		} else {
			b.add(fmt.Sprintf("join the %s namespace %s", ns.kind, ns.path), unix.SYS_SETNS, fd, ns.flag)
		}
	}
}

// joins tells whether the container joins a kind of namespace.
func (b *builder) joins(flag uintptr) bool {
	for _, ns := range b.joined {
		if ns.flag == flag {
			return true
		}
	}
	return false
}

func (ns *joinedNamespace) open() (*os.File, error) {
	f, err := os.OpenFile(ns.path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("join the %s namespace: %w (%w)", ns.kind, err, errdefs.ErrInvalidArgument)
	}
	flag, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || uintptr(flag) != ns.flag {
		f.Close()
		return nil, fmt.Errorf("join the %s namespace: %s is none: %w", ns.kind, ns.path, errdefs.ErrInvalidArgument)
	}
	return f, nil
}

// namespaceFiles are the ioctls of a pidfd that give its process's namespaces
// (include/uapi/linux/pidfd.h, PIDFD_GET_*_NAMESPACE: Linux 6.11, commit
// 5b08bd408534), and the names in /proc/PID/ns.
var namespaceFiles = map[specs.LinuxNamespaceType]namespaceFile{
	specs.CgroupNamespace:  {0xff01, "cgroup"},
	specs.IPCNamespace:     {0xff02, "ipc"},
	specs.MountNamespace:   {0xff03, "mnt"},
	specs.NetworkNamespace: {0xff04, "net"},
	specs.PIDNamespace:     {0xff05, "pid"},
	specs.UTSNamespace:     {0xff0a, "uts"},
}

type namespaceFile struct {
	ioctl uint
	name  string
}

// OpenNamespace opens a namespace of the process that a pidfd holds, and never
// that of another one that has got its number. A spec can name it as
// /proc/self/fd/N while it is open. If the process has ended, the error is
// errdefs.ErrFailedPrecondition. The caller needs the privileges to trace it.
func OpenNamespace(pidfd *os.File, kind specs.LinuxNamespaceType) (*os.File, error) {
	file, ok := namespaceFiles[kind]
	if !ok {
		return nil, fmt.Errorf("%s namespace: %w", kind, errdefs.ErrNotImplemented)
	}
	fd, err := unix.IoctlRetInt(int(pidfd.Fd()), file.ioctl)
	if err == nil {
		return os.NewFile(uintptr(fd), string(kind)+" namespace"), nil
	}
	if err == unix.ESRCH {
		return nil, errNotRunning
	}
	// An older kernel: a process that is there still had its number before.
	f, err := os.Open("/proc/" + strconv.Itoa(pidOf(int(pidfd.Fd()))) + "/ns/" + file.name)
	if e := unix.PidfdSendSignal(int(pidfd.Fd()), 0, nil, 0); e != nil {
		if err == nil {
			f.Close()
		}
		return nil, errNotRunning
	}
	return f, err
}

// procOfJoined brings the procfs of the pid namespace that the container joins,
// where the child, outside, cannot make one of its own.
func (b *builder) procOfJoined(what string, attrs uint64, data []string) (slot uintptr) {
	fd, _ := b.obtain(func() (*os.File, error) {
		ns := b.fds[b.pidNS-firstFD]
		m, err := procOf(ns, int(attrs), data)
		if errors.Is(err, unix.EINVAL) {
			m, err = b.rt.mountProcInside(ns, int(attrs), data)
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", what, needsRoot(err))
		}
		return m, err
	}, func() string { return "procfs of the joined pid namespace" })
	return b.words(uint64(fd))
}

// procOf is mountProcOf; a test takes it away.
var procOf = mountProcOf

// mountProcOf mounts the procfs of another pid namespace: option "pidns", Linux
// 6.17 (Documentation/filesystems/proc.rst). Before that the error is EINVAL.
func mountProcOf(pidns, attrs int, data []string) (*os.File, error) {
	fs, err := unix.Fsopen("proc", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsopen proc: %w", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetFd(fs, "pidns", pidns); err != nil {
		return nil, fsError(fs, "proc option pidns", err)
	}
	for i := 0; i < len(data); i += 2 {
		if data[i+1] == "" {
			err = unix.FsconfigSetFlag(fs, data[i])
		} else {
			err = unix.FsconfigSetString(fs, data[i], data[i+1])
		}
		if err != nil {
			return nil, fsError(fs, "proc option "+data[i], err)
		}
	}
	return finishMount(fs, "proc", attrs)
}

// mountProcInside is mountProcOf for older kernels: a process that is in the
// namespace for that moment makes the mount and sends it. It is not dumpable, but
// whoever there has CAP_SYS_PTRACE over the initial user namespace could take it
// over; on such a kernel the namespace of a container with that capability is
// not to be joined by one that has fewer.
func (r *Runtime) mountProcInside(pidns, attrs int, data []string) (*os.File, error) {
	k, err := r.outerKeeper()
	if err != nil {
		return nil, err
	}
	ours, theirs, err := newLink(true)
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	b := newBuilder(r, nil, nil)
	defer b.close()
	pid, page := b.pageSlot()
	b.add("enter the pid namespace", unix.SYS_SETNS, b.send(pidns), unix.CLONE_NEWPID)
	b.add("set up the link to the host", unix.SYS_DUP3, b.sendOwned(theirs), linkFD, unix.O_CLOEXEC)
	b.add("close descriptors", unix.SYS_CLOSE_RANGE, linkFD+1, 0xffffffff, 0)
	b.forkInside(pid, page)
	mount := b.childMount("mount proc", "proc", uint64(attrs), data)
	right := make([]byte, 24) // struct cmsghdr and one descriptor
	binary.LittleEndian.PutUint64(right, unix.SizeofCmsghdr+4)
	binary.LittleEndian.PutUint32(right[8:], unix.SOL_SOCKET)
	binary.LittleEndian.PutUint32(right[12:], unix.SCM_RIGHTS)
	control := b.bytes(right)
	b.add("mount proc", unix.SYS_FCNTL, mount, unix.F_DUPFD_CLOEXEC, 0).with(flagArg0).into(control + unix.SizeofCmsghdr)
	vector := b.words(uint64(b.slot()), 1)                                                     // struct iovec
	message := b.words(0, 0, uint64(vector), 1, uint64(control), uint64(unix.CmsgSpace(4)), 0) // struct msghdr
	b.add("send the mount to the host", unix.SYS_SENDMSG, linkFD, message, 0)
	if err := b.write(0); err != nil {
		return nil, err
	}
	k.expectFork()
	child, err := k.clone(b.program, 0, -1)
	if err == nil {
		theirs.Close()
		<-child.ended
		child.pidfd.Close()
	}
	forked := k.adopt(int(b.word(pid)))
	if err != nil {
		return nil, err
	}
	if forked != nil {
		<-forked.ended
	}
	if failed := b.failure(); failed != nil {
		return nil, failed
	}
	return receiveDescriptor(ours)
}

// receiveDescriptor takes one that a program, which has ended, has sent over its
// link.
func receiveDescriptor(link *os.File) (f *os.File, err error) {
	conn, err := link.SyscallConn()
	if err != nil {
		return nil, err
	}
	b, oob, oobn := make([]byte, 1), make([]byte, unix.CmsgSpace(4)), 0
	var failed error
	err = conn.Read(func(fd uintptr) bool {
		_, oobn, _, _, failed = unix.Recvmsg(int(fd), b, oob, unix.MSG_CMSG_CLOEXEC)
		return failed != unix.EINTR && failed != unix.EAGAIN
	})
	if err = errors.Join(err, os.NewSyscallError("recvmsg", failed)); err != nil {
		return nil, err
	}
	if f = descriptor(oob[:oobn]); f == nil {
		return nil, errNotReached
	}
	return f, nil
}
