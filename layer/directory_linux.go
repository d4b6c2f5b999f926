package layer

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// A directoryBuilder makes the directory form. Regular files are written while
// the tar arrives, by several workers, at the places that the tree in memory
// has for them. All else is made at the end, when the tree is final: what is
// only a name, then hard links, then the attributes of directories.
//
// A file that a later member replaces is removed. If it lives on under another
// name, which only exists in memory yet, it is moved aside to a directory
// called lost; home says where such files are.
type directoryBuilder struct {
	dir     string
	tree    *tree
	disk    *diskTree
	workers []*fileWorker
	next    int // worker of the file before

	home     map[*inode]place // of files with several names
	lost     *inode           // nil until needed
	lostName int
}

func newDirectoryBuilder(dir string) (builder, error) {
	x := &directoryBuilder{dir: dir, tree: newTree(), home: map[*inode]place{}}
	x.disk = &diskTree{roots: map[*inode]*os.File{}, made: map[*inode]bool{}}
	if err := x.disk.addRoot(x.tree.root, filepath.Join(dir, treeName)); err != nil {
		x.disk.close()
		return nil, err
	}
	for range max(2, runtime.GOMAXPROCS(0)) {
		x.workers = append(x.workers, &fileWorker{disk: x.disk, jobs: make(chan fileJob, 256), fd: -1, dirFD: -1})
	}
	return x, nil
}

func (x *directoryBuilder) start(ctx context.Context, g *errgroup.Group) []*blockReader {
	for _, w := range x.workers {
		w.ctx = ctx
		g.Go(w.run)
	}
	return nil
}

func (x *directoryBuilder) close() { x.disk.close() }

func (x *directoryBuilder) member(t *tarReader, e *entry, in *blockReader) error {
	c, err := x.tree.add(e)
	if err != nil {
		return err
	}
	if c.linked {
		if _, ok := x.home[c.node]; !ok && c.node.is(modeFile) {
			x.home[c.node] = c.from
		}
	}
	if c.replaced != nil {
		if err := x.replace(c); err != nil {
			return fmt.Errorf("%s: replace: %w", quote(e.name), err)
		}
	}
	if e.kind != kindFile || c.node == nil {
		return nil
	}
	return x.write(t, c, in)
}

// write hands a file's data to one worker, without copying it.
func (x *directoryBuilder) write(t *tarReader, c change, in *blockReader) error {
	w := x.workers[x.next]
	for i := range x.workers { // the next one whose queue is short
		if next := (x.next + i + 1) % len(x.workers); len(x.workers[next].jobs) < len(w.jobs) {
			x.next, w = next, x.workers[next]
		}
	}
	job := fileJob{dir: c.dir, name: c.name, node: c.node}
	runs, done := c.node.allRuns(), int64(0)
	for len(runs) > 0 {
		// The stored bytes of all runs follow each other in the stream.
		b, err := t.chunk()
		if err != nil {
			return fmt.Errorf("%s: data: %w", quote(c.name), err)
		}
		for len(b) > 0 {
			r := runs[0]
			n := min(int64(len(b)), r.length-done)
			job.block, job.data, job.off = in.cur, b[:n], r.logical+done
			in.cur.refs.Add(1)
			if b, done = b[n:], done+n; done == r.length {
				runs, done = runs[1:], 0
			}
			job.last = len(runs) == 0
			if err := w.send(job); err != nil {
				return err
			}
			job = fileJob{}
		}
	}
	if job.node != nil { // no data
		job.last = true
		return w.send(job)
	}
	return nil
}

// replace removes from the disk what has lost its name, or moves it aside.
func (x *directoryBuilder) replace(c change) error {
	old := c.replaced
	here := place{c.dir, c.name}
	home, linked := x.home[old]
	switch {
	case old.is(modeDir):
	case !old.is(modeFile), linked && home != here:
		return nil // not on disk here
	}
	for _, w := range x.workers {
		if err := w.wait(); err != nil {
			return err
		}
	}
	if old.is(modeDir) && !x.disk.has(old) {
		return nil
	}
	at, err := x.disk.open(c.dir)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	if old.is(modeFile) && !linked {
		return os.NewSyscallError("unlinkat", unix.Unlinkat(at, c.name, 0))
	}
	return x.lose(at, c.name, old)
}

// lose moves a file or directory aside.
func (x *directoryBuilder) lose(at int, name string, n *inode) error {
	if x.lost == nil {
		x.lost = newDir(nil, "")
		x.lost.dir.parent = x.lost
		if err := x.disk.addRoot(x.lost, filepath.Join(x.dir, "lost")); err != nil {
			return err
		}
	}
	to := strconv.Itoa(x.lostName)
	x.lostName++
	if err := unix.Renameat(at, name, int(x.disk.roots[x.lost].Fd()), to); err != nil {
		return os.NewSyscallError("renameat", err)
	}
	if n.dir != nil {
		n.dir.parent, n.dir.name = x.lost, to
	} else {
		x.home[n] = place{x.lost, to}
	}
	return nil
}

// end lets the workers finish; they end with their queues.
func (x *directoryBuilder) end(*tarReader) error {
	for _, w := range x.workers {
		close(w.jobs)
	}
	return nil
}

func (x *directoryBuilder) finish(rec *record) error {
	x.workers = nil
	var dropErr error
	all := x.tree.finish(func(c change) {
		if err := x.replace(c); err != nil && dropErr == nil {
			dropErr = err
		}
	})
	if dropErr != nil {
		return dropErr
	}
	if err := x.tree.note(rec, all, x.dir); err != nil {
		return err
	}
	f := &finisher{disk: x.disk, home: x.home}
	if err := f.run(all); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(x.dir, "lost")); err != nil {
		return err
	}
	// One sync for all files: it may write what others have dirtied on the
	// same filesystem, but costs far less than an fsync of each.
	root := x.disk.roots[x.tree.root]
	return os.NewSyscallError("syncfs", unix.Syncfs(int(root.Fd())))
}
