package runtime

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/inboard/engine/internal/cgroup"
)

// A builder compiles a spec into a program. Its methods add steps in the order
// in which they are called; the first error stays and the program is not run.
type builder struct {
	*program
	rt     *Runtime
	cgroup *cgroup.Cgroup
	spec   *specs.Spec
	user   *UserNamespace // nil: the container has none of its own
	err    error

	root  uintptr // slot of an O_PATH descriptor of the container's root
	made  []madeMount
	spare []maskPair
	files []uintptr // slots of detached mounts of CreateOptions.Files

	shm  *os.File // of CreateOptions, as init
	init bool

	hostCgroups bool // the cgroup namespace is the host's
	joined      []joinedNamespace
	pidNS       uintptr // descriptor of the pid namespace that it joins, or 0
	pidSlot     uintptr // for the pid of what a program forks, in the keeper's pid namespace
	pidPage     uintptr // size of the page that the slot is in
	outside     bool    // the keeper is the one outside, see keeper

	pts     uintptr   // slot of the mount of a devpts on ptsDir, or 0
	devpts  *os.File  // the same on the host, unless explained
	console *terminal // of a process with a terminal, unless explained

	copyMasks    bool       // spare is one pair, of which copies are mounted
	explained    *explained // not nil: the program is to be read, not run
	loopbackIsUp bool

	// unified tells that the child enters its v2 cgroup.
	unified bool
	// intoCgroup is the index among the descriptors of the v2 cgroup that the
	// keeper clones the child into, or -1.
	intoCgroup int
}

// A madeMount is one that the program made and nobody else has touched, so
// paths below it are what the kernel or the runtime put there.
type madeMount struct {
	destination string
	slot        uintptr
}

func newBuilder(rt *Runtime, spec *specs.Spec, c *cgroup.Cgroup) *builder {
	return &builder{program: newProgram(), rt: rt, spec: spec, cgroup: c, intoCgroup: -1}
}

// container adds all that comes before the process's own part: its root, and
// what it lives in. It returns the CLONE_NEW flags of the namespaces that it has
// not in common with the keeper.
func (b *builder) container(l *launch, link int) uintptr {
	created, entered := b.namespaces()
	b.shm, b.init, b.user = l.options.Shm, l.options.Init, l.user
	if b.init && b.joins(unix.CLONE_NEWPID) {
		b.invalid(errdefs.ErrInvalidArgument, "an init in a pid namespace that is joined, and has one")
	}
	if b.user != nil && (len(b.joined) > 0 || b.outside) {
		b.invalid(errdefs.ErrNotImplemented, "a user namespace of its own, where another namespace is not")
	}
	b.stdio(l.streams.child, link)
	b.enterCgroup()
	b.join()
	b.unshare(created)
	b.prepareFiles(l.options.Files)
	b.prepareMasks(l.root.overlay != nil)
	b.enterRoot(l)
	b.mounts()
	b.attachFiles(l.options.Files)
	b.terminal(l.spec.Process)
	b.sysctls(created)
	b.masks()
	b.oomScore(l.spec.Process)
	if l.spec.Root != nil && l.spec.Root.Readonly {
		b.readOnlyRoot()
	}
	b.hostname(created)
	if created&unix.CLONE_NEWNET != 0 {
		b.loopback()
	}
	if b.pidNS != 0 {
		b.add("choose the pid namespace", unix.SYS_SETNS, b.pidNS, unix.CLONE_NEWPID)
	}
	if b.user != nil {
		b.enterUser(created)
	}
	b.closeDescriptors()
	return entered
}

// finish adds what the first process does on its own behalf, up to execve.
func (b *builder) finish(p *specs.Process, c *credential, f *filter) *command {
	b.workingDirectory(p.Cwd, true)
	if b.pidNS != 0 {
		b.restrict(p, c, f)
		b.add("close the link to the host", unix.SYS_CLOSE_RANGE, linkFD, 0xffffffff, 0)
		b.signals()
		b.forkInside(b.pidSlot, b.pidPage)
		if p.Terminal {
			b.controllingTerminal()
		}
		return b.execute(p, c.home)
	}
	if b.init {
		b.restrict(p, c, f)
		b.startUnderInit(p, c)
		return b.execute(p, c.home)
	}
	b.limits(p) // after what needs descriptors
	b.noNewPrivileges(p)
	b.credentials(p, c, len(f.code) > 0 && !p.NoNewPrivileges)
	b.signals()
	b.seccomp(f.code, f.flags)
	return b.execute(p, c.home)
}

