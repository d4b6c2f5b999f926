package layer

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// A fileJob is a piece of a file: its creation, some of its data, its end.
type fileJob struct {
	dir  *inode // set in the first job of a file
	name string
	node *inode

	block *block // that data is part of; released when it is written
	data  []byte
	off   int64
	last  bool

	idle chan struct{} // closed when all jobs before are done; alone in its job
}

// A fileWorker writes files, each from its first to its last job.
type fileWorker struct {
	ctx  context.Context
	disk *diskTree
	jobs chan fileJob

	dir   *inode // open as dirFD: files of one directory mostly follow each other
	dirFD int
	job   fileJob // the first one of the open file
	fd    int
}

func (w *fileWorker) send(j fileJob) error {
	select {
	case w.jobs <- j:
		return nil
	case <-w.ctx.Done():
		return context.Cause(w.ctx)
	}
}

// wait returns when the worker has nothing to do.
func (w *fileWorker) wait() error {
	idle := make(chan struct{})
	if err := w.send(fileJob{idle: idle}); err != nil {
		return err
	}
	select {
	case <-idle:
		return nil
	case <-w.ctx.Done():
		return context.Cause(w.ctx)
	}
}

func (w *fileWorker) run() error {
	defer func() {
		w.closeDir()
		if w.fd >= 0 {
			unix.Close(w.fd)
		}
	}()
	for {
		select {
		case j, ok := <-w.jobs:
			if !ok {
				return nil
			}
			if j.idle != nil {
				w.closeDir() // it may be moved
				close(j.idle)
				continue
			}
			if err := w.do(j); err != nil {
				return fmt.Errorf("%s: %w", w.job.dir.path(w.job.name), err)
			}
		case <-w.ctx.Done():
			return context.Cause(w.ctx)
		}
	}
}

func (w *fileWorker) closeDir() {
	if w.dir != nil {
		unix.Close(w.dirFD)
		w.dir = nil
	}
}

func (w *fileWorker) do(j fileJob) (err error) {
	if j.dir != nil {
		w.job = j
		if err := w.create(); err != nil {
			return err
		}
	}
	for off := j.off; len(j.data) > 0; {
		n, err := unix.Pwrite(w.fd, j.data, off)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && n == 0 {
			err = io.ErrShortWrite
		}
		if err != nil {
			return fmt.Errorf("write: %w", err)
		}
		j.data, off = j.data[n:], off+int64(n)
	}
	if j.block != nil {
		j.block.release()
	}
	if j.last {
		return w.complete()
	}
	return nil
}

func (w *fileWorker) create() error {
	if w.dir != w.job.dir {
		w.closeDir()
		fd, err := w.disk.open(w.job.dir)
		if err != nil {
			return err
		}
		w.dir, w.dirFD = w.job.dir, fd
	}
	fd, err := unix.Openat(w.dirFD, w.job.name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	w.fd = fd
	return nil
}

// complete gives the open file its attributes: the owner first, because chown
// clears set-uid bits and capabilities.
func (w *fileWorker) complete() error {
	n := w.job.node
	fd := w.fd
	w.fd = -1
	defer unix.Close(fd)
	if n.more != nil && n.more.runs != nil || n.size > 0 && n.data == 0 { // sparse
		if err := unix.Ftruncate(fd, n.size); err != nil {
			return fmt.Errorf("truncate: %w", err)
		}
	}
	if err := n.setOwner(fd, w.disk.own); err != nil {
		return err
	}
	return n.setTimes(w.dirFD, w.job.name)
}

// setOwner sets owner, mode and xattrs of an open file or directory.
func (n *inode) setOwner(fd int, own bool) error {
	if !own || n.uid != 0 || n.gid != 0 {
		if err := unix.Fchown(fd, int(n.uid), int(n.gid)); err != nil {
			return fmt.Errorf("chown: %w", err)
		}
	}
	if err := unix.Fchmod(fd, n.mode&0o7777); err != nil {
		return fmt.Errorf("chmod: %w", err)
	}
	return n.setXattrs(fd)
}
