//go:build !linux

package enginetest

// prepare has nothing to do.
func prepare() {}

// system takes stock of nothing: where there are no containers, goroutines and
// files are what is watched.
func (s stock) system([]string) {}

func ours(list []thing) []thing { return list }

func detail(t thing) string { return t.kind + " " + t.name }
