//go:build !linux

package atomicfile

import "errors"

var renameNew = func(_, _ string) error { return errors.ErrUnsupported }
