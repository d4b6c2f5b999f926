package engine

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// writable is the directory of one container's writable layer: overlayfs's
// upper and work directories.
type writable struct {
	name  string // among its engine's; hexadecimal
	dir   string
	given face // of the upper directory, as the container got it

	// Of one that a container has done with:
	spent bool     // no other container may have it
	mount *os.File // of an overlay that must end first, or nil
}

func (w *writable) upper() string { return filepath.Join(w.dir, "upper") }
func (w *writable) work() string  { return filepath.Join(w.dir, "work") }

// ready removes what an earlier volatile mount left in the work directory: its
// mark, which would make the kernel refuse the next mount (overlayfs.rst,
// "Volatile mount"), and the directory that each mount replaces. If a file of the
// image was taken away there is a whiteout in it, of which all others are links
// (ovl_whiteout in fs/overlayfs/dir.c, Linux 5.8); the next mount clears it.
func (w *writable) ready() error {
	for _, name := range []string{"work/incompat/volatile/dirty", "work/incompat/volatile", "work/incompat", "work"} {
		err := os.Remove(filepath.Join(w.work(), name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !(name == "work" && errors.Is(err, unix.ENOTEMPTY)) {
			return fmt.Errorf("make writable layer ready: %w", err)
		}
	}
	return nil
}

// rootAttr are the attributes of a container's root directory: those of the
// upper directory, whatever the lower ones have.
type rootAttr struct {
	mode, uid, gid uint32
	mtime          unix.Timespec
}

func rootAttrOf(st *unix.Stat_t) rootAttr {
	return rootAttr{st.Mode & 0o7777, st.Uid, st.Gid, unix.Timespec{Sec: st.Mtim.Sec, Nsec: st.Mtim.Nsec}}
}

// unnamedRoot is what a layer has whose archive does not name its root.
var unnamedRoot = rootAttr{mode: 0o755}

// face is what a container can change on the upper directory itself.
type face struct {
	root    rootAttr
	atime   unix.Timespec
	changed unix.Timespec // ctime; zero where it tells nothing
	size    int64
	flags   int
	project uint32
	xattrs  string
}

// look gives the upper directory's face, and whether nothing is in it. Looking
// does not change the atime.
func (w *writable) look() (now face, empty bool, err error) {
	dir, err := os.OpenFile(w.upper(), unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NOATIME, 0)
	if err != nil {
		return face{}, false, err
	}
	defer dir.Close()
	if now, err = faceOf(dir); err != nil {
		return face{}, false, err
	}
	names, err := dir.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return now, len(names) == 0, err
}

// seal writes down what the upper directory looks like with an overlay mounted
// over it. Its ctime, which no container can set, does not change any more
// until a container changes the directory or what is in it.
func (w *writable) seal() error {
	now, empty, err := w.look()
	if err == nil && !empty {
		err = unix.ENOTEMPTY
	}
	w.given = now
	return err
}

// blank tells whether a container left its writable layer as it was given, so
// that another can have it. mount is of an overlay with it at the top, or nil.
// That the root directory was listed shows no more afterwards.
func (w *writable) blank(mount *os.File) bool {
	now, empty, err := w.look()
	if err != nil || !empty {
		return false
	}
	read := now.atime != w.given.atime
	now.atime = w.given.atime
	if w.given.changed == (unix.Timespec{}) {
		now.changed = w.given.changed
	}
	if now != w.given {
		return false
	}
	if !read {
		return true
	}
	// Below a mounted overlay nothing may be changed but by way of it.
	dir, name := unix.AT_FDCWD, w.upper()
	if mount != nil {
		dir, name = int(mount.Fd()), "."
	}
	times := []unix.Timespec{now.atime, {Nsec: unix.UTIME_OMIT}}
	if unix.UtimesNanoAt(dir, name, times, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return false
	}
	return w.given.changed == (unix.Timespec{}) || w.seal() == nil
}

func faceOf(dir *os.File) (face, error) {
	fd := int(dir.Fd())
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return face{}, os.NewSyscallError("fstat", err)
	}
	var names [256]byte
	n, err := unix.Flistxattr(fd, names[:])
	if err != nil {
		return face{}, os.NewSyscallError("flistxattr", err)
	}
	// A mount leaves this one, of no meaning to the next (Linux 6.7).
	xattrs := strings.ReplaceAll(string(names[:n]), "trusted.overlay.uuid\x00", "")
	// File systems without flags (tmpfs before 6.6) have none to compare.
	flags, _ := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
	return face{rootAttrOf(&st), st.Atim, st.Ctim, st.Size, flags, projectOf(fd), xattrs}, nil
}

// projectOf is a directory's project, whose quota its files count towards. The
// owner may change it: FS_IOC_FSSETXATTR, ioctl_xfs_fsgetxattr(2).
func projectOf(fd int) uint32 {
	const get = 0x801c581f // FS_IOC_FSGETXATTR: _IOR('X', 31, struct fsxattr)
	var attr struct {
		_       [3]uint32
		project uint32
		_       [3]uint32
	}
	unix.Syscall(unix.SYS_IOCTL, uintptr(fd), get, uintptr(unsafe.Pointer(&attr)))
	return attr.project
}

// exactChanges probes whether each change of a directory gives it a ctime that
// it never had, be they ever so close: multigrain timestamps, Linux 6.13,
// commit 4e40eff0b573, on the file systems that have them (btrfs, ext4 with
// large inodes, tmpfs, xfs). Elsewhere the ctime is the last tick's, or second's.
func exactChanges(dir string) bool {
	var last unix.Timespec
	for range 10 { // a tick may come between two, but not each time
		var st unix.Stat_t
		if unix.Chmod(dir, 0o700) != nil || unix.Stat(dir, &st) != nil || st.Ctim == last {
			return false
		}
		last = st.Ctim
	}
	return true
}

// setRoot gives the upper directory its attributes.
func (w *writable) setRoot(root rootAttr) error {
	if w.given.root == root {
		return nil
	}
	dir, err := os.Open(w.upper())
	if err != nil {
		return err
	}
	defer dir.Close()
	fd := int(dir.Fd())
	// The mode comes last: chown takes set-id bits away.
	if err := unix.Fchown(fd, int(root.uid), int(root.gid)); err != nil {
		return os.NewSyscallError("fchown", err)
	}
	if err := unix.Fchmod(fd, root.mode); err != nil {
		return os.NewSyscallError("fchmod", err)
	}
	times := []unix.Timespec{root.mtime, root.mtime}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, w.upper(), times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return os.NewSyscallError("utimensat", err)
	}
	w.given, err = faceOf(dir)
	w.given.changed = unix.Timespec{} // what mounts it changes it
	return err
}

