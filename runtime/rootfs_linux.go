package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A root is how a container's root directory gets into its mount namespace:
// as a detached mount that the host made, or, where the kernel's overlayfs
// cannot be mounted that way, by a mount(2) in the container's program.
type root struct {
	mount   *os.File // or nil:
	overlay *Overlay
	name    string // without either, of a program that is explained
}

func (r *root) fd() int {
	if r.mount == nil {
		return -1
	}
	return int(r.mount.Fd())
}

func (r *root) close() {
	if r.mount != nil {
		r.mount.Close()
	}
}

// openRoot finds the rootfs of a container.
func openRoot(spec *specs.Spec, o Rootfs, user *UserNamespace) (*root, error) {
	switch {
	case o.Mount != nil && (o.Overlay != nil || o.Path != ""), o.Overlay != nil && o.Path != "":
		return nil, fmt.Errorf("rootfs: more than one: %w", errdefs.ErrInvalidArgument)
	case o.IDMap && user == nil:
		return nil, fmt.Errorf("rootfs: id-mapped without a user namespace: %w", errdefs.ErrInvalidArgument)
	case o.Mount != nil:
		return &root{mount: o.Mount}, nil
	case o.Overlay != nil:
		if !o.IDMap {
			user = nil
		}
		return openOverlay(o.Overlay, user)
	}
	path := o.Path
	if path == "" && spec.Root != nil {
		path = spec.Root.Path
	}
	if path == "" {
		return nil, fmt.Errorf("rootfs: none given: %w", errdefs.ErrInvalidArgument)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return nil, fmt.Errorf("rootfs %s: %w", path, needsRoot(err))
	}
	f := os.NewFile(uintptr(fd), path)
	if info, err := f.Stat(); err != nil || !info.IsDir() {
		f.Close()
		return nil, fmt.Errorf("rootfs %s: %w", path, errors.Join(err, unix.ENOTDIR))
	}
	// The clone must not hand on what happens in it to the mounts it was made of.
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Propagation: unix.MS_PRIVATE}); err != nil {
		f.Close()
		return nil, fmt.Errorf("rootfs %s: make private: %w", path, err)
	}
	if o.IDMap {
		if err := idMapMount(f, user, unix.AT_RECURSIVE); err != nil {
			f.Close()
			return nil, fmt.Errorf("rootfs %s: %w", path, err)
		}
	}
	return &root{mount: f}, nil
}

// openOverlay mounts an overlay, id-mapped unless user is nil, or leaves it to
// the container's program.
func openOverlay(o *Overlay, user *UserNamespace) (_ *root, err error) {
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("rootfs: %w", err)
	}
	var m *os.File
	switch {
	case user != nil && overlayByDetached():
		m, err = o.mountIn(user)
	case user == nil && overlayByDescriptor():
		m, err = o.mount()
	default:
		return &root{overlay: o}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("rootfs: %w", err)
	}
	return &root{mount: m}, nil
}

// Mount makes the overlay's mount ahead of the container that is to have it,
// for Rootfs.Mount. It is detached: closing it is all that it needs. The error
// is errdefs.ErrNotImplemented on a kernel that takes layers in one string only
// (before Linux 6.5); there the container's program mounts the Overlay.
func (o *Overlay) Mount() (*os.File, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if !overlayByDescriptor() {
		return nil, fmt.Errorf("overlay by descriptors needs Linux 6.5: %w", errdefs.ErrNotImplemented)
	}
	return o.mount()
}

// MountIn is Mount for a container with a user namespace of u's mappings. The
// layers are id-mapped, the writable one too: on the disk a file's owner has the
// id that it has in the container. u is not needed for it any more afterwards.
//
// Upper and Work must be in one directory, which holds no other mounts. The
// error is errdefs.ErrNotImplemented before Linux 6.15, where the container's
// program can mount the Overlay (Rootfs.IDMap), and where the file system of a
// layer does not allow it.
func (o *Overlay) MountIn(u *UserNamespace) (*os.File, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if !overlayByDetached() {
		return nil, fmt.Errorf("overlay of detached mounts needs Linux 6.15: %w", errdefs.ErrNotImplemented)
	}
	return o.mountIn(u)
}

