//go:build !linux

package layer

import (
	"context"
	"fmt"
	"os"
	"runtime"

	"github.com/containerd/errdefs"
)

func (s *Store) open(context.Context, *Layer, *mounted) error {
	return fmt.Errorf("on %s: %w", runtime.GOOS, errdefs.ErrNotImplemented)
}

// cover is not reached, as there are no mounts.
func cover(context.Context, []*Mount) (*Mount, error) { return nil, nil }

func dropPages(*os.File) {}

// probe lets FormAuto be the index form, which needs nothing of the system.
func (s *Store) probe() error { return nil }
