package cgroup

import (
	"os"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/inboard/engine/internal/devicefilter"
)

// programCache keeps the device programs that were used last, for the kernel's
// check of one takes longer than all else in Set. One that falls out is closed
// by the garbage collector, since somebody may still be attaching it.
type programCache struct {
	mu   sync.Mutex
	list []loadedProgram // the one used last is the first
}

type loadedProgram struct {
	rules []ruleKey
	file  *os.File
}

// maxPrograms is how many sets of rules a program is thought to use in turn.
const maxPrograms = 8

func (p *programCache) get(keys []ruleKey, list []specs.LinuxDeviceCgroup) (*os.File, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.list, func(l loadedProgram) bool { return slices.Equal(l.rules, keys) })
	if i >= 0 {
		l := p.list[i]
		p.list = slices.Insert(slices.Delete(p.list, i, i+1), 0, l)
		return l.file, nil
	}
	code, err := devicefilter.Compile(list)
	if err != nil {
		return nil, err
	}
	file, err := devicefilter.Load(code)
	if err != nil {
		return nil, classify(err)
	}
	p.list = slices.Insert(p.list, 0, loadedProgram{keys, file})
	p.list = slices.Delete(p.list, min(len(p.list), maxPrograms), len(p.list))
	return file, nil
}

// planProgram is planDevices where no v1 hierarchy has the devices controller.
func (c *Cgroup) planProgram(list []specs.LinuxDeviceCgroup) (func() error, error) {
	host := c.parent.host
	i := slices.IndexFunc(host.hierarchies, func(y *hierarchy) bool { return y.v2 })
	if i < 0 {
		return nil, kindf(errdefs.ErrNotImplemented, "device rules: no mounted hierarchy has the controller devices")
	}
	keys := ruleKeys(list)
	file, err := host.programs.get(keys, list)
	if err != nil {
		return nil, err
	}
	return func() error {
		parent, err := c.parent.dir(i)
		if err != nil {
			return err
		}
		dir, err := place{host.hierarchies[i], parent, c.name}.open("", unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer dir.Close()
		c.given = nil // not known, should it fail
		if err := devicefilter.Attach(dir, file); err != nil {
			return classify(err)
		}
		c.given = keys
		return nil
	}, nil
}
