package engine

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// watchMask are the events that may mean a record has changed or been removed,
// or that an engine has ended: it holds its lock file open for writing, and
// the kernel closes that with its process.
const watchMask = unix.IN_MODIFY | unix.IN_ATTRIB | unix.IN_MOVE_SELF | unix.IN_DELETE_SELF | unix.IN_CLOSE_WRITE

// watches is the one watcher of this process: a user can have few inotify
// instances, 128 as a rule.
var watches watcher

// watcher tells of events on files (inotify(7)), of as many as there are. It
// has a descriptor and a goroutine while anyone waits.
type watcher struct {
	mu   sync.Mutex
	file *os.File
	byWD map[uint32]map[*watch]bool
}

// watch is one who waits for events on some files.
type watch struct {
	events chan struct{} // has a value after an event
	wds    []uint32
}

// add begins a watch of open files, which may have no name any more.
func (w *watcher) add(files ...*os.File) (*watch, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		if err != nil {
			return nil, fmt.Errorf("watch files: %w: %w", os.NewSyscallError("inotify_init1", err), ErrUnavailable)
		}
		w.file = os.NewFile(uintptr(fd), "inotify")
		w.byWD = make(map[uint32]map[*watch]bool)
		go w.read(w.file)
	}
	x := &watch{events: make(chan struct{}, 1)}
	for _, f := range files {
		wd, err := w.addFile(f)
		if err != nil {
			w.drop(x)
			return nil, fmt.Errorf("watch %s: %w", f.Name(), err)
		}
		if w.byWD[wd] == nil {
			w.byWD[wd] = make(map[*watch]bool)
		}
		w.byWD[wd][x] = true
		x.wds = append(x.wds, wd)
	}
	return x, nil
}

func (w *watcher) addFile(f *os.File) (uint32, error) {
	name := "/proc/self/fd/" + strconv.Itoa(int(f.Fd()))
	wd, err := unix.InotifyAddWatch(w.fd(), name, watchMask)
	if err != nil {
		return 0, os.NewSyscallError("inotify_add_watch", err)
	}
	return uint32(wd), nil
}

// fd gives the descriptor without making it block, as File.Fd would.
func (w *watcher) fd() (fd int) {
	conn, err := w.file.SyscallConn()
	if err == nil {
		err = conn.Control(func(n uintptr) { fd = int(n) })
	}
	if err != nil {
		return -1
	}
	return fd
}

// remove ends a watch.
func (w *watcher) remove(x *watch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drop(x)
}

func (w *watcher) drop(x *watch) {
	for _, wd := range x.wds {
		delete(w.byWD[wd], x)
		if len(w.byWD[wd]) == 0 {
			delete(w.byWD, wd)
			// Fails if the file is gone, and the watch with it.
			_, _ = unix.InotifyRmWatch(w.fd(), wd)
		}
	}
	if len(w.byWD) == 0 && w.file != nil {
		w.file.Close() // ends read
		w.file = nil
	}
}

// read hands events on until the file is closed.
func (w *watcher) read(f *os.File) {
	buf := make([]byte, 4096)
	for {
		n, err := f.Read(buf)
		if err != nil {
			return
		}
		w.mu.Lock()
		if w.file == f {
			w.tell(buf[:n])
		}
		w.mu.Unlock()
	}
}

func (w *watcher) tell(events []byte) {
	for len(events) >= unix.SizeofInotifyEvent {
		wd := binary.NativeEndian.Uint32(events)
		mask := binary.NativeEndian.Uint32(events[4:])
		size := binary.NativeEndian.Uint32(events[12:])
		events = events[unix.SizeofInotifyEvent:]
		events = events[min(int(size), len(events)):]
		if mask&unix.IN_Q_OVERFLOW != 0 {
			for _, all := range w.byWD {
				wake(all)
			}
		}
		wake(w.byWD[wd])
	}
}

func wake(all map[*watch]bool) {
	for x := range all {
		select {
		case x.events <- struct{}{}:
		default:
		}
	}
}
