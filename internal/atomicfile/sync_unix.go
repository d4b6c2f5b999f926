//go:build unix

package atomicfile

import "os"

func syncDir(f *os.File) error { return f.Sync() }
