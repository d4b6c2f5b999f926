package engine

import (
	"context"
	"fmt"
	"os"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Namespace says whose namespace of some kind a container is in: its own, the
// host's, or that of another container, as "container:" and what Lookup takes.
// Create puts that container's ID in place of a name; it must run at each start,
// and may be of any program.
type Namespace string

const (
	// NamespaceOwn is one of the container's own.
	NamespaceOwn Namespace = ""
	// NamespaceHost is the host's.
	NamespaceHost Namespace = "host"
)

// ofContainer comes before the container whose namespace is joined.
const ofContainer = "container:"

// share is what a Config says of one kind of namespace.
type share struct {
	kind specs.LinuxNamespaceType
	with string
}

// container is whose namespace is joined, if it is another container's.
func (s share) container() (ref string, ok bool) { return strings.CutPrefix(s.with, ofContainer) }

// shares are what a Config says of namespaces. One that is not shared is "", or
// for the network "none".
func (c *Config) shares() []share {
	return []share{
		{specs.NetworkNamespace, string(c.Network)},
		{specs.PIDNamespace, string(c.PID)},
		{specs.IPCNamespace, string(c.IPC)},
		{specs.UTSNamespace, string(c.UTS)},
	}
}

// checkShares finds what is wrong by itself with what is shared. What must not
// be set beside it would be another's: Docker refuses the same.
func (c *Config) checkShares() error {
	no := func(format string, args ...any) error {
		return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), ErrInvalidArgument)
	}
	for _, s := range c.shares() {
		ref, other := s.container()
		switch {
		case other && ref == "":
			return no("%s namespace %q: names no container", s.kind, s.with)
		case other && c.Name != "" && ref == c.Name:
			return no("%s namespace %q: is the container itself", s.kind, s.with)
		case other || s.kind == specs.NetworkNamespace || s.with == string(NamespaceOwn) || s.with == string(NamespaceHost):
		default:
			return no("%s namespace %q: not empty, %q or %q and a container", s.kind, s.with, NamespaceHost, ofContainer)
		}
	}
	_, joinsNetwork := share{with: string(c.Network)}.container()
	switch {
	case c.Hostname != "" && c.UTS != NamespaceOwn:
		return no("hostname %q: the uts namespace is shared with %q", c.Hostname, c.UTS)
	case c.Hostname != "" && joinsNetwork:
		return no("hostname %q: the network is shared with %q", c.Hostname, c.Network)
	case c.Init && strings.HasPrefix(string(c.PID), ofContainer):
		return no("init: the processes are shared with %q, which has one", c.PID)
	case c.Resources.ShmSize != 0 && c.IPC != NamespaceOwn:
		return no("size of /dev/shm: it is shared with %q", c.IPC)
	}
	for name := range c.Security.Sysctls {
		switch {
		case strings.HasPrefix(name, "net.") && c.Network != NetworkNone:
			return no("sysctl %s: the network is shared with %q", name, c.Network)
		case name == "kernel.domainname" && c.UTS != NamespaceOwn:
			return no("sysctl %s: the uts namespace is shared with %q", name, c.UTS)
		case (strings.HasPrefix(name, "kernel.") || strings.HasPrefix(name, "fs.mqueue.")) && name != "kernel.domainname" && c.IPC != NamespaceOwn:
			return no("sysctl %s: the ipc namespace is shared with %q", name, c.IPC)
		}
	}
	return nil
}

// resolveShares puts IDs in place of the names of containers, and gives the
// host name that comes with what is shared; or none.
func (e *Engine) resolveShares(c *Config) (hostname string, err error) {
	network, err := resolveShare(e, specs.NetworkNamespace, &c.Network)
	if err != nil {
		return "", err
	}
	if _, err := resolveShare(e, specs.PIDNamespace, &c.PID); err != nil {
		return "", err
	}
	if _, err := resolveShare(e, specs.IPCNamespace, &c.IPC); err != nil {
		return "", err
	}
	uts, err := resolveShare(e, specs.UTSNamespace, &c.UTS)
	switch {
	case err != nil:
		return "", err
	case uts != nil:
		return uts.Process.Hostname, nil
	case c.UTS == NamespaceHost:
		return os.Hostname()
	case network != nil:
		return network.Process.Hostname, nil
	case c.Network == NetworkHost:
		return os.Hostname()
	}
	return "", nil
}

func resolveShare[M ~string](e *Engine, kind specs.LinuxNamespaceType, mode *M) (*record, error) {
	ref, other := share{with: string(*mode)}.container()
	if !other {
		return nil, nil
	}
	id, r, err := e.resolve(ref)
	if err == nil && r == nil {
		r, err = e.root.records().read(id)
	}
	if err != nil {
		return nil, fmt.Errorf("container %q, whose %s namespace is to be joined: %w", ref, kind, err)
	}
	*mode = M(ofContainer + id)
	return r, nil
}

// sharedNetwork is the network that a container comes to be in through those
// that it shares one with; none for one of which that is not known any more.
func (e *Engine) sharedNetwork(n Network) Network {
	for range 64 {
		id, other := share{with: string(n)}.container()
		if !other {
			return n
		}
		r, err := e.root.records().read(id)
		if err != nil {
			break
		}
		n = r.Network
	}
	return NetworkNone
}

// expose says of a running container that its processes are not among
// themselves, see confined: in memory, or to the program that it is of.
func (e *Engine) expose(ctx context.Context, id string, r *record) error {
	e.mu.Lock()
	c := e.containers[id]
	e.mu.Unlock()
	if c != nil {
		c.own.exposed.Store(true)
		return nil
	}
	if r.Exposed {
		return nil
	}
	return e.root.records().change(ctx, id, exposedChange{Exposed: true})
}