// restrict makes a process that is not to execute anything, or not yet, what its
// command will be, up to the seccomp filter.
func (b *builder) restrict(p *specs.Process, who *credential, f *filter) {
	b.limits(p) // after what needs descriptors
	b.noNewPrivileges(p)
	keepAdmin := len(f.code) > 0 && !p.NoNewPrivileges
	b.credentials(p, who, keepAdmin)
	b.seccomp(f.code, f.flags)
	if keepAdmin {
		if sets, err := capabilitySets(p.Capabilities); err == nil {
			b.capset(sets)
		}
	}
}

// startUnderInit leaves the process that the program has run in so far behind, as
// the init of the one with the command: it has the same credentials and filter,
// all signals blocked, and no descriptor and none of the program's memory. With
// a terminal the command is the foreground of its session.
func (b *builder) startUnderInit(p *specs.Process, who *credential) {
	if sets, err := capabilitySets(p.Capabilities); err == nil && who.uid != 0 { // as an execve would leave them
		sets.permitted, sets.effective = sets.ambient, sets.ambient
		b.capset(sets)
	}
	b.add("name the init", unix.SYS_PRCTL, unix.PR_SET_NAME, b.string("inboard-init"))
	if b.outside { // else it is one by being the first
		b.add("become a subreaper", unix.SYS_PRCTL, unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	}
	b.add("start the command under init", unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0).with(flagFork | flagInit)
	if p.Terminal {
		group := b.slot()
		b.add("new process group", unix.SYS_SETPGID, 0, 0)
		b.add("new process group", unix.SYS_GETPID).into(group)
		b.add("come to the foreground", unix.SYS_IOCTL, 0, unix.TIOCSPGRP, group)
	} else {
		b.add("new session", unix.SYS_SETSID)
	}
	b.signals()
}

// forkInside adds what becomes visible in a pid namespace that others live in:
// the process with the command. Whoever adds it has closed all descriptors but 0
// to 2, and made credentials and filter final.
func (b *builder) forkInside(slot, page uintptr) {
	// The child is the keeper's, like the first process. With CLONE_VFORK the
	// parent half ends after the child's execve, which tells the host; with
	// CLONE_PARENT_SETTID the host knows the child also when it has killed the
	// parent half meanwhile. clone and not clone3: Docker's filter allows it.
	// The child shares the program, and whoever can trace it in the container
	// could write there; so it does not get the page with its pid.
	b.add("hide the pid", unix.SYS_MADVISE, slot, page, unix.MADV_DONTFORK)
	b.add("enter the pid namespace", unix.SYS_CLONE,
		unix.CLONE_PARENT|unix.CLONE_VFORK|unix.CLONE_PARENT_SETTID|uintptr(unix.SIGCHLD), 0, slot).
		into(slot).with(flagFork)
	// A session made before would have an id that means nothing in there.
	b.add("new session", unix.SYS_SETSID).orSkip(anyErrno, 0)
}

// room is the size of a program's memfd that holds what finish may add to what
// is there, however long the caller waits to add it.
func (b *builder) room(p *specs.Process, f *filter) int {
	n := len(b.mem) + 1<<20 + 8*len(f.code) // groups alone may take a quarter of the constant
	n += strings.Count(p.Cwd, "/") * (len(p.Cwd) + stepSize)
	for _, s := range slices.Concat(p.Args, p.Env) {
		n += len(s) + 16
		if path, ok := strings.CutPrefix(s, "PATH="); ok {
			n += strings.Count(path, ":") * (len(path) + len(p.Args[0]) + 2*stepSize)
		}
	}
	return n
}

func (b *builder) fail(err error) {
	if b.err == nil {
		b.err = err
	}
}

// invalid is fail with what a spec says that the runtime cannot or will not do.
func (b *builder) invalid(sentinel error, format string, args ...any) {
	b.fail(fmt.Errorf("spec: %s: %w", fmt.Sprintf(format, args...), sentinel))
}

// stdio puts the process's streams on 0, 1 and 2, which also takes the keeper's
// socket away, and the link to the host on linkFD.
func (b *builder) stdio(streams [3]int, link int) {
	for i, fd := range streams {
		n := b.send(fd)
		b.explained.note(n, [...]string{"standard input", "standard output", "standard error"}[i])
		b.add("set up standard streams", unix.SYS_DUP3, n, uintptr(i), 0)
	}
	if link >= 0 {
		n := b.send(link)
		b.explained.note(n, "link to the host")
		b.add("set up the link to the host", unix.SYS_DUP3, n, linkFD, unix.O_CLOEXEC)
	}
}

// enterCgroup has the keeper clone the child into its v2 cgroup, and the child
// enter the v1 hierarchies: a process that moves itself through "tasks" does
// not wait for an RCU grace period, as one that is moved does.
func (b *builder) enterCgroup() {
	if b.explained != nil {
		b.intoCgroup = len(b.fds)
		b.explained.note(b.send(-1), "the container's cgroup, which it is cloned into")
		return
	}
	files, err := b.cgroup.Join()
	if err != nil {
		b.fail(err)
		return
	}
	var dir *os.File
	if b.unified {
		if dir, err = b.cgroup.Dir(); err != nil {
			b.fail(err)
			return
		}
	}
	zero := b.string("0")
	for _, f := range files {
		b.add("join cgroup "+f.Name(), unix.SYS_WRITE, b.send(int(f.Fd())), zero, 1)
	}
	switch {
	case dir == nil:
	case haveClone3():
		b.intoCgroup = len(b.fds)
		b.send(int(dir.Fd()))
	default:
		fd, err := unix.Openat(int(dir.Fd()), "cgroup.procs", unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			b.fail(os.NewSyscallError("open cgroup.procs", err))
			return
		}
		procs := b.sendOwned(os.NewFile(uintptr(fd), "cgroup.procs"))
		b.add("join cgroup "+dir.Name(), unix.SYS_WRITE, procs, zero, 1)
	}
}

// usesUnified tells whether a container has to be in its v2 cgroup. On a hybrid
// host that is only so if it has limits there: each hierarchy that a process
// enters costs it a set of new objects in the kernel, and what ends a container
// is its pid namespace.
func (r *Runtime) usesUnified(limits *specs.LinuxResources) bool {
	return r.cgroups.host.Mode() != cgroup.Hybrid ||
		limits != nil && (len(limits.HugepageLimits) > 0 || len(limits.Unified) > 0)
}

// haveClone3 probes once for clone3, Linux 5.3, which a seccomp filter around
// the host program may hide: Docker's does. The size is one that no kernel takes.
var haveClone3 = sync.OnceValue(func() bool {
	_, _, errno := unix.Syscall(unix.SYS_CLONE3, 0, 0, 0)
	return errno != unix.ENOSYS
})

// cloneFlags of namespaces by their name in a spec.
var cloneFlags = map[specs.LinuxNamespaceType]uintptr{
	specs.MountNamespace:   unix.CLONE_NEWNS,
	specs.PIDNamespace:     unix.CLONE_NEWPID,
	specs.NetworkNamespace: unix.CLONE_NEWNET,
	specs.UTSNamespace:     unix.CLONE_NEWUTS,
	specs.IPCNamespace:     unix.CLONE_NEWIPC,
	specs.CgroupNamespace:  unix.CLONE_NEWCGROUP,
	specs.UserNamespace:    unix.CLONE_NEWUSER,
}

// namespaces checks the spec's namespaces and returns the flags of the new
// ones. The others that it lists are joined; those that it does not list are the
// keeper's, which are the host's. Both together are what a process enters.
func (b *builder) namespaces() (created, entered uintptr) {
	for _, ns := range b.spec.Linux.Namespaces {
		flag, ok := cloneFlags[ns.Type]
		switch {
		case !ok:
			b.invalid(errdefs.ErrNotImplemented, "%s namespace", ns.Type)
		case entered&flag != 0:
			b.invalid(errdefs.ErrInvalidArgument, "two %s namespaces", ns.Type)
		case ns.Path != "" && flag == unix.CLONE_NEWNS:
			b.invalid(errdefs.ErrNotImplemented, "joining the mount namespace %s", ns.Path)
		case ns.Path != "":
			b.joined = append(b.joined, joinedNamespace{ns.Type, ns.Path, flag})
		default:
			created |= flag
		}
		entered |= flag
	}
	if created&unix.CLONE_NEWNS == 0 {
		b.invalid(errdefs.ErrNotImplemented, "no mount namespace of its own")
	}
	b.outside = created&unix.CLONE_NEWPID == 0
	b.hostCgroups = entered&unix.CLONE_NEWCGROUP == 0
	if b.joins(unix.CLONE_NEWPID) {
		b.pidSlot, b.pidPage = b.pageSlot()
	}
	return created, entered
}

// nested tells whether a spec has a pid namespace of its own, which nests in the
// first keeper's.
func nested(spec *specs.Spec) bool {
	return slices.Contains(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.PIDNamespace})
}

