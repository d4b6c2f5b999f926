package seccomp

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// An abi is a set of system call numbers. The values index numbers.nr.
type abi int

const (
	amd64 abi = iota
	i386
	x32
	arm64
	arm
	abis
)

// numbers are the numbers of one system call, -1 where an ABI lacks it.
type numbers struct {
	name string
	nr   [abis]int32
}

const (
	// x32Bit marks x32's numbers, whose audit architecture is amd64's
	// (__X32_SYSCALL_BIT in arch/x86/include/uapi/asm/unistd.h).
	x32Bit = 0x40000000
	// armPrivate is the first of ARM's own calls (__ARM_NR_BASE in
	// arch/arm/include/uapi/asm/unistd.h). There is nothing between the
	// ordinary numbers and it.
	armPrivate = 0xf0000
)

// wide says whether arguments have 64 bits. libseccomp counts x32 among the
// ABIs of 32 bits.
func (a abi) wide() bool { return a == amd64 || a == arm64 }

// lookup finds a system call by its name.
func lookup(name string) (*numbers, bool) {
	i, ok := slices.BinarySearchFunc(syscalls[:], name, func(n numbers, name string) int {
		return strings.Compare(n.name, name)
	})
	if !ok {
		return nil, false
	}
	return &syscalls[i], true
}

// A machine is a processor family: the ABIs that its kernel can serve and the
// values that seccomp_data.arch has for them.
type machine struct {
	native, compat           abi
	nativeAudit, compatAudit uint32
}

func machineOf(goarch string) (machine, error) {
	switch goarch {
	case "amd64":
		return machine{amd64, i386, unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386}, nil
	case "arm64":
		return machine{arm64, arm, unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_ARM}, nil
	}
	return machine{}, fmt.Errorf("seccomp filter for %s: %w", goarch, errdefs.ErrNotImplemented)
}

// enabled says which ABIs of m the profile lets through. Those of other
// machines are left out: this kernel cannot meet them.
func (m machine) enabled(profile []specs.Arch) (on [abis]bool, err error) {
	on[m.native] = true
	for _, a := range profile {
		switch a {
		case specs.ArchX86_64, specs.ArchAARCH64:
			// Native here, or of another machine.
		case specs.ArchX86:
			on[i386] = m.compat == i386
		case specs.ArchX32:
			on[x32] = m.native == amd64
		case specs.ArchARM:
			on[arm] = m.compat == arm
		case specs.ArchMIPS, specs.ArchMIPS64, specs.ArchMIPS64N32,
			specs.ArchMIPSEL, specs.ArchMIPSEL64, specs.ArchMIPSEL64N32,
			specs.ArchPPC, specs.ArchPPC64, specs.ArchPPC64LE,
			specs.ArchS390, specs.ArchS390X, specs.ArchPARISC, specs.ArchPARISC64,
			specs.ArchRISCV64, specs.ArchLOONGARCH64, specs.ArchM68K, specs.ArchSH, specs.ArchSHEB:
		default:
			return on, fmt.Errorf("seccomp architecture %q: %w", a, errdefs.ErrInvalidArgument)
		}
	}
	return on, nil
}
