package engine

import (
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// namespaces gives those that a container gets of its own: all of the default
// spec, but for the network's if it shares the host's.
func namespaces(defaults []specs.LinuxNamespace, network Network) []specs.LinuxNamespace {
	return slices.DeleteFunc(slices.Clone(defaults), func(n specs.LinuxNamespace) bool {
		return n.Type == specs.NetworkNamespace && network == NetworkHost
	})
}
