package cgroup

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// maxCPU bounds the numbers in a list: NR_CPUS is at most 8192.
const maxCPU = 8191

func planCpuset(p *plan, r *specs.LinuxResources) error {
	if r.CPU == nil {
		return nil
	}
	for _, f := range []struct{ what, kind, value string }{
		{"cpus", "cpus", r.CPU.Cpus}, {"memory nodes", "mems", r.CPU.Mems},
	} {
		if f.value == "" {
			continue
		}
		request := fmt.Sprintf("%s %q", f.what, f.value)
		want, err := parseList(f.value)
		if err != nil {
			return kindf(errdefs.ErrInvalidArgument, "%s: %w", request, err)
		}
		version, err := p.need("cpuset", request)
		if err != nil {
			return err
		}
		// v2 takes any list and uses what there is of it, which hides a mistake.
		file := "cpuset." + f.kind + ".effective"
		if version == 1 {
			file = "cpuset.effective_" + f.kind
		}
		p.group(write{controller: "cpuset", file: file, request: request, above: true, check: func(now string) error {
			have, err := parseList(now)
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			for n := range want {
				if !have[n] {
					return kindf(errdefs.ErrInvalidArgument, "%s: there are %s", request, strings.TrimSpace(now))
				}
			}
			return nil
		}})
		p.group(write{controller: "cpuset", file: "cpuset." + f.kind, value: f.value, request: request})
	}
	return nil
}

// parseList reads a list such as "0-2,5" (cpuset(7), "List format").
func parseList(text string) (map[int]bool, error) {
	set := map[int]bool{}
	text = strings.TrimSpace(text)
	if text == "" {
		return set, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		a, err1 := strconv.ParseUint(first, 10, 16)
		b, err2 := strconv.ParseUint(last, 10, 16)
		if err1 != nil || err2 != nil || a > b || b > maxCPU {
			return nil, fmt.Errorf("%q is no range of numbers up to %d", part, maxCPU)
		}
		for n := a; n <= b; n++ {
			set[int(n)] = true
		}
	}
	return set, nil
}

// inheritCpuset makes dir, a directory of a v1 cpuset hierarchy, fit for
// children: no process can enter a cpuset that has no cpus or no memory nodes,
// and that is how one is born unless its parent has cgroup.clone_children. It
// reports whether dir has that; one that is not ours is left without it.
func inheritCpuset(above, dir int, fresh bool) (bool, error) {
	if err := copyCpuset(above, dir); err != nil {
		return false, err
	}
	if fresh {
		return true, writeAt(dir, "cgroup.clone_children", "1")
	}
	text, err := readAt(dir, "cgroup.clone_children")
	return strings.TrimSpace(text) == "1", err
}

// copyCpuset fills a v1 cpuset that is empty from the one above it.
func copyCpuset(above, dir int) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		text, err := readAt(dir, file)
		if err != nil {
			return err
		}
		if strings.TrimSpace(text) != "" {
			continue
		}
		if text, err = readAt(above, file); err != nil {
			return err
		}
		if err = writeAt(dir, file, strings.TrimSpace(text)); err != nil {
			return err
		}
	}
	return nil
}
