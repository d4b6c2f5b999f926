//go:build !linux

package layer

import (
	"fmt"
	"runtime"

	"github.com/containerd/errdefs"
)

func newDirectoryBuilder(string) (builder, error) {
	return nil, fmt.Errorf("a layer as a directory on %s: %w", runtime.GOOS, errdefs.ErrNotImplemented)
}
