package engine

import (
	"errors"
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/inboard/engine/runtime"
)

func TestCapabilities(t *testing.T) {
	defaults, all := runtime.DefaultCapabilities(), runtime.Capabilities()
	with := func(list []string, more ...string) []string { return append(slices.Clone(list), more...) }
	without := func(list []string, less ...string) []string {
		return slices.DeleteFunc(slices.Clone(list), func(c string) bool { return slices.Contains(less, c) })
	}
	for what, test := range map[string]struct {
		security Security
		want     []string
	}{
		"default":     {Security{}, defaults},
		"added":       {Security{CapAdd: []string{"net_admin", "CAP_SYS_PTRACE", "chown"}}, with(defaults, "CAP_NET_ADMIN", "CAP_SYS_PTRACE")},
		"dropped":     {Security{CapDrop: []string{"CHOWN", "SYS_ADMIN"}}, without(defaults, "CAP_CHOWN")},
		"both":        {Security{CapAdd: []string{"CHOWN"}, CapDrop: []string{"CHOWN"}}, with(without(defaults, "CAP_CHOWN"), "CAP_CHOWN")},
		"all dropped": {Security{CapDrop: []string{"ALL"}}, nil},
		"only":        {Security{CapDrop: []string{"all"}, CapAdd: []string{"kill"}}, []string{"CAP_KILL"}},
		"all added":   {Security{CapAdd: []string{"ALL"}}, all},
		"all but":     {Security{CapAdd: []string{"ALL"}, CapDrop: []string{"KILL"}}, without(all, "CAP_KILL")},
		"privileged":  {Security{Privileged: true}, all},
	} {
		if got, err := test.security.check(); err != nil || !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, %v, want %v", what, got, err, test.want)
		}
	}
}

func TestBadSecurity(t *testing.T) {
	for what, s := range map[string]Security{
		"unknown":       {CapAdd: []string{"NET_ADMIM"}},
		"number":        {CapDrop: []string{"CAP_12"}},
		"all and all":   {CapAdd: []string{"ALL"}, CapDrop: []string{"ALL"}},
		"seccomp":       {Seccomp: new(specs.LinuxSeccomp), SeccompUnconfined: true},
		"device":        {Devices: []Device{{Path: "null"}}},
		"device target": {Devices: []Device{{Path: "/dev/null", Target: "/dev/../etc/x"}}},
		"device access": {Devices: []Device{{Path: "/dev/null", Access: "rx"}}},
		"sysctl":        {Sysctls: map[string]string{"net.ipv4.ip_forward": "1\x00"}},
	} {
		if _, err := s.check(); !errors.Is(err, ErrInvalidArgument) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, rule := range []string{"", "c", "c 1:3", "c 1:3 ", "c 1:3 rx", "d 1:3 r", "c 1 r", "c 1:2:3 r", "c -1:3 r", "c x:* r", "c  1:3 r", "c 99999999999:1 r"} {
		if _, err := parseDeviceRule(rule); !errors.Is(err, ErrInvalidArgument) {
			t.Errorf("rule %q: %v", rule, err)
		}
	}
	rule, err := parseDeviceRule("b 7:* rwm")
	if err != nil || !rule.Allow || rule.Type != "b" || *rule.Major != 7 || *rule.Minor != -1 || rule.Access != "rwm" {
		t.Errorf("%+v, %v", rule, err)
	}
}
