package seccomp

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// flagTSync is not among the runtime specification's flags; runc knows it.
const flagTSync specs.LinuxSeccompFlag = "SECCOMP_FILTER_FLAG_TSYNC"

// Flags gives the second argument of seccomp(SECCOMP_SET_MODE_FILTER) for a
// profile. A profile whose flags are nil, rather than empty, gets SPEC_ALLOW
// as from runc: without it the kernel slows the whole process down against
// speculative store bypass (before 5.16 by default; since then only if it is
// told to). An unknown flag gives an error that wraps
// errdefs.ErrInvalidArgument, and one that needs SCMP_ACT_NOTIFY one that wraps
// errdefs.ErrNotImplemented.
func Flags(p *specs.LinuxSeccomp) (uintptr, error) {
	if p == nil {
		return 0, nil
	}
	if p.Flags == nil {
		return unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, nil
	}
	var flags uintptr
	for _, f := range p.Flags {
		switch f {
		case specs.LinuxSeccompFlagLog:
			flags |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			flags |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		case flagTSync:
			flags |= unix.SECCOMP_FILTER_FLAG_TSYNC
		case specs.LinuxSeccompFlagWaitKillableRecv:
			return 0, fmt.Errorf("seccomp flag %s, which needs an agent: %w", f, errdefs.ErrNotImplemented)
		default:
			return 0, fmt.Errorf("seccomp flag %q: %w", f, errdefs.ErrInvalidArgument)
		}
	}
	return flags, nil
}
