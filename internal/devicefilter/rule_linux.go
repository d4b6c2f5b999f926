package devicefilter

import (
	"fmt"
	"math"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const allAccess = unix.BPF_DEVCG_ACC_MKNOD | unix.BPF_DEVCG_ACC_READ | unix.BPF_DEVCG_ACC_WRITE

// A rule is a specs.LinuxDeviceCgroup, checked.
type rule struct {
	allow        bool
	kind         int32  // 0: both
	access       int32  // BPF_DEVCG_ACC_ bits
	major, minor *int32 // nil: all; the bits of an uint32
}

// covers says whether the rule is about every access to every device.
func (r rule) coversAll() bool {
	return r.kind == 0 && r.access == allAccess && r.major == nil && r.minor == nil
}

// parse checks a rule. No type and "a" mean both kinds, no access means all,
// no number and -1 mean all numbers; "u" is mknod(1)'s other name for "c".
func parse(d specs.LinuxDeviceCgroup) (rule, error) {
	r := rule{allow: d.Allow}
	switch d.Type {
	case "", "a":
	case "b":
		r.kind = unix.BPF_DEVCG_DEV_BLOCK
	case "c", "u":
		r.kind = unix.BPF_DEVCG_DEV_CHAR
	default:
		return rule{}, fmt.Errorf("type %q is not a, b or c: %w", d.Type, errdefs.ErrInvalidArgument)
	}
	for _, c := range d.Access {
		switch c {
		case 'r':
			r.access |= unix.BPF_DEVCG_ACC_READ
		case 'w':
			r.access |= unix.BPF_DEVCG_ACC_WRITE
		case 'm':
			r.access |= unix.BPF_DEVCG_ACC_MKNOD
		default:
			return rule{}, fmt.Errorf("access %q is not made of r, w and m: %w", d.Access, errdefs.ErrInvalidArgument)
		}
	}
	if d.Access == "" {
		r.access = allAccess
	}
	var err error
	if r.major, err = parseNumber(d.Major); err != nil {
		return rule{}, fmt.Errorf("major %w", err)
	}
	if r.minor, err = parseNumber(d.Minor); err != nil {
		return rule{}, fmt.Errorf("minor %w", err)
	}
	return r, nil
}

func parseNumber(n *int64) (*int32, error) {
	if n == nil || *n == -1 {
		return nil, nil
	}
	if *n < 0 || *n > math.MaxUint32 {
		return nil, fmt.Errorf("number %d is not between 0 and %d: %w", *n, uint32(math.MaxUint32), errdefs.ErrInvalidArgument)
	}
	v := int32(uint32(*n))
	return &v, nil
}
