package runtime

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// bindPropagation are the propagation types of mounts, as options name them; with
// an "r" before, of all that is mounted below too.
var bindPropagation = map[string]uint64{
	"private": unix.MS_PRIVATE, "slave": unix.MS_SLAVE, "shared": unix.MS_SHARED, "unbindable": unix.MS_UNBINDABLE,
}

// isBind tells whether a mount is one of the host's files: the specification
// goes by the option (runtime-spec 1.3, config, "Mounts").
func isBind(m *specs.Mount) bool {
	return slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

// A bindPlan is what a bind mount's options ask for.
type bindPlan struct {
	recursive   bool
	top, all    unix.MountAttr // of the mount itself, and of those below it too
	propagation unix.MountAttr
	deep        bool // propagation is of those below too
	idMap       bool
	idMapFlags  uint // AT_RECURSIVE: those below too
}

// planBind reads the options. Without one for it, nothing propagates.
func planBind(options []string) (p bindPlan, err error) {
	p.propagation.Propagation, p.deep = unix.MS_PRIVATE, true
	for _, option := range options {
		deep := strings.TrimPrefix(option, "r")
		switch {
		case option == "bind" || option == "rbind":
			p.recursive = p.recursive || option == "rbind"
		case option == "idmap":
			p.idMap = true
		case option == "ridmap":
			p.idMap, p.idMapFlags = true, unix.AT_RECURSIVE
		case bindPropagation[option] != 0:
			p.propagation.Propagation, p.deep = bindPropagation[option], false
		case bindPropagation[deep] != 0:
			p.propagation.Propagation, p.deep = bindPropagation[deep], true
		case changeAttr(&p.top, option), changeAttr(&p.all, deep):
		default:
			return p, fmt.Errorf("option %q of a bind mount: %w", option, errdefs.ErrInvalidArgument)
		}
	}
	return p, nil
}

// changeAttr adds an option to what mount_setattr(2) is to change; the last one
// wins. false: it is none for that.
func changeAttr(attr *unix.MountAttr, option string) bool {
	a, ok := mountAttrs[option]
	if !ok {
		return false
	}
	bit, mask := a.bit, a.bit
	if strings.HasSuffix(option, "atime") && !strings.HasSuffix(option, "diratime") {
		mask = unix.MOUNT_ATTR__ATIME // one value of several, not a bit
		a.set = true
	}
	attr.Attr_set &^= mask
	attr.Attr_clr &^= mask
	if a.set {
		attr.Attr_set |= bit
	}
	if !a.set || mask != bit {
		attr.Attr_clr |= mask
	}
	return true
}

// openBind makes a detached copy of a mount's source, with the attributes that
// it is to have, for a container with the user namespace given or none. The
// host's path is resolved here, once; links in it are followed, as the caller's
// they are.
func openBind(m *specs.Mount, user *UserNamespace) (tree *os.File, isDir bool, err error) {
	plan, err := planBind(m.Options)
	if err == nil {
		err = plan.checkUser(m, user)
	}
	if err != nil {
		return nil, false, err
	}
	if !strings.HasPrefix(m.Source, "/") {
		return nil, false, fmt.Errorf("source %q: not an absolute path: %w", m.Source, errdefs.ErrInvalidArgument)
	}
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if plan.recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, m.Source, flags)
	switch {
	case err == unix.ENOENT || err == unix.ENOTDIR:
		return nil, false, fmt.Errorf("source %s: %w (%w)", m.Source, err, errdefs.ErrInvalidArgument)
	case err != nil:
		return nil, false, fmt.Errorf("source %s: %w", m.Source, needsRoot(err))
	}
	tree = os.NewFile(uintptr(fd), m.Source)
	info, err := tree.Stat()
	if err == nil {
		err = plan.apply(fd)
	}
	if err == nil && plan.idMap {
		err = idMapMount(tree, user, plan.idMapFlags)
	}
	if err != nil {
		tree.Close()
		return nil, false, fmt.Errorf("source %s: %w", m.Source, err)
	}
	return tree, info.IsDir(), nil
}