func (o *Overlay) check() error {
	if len(o.Lower) == 0 {
		return fmt.Errorf("overlay without a lower layer: %w", errdefs.ErrInvalidArgument)
	}
	if (o.Upper == "") != (o.Work == "") {
		return fmt.Errorf("overlay with only one of upper and work: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

func (o *Overlay) mount() (*os.File, error) {
	m, err := mountOverlay(o)
	if errors.Is(err, unix.EIO) && o.Volatile && o.Upper != "" {
		seeWriteErrors(o.Upper)
		m, err = mountOverlay(o)
	}
	return m, needsRoot(err)
}

func (o *Overlay) mountIn(u *UserNamespace) (m *os.File, err error) {
	mapped, done, err := o.idMapped(u)
	if err != nil {
		return nil, needsRoot(err)
	}
	defer done()
	err = u.asRoot(func() (err error) {
		m, err = mapped.mount()
		return err
	})
	return m, err
}

// top is the directory that holds those of the writable layer, and their names.
func (o *Overlay) top() (dir, upper, work string, err error) {
	dir = filepath.Dir(o.Upper)
	if filepath.Dir(o.Work) != dir {
		err = fmt.Errorf("id-mapped overlay with upper %s and work %s in two directories: %w", o.Upper, o.Work, errdefs.ErrInvalidArgument)
	}
	return dir, filepath.Base(o.Upper), filepath.Base(o.Work), err
}

// overlayByDetached tells whether overlayfs takes detached mounts as layers,
// which id-mapped ones are: since Linux 6.15, as open_tree does.
func overlayByDetached() bool { return overlayByDescriptor() && clonesDetached() }

// seeWriteErrors has the errors seen that a file system has met in writing.
// While one has not been, overlayfs refuses volatile mounts (Linux 5.11, commit
// 335d3fc57941), as it could not tell that error from later ones. But what was
// lost then is nothing of an overlay that is only about to be.
func seeWriteErrors(dir string) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	_ = unix.Syncfs(fd) // it fails with that error
}

// overlayByDescriptor probes once whether overlayfs takes its layers one at a
// time through the new mount API: "lowerdir+", Linux 6.5, commits b36a5780cb44
// and 24e16e385f22. Before that, layers are one option string, which fsconfig
// cuts off at 255 bytes; such a kernel takes any option until it mounts.
var overlayByDescriptor = sync.OnceValue(func() bool {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return true // let the real mount say what is wrong
	}
	defer unix.Close(fs)
	return unix.FsconfigSetString(fs, "no such option", "x") != nil && unix.FsconfigSetString(fs, "lowerdir+", "/") == nil
})

// overlayOptions keep a layer's meaning independent of the kernel's
// configuration: no lookups redirected by an attribute, no data elsewhere.
var overlayOptions = [...][2]string{{"redirect_dir", "nofollow"}, {"metacopy", "off"}, {"index", "off"}}

// mountOverlay returns a detached mount of an overlay.
func mountOverlay(o *Overlay) (*os.File, error) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsopen overlay: %w", err)
	}
	defer unix.Close(fs)
	set := func(key, value string) {
		if err == nil {
			if err = unix.FsconfigSetString(fs, key, value); err != nil {
				err = fsError(fs, "overlay "+key+"="+value, err)
			}
		}
	}
	for _, l := range o.Lower {
		switch {
		case err != nil:
		case l.Path != "" && len(l.Path) < 256: // where fsconfig ends a string
			set("lowerdir+", l.Path)
		case l.File != nil:
			err = setLowerFD(fs, l.File)
		default:
			err = fmt.Errorf("overlay layer path of %d bytes: %w", len(l.Path), errdefs.ErrInvalidArgument)
		}
	}
	if o.Upper != "" {
		set("upperdir", escapeLayer(o.Upper))
		set("workdir", escapeLayer(o.Work))
	}
	for _, option := range overlayOptions {
		set(option[0], option[1])
	}
	if err == nil && o.Volatile && o.Upper != "" {
		if err = unix.FsconfigSetFlag(fs, "volatile"); err != nil {
			err = fsError(fs, "overlay volatile", err)
		}
	}
	if err != nil {
		return nil, err
	}
	return finishMount(fs, "overlay", 0)
}

// setLowerFD adds a layer by descriptor: Linux 6.13, commit a08557d19ef4.
// Before that a path through /proc serves, if the layer is no detached mount.
func setLowerFD(fs int, f *os.File) error {
	err := unix.FsconfigSetFd(fs, "lowerdir+", int(f.Fd()))
	if err == nil {
		return nil
	}
	path := "/proc/self/fd/" + strconv.Itoa(int(f.Fd()))
	if unix.FsconfigSetString(fs, "lowerdir+", path) == nil {
		return nil
	}
	return fsError(fs, "overlay layer "+f.Name(), err)
}

// firstLayerFD is above all descriptors that a program gets or opens, so that a
// layer's number is known whatever else is sent along.
const firstLayerFD = 512

