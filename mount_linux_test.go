package engine

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMounts(t *testing.T) {
	source := t.TempDir()
	name := filepath.Join(source, "name")
	if err := os.WriteFile(name, []byte("of the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	bind := Mount{Type: MountBind, Source: source, Target: "/data"}
	readOnly, file, hosts := bind, bind, bind
	readOnly.ReadOnly = true
	file.Source, file.Target = name, "/etc/deep/name"
	hosts.Source, hosts.Target = name, "/etc/hosts"
	tmpfs := Mount{Type: MountTmpfs, Target: "/run/x", Size: 1 << 20, Mode: 0o1750, Options: []string{"exec"}}
	inner := Mount{Type: MountBind, Source: source, Target: "/run/x/in/it"}
	for _, test := range []struct {
		what   string
		config Config
		args   []string
		want   string
	}{
		{"bind", Config{Mounts: []Mount{bind}}, []string{"read", "/data/name"}, "of the host"},
		{"file", Config{Mounts: []Mount{file}}, []string{"read", "/etc/deep/name"}, "of the host"},
		{"hosts", Config{Mounts: []Mount{hosts}}, []string{"read", "/etc/hosts"}, "of the host"},
		{"write", Config{Mounts: []Mount{bind}}, []string{"write", "/data/made", "inside"}, ""},
		{"read-only", Config{Mounts: []Mount{readOnly}}, []string{"write", "/data/x", ""}, "open /data/x: read-only file system\n"},
		{"tmpfs", Config{Mounts: []Mount{tmpfs}}, []string{"stat", "/run/x"}, "1750 0 0 "},
		{"inner first", Config{Mounts: []Mount{inner, tmpfs}}, []string{"read", "/run/x/in/it/name"}, "of the host"},
		{"read-only root", Config{Security: Security{ReadOnlyRoot: true}, Mounts: []Mount{tmpfs}}, []string{"write", "/x", ""}, "open /x: read-only file system\n"},
		{"in a read-only root", Config{Security: Security{ReadOnlyRoot: true}, Mounts: []Mount{tmpfs}}, []string{"write", "/run/x/y", "x"}, ""},
		{"shm", Config{Resources: Resources{ShmSize: 3 << 20}}, []string{"read", "/proc/self/mountinfo"}, "size=3072k"},
		{"instead of shm", Config{Mounts: []Mount{{Type: MountBind, Source: source, Target: "/dev/shm"}}}, []string{"read", "/dev/shm/name"}, "of the host"},
	} {
		t.Run(test.what, func(t *testing.T) {
			got, _ := runs(t, test.config, test.args...)
			if test.want == "" && got != "" || !strings.Contains(got, test.want) {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
	if text, err := os.ReadFile(filepath.Join(source, "made")); string(text) != "inside" {
		t.Errorf("on the host: %q, %v", text, err)
	}
	// A file mounted over /etc/hosts is the only one there.
	if out, _ := runs(t, Config{Mounts: []Mount{hosts}}, "read", "/proc/self/mountinfo"); strings.Count(out, " /etc/hosts ") != 1 {
		t.Error(out)
	}
}

// The record tells of mounts, and keeps them for the next start.
func TestMountsInspect(t *testing.T) {
	e, img := plainImage(t)
	mounts := []Mount{{Type: MountTmpfs, Target: "/run/x", ReadOnly: true}}
	c := create(t, e, img, Config{Args: []string{"exit", "0"}, Mounts: mounts})
	mounts[0].Target = "/changed"
	info, err := c.Inspect(t.Context())
	if err != nil || len(info.Mounts) != 1 || info.Mounts[0].Target != "/run/x" || !info.Mounts[0].ReadOnly {
		t.Errorf("%+v, %v", info.Mounts, err)
	}
}

func TestBadMounts(t *testing.T) {
	e, img := plainImage(t)
	bind := func(source, target string) Mount { return Mount{Type: MountBind, Source: source, Target: target} }
	for what, mounts := range map[string][]Mount{
		"relative target": {bind("/tmp", "data")},
		"on the root":     {bind("/tmp", "/x/..")},
		"relative source": {bind("tmp", "/data")},
		"no type":         {{Source: "/tmp", Target: "/data"}},
		"tmpfs source":    {{Type: MountTmpfs, Source: "/tmp", Target: "/data"}},
		"bind size":       {{Type: MountBind, Source: "/tmp", Target: "/data", Size: 1}},
		"mode":            {{Type: MountTmpfs, Target: "/data", Mode: 0o10000}},
		"propagation":     {{Type: MountBind, Source: "/tmp", Target: "/data", Propagation: "rprivate,ro"}},
		"twice":           {bind("/tmp", "/data"), bind("/var", "/data/")},
		"zero byte":       {bind("/tmp\x00/x", "/data")},
	} {
		c, err := e.Create(t.Context(), img, Config{Args: []string{"exit", "0"}, Network: NetworkNone, Mounts: mounts})
		if !errors.Is(err, ErrInvalidArgument) {
			t.Errorf("%s: %v", what, err)
		}
		if c != nil {
			c.Remove(t.Context(), RemoveOptions{})
		}
	}
	for what, test := range map[string]struct {
		mount Mount
		names string
	}{
		"source missing": {bind("/nothing/there", "/data"), "/nothing/there"},
		"over proc":      {bind("/tmp", "/proc"), "/proc"},
		"in proc":        {bind("/tmp", "/proc/sys"), "/proc/sys"},
		"tmpfs option":   {Mount{Type: MountTmpfs, Target: "/data", Options: []string{"sise=1"}}, "sise"},
		"bind option":    {Mount{Type: MountBind, Source: "/tmp", Target: "/data", Options: []string{"size=1"}}, "size=1"},
		"on a file":      {bind("/tmp", "/prog"), "/prog"},
	} {
		c := create(t, e, img, Config{Args: []string{"exit", "0"}, Mounts: []Mount{test.mount}})
		err := c.Start(t.Context())
		if err == nil || !strings.Contains(err.Error(), test.names) {
			t.Errorf("%s: %v", what, err)
		}
		if info, err := c.Inspect(t.Context()); err != nil || info.State != StateCreated {
			t.Errorf("%s: %s, %v", what, info.State, err)
		}
	}
}
