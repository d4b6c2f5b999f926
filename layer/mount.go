package layer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/inboard/engine/internal/lockwait"
	"github.com/opencontainers/go-digest"
)

// What is read through an index is cached twice, as the index's and as the
// tar's. The latter pages are dropped every so often while a layer is in use,
// and once more when nobody uses it any longer.
const trimEvery = 2 * time.Second

// A Mount is the files of a layer, or of a cover, ready to be a lower layer of
// an overlay. It may be used by several goroutines at once.
type Mount struct {
	store *Store
	id    digest.Digest
	m     *mounted
	once  sync.Once
}

// mounted is what the Mounts of one layer share.
type mounted struct {
	file  *os.File
	path  string
	parts []*os.File    // index form: what the index points into
	trim  time.Time     // when their pages were dropped
	refs  int           // guarded by Store.mu
	ready chan struct{} // closed when file or err is set
	err   error

	implied int64 // size of the list of implied directories
	work    *work // of a cover, ends with it
}

// File is the root of the layer. In the index form it is a detached mount,
// read-only, that no mount table shows and that is gone when the last
// descriptor of it is closed, at the latest when the process ends; its
// descriptor is an O_PATH one. In the directory form it is the directory
// itself, which nobody may write to. It is valid until Close.
func (m *Mount) File() *os.File { return m.m.file }

// Path is the host's path of the directory form, "" in the index form.
func (m *Mount) Path() string { return m.m.path }

// Close lets go of the mount. An overlay that was made from it keeps what it
// needs, except that closing a cover removes it from the disk. Calls after the
// first do nothing.
func (m *Mount) Close() error {
	var err error
	m.once.Do(func() {
		if m.m.work != nil { // a cover, which is not shared
			err = m.m.close()
			return
		}
		s := m.store
		s.mu.Lock()
		defer s.mu.Unlock()
		if m.m.refs--; m.m.refs > 0 {
			return
		}
		// A directory costs nothing to open again, and another process
		// may remove it and make it anew.
		if s.closed || m.m.path != "" {
			err = s.forget(m.id, m.m)
		} else if now := time.Now(); now.Sub(m.m.trim) > trimEvery {
			m.m.trim = now
			m.m.dropPages()
		}
	})
	return err
}

// Mount mounts the layer read-only. There is one mount of a layer in a Store:
// Mounts share it, and that of an index is kept for the next one until the Store
// is closed or removes the layer. Linux only; the index form needs CAP_SYS_ADMIN in the
// initial user namespace.
//
// A layer in the index form that this kernel cannot mount is turned into a
// directory first, for good: its tar and index are removed. One program does that;
// the end of ctx ends the wait of others for it, not the work.
func (l *Layer) Mount(ctx context.Context) (*Mount, error) {
	for {
		m, err := l.store.mount(ctx, l)
		switch {
		case err == nil:
			return m, nil
		case errors.Is(err, lockwait.ErrHeld) && ctx.Err() == nil:
			continue // it was another call, whose context has ended
		}
		return nil, fmt.Errorf("mount layer %s: %w", l.rec.DiffID, err)
	}
}

func (s *Store) mount(ctx context.Context, l *Layer) (*Mount, error) {
	id := l.rec.DiffID
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, fmt.Errorf("the store is closed: %w", errdefs.ErrFailedPrecondition)
	}
	m, ok := s.mounts[id]
	if !ok {
		m = &mounted{ready: make(chan struct{})}
		s.mounts[id] = m
	}
	m.refs++
	s.mu.Unlock()
	if !ok {
		m.err = s.open(ctx, l, m)
		close(m.ready)
	}
	shared := &Mount{store: s, id: id, m: m}
	select {
	case <-m.ready:
	case <-ctx.Done():
		return nil, errors.Join(context.Cause(ctx), shared.Close())
	}
	if m.err == nil {
		if len(m.parts) > 0 {
			s.trimLater()
		}
		return shared, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m.refs--
	if s.mounts[id] == m {
		delete(s.mounts, id) // the next one may try again
	}
	return nil, m.err
}

// trimLater has the pages dropped of what is mounted, from now on.
func (s *Store) trimLater() {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.trimming || s.closed:
		return
	case s.trimmer == nil:
		s.trimmer = time.AfterFunc(trimEvery, s.trim)
	default:
		s.trimmer.Reset(trimEvery)
	}
	s.trimming = true
}

// trim drops the pages of all layers in use, and does so again until there are
// none: to look for pages that are not there takes the kernel a microsecond.
func (s *Store) trim() {
	var used []*mounted
	s.mu.Lock()
	for _, m := range s.mounts {
		select {
		case <-m.ready:
			if m.refs > 0 && len(m.parts) > 0 {
				m.trim = time.Now()
				used = append(used, m)
			}
		default:
		}
	}
	s.trimming = len(used) > 0 && !s.closed
	if s.trimming {
		s.trimmer.Reset(trimEvery)
	}
	s.mu.Unlock()
	for _, m := range used {
		m.dropPages()
	}
}

func (m *mounted) dropPages() {
	for _, f := range m.parts {
		dropPages(f)
	}
}

// forget drops a mount; the lock is held.
func (s *Store) forget(id digest.Digest, m *mounted) error {
	if s.mounts[id] == m {
		delete(s.mounts, id)
	}
	return m.close()
}

func (m *mounted) close() error {
	var errs []error
	if m.file != nil {
		errs = append(errs, m.file.Close())
	}
	for _, f := range m.parts {
		errs = append(errs, f.Close())
	}
	if m.work != nil {
		errs = append(errs, m.work.end())
	}
	return errors.Join(errs...)
}

// unmount drops the mount of a layer that nobody uses.
func (s *Store) unmount(id digest.Digest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, ok := s.mounts[id]
	if !ok {
		return nil
	}
	if m.refs > 0 {
		return fmt.Errorf("it is mounted: %w", errdefs.ErrFailedPrecondition)
	}
	return s.forget(id, m)
}
