package image

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Files in fetching, beside HEX, which is the lock of a fetching.
const (
	// partSuffix is of what has come of a blob. It belongs to who has the lock.
	partSuffix = ".part"
	// waitSuffix is of a file that those who wait for the lock have locked,
	// shared.
	waitSuffix = ".wait"
)

// fetching is the right to bring one blob, which one arrival of all programs has
// at a time. The others wait, and find the blob there when it is their turn, or
// what has come of it: when a program dies, fails or is told to stop, the next
// one goes on where it was.
//
// No deadlock can come of it: who waits for a fetching has none that it does not
// work on, and no slot (see arrival).
type fetching struct {
	path string
	lock *fileLock
}

// tryFetching is nil when somebody else has the right.
func (s *Store) tryFetching(d ocispec.Descriptor) (*fetching, error) {
	f := &fetching{path: s.path("fetching", d.Digest.Encoded())}
	var err error
	if f.lock, err = tryLockFile(f.path); f.lock == nil || err != nil {
		return nil, err
	}
	return f, nil
}

// part is the name of the file that holds what has come.
func (f *fetching) part() string { return f.path + partSuffix }

// came is how many bytes of the blob have come, to whoever fetches it.
func (f *fetching) came() int64 {
	fi, err := os.Lstat(f.part())
	if err != nil {
		return 0
	}
	return fi.Size()
}

// end gives up the right. What has come stays for those who wait, if any do.
func (f *fetching) end() {
	if _, err := os.Lstat(f.path + waitSuffix); errors.Is(err, fs.ErrNotExist) {
		// Who begins to wait now begins at the beginning.
		os.Remove(f.part())
		f.lock.remove()
		return
	}
	f.lock.unlock()
	tidyFetching(f.path)
}

// tidyFetching removes the files of a fetching that nobody has and nobody waits
// for. Whoever stops to have one or to wait for it calls this afterwards, so that
// the last of them finds it so.
func tidyFetching(path string) {
	waiters, err := tryLockFile(path + waitSuffix)
	if waiters == nil || err != nil {
		return
	}
	if l, err := tryLockFile(path); l != nil && err == nil {
		os.Remove(path + partSuffix)
		l.remove()
	}
	waiters.remove()
}

// sweepFetching tidies up after dead programs.
func (s *Store) sweepFetching() error {
	names, err := os.ReadDir(s.path("fetching"))
	if err != nil {
		return err
	}
	for _, n := range names {
		name := strings.TrimSuffix(strings.TrimSuffix(n.Name(), partSuffix), waitSuffix)
		tidyFetching(s.path("fetching", name))
	}
	return nil
}

// fetching waits for the right to bring a blob, and for a slot to do it in. While
// others bring it, it reports what has come to them.
func (a *arrival) fetching(ctx context.Context, d ocispec.Descriptor) (*fetching, error) {
	other := &fetching{path: a.store.path("fetching", d.Digest.Encoded())}
	var waiting *fileLock
	defer func() {
		if waiting != nil {
			waiting.unlock()
		}
	}()
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		select {
		case a.slots <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		f, err := a.store.tryFetching(d)
		if f != nil || err != nil {
			if err != nil {
				<-a.slots
			}
			return f, err
		}
		<-a.slots
		if waiting == nil {
			// None when they just tidy up.
			if waiting, err = tryShareFile(other.path + waitSuffix); err != nil {
				return nil, err
			}
		}
		if n := other.came(); n > 0 && n < d.Size {
			a.progress.report(Progress{Layer: d.Digest, Done: n, Total: d.Size})
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			if waiting != nil {
				waiting.unlock()
				waiting = nil
				tidyFetching(other.path)
			}
			return nil, ctx.Err()
		}
	}
}
