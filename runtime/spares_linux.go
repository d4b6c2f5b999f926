package runtime

import (
	"os"
	"sync"
)

// spares are mounts and network namespaces made ahead. Most containers want the
// same few filesystems (/dev, /dev/pts, /dev/shm); to make one costs a tenth of
// starting a process, a network namespace half of it, and is better done while
// nobody waits. A key says all that a thing is made of, so that one spare is as
// good as another.
type spares struct {
	mu      sync.Mutex
	kinds   map[string]*spareKind
	filling bool
	closed  bool
	work    sync.WaitGroup
}

type spareKind struct {
	make  func() (*os.File, error)
	ready []*os.File
	taken bool // since the last refill
}

// maxSpareKinds bounds what callers whose specs all differ make a Runtime keep.
const maxSpareKinds = 16

// take returns one for the caller to own: a spare, or one made now.
func (s *spares) take(key string, make func() (*os.File, error)) (*os.File, error) {
	if f := s.takeReady(key, make); f != nil {
		return f, nil
	}
	return make()
}

// takeReady is take where nil is an answer: there is no spare.
func (s *spares) takeReady(key string, make func() (*os.File, error)) *os.File {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.kinds[key]
	if k == nil && len(s.kinds) < maxSpareKinds && !s.closed {
		if s.kinds == nil {
			s.kinds = map[string]*spareKind{}
		}
		k = &spareKind{make: make}
		s.kinds[key] = k
	}
	if k == nil {
		return nil
	}
	k.taken = true
	n := len(k.ready)
	if n == 0 {
		return nil
	}
	f := k.ready[n-1]
	k.ready = k.ready[:n-1]
	return f
}

// refill makes spares of the kinds that were taken, in the background. It is
// called when a container has been started, so as not to compete with that.
func (s *spares) refill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.filling || s.closed {
		return
	}
	s.filling = true
	s.work.Go(func() {
		for s.makeOne() {
		}
	})
}

// makeOne makes one spare; false when there is nothing left to make.
func (s *spares) makeOne() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.kinds {
		if !k.taken || s.closed {
			continue
		}
		s.mu.Unlock()
		f, err := k.make()
		s.mu.Lock()
		switch {
		case err != nil: // whoever needs one meets the error
			k.taken = false
		case s.closed:
			f.Close()
		default:
			k.ready = append(k.ready, f)
			k.taken = len(k.ready) < sparesAhead
		}
		return true
	}
	s.filling = false
	return false
}

func (s *spares) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.work.Wait()
	s.mu.Lock()
	kinds := s.kinds
	s.kinds = nil // a start that is still on its way finds none
	s.mu.Unlock()
	for _, k := range kinds {
		for _, f := range k.ready {
			f.Close()
		}
	}
}
