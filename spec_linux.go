package engine

import (
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/inboard/engine/runtime"
)

// spec is the container as the runtime wants it: the defaults, and nothing of
// the image but what its process is. Labels and annotations stay behind
// (CVE-2026-53488, CVE-2026-94603: an image switched isolation off by them).
func (o *own) spec() (*specs.Spec, error) {
	s, err := o.confinement()
	if err != nil {
		return nil, err
	}
	if o.config.UTS == NamespaceOwn {
		s.Hostname = o.process.Hostname
	}
	setShmSize(s.Mounts, o.config.Resources.ShmSize)
	if o.config.IPC == NamespaceHost {
		shareShm(s.Mounts)
	}
	s.Mounts = addMounts(s.Mounts, o.config.Mounts)
	devices := s.Linux.Resources.Devices
	*s.Linux.Resources = *o.resources
	s.Linux.Resources.Devices = devices
	if n := o.config.Resources.OOMScoreAdj; n != 0 {
		s.Process.OOMScoreAdj = &n
	}
	return s, nil
}

// confinement is what of the spec is any process's of the container.
func (o *own) confinement() (*specs.Spec, error) {
	s := runtime.DefaultSpec()
	o.setProcess(s.Process)
	setTerminal(s.Process, o.config.TTY, o.config.WindowSize)
	if err := o.config.Security.apply(s, o.capabilities); err != nil {
		return nil, err
	}
	s.Linux.Namespaces = namespaces(s.Linux.Namespaces, &o.config)
	return s, nil
}

// setShmSize replaces the size of /dev/shm.
func setShmSize(mounts []specs.Mount, size int64) {
	for i := range mounts {
		m := &mounts[i]
		if m.Destination == "/dev/shm" && size > 0 {
			m.Options = append(m.Options, "size="+strconv.FormatInt(size, 10)) // the last one counts
		}
	}
}

// processSpec is the container's process, for an exec to change.
func (o *own) processSpec() *specs.Process {
	p := runtime.DefaultSpec().Process
	o.setProcess(p)
	return p
}

func (o *own) setProcess(p *specs.Process) {
	p.Args = o.process.Args
	p.Env = o.process.Env
	p.Cwd = o.process.WorkingDir
	p.Capabilities.Bounding, p.Capabilities.Permitted, p.Capabilities.Effective = o.capabilities, o.capabilities, o.capabilities
	p.NoNewPrivileges = o.config.Security.NoNewPrivileges
	for _, l := range o.config.Rlimits {
		setRlimit(p, l)
	}
}
