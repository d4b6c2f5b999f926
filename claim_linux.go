package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Two overlays of one writable layer must not be mounted at a time: what comes
// of it is undefined (overlayfs.rst, "Sharing and copying layers"). So who
// mounts a container's overlay, or has what it was mounted as, has a claim: a
// lock of the container's byte in a file of the run directory.
//
// While the container's record says that it runs, no overlay of it is mounted:
// there is one, and its Engine needs no lock for that. Who clones the mounts of
// the running process locks the byte for reading as long as he has the clone,
// and looks at the record once more when he has the lock. To mount the overlay
// anew, the byte is locked for writing, so that nobody has the one before. That
// is for the Engine at a start, until the record says that it runs, and else for
// any program. At the end of a run its Engine locks the byte before the record
// says so, and until nothing of the overlay is left; for reading, because others
// can have clones of it still.
//
// Nobody takes the byte whose Engine has locked another one of the container's,
// its door: so a start waits for the copies that are at work, and for no later
// ones.
type claims struct {
	path string

	mu   sync.Mutex
	file *os.File // one for all containers of the Engine
}

func (k *claims) open() (*os.File, error) {
	return os.OpenFile(k.path, os.O_RDWR|os.O_CREATE, 0o600)
}

// shared opens the file of all containers of the Engine.
func (k *claims) shared() (*os.File, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.file == nil {
		f, err := k.open()
		if err != nil {
			return nil, err
		}
		k.file = f
	}
	return k.file, nil
}

// close lets go of all claims.
func (k *claims) close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.file == nil {
		return nil
	}
	err := k.file.Close()
	k.file = nil
	return err
}

// claimDigits of an ID, hexadecimal, are its byte: of 15 there are more than of
// containers by far, and fewer than of offsets in a file.
const claimDigits = 15

func claimByte(id string) int64 {
	n, _ := strconv.ParseInt(id[:claimDigits], 16, 64) // it is an ID
	return n
}

// door is the byte of a container's door.
func door(n int64) int64 { return n + 1<<(4*claimDigits) }

// claim is that of a container's own Engine. Its users have the overlay mounted,
// or are about to: a start and its run, copies, and what is kept mounted for the
// next run.
type claim struct {
	of *claims
	n  int64

	mu     sync.Mutex
	users  int
	locked bool
}

func newClaim(of *claims, id string) *claim { return &claim{of: of, n: claimByte(id)} }

// hold adds a user.
func (c *claim) hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.users++
}

// release takes a user away, who has unmounted what he had.
func (c *claim) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.users--; c.users == 0 {
		c.unlock()
	}
}

func (c *claim) unlock() {
	if !c.locked {
		return
	}
	c.locked = false
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	if c.of.file != nil { // else the Engine is closed, and the lock gone with its file
		_ = unlockByte(c.of.file, c.n)
	}
}

// mountAnew waits until no other program has the overlay. It is for a user in
// the container's turn, while there is no run.
func (c *claim) mountAnew(ctx context.Context) error {
	f, err := c.of.shared()
	if err != nil {
		return err
	}
	for wait := newBackoff(); ; {
		c.mu.Lock()
		ok, err := tryByte(f, c.n, unix.F_WRLCK)
		c.locked = c.locked || ok
		c.mu.Unlock()
		if ok || err != nil {
			return err
		}
		if wait.slept == 0 {
			if _, err := tryByte(f, door(c.n), unix.F_WRLCK); err != nil { // nobody else locks it
				return err
			}
			defer unlockByte(f, door(c.n))
		}
		if err := wait.sleep(ctx); err != nil {
			return fmt.Errorf("wait for copies of other programs: %w", err)
		}
	}
}

// started comes after the record says that the container runs.
func (c *claim) started() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unlock()
}

// ending comes before the record says that it does not any more. Whoever has it
// locked against that sees in the record that it runs, and lets go.
func (c *claim) ending() error {
	f, err := c.of.shared()
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := waitByte(f, c.n, unix.F_RDLCK); err != nil {
		return err
	}
	c.locked = true
	return nil
}

// foreignClaim is one on another Engine's container; each has an open file
// description of its own, so that it excludes others of this program too.
// Closing it lets go.
type foreignClaim struct {
	file *os.File
	n    int64
}

func (e *Engine) newForeignClaim(id string) (foreignClaim, error) {
	f, err := e.claims.open()
	return foreignClaim{f, claimByte(id)}, err
}

// try locks it for reading, to clone, or for writing, to mount anew.
func (c foreignClaim) try(kind int16) error {
	shut, err := byteLocked(c.file, door(c.n))
	ok := false
	if err == nil && !shut {
		ok, err = tryByte(c.file, c.n, kind)
	}
	if err == nil && !ok {
		err = errClaimed
	}
	return err
}

// errClaimed: others have the container's overlay, or it is about to change.
var errClaimed = errors.New("the container's files are in use by another program")

// letGo gives it up, to be tried once more.
func (c foreignClaim) letGo() { _ = unlockByte(c.file, c.n) }

func (c foreignClaim) close() { c.file.Close() }

// A backoff is the pauses between looks at what tells nobody that it changes.
type backoff struct {
	next  time.Duration
	slept int // how often
}

func newBackoff() *backoff { return &backoff{next: time.Millisecond} }

func (b *backoff) sleep(ctx context.Context) error {
	timer := time.NewTimer(b.next)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	b.next = min(2*b.next, 20*time.Millisecond)
	b.slept++
	return nil
}
