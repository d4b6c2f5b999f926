package engine

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/inboard/engine/runtime"
)

// Security is what a container's processes may do beyond or below the
// defaults, which are Docker's: its capabilities, its seccomp profile, its
// masked and read-only paths.
type Security struct {
	// NoNewPrivileges makes execve grant nothing: set-uid bits and file
	// capabilities have no effect.
	NoNewPrivileges bool `json:"no_new_privileges,omitempty"`
	// ReadOnlyRoot makes all but Mounts and what is below /dev read-only.
	ReadOnlyRoot bool `json:"read_only_root,omitempty"`
	// Privileged takes nearly all confinement away: the container gets every
	// capability that the program has, all devices of the host, a writable /sys
	// and cgroup, no masked or read-only paths, and no seccomp filter unless
	// Seccomp names one. Its root can take over the host.
	Privileged bool `json:"privileged,omitempty"`
	// CapAdd and CapDrop change the capabilities: names as "NET_ADMIN" or
	// "CAP_NET_ADMIN", in any case, or "ALL". With ALL added, all are given but
	// those dropped; with ALL dropped, none but those added.
	CapAdd  []string `json:"cap_add,omitempty"`
	CapDrop []string `json:"cap_drop,omitempty"`
	// UserNamespace gives the container user and group ids of its own. Empty: it
	// has the host's.
	UserNamespace UserNamespace `json:"user_namespace,omitempty"`
	// Seccomp replaces Docker's default profile; it must not be changed
	// afterwards. Nil: the default.
	Seccomp *specs.LinuxSeccomp `json:"seccomp,omitempty"`
	// SeccompUnconfined leaves the filter out.
	SeccompUnconfined bool `json:"seccomp_unconfined,omitempty"`
	// Sysctls are kernel parameters of the container's own namespaces, as
	// "net.ipv4.ip_forward".
	Sysctls map[string]string `json:"sysctls,omitempty"`
	// Devices are those of the host that the container gets beside Docker's few.
	Devices []Device `json:"devices,omitempty"`
	// DeviceRules allow more devices without making their files, as
	// "c 10:229 rwm"; "*" is any number.
	DeviceRules []string `json:"device_rules,omitempty"`
}

// Device is a device of the host in a container.
type Device struct {
	// Path is on the host, and in the container if Target is empty. It must be
	// there at each start. All devices in a directory are meant by it.
	Path string `json:"path"`
	// Target is a path below /dev.
	Target string `json:"target,omitempty"`
	// Access is any of "r", "w" and "m" (mknod). Empty: "rwm".
	Access string `json:"access,omitempty"`
}

// check finds what is wrong with it by itself, and gives the capabilities.
func (s *Security) check() (capabilities []string, err error) {
	if s.SeccompUnconfined && s.Seccomp != nil {
		return nil, fmt.Errorf("a seccomp profile, and none: %w", ErrInvalidArgument)
	}
	for _, d := range s.Devices {
		if !path.IsAbs(d.Path) || d.Target != "" && !strings.HasPrefix(path.Clean(d.Target), "/dev/") {
			return nil, fmt.Errorf("device %q at %q: not an absolute path, or not below /dev: %w", d.Path, d.Target, ErrInvalidArgument)
		}
		if strings.Trim(d.Access, "rwm") != "" {
			return nil, fmt.Errorf("device %q: access %q: %w", d.Path, d.Access, ErrInvalidArgument)
		}
	}
	for _, rule := range s.DeviceRules {
		if _, err := parseDeviceRule(rule); err != nil {
			return nil, err
		}
	}
	for name, value := range s.Sysctls {
		if err := checkText("sysctl "+name, value); err != nil {
			return nil, err
		}
	}
	return s.capabilities()
}

// capabilities combines CapAdd and CapDrop with the defaults as Docker does
// (moby's daemon/pkg/oci/caps, TweakCapabilities).
func (s *Security) capabilities() ([]string, error) {
	add, addAll, err := capabilityNames(s.CapAdd)
	if err != nil {
		return nil, err
	}
	drop, dropAll, err := capabilityNames(s.CapDrop)
	if err != nil {
		return nil, err
	}
	given := runtime.DefaultCapabilities()
	switch {
	case s.Privileged:
		return runtime.Capabilities(), nil
	case addAll && dropAll:
		return nil, fmt.Errorf("all capabilities added, and all dropped: %w", ErrInvalidArgument)
	case addAll:
		given = runtime.Capabilities()
	case dropAll:
		given, drop = nil, nil
	}
	given = slices.DeleteFunc(given, func(name string) bool { return slices.Contains(drop, name) })
	for _, name := range add {
		if !slices.Contains(given, name) {
			given = append(given, name)
		}
	}
	return given, nil
}

// capabilityNames gives names as the runtime specification has them.
func capabilityNames(names []string) (list []string, all bool, err error) {
	for _, given := range names {
		name := strings.ToUpper(given)
		if name == "ALL" {
			all = true
			continue
		}
		if !strings.HasPrefix(name, "CAP_") {
			name = "CAP_" + name
		}
		if !runtime.KnownCapability(name) {
			return nil, false, fmt.Errorf("unknown capability %q: %w", given, ErrInvalidArgument)
		}
		list = append(list, name)
	}
	return list, all, nil
}

// parseDeviceRule reads "TYPE MAJOR:MINOR ACCESS", as Docker has it.
func parseDeviceRule(text string) (rule specs.LinuxDeviceCgroup, err error) {
	no := fmt.Errorf("device rule %q: not like \"c 10:229 rwm\": %w", text, ErrInvalidArgument)
	fields := strings.Split(text, " ")
	if len(fields) != 3 || !slices.Contains([]string{"a", "b", "c"}, fields[0]) ||
		fields[2] == "" || strings.Trim(fields[2], "rwm") != "" {
		return rule, no
	}
	numbers := strings.Split(fields[1], ":")
	if len(numbers) != 2 {
		return rule, no
	}
	rule = specs.LinuxDeviceCgroup{Allow: true, Type: fields[0], Access: fields[2]}
	for i, to := range []**int64{&rule.Major, &rule.Minor} {
		n := int64(-1) // any
		if numbers[i] != "*" {
			if n, err = strconv.ParseInt(numbers[i], 10, 32); err != nil || n < 0 {
				return rule, no
			}
		}
		*to = &n
	}
	return rule, nil
}