// unshare makes the new namespaces but for that of pids, which a clone makes.
// The keeper leaves it to the child so that containers start in parallel.
func (b *builder) unshare(created uintptr) {
	b.add("new session", unix.SYS_SETSID)
	if b.user != nil {
		b.unshareOwned(created)
		return
	}
	b.sessionKeyring()
	b.add("unshare namespaces", unix.SYS_UNSHARE, b.enterNetwork(created))
}

func (b *builder) sessionKeyring() {
	b.add("new session keyring", unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0).orSkip(anyErrno, 0)
}

func (b *builder) makePrivate() {
	empty := b.string("")
	b.add("make mounts private", unix.SYS_MOUNT, empty, b.string("/"), empty, unix.MS_REC|unix.MS_PRIVATE, 0)
}

// enterRoot makes the root the one of the mount namespace, and leaves what was
// there before. That must be before any path of the image is looked up: after
// pivot_root the old root lies on top of the new one, and ".." in the root, of a
// link as "../../etc", leads to what is mounted there, also with RESOLVE_IN_ROOT
// (fs/namei.c, handle_dots, step_into).
func (b *builder) enterRoot(l *launch) {
	r := l.root
	if r.overlay == nil {
		fd := b.send(r.fd())
		b.explained.note(fd, "the root: a detached mount of "+r.name)
		b.root = b.words(uint64(fd))
		b.add("attach the root", unix.SYS_MOVE_MOUNT, fd, b.string(""), atCwd, b.string("/"), unix.MOVE_MOUNT_F_EMPTY_PATH)
	} else {
		b.root = b.mountOverlayByProgram(r.overlay, l.options.Rootfs.IDMap)
	}
	dot := b.string(".")
	b.add("enter the root", unix.SYS_FCHDIR, b.root).with(flagArg0)
	if r.overlay == nil && (b.user != nil || !holds(l.spec.Process, unix.CAP_SYS_ADMIN)) {
		// What lies below is the keeper's root, and nobody can take the root off
		// it: in the mount namespace that enterUser makes it is locked, in the
		// host's user namespace that takes CAP_SYS_ADMIN. pivot_root looks at
		// every thread of the machine (fs/fs_struct.c, chroot_fs_refs), and to
		// detach what it has put aside waits for an RCU grace period, as leaving
		// this namespace does then.
		b.add("chroot", unix.SYS_CHROOT, dot)
		return
	}
	b.add("pivot_root", unix.SYS_PIVOT_ROOT, dot, dot)
	b.add("detach the old root", unix.SYS_UMOUNT2, dot, unix.MNT_DETACH)
	b.add("enter /", unix.SYS_CHDIR, b.string("/"))
}

