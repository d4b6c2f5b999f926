package runtime

import (
	"fmt"
	"os"
	goruntime "runtime"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/inboard/engine/internal/seccomp"
)

// An explained program is compiled without privileges and without anything made
// for it: what the host would open for the child is told instead.
type explained struct {
	given []string // descriptors
}

// note says what a descriptor is. On nil it does nothing.
func (e *explained) note(fd uintptr, text string) {
	if e != nil {
		e.given = append(e.given, fmt.Sprintf("descriptor %d: %s", fd, text))
	}
}

// obtain gives the child a file that the host makes, or tells what it would be.
func (b *builder) obtain(make func() (*os.File, error), tell func() string) (fd uintptr, ok bool) {
	if b.explained != nil {
		fd = b.send(-1)
		b.explained.note(fd, tell())
		return fd, true
	}
	f, err := make()
	if err != nil {
		b.fail(err)
		return 0, false
	}
	return b.sendOwned(f), true
}

// Explain tells what a container of a spec would get: the descriptors that its
// first process is given, and each system call that it makes until it executes
// the command, one a line, with what the call is for. Nothing is started or
// made, and no privileges are needed. It is the program that Start compiles on
// Linux 6.15 with cgroup v2, on another kernel some calls differ.
//
// Arguments are printed as strace prints them; @N is a word in the program's
// memory, [@N] its value, "= @N" where a result goes. CreateOptions.User must be
// numeric unless the rootfs is a directory that the caller can read.
//
// Errors are those of Start that concern the spec.
func Explain(spec *specs.Spec, o CreateOptions) (string, error) {
	if err := checkSpec(spec); err != nil {
		return "", err
	}
	f := &filter{}
	if p := spec.Linux.Seccomp; p != nil {
		code, err := seccomp.Compile(p, goruntime.GOARCH)
		if err != nil {
			return "", err
		}
		if f.flags, err = seccomp.Flags(p); err != nil {
			return "", err
		}
		f.code = code
	}
	path := o.Rootfs.Path
	if path == "" && spec.Root != nil {
		path = spec.Root.Path
	}
	who, err := explainCredential(path, o.User, spec.Process)
	if err != nil {
		return "", err
	}
	b := newBuilder(nil, spec, nil)
	b.explained = &explained{}
	var user *UserNamespace
	if hasUserNamespace(spec) {
		user = &UserNamespace{ids: idMap{spec.Linux.UIDMappings, spec.Linux.GIDMappings}}
		if err := user.ids.checkCredential(who); err != nil {
			return "", err
		}
	}
	b.container(&launch{
		spec: spec, options: &o, root: &root{name: first(path, "the container's layers")}, streams: &streams{child: [3]int{-1, -1, -1}}, user: user,
	}, 0)
	b.finish(spec.Process, who, f)
	if b.err != nil {
		return "", b.err
	}
	b.layOut()
	if b.outside {
		b.explained.given = append(b.explained.given, "keeper: the one outside of all containers' pid namespaces")
	}
	return strings.Join(b.explained.given, "\n") + "\n\n" + b.String(), nil
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// explainCredential looks a user up in a directory, or without one takes numbers.
func explainCredential(path, user string, p *specs.Process) (*credential, error) {
	root, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(root)
		return lookupCredential(root, user, p)
	}
	if user == "" {
		return &credential{uid: p.User.UID, gid: p.User.GID, groups: p.User.AdditionalGids}, nil
	}
	name, group, _ := strings.Cut(user, ":")
	uid, err := parseID(first(name, "0"))
	if err != nil {
		return nil, fmt.Errorf("user %q: to look it up takes a rootfs that can be read: %w", user, errdefs.ErrInvalidArgument)
	}
	gid, err := parseID(first(group, "0"))
	if err != nil {
		return nil, fmt.Errorf("group %q: to look it up takes a rootfs that can be read: %w", group, errdefs.ErrInvalidArgument)
	}
	return &credential{uid: uint32(uid), gid: uint32(gid)}, nil
}
