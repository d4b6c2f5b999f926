package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// writable is the directory of one container's writable layer: overlayfs's
// upper and work directories.
type writable struct {
	name  string // among its engine's; hexadecimal
	dir   string
	given face // of the upper directory, as the container got it
}

func (w *writable) upper() string { return filepath.Join(w.dir, "upper") }
func (w *writable) work() string  { return filepath.Join(w.dir, "work") }

// ready removes what an earlier volatile mount left in the work directory: its
// mark, which would make the kernel refuse the next mount (overlayfs.rst,
// "Volatile mount"), and the directory that each mount replaces.
func (w *writable) ready() error {
	for _, name := range []string{"work/incompat/volatile/dirty", "work/incompat/volatile", "work/incompat", "work"} {
		err := os.Remove(filepath.Join(w.work(), name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
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

// face is all that a container can change on the upper directory itself.
type face struct {
	root   rootAttr
	size   int64
	flags  int
	xattrs string
}

// blank tells whether a container left its writable layer as it was given, so
// that another can have it.
func (w *writable) blank() bool {
	dir, err := os.Open(w.upper())
	if err != nil {
		return false
	}
	defer dir.Close()
	if names, _ := dir.Readdirnames(1); len(names) != 0 {
		return false
	}
	now, err := faceOf(dir)
	return err == nil && now == w.given && w.ready() == nil
}

func faceOf(dir *os.File) (face, error) {
	fd := int(dir.Fd())
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return face{}, err
	}
	var names [256]byte
	n, err := unix.Flistxattr(fd, names[:])
	if err != nil {
		return face{}, err
	}
	// A mount leaves this one, of no meaning to the next (Linux 6.7).
	xattrs := strings.ReplaceAll(string(names[:n]), "trusted.overlay.uuid\x00", "")
	// File systems without flags (tmpfs before 6.6) have none to compare.
	flags, _ := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
	return face{rootAttrOf(&st), st.Size, flags, xattrs}, nil
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
	dir string

	mu     sync.Mutex
	next   uint64
	spares []*writable
	used   []*writable   // to be looked at
	busy   chan struct{} // closed when the background goroutine ends; nil: none runs
	closed bool
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

		if w.blank() && p.keep(w) {
			continue
		}
		_ = removeTree(w.dir) // the engine's directory goes as a whole at its end
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
}
