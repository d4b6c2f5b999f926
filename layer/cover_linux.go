package layer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

func cover(ctx context.Context, stack []*Mount) (*Mount, error) {
	c := &coverer{stack: stack, lists: make([]*impliedList, len(stack)), tree: newTree(), buf: make([]byte, 1<<16)}
	defer c.close()
	err := c.open()
	if err == nil {
		err = c.run(ctx)
	}
	if err != nil || len(c.tree.root.dir.kids) == 0 {
		return nil, err
	}
	s := stack[0].store
	w, err := s.begin()
	if err != nil {
		return nil, err
	}
	m := &mounted{work: w}
	if err := m.makeCover(c.tree.finish(func(change) {}), stack[0].Path() == ""); err != nil {
		return nil, errors.Join(err, m.close())
	}
	return &Mount{store: s, m: m}, nil
}

// A coverer goes through the implied directories of all layers of a stack at
// once, in the order of their lists, so that it holds no more of them than
// those on the way to the one that it looks at.
type coverer struct {
	stack []*Mount
	lists []*impliedList // nil for a layer that implies nothing
	tree  *tree          // of the cover
	way   []step         // from the root
	buf   []byte         // for xattrs
}

// A step is a directory on the way.
type step struct {
	name, path string // path is relative to the root of a layer
	merged     []int  // layers whose directories an overlay merges, topmost first
	shown      int    // layer whose attributes count, if any is merged
	node       *inode // in the cover, when it is there
}

func (c *coverer) open() error {
	for i, m := range c.stack {
		if m.m.implied == 0 {
			continue
		}
		dir, err := m.store.path(m.id)
		if err != nil {
			return err
		}
		f, err := openPart(filepath.Join(dir, impliedName), m.m.implied)
		if err != nil {
			return err
		}
		c.lists[i] = &impliedList{file: f, in: bufio.NewReader(f)}
		if err := c.lists[i].next(); err != nil {
			return err
		}
	}
	return nil
}

func (c *coverer) close() {
	for _, l := range c.lists {
		if l != nil {
			l.file.Close()
		}
	}
}

