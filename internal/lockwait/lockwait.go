// Package lockwait waits for the locks of files.
package lockwait

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrHeld is of who has given up to wait.
var ErrHeld = errors.New("another has the lock")

const (
	// firstPause is about as long as most have a lock.
	firstPause = 50 * time.Microsecond
	// longestPause is how late who has waited for long learns that he can have it.
	longestPause = 20 * time.Millisecond
)

// Until tries to take a lock, at least once, until it has it; or a try fails; or
// ctx ends: then the error is ErrHeld with the cause. try says whether it has the
// lock, and does not wait.
//
// The kernel's own waits, of flock and fcntl, end with the lock alone: who gives
// one up leaves a thread in it for as long as the program that has the lock is
// stopped. So this looks again and again, and is not served in turn.
func Until(ctx context.Context, try func() (bool, error)) error {
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		if ok, err := try(); ok || err != nil {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%w: %w", ErrHeld, context.Cause(ctx))
		}
	}
}
