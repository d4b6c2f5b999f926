package runtime

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// profiles are those that DefaultSeccomp has made, by capabilities.
var profiles sync.Map

// DefaultSeccomp returns Docker's default profile for a process with the given
// capabilities (names as "CAP_SYS_ADMIN"), which widen it. The same
// capabilities give the same pointer, so that it is compiled once; it must not
// be changed.
func DefaultSeccomp(capabilities []string) (*specs.LinuxSeccomp, error) {
	names := slices.Clone(capabilities)
	slices.Sort(names)
	key := strings.Join(slices.Compact(names), " ")
	if p, ok := profiles.Load(key); ok {
		return p.(*specs.LinuxSeccomp), nil
	}
	p, err := seccomp.GetDefaultProfile(&specs.Spec{Process: &specs.Process{
		Capabilities: &specs.LinuxCapabilities{Bounding: names, Effective: names, Permitted: names},
	}})
	if err != nil {
		return nil, fmt.Errorf("default seccomp profile: %w", err)
	}
	kept, _ := profiles.LoadOrStore(key, p)
	return kept.(*specs.LinuxSeccomp), nil
}