func (c *coverer) run(ctx context.Context) error {
	c.way = []step{{path: "."}}
	for i := range c.stack {
		c.way[0].merged = append(c.way[0].merged, i)
	}
	for {
		path, implying := c.least()
		if path == nil {
			return nil
		}
		err := c.look(path, implying)
		for _, i := range implying {
			if err == nil {
				err = c.lists[i].next()
			}
		}
		if err == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// least returns the directory that comes next in the lists, and the layers
// that imply it, or nothing at the end.
func (c *coverer) least() (path []string, implying []int) {
	for i, l := range c.lists {
		if l == nil || l.path == nil {
			continue
		}
		if order := slices.Compare(l.path, path); path == nil || order < 0 {
			path, implying = l.path, []int{i}
		} else if order == 0 {
			implying = append(implying, i)
		}
	}
	return path, implying
}

// look covers a directory if it is to show what a lower layer has.
func (c *coverer) look(path []string, implying []int) error {
	last := len(path) - 1
	n := 0
	for n < last && n+1 < len(c.way) && c.way[n+1].name == path[n] {
		n++
	}
	c.way = c.way[:n+1]
	for ; n < last; n++ {
		// No list has it, or it would be on the way already.
		if err := c.enter(path[n], nil); err != nil {
			return err
		}
	}
	if err := c.enter(path[last], implying); err != nil {
		return err
	}
	if s := c.way[len(path)]; len(s.merged) > 0 && s.shown != s.merged[0] {
		return c.put()
	}
	return nil
}

// enter adds a step: what an overlay finds at a name, and what unpacking would
// have left there.
func (c *coverer) enter(name string, implying []int) error {
	up := c.way[len(c.way)-1]
	s := step{name: name, path: up.path + "/" + name, shown: -1}
	lower := up.merged
	if len(lower) < 2 {
		lower = nil // nothing in it can need a cover
	}
	opaque := false
	for _, i := range lower {
		if opaque && s.shown >= 0 {
			break
		}
		fd, err := openBeneath(int(c.stack[i].File().Fd()), s.path)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			break // a whiteout, or another file
		}
		if err != nil {
			return err
		}
		if !opaque {
			s.merged = append(s.merged, i)
		}
		if s.shown < 0 && !slices.Contains(implying, i) {
			s.shown = i
		}
		opaque = opaque || isOpaque(fd)
		unix.Close(fd)
	}
	if s.shown < 0 && len(s.merged) > 0 {
		s.shown = s.merged[0] // no layer names it
	}
	c.way = append(c.way, s)
	return nil
}

// isOpaque says whether overlayfs takes a directory for one that hides what is
// below it (ovl_is_opaquedir in fs/overlayfs/util.c).
func isOpaque(fd int) bool {
	var b [2]byte
	n, err := unix.Fgetxattr(fd, xattrOpaque, b[:])
	return err == nil && n == 1 && b[0] == 'y'
}

// put puts the directory that the way leads to into the cover, and those above
// it, which then hide their own.
func (c *coverer) put() error {
	for i := range c.way {
		s := &c.way[i]
		if s.node != nil {
			continue
		}
		fd, err := openBeneath(int(c.stack[s.shown].File().Fd()), s.path)
		if err != nil {
			return err
		}
		n, err := c.read(fd)
		unix.Close(fd)
		if err == nil {
			err = c.tree.charge(inodeCost + len(s.name))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", quote(s.path), err)
		}
		if s.node = n; i == 0 {
			s.node = c.tree.root
			s.node.update(n)
			continue
		}
		up := c.way[i-1].node
		n.dir.parent, n.dir.name = up, s.name
		up.dir.set(s.name, n)
	}
	return nil
}

// read makes a directory that has the attributes of one of a layer.
func (c *coverer) read(fd int) (*inode, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	sec, nsec := st.Mtim.Unix()
	n := &inode{mode: st.Mode, uid: st.Uid, gid: st.Gid, sec: sec, nsec: uint32(nsec), dir: &directory{}}
	xattrs, err := c.xattrs(fd)
	if err == nil {
		xattrs, err = c.tree.intern(xattrs)
	}
	if len(xattrs) > 0 {
		n.more = &details{xattrs: xattrs}
	}
	return n, err
}

// xattrs reads those of a directory that are not overlayfs's own.
func (c *coverer) xattrs(fd int) ([]xattr, error) {
	n, err := unix.Flistxattr(fd, c.buf)
	if err == unix.EOPNOTSUPP {
		return nil, nil
	}
	if err != nil {
		return nil, os.NewSyscallError("flistxattr", err)
	}
	var list []xattr
	for name := range strings.SplitSeq(string(c.buf[:n]), "\x00") {
		if !kept(name, kindDir) {
			continue
		}
		n, err := unix.Fgetxattr(fd, name, c.buf)
		if err != nil {
			return nil, fmt.Errorf("get xattr %s: %w", quote(name), err)
		}
		list = append(list, xattr{name: name, value: string(c.buf[:n])})
	}
	return list, nil
}

// makeCover makes a cover in the work's directory, as an index or as a directory.
// It is worth nothing after a crash, so it is not synced.
func (m *mounted) makeCover(all []*inode, index bool) error {
	if index {
		f, err := os.OpenFile(filepath.Join(m.work.dir, indexName), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := new(indexer).write(f, all); err != nil {
			return fmt.Errorf("write index: %w", err)
		}
		m.file, err = mountIndex(f)
		return err
	}
	path := filepath.Join(m.work.dir, treeName)
	disk := &diskTree{roots: map[*inode]*os.File{}, made: map[*inode]bool{}}
	defer disk.close()
	err := disk.addRoot(all[0], path)
	if err == nil {
		err = (&finisher{disk: disk}).run(all)
	}
	if err == nil {
		m.path = path
		m.file, err = os.OpenFile(path, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	}
	return err
}
