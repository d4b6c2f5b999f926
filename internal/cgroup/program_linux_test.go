package cgroup

import (
	"fmt"
	"os"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Programs of equal rules are one, and only the last ones are kept.
func TestProgramCache(t *testing.T) {
	var cache programCache
	get := func(list []specs.LinuxDeviceCgroup) *os.File {
		t.Helper()
		f, err := cache.get(ruleKeys(list), list)
		if errdefs.IsPermissionDenied(err) || errdefs.IsNotImplemented(err) {
			t.Skip("needs to load eBPF programs:", err)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	first := get(dockerRules())
	for i := range maxPrograms - 1 {
		get(ruleList(fmt.Sprintf("allow c 1:%d r", i)))
		if get(dockerRules()) != first {
			t.Fatal("not found again")
		}
	}
	for i := range 2 * maxPrograms {
		get(ruleList(fmt.Sprintf("allow b 1:%d r", i)))
	}
	if len(cache.list) != maxPrograms {
		t.Errorf("%d programs", len(cache.list))
	}
	if get(dockerRules()) == first {
		t.Error("the oldest was not dropped")
	}
	if _, err := cache.get(nil, ruleList("allow x 1:1 r")); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}
