package cgroup

import (
	"fmt"
	"regexp"
	"strconv"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

var pageSize = regexp.MustCompile(`^[1-9][0-9]*[KMG]B$`)

// planHugepages limits what is used and, where the kernel counts it (Linux
// 5.7), what is reserved: without the latter a process that maps more than its
// limit is killed with SIGBUS when it touches it.
func planHugepages(p *plan, r *specs.LinuxResources) error {
	for _, h := range r.HugepageLimits {
		request := fmt.Sprintf("huge page limit %d of pages of %s", h.Limit, h.Pagesize)
		if !pageSize.MatchString(h.Pagesize) {
			return kindf(errdefs.ErrInvalidArgument, "%s: not a size such as 2MB", request)
		}
		version, err := p.need("hugetlb", request)
		if err != nil {
			return err
		}
		file := "max"
		if version == 1 {
			file = "limit_in_bytes"
		}
		w := write{controller: "hugetlb", value: strconv.FormatUint(h.Limit, 10), request: request}
		w.file = "hugetlb." + h.Pagesize + "." + file
		p.group(w)
		w.file = "hugetlb." + h.Pagesize + ".rsvd." + file
		w.optional = true
		p.group(w)
	}
	return nil
}
