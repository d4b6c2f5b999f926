package cgroup

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// coreFiles are the files of v2's core that may be set: the others move or
// kill processes, or change what children may have.
var coreFiles = []string{"cgroup.freeze", "cgroup.max.depth", "cgroup.max.descendants", "cgroup.pressure"}

// planUnified writes files of v2 as they are named (runtime-spec,
// config-linux.md, "Unified"). Lines are written one by one: files with a line
// for each device take one at a time.
func planUnified(p *plan, r *specs.LinuxResources) error {
	for _, file := range slices.Sorted(maps.Keys(r.Unified)) {
		text := r.Unified[file]
		request := fmt.Sprintf("%s = %q", file, text)
		controller, rest, ok := strings.Cut(file, ".")
		if !ok || controller == "" || rest == "" || strings.ContainsAny(file, "/\x00") {
			return kindf(errdefs.ErrInvalidArgument, "%s: no file of a controller", request)
		}
		if controller == "cgroup" {
			if !slices.Contains(coreFiles, file) {
				return kindf(errdefs.ErrInvalidArgument, "%s: may not be set", request)
			}
		} else {
			version, err := p.need(controller, request)
			if err != nil {
				return err
			}
			if version == 1 {
				return kindf(errdefs.ErrNotImplemented, "%s: controller %s is in a v1 hierarchy", request, controller)
			}
		}
		for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
			p.group(write{controller: controller, file: file, value: line, request: request})
		}
	}
	return nil
}
