package runtime

import "sync"

// maxChildren is how many children a keeper has before there is another one:
// whoever waits for any child looks at all of them (kernel/exit.c, do_wait), so
// that the end of each would take longer the more there are.
const maxChildren = 256

// keepers are a Runtime's of one kind: one, and more when it has many containers.
type keepers struct {
	outside bool
	room    int // children for each

	mu     sync.Mutex
	list   []*keeper
	closed bool
}

// get returns a keeper with room for a child, started if need be in dir.
func (s *keepers) get(dir string) (*keeper, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosed
	}
	var live []*keeper
	var chosen *keeper
	for _, k := range s.list {
		select {
		case <-k.gone: // killed, and all its containers with it
			k.close()
			continue
		default:
		}
		live = append(live, k)
		if chosen == nil && k.count() < s.room {
			chosen = k
		}
	}
	s.list = live
	if chosen != nil {
		return chosen, nil
	}
	k, err := startKeeper(dir, s.outside)
	if err != nil {
		return nil, err
	}
	s.list = append(s.list, k)
	return k, nil
}

// stop keeps further ones from being started, and returns those that there are.
func (s *keepers) stop() []*keeper {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return s.list
}

// count is how many children the keeper has.
func (k *keeper) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.children)
}