// mountOverlayByProgram adds the steps that mount an overlay where the new
// mount API cannot (before Linux 6.5), and leaves an O_PATH descriptor of its
// root in a slot. The child goes to a copy of the host's mount namespace, since
// overlayfs takes only layers whose mount is in the caller's. It opens each
// layer and names it by descriptor number, from /proc/self/fd: so a hundred
// layers fit into the page that mount(2) has for options.
//
// If idMap is set, what takes the number is an id-mapped clone of the layer,
// attached over it.
func (b *builder) mountOverlayByProgram(o *Overlay, idMap bool) (rootSlot uintptr) {
	p := b.program
	fd, err := b.rt.hostMountNS()
	if err != nil {
		b.fail(err)
	}
	hostns := p.send(fd)
	p.add("enter the host's mount namespace", unix.SYS_SETNS, hostns, unix.CLONE_NEWNS)
	p.add("unshare mount namespace", unix.SYS_UNSHARE, unix.CLONE_NEWNS)
	b.makePrivate()
	var user uintptr
	if idMap {
		user = b.sendNamespace("user", b.user.user)
	}
	var names []string
	for i, l := range o.Lower {
		path := l.Path
		if path == "" {
			path = l.File.Name()
		}
		b.openLayer(path, uintptr(firstLayerFD+i), user)
		names = append(names, strconv.Itoa(firstLayerFD+i))
	}
	upper, work := o.Upper, o.Work
	if idMap && upper != "" {
		dir, upperName, workName, err := o.top()
		if err != nil {
			b.fail(err)
		}
		number := firstLayerFD + len(o.Lower)
		b.openLayer(dir, uintptr(number), user)
		dir = strconv.Itoa(number) + "/"
		upper, work = dir+upperName, dir+workName
	}
	data, at := o.mountOptions(names, upper, work)
	p.add("go to the layers", unix.SYS_CHDIR, p.string("/proc/self/fd"))
	overlay := p.string("overlay")
	target := p.string(at)
	if len(data) >= pageSize {
		b.fail(fmt.Errorf("overlay options of %d bytes, mount(2) takes %d: %w", len(data), pageSize-1, errdefs.ErrInvalidArgument))
	}
	p.add("mount overlay", unix.SYS_MOUNT, overlay, target, overlay, 0, p.string(data))
	rootSlot = p.slot()
	p.add("open the root", unix.SYS_OPENAT, atCwd, target, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0).into(rootSlot)
	return rootSlot
}

// openLayer gives a directory's descriptor a number: with a user namespace, in
// the descriptor given, that of an id-mapped clone of it. The clone is attached
// over the directory, because overlayfs takes no detached mount.
func (b *builder) openLayer(path string, number, user uintptr) {
	what, layer := "open layer "+path, b.slot()
	b.add(what, unix.SYS_OPENAT, atCwd, b.string(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0).into(layer)
	if user != 0 {
		below, empty := layer, b.string("")
		layer = b.slot()
		b.add(what, unix.SYS_OPEN_TREE, below, empty, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH).with(flagArg0).into(layer)
		attr := b.words(unix.MOUNT_ATTR_IDMAP, 0, 0, uint64(user))
		b.add("id-map layer "+path, unix.SYS_MOUNT_SETATTR, layer, empty, unix.AT_EMPTY_PATH, attr, sizeofMountAttr).with(flagArg0)
		b.add(what, unix.SYS_MOVE_MOUNT, layer, empty, below, empty, unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH).
			with(flagArg0 | flagArg2)
		b.add(what, unix.SYS_CLOSE, below).with(flagArg0)
	}
	b.add(what, unix.SYS_DUP3, layer, number, unix.O_CLOEXEC).with(flagArg0)
	b.add(what, unix.SYS_CLOSE, layer).with(flagArg0)
}

// mountOptions are those of mount(2) for an overlay whose layers have the names
// given, and where to mount it: any directory does where nobody else sees it.
func (o *Overlay) mountOptions(names []string, upper, work string) (data, at string) {
	options := []string{"lowerdir=" + strings.Join(names, ":")}
	at = o.Upper
	if upper != "" {
		options = append(options, "upperdir="+escapeOption(upper), "workdir="+escapeOption(work))
		if o.Volatile {
			options = append(options, "volatile")
		}
	} else {
		at = o.Lower[0].Path
	}
	for _, option := range overlayOptions {
		options = append(options, option[0]+"="+option[1])
	}
	return strings.Join(options, ","), at
}

// escapeLayer quotes a backslash: overlayfs takes it for one that quotes the
// next character also where a path is an option's whole value.
func escapeLayer(path string) string { return strings.ReplaceAll(path, `\`, `\\`) }

// escapeOption quotes what separates options in a path: overlayfs's own parser
// takes a backslash before them.
func escapeOption(path string) string {
	return strings.NewReplacer(`\`, `\\`, ",", `\,`, ":", `\:`).Replace(path)
}