// checkUser refuses what a container's user namespace, or the lack of one, makes
// impossible. A mount that lists mappings is id-mapped also without the option.
func (p *bindPlan) checkUser(m *specs.Mount, user *UserNamespace) error {
	own := len(m.UIDMappings)+len(m.GIDMappings) > 0
	p.idMap = p.idMap || own
	switch {
	case user == nil && p.idMap:
		return fmt.Errorf("id-mapped without a user namespace: %w", errdefs.ErrInvalidArgument)
	case own && !(slices.Equal(m.UIDMappings, user.ids.uids) && slices.Equal(m.GIDMappings, user.ids.gids)):
		return fmt.Errorf("other id mappings than the container's: %w", errdefs.ErrNotImplemented)
	case user != nil && p.propagation.Propagation == unix.MS_SHARED:
		// The kernel makes it a slave when the mount namespace is copied.
		return fmt.Errorf("shared propagation out of a user namespace: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

// apply changes the detached mount. Propagation is first: from then on nothing
// that is done here can reach the mount it is a copy of.
func (p *bindPlan) apply(fd int) error {
	for _, change := range []struct {
		attr unix.MountAttr
		deep bool
	}{{p.propagation, p.deep}, {p.all, true}, {p.top, false}} {
		if change.attr == (unix.MountAttr{}) {
			continue
		}
		flags := uint(unix.AT_EMPTY_PATH)
		if change.deep {
			flags |= unix.AT_RECURSIVE
		}
		if err := unix.MountSetattr(fd, "", flags, &change.attr); err != nil {
			return os.NewSyscallError("mount_setattr", err)
		}
	}
	return nil
}

// bind attaches a directory or file of the host.
func (b *builder) bind(m *specs.Mount, destination string) {
	isDir := true
	fd, ok := b.obtain(func() (tree *os.File, err error) {
		if tree, isDir, err = openBind(m, b.user); err != nil {
			err = fmt.Errorf("mount on %s: %w", destination, err)
		}
		return tree, err
	}, func() string {
		info, err := os.Stat(m.Source)
		isDir = err != nil || info.IsDir()
		return fmt.Sprintf("detached copy of %s with options %s", m.Source, strings.Join(m.Options, ","))
	})
	if ok {
		b.attachInRoot(fmt.Sprintf("mount %s on %s", m.Source, destination), b.words(uint64(fd)), destination, isDir)
	}
}

// maxDepth bounds the components of a mount's destination. Each takes some steps,
// which are left out together when it is there already, and a descriptor.
const maxDepth = maxSkip/(lookupAttempts+1) - 4

// attachInRoot moves a detached mount, in a slot, to where a user wants it. The
// path is the image's: links are followed inside the root, as Docker does, and
// what is missing is made. Below a mount that the program made there is nothing
// of the image, and no link is followed.
func (b *builder) attachInRoot(what string, mount uintptr, destination string, isDir bool) {
	root, rel, made := b.below(destination)
	resolve := uint64(unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS)
	if !made {
		root, rel, resolve = b.root, destination[1:], unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS
	}
	if strings.Count(rel, "/") > maxDepth {
		b.invalid(errdefs.ErrInvalidArgument, "mount destination %s: more than %d levels deep", destination, maxDepth)
		return
	}
	target, flags, kind := b.slot(), uint64(unix.O_PATH), "file"
	if isDir {
		flags, kind = flags|unix.O_DIRECTORY, "directory"
	}
	name, how := b.string(rel), b.openHow(flags, resolve)
	first := len(b.steps)
	b.lookup(what, root, name, how, target, flagArg0).missing()
	dir, base, nested := cutLast(rel)
	parent := root
	if nested {
		parent = b.makeDirs(what, root, dir, resolve)
	}
	if isDir {
		b.add(what, unix.SYS_MKDIRAT, parent, b.string(base), 0o755).with(flagArg0).orSkip(anyErrno, 0)
	} else {
		b.add(what, unix.SYS_MKNODAT, parent, b.string(base), unix.S_IFREG|0o644, 0).with(flagArg0).orSkip(anyErrno, 0)
	}
	b.lookup(what, root, name, how, target, flagArg0).found(0)
	behind := first + lookupAttempts
	lookup{b.steps[first:behind]}.found(len(b.steps) - behind) // sliced anew: add may have moved the steps
	empty := b.string("")
	b.add(what+" (must be a "+kind+")", unix.SYS_MOVE_MOUNT, mount, empty, target, empty, unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH).
		with(flagArg0 | flagArg2)
}

// cutLast divides a path before its last component.
func cutLast(p string) (dir, base string, nested bool) {
	i := strings.LastIndexByte(p, '/')
	return p[:max(i, 0)], p[i+1:], i >= 0
}

// procFiles are the files of procfs that may be covered, with what a tool like
// lxcfs has of them: they tell of the machine and nothing is written to them.
var procFiles = []string{"cpuinfo", "diskstats", "loadavg", "meminfo", "slabinfo", "stat", "swaps", "uptime"}

// coversProc tells whether a mount would stand in for procfs or a part of it
// that programs and the runtime trust (CVE-2019-16884, CVE-2023-27561).
func coversProc(destination string) bool {
	rel, below := strings.CutPrefix(destination, "/proc/")
	return destination == "/proc" || below && !slices.Contains(procFiles, rel)
}