// holds tells whether a process or one that it executes can have a capability.
func holds(p *specs.Process, capability uint) bool {
	sets, err := capabilitySets(p.Capabilities)
	return err != nil || (sets.bounding|sets.permitted|sets.inheritable|sets.ambient)>>capability&1 != 0
}

// hostname sets the names of the uts namespace, which must not be the host's.
func (b *builder) hostname(created uintptr) {
	if created&unix.CLONE_NEWUTS == 0 && (b.spec.Hostname != "" || b.spec.Domainname != "") {
		b.invalid(errdefs.ErrInvalidArgument, "a host or domain name without a uts namespace of its own")
		return
	}
	if h := b.spec.Hostname; h != "" {
		b.add("set hostname "+h, unix.SYS_SETHOSTNAME, b.string(h), uintptr(len(h)))
	}
	if d := b.spec.Domainname; d != "" {
		b.add("set domain name "+d, unix.SYS_SETDOMAINNAME, b.string(d), uintptr(len(d)))
	}
}

// sysctls writes kernel parameters of the container's own namespaces, through
// the procfs that the program has just mounted.
func (b *builder) sysctls(created uintptr) {
	for name, value := range b.spec.Linux.Sysctl {
		if !namespacedSysctl(name, created) {
			b.invalid(errdefs.ErrInvalidArgument, "sysctl %s does not belong to a namespace of the container", name)
			continue
		}
		dir, rel, ok := b.below("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
		if !ok {
			b.invalid(errdefs.ErrInvalidArgument, "sysctl %s without a proc mount", name)
			continue
		}
		b.sysctl("set sysctl "+name, dir, rel, value)
	}
}

// sysctl writes one parameter. The kernel looks at the effective user id: those
// of a namespace that belongs to a user namespace are for that one's root where
// the kernel has come to that (System V IPC, for one), else for the host's.
func (b *builder) sysctl(what string, dir uintptr, rel, value string) {
	const resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV
	fd, name, how := b.slot(), b.string(rel), b.openHow(unix.O_WRONLY, resolve)
	if b.user != nil {
		uid, _ := b.user.ids.root()
		b.effectiveUser(uid)
		b.lookup(what, dir, name, how, fd, flagArg0).after(unix.EACCES).found(effectiveUserSteps + lookupAttempts)
		b.effectiveUser(0)
	}
	b.lookup(what, dir, name, how, fd, flagArg0).found(0)
	b.add(what, unix.SYS_WRITE, fd, b.string(value), uintptr(len(value))).with(flagArg0)
	if b.user != nil {
		b.effectiveUser(0)
	}
}

// namespacedSysctl tells whether a parameter is one of the namespaces created.
// The list is that of Docker and runc: network parameters, System V and POSIX
// message queues, and the domain name.
func namespacedSysctl(name string, created uintptr) bool {
	switch {
	case strings.Contains(name, "/"):
		return false
	case strings.HasPrefix(name, "net."):
		return created&unix.CLONE_NEWNET != 0
	case strings.HasPrefix(name, "fs.mqueue."):
		return created&unix.CLONE_NEWIPC != 0
	case name == "kernel.domainname":
		return created&unix.CLONE_NEWUTS != 0
	}
	switch name {
	case "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem",
		"kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced":
		return created&unix.CLONE_NEWIPC != 0
	}
	return false
}

// openSafe adds an openat2 relative to a slot and returns the slot of its result.
func (b *builder) openSafe(what string, dir uintptr, name string, flags, resolve uint64) uintptr {
	fd := b.slot()
	b.lookup(what, dir, b.string(name), b.openHow(flags, resolve), fd, flagArg0).found(0)
	return fd
}

// openHow is a struct open_how.
func (b *builder) openHow(flags, resolve uint64) uintptr {
	return b.words(flags|unix.O_CLOEXEC, 0, resolve)
}

// lookupAttempts is how often an openat2 is tried: while anything is mounted or
// renamed on the machine, the kernel cannot tell where ".." leads, and with
// RESOLVE_IN_ROOT or RESOLVE_BENEATH gives EAGAIN (openat2(2)). That takes a
// moment of some instructions, so that one try more nearly always does.
const lookupAttempts = 5

// A lookup is an openat2 with its attempts. found is called once for each, before
// the next step is added or on a new slice of the steps.
type lookup struct {
	steps []step
}

// lookup adds an openat2 whose result goes to a slot.
func (b *builder) lookup(what string, dir, name, how, slot uintptr, flags uint64) lookup {
	for i := range lookupAttempts {
		s := b.add(what, unix.SYS_OPENAT2, dir, name, how, unix.SizeofOpenHow).into(slot).with(flags)
		if i < lookupAttempts-1 {
			s.or(unix.EAGAIN)
		}
	}
	return lookup{b.steps[len(b.steps)-lookupAttempts:]}
}

// found leaves out what follows the attempts, n steps, after success.
func (l lookup) found(n int) {
	for i := range l.steps {
		l.steps[i].thenSkip(len(l.steps) - 1 - i + n)
	}
}

// missing goes on behind the attempts where there is nothing of the name.
func (l lookup) missing() lookup { return l.after(unix.ENOENT) }

// after goes on behind the attempts when they meet an errno.
func (l lookup) after(errno syscall.Errno) lookup {
	for i := range l.steps {
		l.steps[i].orSkip(errno, len(l.steps)-1-i)
	}
	return l
}

// below finds the made mount that an absolute path lies in, and the path
// relative to it. The last one wins, as it covers those before it.
func (b *builder) below(p string) (slot uintptr, rel string, ok bool) {
	for i := len(b.made) - 1; i >= 0; i-- {
		if rel, ok := strings.CutPrefix(p, b.made[i].destination+"/"); ok {
			return b.made[i].slot, rel, true
		}
	}
	return 0, "", false
}

// closeDescriptors leaves 0 to 2 and the link, which execve closes.
func (b *builder) closeDescriptors() {
	b.add("close descriptors", unix.SYS_CLOSE_RANGE, linkFD+1, 0xffffffff, 0)
}

// barrier has the child tell the host that it has come this far, and wait.
func (b *builder) barrier() {
	buffer := b.slot()
	b.add("report to the host", unix.SYS_WRITE, linkFD, buffer, 1)
	b.add("wait for the host", unix.SYS_READ, linkFD, buffer, 1).with(flagEOF)
}

// noNewPrivileges keeps execve from granting privileges, if the process asks.
func (b *builder) noNewPrivileges(p *specs.Process) {
	if p.NoNewPrivileges {
		b.add("set no_new_privs", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}
}

// cleanAbs is path.Clean for a path that has to be absolute.
func cleanAbs(p string) (string, bool) {
	return path.Clean(p), strings.HasPrefix(p, "/")
}
