package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/inboard/engine/internal/fsids"
)

// A UserNamespace is a user namespace with a network, an ipc and a uts
// namespace that it owns, made ahead of the container that is to have them: see
// CreateOptions.UserNamespace. It is some descriptors and no process. Close
// frees it.
type UserNamespace struct {
	ids                 idMap
	user, net, ipc, uts *os.File
}

// NewUserNamespace makes a user namespace with the mappings given, each 1 to
// 340 ranges that do not overlap. The container's id 0 must be in both, the
// host's id 0 in none. The network namespace has its loopback up. ctx ends the
// wait for all that.
//
// The namespaces are made in a process of the keeper's, which has ended when
// NewUserNamespace returns. The error is errdefs.ErrInvalidArgument for
// mappings that make no sense, errdefs.ErrResourceExhausted where the kernel
// has as many user namespaces as user.max_user_namespaces allows.
func (r *Runtime) NewUserNamespace(ctx context.Context, uids, gids []specs.LinuxIDMapping) (*UserNamespace, error) {
	u := &UserNamespace{ids: idMap{slices.Clone(uids), slices.Clone(gids)}}
	err := u.ids.check()
	if err == nil {
		err = ctx.Err()
	}
	var k *keeper
	if err == nil {
		k, err = r.nestedKeeper()
	}
	if err == nil {
		err = u.make(ctx, k)
	}
	if errors.Is(err, unix.ENOSPC) {
		err = fmt.Errorf("%w (%w: sysctl user.max_user_namespaces)", err, errdefs.ErrResourceExhausted)
	}
	if err != nil {
		u.Close()
		return nil, fmt.Errorf("user namespace: %w", needsRoot(err))
	}
	return u, nil
}

// Close frees the namespaces if no container has them. A second Close does
// nothing.
func (u *UserNamespace) Close() error {
	for _, f := range []*os.File{u.user, u.net, u.ipc, u.uts} {
		if f != nil {
			f.Close() // of a descriptor of a namespace, which has nothing to lose
		}
	}
	u.user, u.net, u.ipc, u.uts = nil, nil, nil, nil
	return nil
}

// make has a child make the namespaces, and holds on to them. The child becomes
// root in the new user namespace before it makes the others: what the kernel
// puts into these (files of sysfs, the root of mqueue) then is that root's.
func (u *UserNamespace) make(ctx context.Context, k *keeper) error {
	ours, theirs, err := newLink(true)
	if err != nil {
		return err
	}
	b := newBuilder(nil, nil, nil)
	run := &creation{program: b.program, link: ours}
	defer run.close()
	b.add("set up the link to the host", unix.SYS_DUP3, b.sendOwned(theirs), linkFD, unix.O_CLOEXEC)
	b.closeDescriptors()
	b.add("wait for the id maps", unix.SYS_READ, linkFD, b.slot(), 1).with(flagEOF)
	b.becomeRoot()
	b.add("unshare namespaces", unix.SYS_UNSHARE, unix.CLONE_NEWNET|unix.CLONE_NEWIPC|unix.CLONE_NEWUTS)
	b.loopback()
	b.barrier()
	if err := b.write(0); err != nil {
		return err
	}
	child, err := k.clone(b.program, unix.CLONE_NEWUSER, -1)
	if err != nil {
		return err // a child that there may be ends with the link
	}
	defer child.pidfd.Close()
	theirs.Close()
	proc := "/proc/" + strconv.Itoa(pidOf(int(child.pidfd.Fd())))
	if err := u.ids.write(proc); err != nil {
		return err
	}
	if err := run.release(); err != nil {
		return err
	}
	if err := run.await(ctx, 1); err != nil {
		return err
	}
	if err := u.open(proc); err != nil {
		return err
	}
	// The pid may have been another's by then.
	return os.NewSyscallError("pidfd_send_signal", unix.PidfdSendSignal(int(child.pidfd.Fd()), 0, nil, 0))
}

// open opens the namespaces of a process.
func (u *UserNamespace) open(proc string) (err error) {
	for name, to := range map[string]**os.File{"user": &u.user, "net": &u.net, "ipc": &u.ipc, "uts": &u.uts} {
		if *to, err = os.Open(proc + "/ns/" + name); err != nil {
			return err
		}
	}
	return nil
}

// becomeRoot takes the ids of the root of the user namespace that the process
// is in, and none of the groups that it had outside.
func (b *builder) becomeRoot() {
	b.add("leave the host's groups", unix.SYS_SETGROUPS, 0, 0)
	b.add("become root inside", unix.SYS_SETRESGID, 0, 0, 0)
	b.add("become root inside", unix.SYS_SETRESUID, 0, 0, 0)
}

