package engine

import (
	"io/fs"
	"os"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/inboard/engine/runtime"
)

// confined tells whether what a container's processes open ends with them, and
// its superblock is out of their reach: then its writable layer can serve
// another container once they are gone. A process that is beside the container
// and holds a descriptor of its root directory would have one of the next
// container's.
//
// A descriptor gets out by a Unix socket, which takes a network namespace that
// others are in (abstract names), a directory that others are in, or a stream;
// or by /proc and ptrace, in a pid namespace that others are in. CAP_SYS_ADMIN
// changes mounts and superblocks, CAP_DAC_READ_SEARCH opens files by handle,
// CAP_SYS_TIME makes a ctime what it was; so of the capabilities only Docker's
// default ones will do. All of that is asked of the spec, not of the Config.
//
// Whoever joins a namespace of a container's has to mark it as exposed too: see
// Engine.expose.
func confined(s *specs.Spec) bool {
	for _, kind := range []specs.LinuxNamespaceType{specs.MountNamespace, specs.PIDNamespace, specs.NetworkNamespace, specs.IPCNamespace} {
		if !slices.Contains(s.Linux.Namespaces, specs.LinuxNamespace{Type: kind}) { // with no path: its own
			return false
		}
	}
	for _, m := range s.Mounts {
		switch m.Type {
		case "proc", "sysfs", "mqueue", "tmpfs", "devpts", "cgroup", "cgroup2":
			// New for each container, or without a place to leave a socket in.
		default:
			return false
		}
	}
	return len(s.Linux.Devices) == 0
}

// confinedProcess is confined for one of the container's processes.
func confinedProcess(p *specs.Process, o *runtime.ProcessOptions) bool {
	if c := p.Capabilities; c != nil {
		for _, set := range [][]string{c.Bounding, c.Permitted, c.Effective, c.Inheritable, c.Ambient} {
			for _, name := range set {
				if !slices.Contains(defaultCapabilities, name) {
					return false
				}
			}
		}
	}
	for _, stream := range []any{o.Stdin, o.Stdout, o.Stderr} {
		if f, ok := stream.(*os.File); ok {
			if info, err := f.Stat(); err != nil || info.Mode()&fs.ModeSocket != 0 {
				return false
			}
		}
	}
	return true
}

var defaultCapabilities = runtime.DefaultCapabilities()
