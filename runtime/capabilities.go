package runtime

import (
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// capabilityNames are in the order of their numbers: linux/capability.h.
var capabilityNames = [...]string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
	"CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE",
	"CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER",
	"CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT",
	"CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME",
	"CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
	"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM",
	"CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// KnownCapability tells whether a name, as "CAP_NET_ADMIN", is one of a
// capability.
func KnownCapability(name string) bool { return slices.Contains(capabilityNames[:], name) }

func capabilityName(c int) string {
	if c < len(capabilityNames) {
		return capabilityNames[c]
	}
	return fmt.Sprintf("CAP_%d", c)
}

// capabilities are a process's sets, one bit for each.
type capabilities struct {
	bounding, permitted, effective, inheritable, ambient uint64
}

// capabilitySets reads those of a spec. Without any, a process has none.
func capabilitySets(c *specs.LinuxCapabilities) (s capabilities, err error) {
	if c == nil {
		return s, nil
	}
	for _, set := range []struct {
		to    *uint64
		names []string
	}{{&s.bounding, c.Bounding}, {&s.permitted, c.Permitted}, {&s.effective, c.Effective},
		{&s.inheritable, c.Inheritable}, {&s.ambient, c.Ambient}} {
		for _, name := range set.names {
			n := slices.Index(capabilityNames[:], name)
			if n < 0 {
				return s, fmt.Errorf("process: unknown capability %q: %w", name, errdefs.ErrInvalidArgument)
			}
			*set.to |= 1 << n
		}
	}
	return s, nil
}
