package runtime

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mountAttrs are the options of a mount that MOUNT_ATTR_ bits stand for; false
// clears.
var mountAttrs = map[string]struct {
	bit uint64
	set bool
}{
	"ro": {unix.MOUNT_ATTR_RDONLY, true}, "rw": {unix.MOUNT_ATTR_RDONLY, false},
	"nosuid": {unix.MOUNT_ATTR_NOSUID, true}, "suid": {unix.MOUNT_ATTR_NOSUID, false},
	"nodev": {unix.MOUNT_ATTR_NODEV, true}, "dev": {unix.MOUNT_ATTR_NODEV, false},
	"noexec": {unix.MOUNT_ATTR_NOEXEC, true}, "exec": {unix.MOUNT_ATTR_NOEXEC, false},
	"nodiratime": {unix.MOUNT_ATTR_NODIRATIME, true}, "diratime": {unix.MOUNT_ATTR_NODIRATIME, false},
	"nosymfollow": {unix.MOUNT_ATTR_NOSYMFOLLOW, true}, "symfollow": {unix.MOUNT_ATTR_NOSYMFOLLOW, false},
	"relatime": {0, true}, "norelatime": {0, true}, "defaults": {0, true},
	"noatime": {unix.MOUNT_ATTR_NOATIME, true}, "strictatime": {unix.MOUNT_ATTR_STRICTATIME, true},
	// Every devpts mount is a new instance since Linux 4.7, commit eedf265aa003.
	"newinstance": {0, true},
}

// splitOptions divides a mount's options into attributes and the filesystem's
// own, the latter as keys and values.
func splitOptions(options []string) (attrs uint64, data []string) {
	for _, option := range options {
		if a, ok := mountAttrs[option]; ok {
			if a.set {
				attrs |= a.bit
			} else {
				attrs &^= a.bit
			}
			continue
		}
		key, value, _ := strings.Cut(option, "=")
		data = append(data, key, value)
	}
	return attrs, data
}

// mounts attaches what the spec lists, in its order but for one thing: what the
// caller wants outside of the kernel's filesystems comes before these. So a
// link of the image leads such a mount nowhere but into the image's own files.
func (b *builder) mounts() {
	var early, late []*specs.Mount
	for i := range b.spec.Mounts {
		if m := &b.spec.Mounts[i]; !isKernels(m) && !b.inKernels(m) {
			early = append(early, m)
		} else {
			late = append(late, m)
		}
	}
	for _, m := range append(early, late...) {
		if b.err == nil {
			b.mount(m)
		}
	}
}

// isKernels tells whether a mount shows what the kernel or the runtime has made:
// procfs, sysfs, /dev and what is in it.
func isKernels(m *specs.Mount) bool {
	switch m.Type {
	case "proc", "sysfs", "mqueue", "devpts", "cgroup", "cgroup2":
		return !isBind(m)
	case "tmpfs":
		destination := path.Clean(m.Destination)
		return destination == "/dev" || destination == "/dev/shm"
	}
	return false
}

// inKernels tells whether a mount is to be on or below such a one.
func (b *builder) inKernels(m *specs.Mount) bool {
	return slices.ContainsFunc(b.spec.Mounts, func(k specs.Mount) bool {
		return isKernels(&k) && strings.HasPrefix(path.Clean(m.Destination)+"/", path.Clean(k.Destination)+"/")
	})
}

func (b *builder) mount(m *specs.Mount) {
	destination, ok := cleanAbs(m.Destination)
	if !ok || destination == "/" {
		b.invalid(errdefs.ErrInvalidArgument, "mount destination %q", m.Destination)
		return
	}
	if !isKernels(m) && coversProc(destination) {
		b.invalid(errdefs.ErrInvalidArgument, "mount on %s: it would hide the container's processes", destination)
		return
	}
	if isBind(m) {
		b.bind(m, destination)
		return
	}
	what := fmt.Sprintf("mount %s on %s", m.Type, destination)
	attrs, data := splitOptions(m.Options)
	if m.Source != "" {
		data = append(data, "source", m.Source) // what the mount table shows
	}
	switch m.Type {
	case "proc", "sysfs", "mqueue": // these belong to the namespaces of whoever makes them
		var slot uintptr
		if m.Type == "proc" && b.pidNS != 0 {
			slot = b.procOfJoined(what, attrs, data)
		} else {
			slot = b.childMount(what, m.Type, attrs, data)
		}
		b.attach(what, slot, destination)
		b.made = append(b.made, madeMount{destination, slot})
	case "tmpfs", "devpts":
		var slot uintptr
		if b.shm != nil && destination == "/dev/shm" {
			slot = b.words(uint64(b.send(int(b.shm.Fd()))))
		} else {
			slot = b.hostMount(what, destination, m.Type, attrs, data)
		}
		if isKernels(m) {
			b.attach(what, slot, destination)
		} else {
			b.attachInRoot(what, slot, destination, true)
		}
		b.made = append(b.made, madeMount{destination, slot})
		if m.Type == "devpts" && destination == ptsDir {
			b.pts = slot
		}
	case "cgroup", "cgroup2":
		b.mountCgroup(destination, attrs)
	default:
		b.invalid(errdefs.ErrNotImplemented, "mount of type %q on %s", m.Type, destination)
	}
}

