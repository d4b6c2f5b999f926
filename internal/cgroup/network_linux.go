package cgroup

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func planNetwork(p *plan, r *specs.LinuxResources) error {
	n := r.Network
	if n == nil {
		return nil
	}
	if n.ClassID != nil {
		request := fmt.Sprintf("network class %d", *n.ClassID)
		if _, err := p.need("net_cls", request); err != nil {
			return err
		}
		p.group(write{
			controller: "net_cls", file: "net_cls.classid",
			value: strconv.FormatUint(uint64(*n.ClassID), 10), request: request,
		})
	}
	for _, i := range n.Priorities {
		request := fmt.Sprintf("network priority %d of interface %q", i.Priority, i.Name)
		if i.Name == "" || strings.ContainsAny(i.Name, " \t\n/") {
			return kindf(errdefs.ErrInvalidArgument, "%s: no name of an interface", request)
		}
		if _, err := p.need("net_prio", request); err != nil {
			return err
		}
		p.group(write{
			controller: "net_prio", file: "net_prio.ifpriomap",
			value: fmt.Sprintf("%s %d", i.Name, i.Priority), request: request,
		})
	}
	return nil
}