// userNamespace gives a container the user namespace that its spec asks for,
// made now unless it was ahead. The caller closes it. Nil: it has none.
func (r *Runtime) userNamespace(ctx context.Context, spec *specs.Spec, given *UserNamespace) (*UserNamespace, error) {
	ids := idMap{spec.Linux.UIDMappings, spec.Linux.GIDMappings}
	switch {
	case !hasUserNamespace(spec) && given != nil:
		return nil, fmt.Errorf("a user namespace made ahead, and none in the spec: %w", errdefs.ErrInvalidArgument)
	case !hasUserNamespace(spec):
		return nil, nil
	case given == nil:
		return r.NewUserNamespace(ctx, ids.uids, ids.gids)
	case given.user == nil || !slices.Equal(given.ids.uids, ids.uids) || !slices.Equal(given.ids.gids, ids.gids):
		return nil, fmt.Errorf("the user namespace made ahead has other mappings than the spec, or is closed: %w", errdefs.ErrInvalidArgument)
	}
	return given, nil
}

func hasUserNamespace(spec *specs.Spec) bool {
	return slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.UserNamespace && n.Path == ""
	})
}

// checkUserNamespace checks a spec's mappings.
func checkUserNamespace(spec *specs.Spec) error {
	ids := idMap{spec.Linux.UIDMappings, spec.Linux.GIDMappings}
	if hasUserNamespace(spec) {
		return ids.check()
	}
	if len(ids.uids)+len(ids.gids) > 0 {
		return fmt.Errorf("id mappings without a user namespace: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

// unshareOwned is unshare for a container with a user namespace. That owns the
// other namespaces, but for that of pids, which is the keeper's to nest.
//
// The program enters it last, when all is mounted with the host's privileges:
// nothing has to be mounted by less. What it makes in the container's files
// until then belongs to the container's root, whose ids it makes files with.
// The capabilities for that are kept by a flag (capabilities(7), "Effect of
// user ID changes").
func (b *builder) unshareOwned(created uintptr) {
	for _, ns := range []struct {
		name string
		file *os.File
		flag uintptr
	}{{"network", b.user.net, unix.CLONE_NEWNET}, {"ipc", b.user.ipc, unix.CLONE_NEWIPC}, {"uts", b.user.uts, unix.CLONE_NEWUTS}} {
		if created&ns.flag != 0 {
			b.add("enter the "+ns.name+" namespace", unix.SYS_SETNS, b.sendNamespace(ns.name, ns.file), ns.flag)
		}
	}
	b.loopbackIsUp = true
	b.add("unshare namespaces", unix.SYS_UNSHARE, created&(unix.CLONE_NEWNS|unix.CLONE_NEWCGROUP))
	_, gid := b.user.ids.root()
	b.add("keep capabilities", unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, fsids.NoSetuidFixup)
	b.add("make files as root inside", unix.SYS_SETFSGID, uintptr(gid))
	b.filesAsRoot()
}

func (b *builder) filesAsRoot() {
	uid, _ := b.user.ids.root()
	b.add("make files as root inside", unix.SYS_SETFSUID, uintptr(uid))
}

// effectiveUser becomes another user of the host's with the same capabilities,
// one who makes files as before.
func (b *builder) effectiveUser(uid uint32) {
	b.add("change the effective user", unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0))
	b.filesAsRoot() // the kernel has changed that too
}

const effectiveUserSteps = 2 // of effectiveUser

func (b *builder) sendNamespace(name string, f *os.File) uintptr {
	if b.explained != nil {
		fd := b.send(-1)
		b.explained.note(fd, "the "+name+" namespace")
		return fd
	}
	return b.send(int(f.Fd()))
}

// enterUser enters the user namespace, when nothing is left to do from outside.
// The mount namespace made then is a copy of the one in which all was mounted:
// in one that a less privileged user namespace owns, mounts cannot be taken
// away to see what is below, nor read-only ones made writable
// (mount_namespaces(7), "Restrictions on mount namespaces").
func (b *builder) enterUser(created uintptr) {
	b.raiseLimits(b.spec.Process)
	b.add("enter the user namespace", unix.SYS_SETNS, b.sendNamespace("user", b.user.user), unix.CLONE_NEWUSER)
	b.becomeRoot()
	b.add("unshare namespaces", unix.SYS_UNSHARE, created&(unix.CLONE_NEWNS|unix.CLONE_NEWCGROUP))
	b.sessionKeyring()
}

// raiseLimits makes room for limits that are above the keeper's: inside the
// user namespace a limit can only be lowered. What is not allowed outside either
// fails when the limit is set.
func (b *builder) raiseLimits(p *specs.Process) {
	for _, l := range p.Rlimits {
		hard := l.Hard
		if l.Type == "RLIMIT_NOFILE" {
			hard = max(hard, 1024) // the program opens some still
		}
		what := fmt.Sprintf("raise %s to %d", l.Type, hard)
		b.add(what, unix.SYS_PRLIMIT64, 0, uintptr(limitNames[l.Type]), b.words(hard, hard), 0).orSkip(anyErrno, 0)
	}
}