// childMount has the child make a filesystem and a detached mount of it.
func (b *builder) childMount(what, fstype string, attrs uint64, data []string) (slot uintptr) {
	context, slot := b.slot(), b.slot()
	b.add(what, unix.SYS_FSOPEN, b.string(fstype), unix.FSOPEN_CLOEXEC).into(context)
	for i := 0; i < len(data); i += 2 {
		command, value := uintptr(unix.FSCONFIG_SET_FLAG), uintptr(0)
		if data[i+1] != "" {
			command, value = unix.FSCONFIG_SET_STRING, b.string(data[i+1])
		}
		b.add(what+": option "+data[i], unix.SYS_FSCONFIG, context, command, b.string(data[i]), value, 0).with(flagArg0)
	}
	b.add(what, unix.SYS_FSCONFIG, context, unix.FSCONFIG_CMD_CREATE, 0, 0, 0).with(flagArg0)
	b.add(what, unix.SYS_FSMOUNT, context, unix.FSMOUNT_CLOEXEC, uintptr(attrs)).with(flagArg0).into(slot)
	return slot
}

// hostMount brings a filesystem that belongs to no namespace, made by the host
// here and now or ahead.
func (b *builder) hostMount(what, destination, fstype string, attrs uint64, data []string) (slot uintptr) {
	recipe := mountRecipe{destination, fstype, attrs, data, nil, nil}
	if destination == "/dev" {
		recipe.devices = b.spec.Linux.Devices
	}
	for i := range b.spec.Mounts { // what will be mounted in it
		m := &b.spec.Mounts[i]
		if rel, ok := strings.CutPrefix(path.Clean(m.Destination), destination+"/"); ok && !isBind(m) {
			recipe.dirs = append(recipe.dirs, rel)
		}
	}
	fd, _ := b.obtain(func() (*os.File, error) {
		f, err := b.makeMount(&recipe)
		if err != nil {
			err = fmt.Errorf("%s: %w", what, needsRoot(err))
		}
		if fstype == "devpts" && destination == ptsDir {
			b.devpts = f
		}
		return f, err
	}, recipe.String)
	return b.words(uint64(fd))
}

// makeMount makes a mount by its recipe, or takes one that was made ahead. In a
// user namespace what is in it belongs to those whom the recipe names inside.
func (b *builder) makeMount(r *mountRecipe) (*os.File, error) {
	if b.user == nil {
		return b.rt.spares.take(r.key(), r.make)
	}
	var f *os.File
	var err error
	if r.fstype == "devpts" { // the owners of terminals are options
		mapped := *r
		if mapped.data, err = b.user.ids.options(r.data); err == nil {
			f, err = mapped.make()
		}
	} else {
		f, err = b.rt.spares.take(r.key(), r.make)
	}
	if err != nil {
		return nil, err
	}
	if err := b.user.ids.own(f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// A mountRecipe is all that a mount made by the host is made of.
type mountRecipe struct {
	destination, fstype string
	attrs               uint64
	data                []string
	dirs                []string // mount points in it
	devices             []specs.LinuxDevice
}

func (r *mountRecipe) key() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %x %q %q", r.destination, r.fstype, r.attrs, r.data, r.dirs)
	for i := range r.devices {
		d := &r.devices[i]
		fmt.Fprintf(&b, " %s %q %d:%d", d.Type, d.Path, d.Major, d.Minor)
		if d.FileMode != nil {
			fmt.Fprintf(&b, " mode %o", *d.FileMode)
		}
		if d.UID != nil {
			fmt.Fprintf(&b, " uid %d", *d.UID)
		}
		if d.GID != nil {
			fmt.Fprintf(&b, " gid %d", *d.GID)
		}
	}
	return b.String()
}

// String tells a reader of a program what is in the mount.
func (r *mountRecipe) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "new %s for %s: attributes %#x", r.fstype, r.destination, r.attrs)
	for i := 0; i < len(r.data); i += 2 {
		b.WriteString(", " + r.data[i])
		if r.data[i+1] != "" {
			b.WriteString("=" + r.data[i+1])
		}
	}
	if r.destination == "/dev" {
		b.WriteString("; with devices")
		for _, d := range defaultDevices {
			b.WriteString(" " + d.name)
		}
		for i := range r.devices {
			d := &r.devices[i]
			fmt.Fprintf(&b, " %s (%s %d:%d)", d.Path, d.Type, d.Major, d.Minor)
		}
	}
	if len(r.dirs) > 0 {
		b.WriteString("; with directories " + strings.Join(r.dirs, " "))
	}
	return b.String()
}

