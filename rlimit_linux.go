package engine

import (
	"fmt"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// rlimitNames are those of getrlimit(2).
var rlimitNames = []string{
	"RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_LOCKS",
	"RLIMIT_MEMLOCK", "RLIMIT_MSGQUEUE", "RLIMIT_NICE", "RLIMIT_NOFILE", "RLIMIT_NPROC",
	"RLIMIT_RSS", "RLIMIT_RTPRIO", "RLIMIT_RTTIME", "RLIMIT_SIGPENDING", "RLIMIT_STACK",
}

func rlimitName(name string) string {
	return "RLIMIT_" + strings.TrimPrefix(strings.ToUpper(name), "RLIMIT_")
}

func checkRlimits(limits []Rlimit) error {
	seen := make(map[string]bool)
	for _, l := range limits {
		name := rlimitName(l.Name)
		switch {
		case !slices.Contains(rlimitNames, name):
			return fmt.Errorf("rlimit %q: unknown: %w", l.Name, ErrInvalidArgument)
		case seen[name]:
			return fmt.Errorf("rlimit %q: given twice: %w", l.Name, ErrInvalidArgument)
		case l.Soft > l.Hard:
			return fmt.Errorf("rlimit %q: soft limit %d is above the hard limit %d: %w", l.Name, l.Soft, l.Hard, ErrInvalidArgument)
		}
		seen[name] = true
	}
	return nil
}

// setRlimit puts a limit in the place of a default one.
func setRlimit(p *specs.Process, l Rlimit) {
	limit := specs.POSIXRlimit{Type: rlimitName(l.Name), Soft: l.Soft, Hard: l.Hard}
	i := slices.IndexFunc(p.Rlimits, func(r specs.POSIXRlimit) bool { return r.Type == limit.Type })
	if i >= 0 {
		p.Rlimits = slices.Clone(p.Rlimits)
		p.Rlimits[i] = limit
		return
	}
	p.Rlimits = append(slices.Clip(p.Rlimits), limit)
}
