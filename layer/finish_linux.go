package layer

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// A finisher makes what is left to make when a tree's files are on disk, by
// several workers, directory by directory.
type finisher struct {
	disk *diskTree

	mu    sync.Mutex
	home  map[*inode]place
	links []link
}

// A link is a further name of a file that is on disk.
type link struct {
	place
	node *inode
}

func (f *finisher) run(all []*inode) error {
	var dirs []*inode
	for _, n := range all {
		if n.dir != nil {
			dirs = append(dirs, n)
		}
	}
	if err := each(dirs, f.fill); err != nil {
		return err
	}
	if err := each(f.links, f.link); err != nil {
		return err
	}
	// Times last: each name made in a directory has changed its own.
	return each(dirs, f.attributes)
}

// each calls do for all items, a few at a time.
func each[T any](items []T, do func(T) error) error {
	var g errgroup.Group
	var next atomic.Int64
	for range max(2, runtime.GOMAXPROCS(0)) {
		g.Go(func() error {
			for {
				i := next.Add(1) - 1
				if i >= int64(len(items)) {
					return nil
				}
				if err := do(items[i]); err != nil {
					next.Store(int64(len(items)))
					return err
				}
			}
		})
	}
	return g.Wait()
}

// fill makes the names of a directory that are neither regular files nor
// directories, and the directory itself where it is empty.
func (f *finisher) fill(d *inode) error {
	if err := f.disk.ensure(d); err != nil {
		return err
	}
	at := -1
	defer func() {
		if at >= 0 {
			unix.Close(at)
		}
	}()
	for _, c := range d.dir.children {
		n := c.node
		if n.dir != nil || !f.first(n, place{d, c.name}) {
			continue
		}
		if at < 0 {
			var err error
			if at, err = f.disk.open(d); err != nil {
				return err
			}
		}
		if err := f.special(at, c.name, n); err != nil {
			return fmt.Errorf("%s: %w", d.path(c.name), err)
		}
	}
	return nil
}

// first says whether a file is to be made at this place. Further names, and
// the first one of a file that was moved aside, become links.
func (f *finisher) first(n *inode, here place) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	home, moved := f.home[n]
	switch {
	case !moved && n.is(modeFile):
		return false // it is here
	case !moved && n.nlink > 1:
		f.home[n] = here
	case moved && home != here:
		f.links = append(f.links, link{here, n})
	}
	return !moved
}

// special makes a symlink, device or FIFO.
func (f *finisher) special(at int, name string, n *inode) error {
	var err error
	if n.is(modeSymlink) {
		err = unix.Symlinkat(n.link(), at, name)
	} else {
		err = unix.Mknodat(at, name, n.mode&modeType|0o600, int(n.rdev))
	}
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	if !f.disk.own || n.uid != 0 || n.gid != 0 {
		if err := unix.Fchownat(at, name, int(n.uid), int(n.gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("chown: %w", err)
		}
	}
	if !n.is(modeSymlink) {
		// It is no symlink and nobody else can reach it, so there is
		// nothing that chmod could follow.
		if err := unix.Fchmodat(at, name, n.mode&0o7777, 0); err != nil {
			return fmt.Errorf("chmod: %w", err)
		}
	}
	for _, x := range n.xattrs() {
		// There is no call with a directory descriptor before Linux 6.13.
		if err := unix.Lsetxattr(fmt.Sprintf("/proc/self/fd/%d/%s", at, name), x.name, []byte(x.value), 0); err != nil {
			return fmt.Errorf("set xattr %s: %w", quote(x.name), err)
		}
	}
	return n.setTimes(at, name)
}

func (f *finisher) link(l link) error {
	f.mu.Lock()
	home := f.home[l.node]
	f.mu.Unlock()
	from, err := f.disk.open(home.dir)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	to, err := f.disk.open(l.dir)
	if err != nil {
		return err
	}
	defer unix.Close(to)
	if err := unix.Linkat(from, home.name, to, l.name, 0); err != nil {
		return fmt.Errorf("%s: link: %w", l.dir.path(l.name), err)
	}
	return nil
}

func (f *finisher) attributes(d *inode) error {
	fd, err := f.disk.open(d)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = d.setOwner(fd, f.disk.own)
	if err == nil {
		err = d.setTimes(fd, ".")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", d.path(""), err)
	}
	return nil
}
