package cgroup

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func planRDMA(p *plan, r *specs.LinuxResources) error {
	for _, device := range slices.Sorted(maps.Keys(r.Rdma)) {
		l := r.Rdma[device]
		text := device
		if l.HcaHandles != nil {
			text += fmt.Sprintf(" hca_handle=%d", *l.HcaHandles)
		}
		if l.HcaObjects != nil {
			text += fmt.Sprintf(" hca_object=%d", *l.HcaObjects)
		}
		request := "rdma limit " + text
		if device == "" || strings.ContainsAny(device, " \t\n=") || text == device {
			return kindf(errdefs.ErrInvalidArgument, "%s: needs a device and a number of handles or objects", request)
		}
		if _, err := p.need("rdma", request); err != nil {
			return err
		}
		p.group(write{controller: "rdma", file: "rdma.max", value: text, request: request})
	}
	return nil
}
