package runtime

import (
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// WithBinds gives a detached tree of mounts that is root, the root filesystem of
// a container without processes, with bind mounts where a start attaches them:
// in their order, with links in the root followed inside it, and what is missing
// there made, as the root of u, or the caller. Nothing propagates to or from
// their sources. Mounts in root itself are not taken. If readOnly is set, root
// is read-only then, but not its mounts.
//
// root is a detached mount, and the function's to close. u is nil, or the user
// namespace that is to have the binds with "idmap", and whose ids root has. The
// errors are as with Create; where something would have to be made in what is
// read-only, it is EROFS.
func WithBinds(root *os.File, binds []specs.Mount, readOnly bool, u *UserNamespace) (*os.File, error) {
	if len(binds) > 0 {
		tree, err := attachBinds(root, binds, u)
		root.Close()
		if err != nil {
			return nil, err
		}
		root = tree
	}
	if readOnly {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(int(root.Fd()), "", unix.AT_EMPTY_PATH, &attr); err != nil {
			root.Close()
			return nil, os.NewSyscallError("mount_setattr", err)
		}
	}
	return root, nil
}

// attachBinds attaches root in a mount namespace of its own, because before
// Linux 6.15 nothing can be mounted in what is detached, and clones what comes
// of it.
func attachBinds(root *os.File, binds []specs.Mount, u *UserNamespace) (tree *os.File, err error) {
	var sources []source
	defer func() {
		for _, s := range sources {
			s.tree.Close()
		}
	}()
	for i := range binds {
		s, err := openSource(&binds[i], u)
		if err != nil {
			return nil, err
		}
		sources = append(sources, s)
	}
	inOwnMounts(func(failed error) {
		if err = failed; err == nil {
			err = attachAll(root, sources, u)
		}
		if err == nil {
			tree, err = cloneFrom(int(root.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
		}
	})
	return tree, needsRoot(err)
}

// attachAll attaches root, where nobody else sees it, and the sources in it.
func attachAll(root *os.File, sources []source, u *UserNamespace) error {
	err := unix.MoveMount(int(root.Fd()), "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err != nil {
		return os.NewSyscallError("move_mount", err)
	}
	for _, s := range sources {
		if err := s.attach(int(root.Fd()), u); err != nil {
			return fmt.Errorf("mount %s on %s: %w", s.tree.Name(), s.destination, err)
		}
	}
	return nil
}

// A source is a bind mount that is to be attached.
type source struct {
	tree        *os.File
	isDir       bool
	destination string
}

// openSource opens a bind mount's source. It is private whatever the mount says:
// what is attached in it is not for others.
func openSource(m *specs.Mount, u *UserNamespace) (s source, err error) {
	destination, ok := cleanAbs(m.Destination)
	switch {
	case !ok || destination == "/":
		return s, fmt.Errorf("mount destination %q: %w", m.Destination, errdefs.ErrInvalidArgument)
	case !isBind(m):
		return s, fmt.Errorf("mount on %s: no bind mount: %w", destination, errdefs.ErrInvalidArgument)
	}
	private := *m
	private.Options = append(m.Options[:len(m.Options):len(m.Options)], "rprivate")
	s.destination = destination
	if s.tree, s.isDir, err = openBind(&private, u); err != nil {
		err = fmt.Errorf("mount on %s: %w", destination, err)
	}
	return s, err
}

// attach attaches it, see attachInRoot.
func (s *source) attach(root int, u *UserNamespace) error {
	rel := s.destination[1:]
	flags := uint64(unix.O_PATH)
	if s.isDir {
		flags |= unix.O_DIRECTORY
	}
	target, err := openInRoot(root, rel, flags)
	if err == unix.ENOENT {
		if err = s.makeTarget(root, rel, u); err == nil {
			target, err = openInRoot(root, rel, flags)
		}
	}
	if err != nil {
		return err
	}
	defer unix.Close(target)
	return moveOnto(s.tree, target)
}

// makeTarget makes what is missing on the way to a mount's target, and that.
func (s *source) makeTarget(root int, rel string, u *UserNamespace) error {
	make := func(f func() error) error {
		var err error
		if u != nil {
			err = u.asRoot(f)
		} else {
			err = f()
		}
		if err == unix.EEXIST {
			return nil
		}
		return os.NewSyscallError("make what is missing", err)
	}
	parent, prefix := root, ""
	names := strings.Split(rel, "/")
	for _, name := range names[:len(names)-1] {
		if err := make(func() error { return unix.Mkdirat(parent, name, 0o755) }); err != nil {
			return err
		}
		prefix = path.Join(prefix, name)
		fd, err := openInRoot(root, prefix, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		parent = fd
	}
	name := names[len(names)-1]
	if s.isDir {
		return make(func() error { return unix.Mkdirat(parent, name, 0o755) })
	}
	return make(func() error { return unix.Mknodat(parent, name, unix.S_IFREG|0o644, 0) })
}

// openInRoot opens a path as a process does whose root directory root is. While
// something is renamed or mounted the kernel may not know where ".." leads.
func openInRoot(root int, rel string, flags uint64) (int, error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	for tries := 1; ; tries++ {
		fd, err := unix.Openat2(root, rel, &how)
		if (err != unix.EAGAIN && err != unix.EINTR) || tries == maxOpens {
			return fd, err
		}
	}
}

// maxOpens bounds how often openInRoot tries.
const maxOpens = 10_000
