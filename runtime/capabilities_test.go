package runtime

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestCapabilitySets(t *testing.T) {
	s, err := capabilitySets(&specs.LinuxCapabilities{
		Bounding: []string{"CAP_CHOWN", "CAP_CHECKPOINT_RESTORE", "CAP_CHOWN"}, Permitted: []string{"CAP_SYSLOG"},
		Effective: []string{"CAP_AUDIT_READ"}, Inheritable: []string{"CAP_KILL"}, Ambient: []string{"CAP_SETGID"},
	})
	want := capabilities{bounding: 1 | 1<<40, permitted: 1 << 34, effective: 1 << 37, inheritable: 1 << 5, ambient: 1 << 6}
	if err != nil || s != want {
		t.Errorf("%+v, %v, want %+v", s, err, want)
	}
	if s, err := capabilitySets(nil); err != nil || s != (capabilities{}) {
		t.Errorf("none: %+v, %v", s, err)
	}
	for _, name := range []string{"", "CHOWN", "cap_chown", "ALL", "CAP_41", "CAP_CHOWN "} {
		if _, err := capabilitySets(&specs.LinuxCapabilities{Ambient: []string{name}}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestCapabilityNames(t *testing.T) {
	if len(capabilityNames) != 41 || capabilityName(12) != "CAP_NET_ADMIN" || capabilityName(21) != "CAP_SYS_ADMIN" || capabilityName(60) != "CAP_60" {
		t.Error(len(capabilityNames), capabilityName(12), capabilityName(60))
	}
	for _, name := range DefaultCapabilities() {
		if _, err := capabilitySets(&specs.LinuxCapabilities{Bounding: []string{name}}); err != nil {
			t.Error(err)
		}
	}
	text, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		t.Skip(err)
	}
	if last, _ := strconv.Atoi(strings.TrimSpace(string(text))); last >= len(capabilityNames) {
		t.Logf("the kernel knows capabilities up to %d, this package up to %d", last, len(capabilityNames)-1)
	}
}

func TestStatusString(t *testing.T) {
	for want, s := range map[string]Status{
		"unknown": {}, "exit status 0": {Known: true}, "exit status 3": {Code: 3, Known: true},
		"signal: killed": {Code: 137, Signal: 9, Known: true}, "signal: killed (out of memory)": {Code: 137, Signal: 9, OOMKilled: true, Known: true},
	} {
		if s.String() != want {
			t.Errorf("%+v: %q, want %q", s, s, want)
		}
	}
}