func (r *mountRecipe) make() (*os.File, error) {
	f, err := newMount(r.fstype, int(r.attrs), r.data...)
	if err != nil {
		return nil, err
	}
	if r.destination == "/dev" {
		err = populateDev(f, r.devices)
	}
	for _, dir := range r.dirs {
		if err == nil {
			err = mkdirAllAt(int(f.Fd()), dir)
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// mkdirAllAt makes a directory and its parents in a filesystem that is the
// runtime's own still.
func mkdirAllAt(dir int, rel string) error {
	for i := range len(rel) + 1 {
		if i == len(rel) || rel[i] == '/' {
			if err := unix.Mkdirat(dir, rel[:i], 0o755); err != nil && err != unix.EEXIST {
				return os.NewSyscallError("mkdirat", err)
			}
		}
	}
	return nil
}

// attach moves a detached mount, in a slot, to its destination. No link is
// followed in the last component of a path, nor anywhere in one below a mount
// that the program made; so /proc being a link in the image is an error, not a
// procfs somewhere else.
func (b *builder) attach(what string, mount uintptr, destination string) {
	empty := b.string("")
	move := func(dir, name, flags uintptr) {
		b.add(what, unix.SYS_MOVE_MOUNT, mount, empty, dir, name, unix.MOVE_MOUNT_F_EMPTY_PATH|flags).
			with(flagArg0 | flagArg2)
	}
	if dir, rel, ok := b.below(destination); ok {
		move(dir, b.string(rel), 0)
		return
	}
	dir, name := path.Split(destination)
	parent := b.makeParents(what, strings.Trim(dir, "/"))
	b.add(what, unix.SYS_MKDIRAT, parent, b.string(name), 0o755).with(flagArg0).orSkip(anyErrno, 0)
	target := b.openSafe(what, parent, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	move(target, empty, unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// makeParents makes the directories of a path in the root that are missing,
// and returns the slot of the last one. Links are followed inside the root;
// magic links, which lead out through descriptors, are not.
func (b *builder) makeParents(what, dir string) uintptr {
	if dir == "" {
		return b.root
	}
	return b.makeDirs(what, b.root, dir, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
}

// makeDirs is makeParents below any directory, by any rules.
func (b *builder) makeDirs(what string, root uintptr, dir string, resolve uint64) uintptr {
	parent, prefix := root, ""
	for name := range strings.SplitSeq(dir, "/") {
		b.add(what, unix.SYS_MKDIRAT, parent, b.string(name), 0o755).with(flagArg0).orSkip(anyErrno, 0)
		prefix = path.Join(prefix, name)
		parent = b.openSafe(what, root, prefix, unix.O_PATH|unix.O_DIRECTORY, resolve)
	}
	return parent
}

// cloneTree has the child make a detached copy of a mount, or of a directory or
// file in one.
func (b *builder) cloneTree(what string, dir uintptr, name string, flags uint64) (slot uintptr) {
	slot = b.slot()
	b.add(what, unix.SYS_OPEN_TREE, dir, b.string(name), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC).with(flags).into(slot)
	return slot
}

// A maskPair are the slots of two detached mounts that mask paths: whether one
// is a file or a directory shows only when it is mounted on.
type maskPair struct{ file, dir uintptr }

// prepareMasks copies what paths are masked with out of the keeper's root, which
// is about to be left: once, to copy again, or for each path, where the kernel
// does not copy detached mounts, or not those of another mount namespace, to
// which the child goes if ahead is set.
func (b *builder) prepareMasks(ahead bool) {
	b.copyMasks = !ahead && (b.explained != nil || clonesDetached())
	n := len(b.spec.Linux.MaskedPaths)
	if b.copyMasks {
		n = min(n, 1)
	}
	for range n {
		b.spare = append(b.spare, maskPair{
			b.cloneTree("copy the mask of a file", atCwd, "/"+maskFile, 0),
			b.cloneTree("copy the mask of a directory", atCwd, "/"+maskDir, 0)})
	}
}

// masks covers the masked paths and makes the read-only ones so. A path that is
// not there needs neither.
func (b *builder) masks() {
	for i, p := range b.spec.Linux.MaskedPaths {
		p, ok := cleanAbs(p)
		if !ok {
			b.invalid(errdefs.ErrInvalidArgument, "masked path %q", p)
			return
		}
		if b.copyMasks {
			b.mask(p, b.spare[0])
		} else {
			b.maskWith(p, b.spare[i])
		}
	}
	for _, p := range b.spec.Linux.ReadonlyPaths {
		p, ok := cleanAbs(p)
		if !ok {
			b.invalid(errdefs.ErrInvalidArgument, "read-only path %q", p)
			return
		}
		b.readOnly(p)
	}
}

// place is where a path is: below a mount that the program made, or the root.
func (b *builder) place(p string) (dir uintptr, rel string) {
	if dir, rel, ok := b.below(p); ok {
		return dir, rel
	}
	return b.root, strings.TrimPrefix(p, "/")
}

// mask covers one path with a copy of one of the two, trying first what the
// host's own procfs and sysfs suggest. Success, and a path that is not there,
// skip the second try; EINVAL (a directory on a file, or the reverse) leads to it.
func (b *builder) mask(p string, with maskPair) {
	dir, rel := b.place(p)
	what, name, empty := "mask "+p, b.string(rel), b.string("")
	order := [2]uintptr{with.file, with.dir}
	var st unix.Stat_t
	switch err := unix.Lstat(p, &st); {
	case b.explained != nil: // the same on every machine
	case err != nil: // most likely not there either: one call tells
		b.add(what, unix.SYS_FACCESSAT, dir, name, 0).with(flagArg0).orSkip(unix.ENOENT, 4)
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		order = [2]uintptr{with.dir, with.file}
	}
	first, second := b.slot(), b.slot()
	clone := func(from, to uintptr) {
		b.add(what, unix.SYS_OPEN_TREE, from, empty, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH).with(flagArg0).into(to)
	}
	move := func(from uintptr) *step {
		return b.add(what, unix.SYS_MOVE_MOUNT, from, empty, dir, name, unix.MOVE_MOUNT_F_EMPTY_PATH).with(flagArg0 | flagArg2)
	}
	clone(order[0], first)
	move(first).thenSkip(2).orSkip(unix.ENOENT, 2).or(unix.EINVAL)
	clone(order[1], second)
	move(second)
}

// maskWith is mask with copies that are there already.
func (b *builder) maskWith(p string, with maskPair) {
	dir, rel := b.place(p)
	what, name, empty := "mask "+p, b.string(rel), b.string("")
	move := func(from uintptr) *step {
		return b.add(what, unix.SYS_MOVE_MOUNT, from, empty, dir, name, unix.MOVE_MOUNT_F_EMPTY_PATH).with(flagArg0 | flagArg2)
	}
	move(with.file).thenSkip(1).orSkip(unix.ENOENT, 1).or(unix.EINVAL)
	move(with.dir)
}

func (b *builder) readOnly(p string) {
	what := "make " + p + " read-only"
	copied := b.slot()
	dir, rel := b.place(p)
	attr := b.words(unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC, 0, 0, 0)
	empty, name := b.string(""), b.string(rel)
	b.add(what, unix.SYS_OPEN_TREE, dir, name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE|unix.AT_SYMLINK_NOFOLLOW).
		with(flagArg0).into(copied).orSkip(unix.ENOENT, 2)
	b.add(what, unix.SYS_MOUNT_SETATTR, copied, empty, unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, attr, sizeofMountAttr).with(flagArg0)
	b.add(what, unix.SYS_MOVE_MOUNT, copied, empty, dir, name, unix.MOVE_MOUNT_F_EMPTY_PATH).with(flagArg0 | flagArg2)
}

// readOnlyRoot comes after everything that makes mount points.
func (b *builder) readOnlyRoot() {
	attr := b.words(unix.MOUNT_ATTR_RDONLY, 0, 0, 0)
	b.add("make the root read-only", unix.SYS_MOUNT_SETATTR, b.root, b.string(""), unix.AT_EMPTY_PATH, attr, sizeofMountAttr).with(flagArg0)
}

// sizeofMountAttr is MOUNT_ATTR_SIZE_VER0, of struct mount_attr.
const sizeofMountAttr = 32
