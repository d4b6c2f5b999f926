package enginetest_test

import "testing"

// TestGreeting is the package's example.
func TestGreeting(t *testing.T) { greeting(t) }