// maxSpares bounds how many writable layers wait for a container. More than
// one is of use when several containers end at once.
const maxSpares = 16

// writables makes an engine's writable layers. Making three directories can
// take as long as starting a process, and removing them longer, so one that a
// container left empty serves the next, and what must be looked at or removed
// is, in the background.
type writables struct {
	dir   string
	idle  time.Duration // how long the engine keeps what no container uses
	log   *slog.Logger
	probe sync.Once
	exact bool // set by probe: what exactChanges says of dir

	mu     sync.Mutex
	next   uint64
	spares []*writable
	used   []*writable   // to be looked at
	busy   chan struct{} // closed when the background goroutine ends; nil: none runs
	closed bool
}

// exactChanges is the answer for the directory that they are in.
func (p *writables) exactChanges() bool {
	p.probe.Do(func() { p.exact = exactChanges(p.dir) })
	return p.exact
}

// take gives a writable layer that is empty and ready, for a container whose
// root directory has the attributes given.
func (p *writables) take(root rootAttr) (*writable, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var w *writable
	var err error
	if n := len(p.spares); n > 0 {
		w = p.spares[n-1]
		p.spares = p.spares[:n-1]
	} else {
		p.next++
		name := strconv.FormatUint(p.next, 16)
		w = &writable{name: name, dir: filepath.Join(p.dir, name)}
		err = w.make()
	}
	if err == nil {
		w.given.changed = unix.Timespec{}
		err = w.setRoot(root)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make writable layer: %w", err), os.RemoveAll(w.dir))
	}
	return w, nil
}

func (w *writable) make() error {
	if err := os.Mkdir(w.dir, 0o700); err != nil {
		return err
	}
	return errors.Join(os.Mkdir(w.upper(), 0o755), os.Mkdir(w.work(), 0o700))
}

// give takes back a layer that no container will use again.
func (p *writables) give(w *writable) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		w.unmount()
		return
	}
	p.used = append(p.used, w)
	if p.busy == nil {
		p.busy = make(chan struct{})
		go p.clean(p.busy)
	}
}

// clean looks at used layers until there are none.
func (p *writables) clean(done chan struct{}) {
	defer close(done)
	for {
		p.mu.Lock()
		if len(p.used) == 0 || p.closed {
			p.busy = nil
			p.mu.Unlock()
			return
		}
		w := p.used[0]
		p.used = p.used[1:]
		p.mu.Unlock()

		w.unmount()
		if !w.spent && w.blank(nil) && w.ready() == nil && p.keep(w) {
			continue
		}
		if err := removeTree(w.dir); err != nil { // the engine's directory goes as a whole at its end
			p.log.Warn("a writable layer cannot be removed", "layer", w.name, "error", err)
		}
	}
}

func (w *writable) unmount() {
	if w.mount != nil {
		w.mount.Close()
		w.mount = nil
	}
}

func (p *writables) keep(w *writable) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.spares) >= maxSpares {
		return false
	}
	p.spares = append(p.spares, w)
	return true
}

// settle waits until nothing is left to be looked at.
func (p *writables) settle() {
	p.mu.Lock()
	busy := p.busy
	p.mu.Unlock()
	if busy != nil {
		<-busy
	}
}

// close stops the background work. The directories stay, for the end of the
// engine's own.
func (p *writables) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.settle()
	for _, w := range p.used {
		w.unmount()
	}
}
