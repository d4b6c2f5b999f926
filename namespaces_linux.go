package engine

import (
	"context"
	"fmt"
	"os"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/inboard/engine/runtime"
)

// namespaces gives those that a container does not share with the host: all of
// the default spec, but for those that its Config says.
func namespaces(defaults []specs.LinuxNamespace, c *Config) []specs.LinuxNamespace {
	shares := c.shares()
	return slices.DeleteFunc(slices.Clone(defaults), func(n specs.LinuxNamespace) bool {
		return slices.Contains(shares, share{n.Type, string(NamespaceHost)})
	})
}

// joined are the descriptors of what a container shares with others, for one
// start of it.
type joined struct {
	files []*os.File
	shm   *os.File // the other's /dev/shm; nil: it has its own
}

// join opens the namespaces that are other containers', each once and by a
// descriptor of its process, and puts them into the spec.
func (c *Container) join(ctx context.Context, spec *specs.Spec) (*joined, error) {
	j := new(joined)
	for _, s := range c.own.config.shares() {
		id, other := s.container()
		if !other {
			continue
		}
		if err := j.add(ctx, c.engine, spec, s.kind, id); err != nil {
			j.close()
			return nil, fmt.Errorf("join the %s namespace of container %s: %w", s.kind, id, err)
		}
	}
	return j, nil
}

func (j *joined) add(ctx context.Context, e *Engine, spec *specs.Spec, kind specs.LinuxNamespaceType, id string) error {
	process, r, err := e.openRunning(id)
	if err != nil {
		return err
	}
	defer process.Close()
	if err := e.expose(ctx, id, r); err != nil {
		return err
	}
	f, err := runtime.OpenNamespace(process, kind)
	if err != nil {
		return err
	}
	j.files = append(j.files, f)
	for i := range spec.Linux.Namespaces {
		if n := &spec.Linux.Namespaces[i]; n.Type == kind {
			n.Path = fmt.Sprintf("/proc/self/fd/%d", f.Fd())
		}
	}
	if kind == specs.IPCNamespace {
		if j.shm, err = runtime.OpenShm(process); err != nil {
			return err
		}
		j.files = append(j.files, j.shm)
	}
	return nil
}

func (j *joined) close() {
	for _, f := range j.files {
		f.Close()
	}
}

// shareShm puts the host's /dev/shm in place of the container's own, as Docker
// does for one in the host's IPC namespace.
func shareShm(mounts []specs.Mount) {
	for i := range mounts {
		if mounts[i].Destination == "/dev/shm" {
			mounts[i] = specs.Mount{Destination: "/dev/shm", Type: "bind", Source: "/dev/shm", Options: []string{"bind", "nosuid", "noexec", "nodev"}}
		}
	}
}
