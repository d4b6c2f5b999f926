//go:build linux && (amd64 || arm64)

package runtime

import "unsafe"

// keeperAddress is that of the keeper's machine code in this program's text: a
// Go func value would give a wrapper's.
func keeperAddress() unsafe.Pointer
