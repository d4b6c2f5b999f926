// Package nobuild does not compile, for the end-to-end test.
package nobuild

import "testing"

func TestNothing(t *testing.T) { undefined() }
