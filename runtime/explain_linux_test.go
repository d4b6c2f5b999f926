package runtime

import (
	"errors"
	"flag"
	"os"
	goruntime "runtime"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

var update = flag.Bool("update", false, "write the golden files of Explain anew")

// What specs compile to, in golden files: a change of the program shows there.
func TestExplain(t *testing.T) {
	if goruntime.GOARCH != "amd64" {
		t.Skip("the golden files have amd64's flags")
	}
	for name, test := range map[string]struct {
		change func(*specs.Spec, *CreateOptions)
	}{
		"default": {func(*specs.Spec, *CreateOptions) {}},
		"process": {func(s *specs.Spec, o *CreateOptions) {
			s.Mounts, s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil, nil
			p := s.Process
			p.Args, p.Cwd, p.NoNewPrivileges = []string{"sh", "-c", "exit"}, "/work/dir", true
			p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 10, Hard: 20}}
			p.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}}
			o.User = "1000:1001"
		}},
		"mounts": {func(s *specs.Spec, o *CreateOptions) {
			s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
			s.Root.Readonly = true
			s.Mounts = append(s.Mounts, bindMount("/nothing/there", "/data/deep", "ro"), bindMount("/etc/passwd", "/dev/file"),
				specs.Mount{Type: "tmpfs", Destination: "/run", Options: []string{"size=1m", "nosuid"}})
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229}}
			s.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
			o.Files = []File{{Path: "/etc/hosts", ReadOnly: true}}
		}},
		"user namespace": {func(s *specs.Spec, o *CreateOptions) {
			s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 10, Hard: 20}}
			s.Linux.Sysctl = map[string]string{"kernel.msgmax": "9000"}
			inUserNamespace(s)
			o.Files = []File{{Path: "/etc/hosts"}}
			o.User = "1000:1001"
		}},
		"terminal": {func(s *specs.Spec, o *CreateOptions) {
			s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
			s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination != "/dev" && m.Destination != "/dev/pts" })
			s.Process.Terminal = true
			o.User = "1000"
		}},
		"host namespaces": {func(s *specs.Spec, o *CreateOptions) {
			s.Mounts, s.Linux.MaskedPaths, s.Linux.ReadonlyPaths, s.Hostname = nil, nil, nil, ""
			dropNamespace(s, specs.NetworkNamespace)
			dropNamespace(s, specs.UTSNamespace)
		}},
		"host pid": {func(s *specs.Spec, o *CreateOptions) {
			s.Mounts, s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = s.Mounts[:1], nil, nil
			dropNamespace(s, specs.PIDNamespace)
		}},
		"joined": {func(s *specs.Spec, o *CreateOptions) {
			s.Mounts, s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = s.Mounts[:1], nil, nil
			for _, kind := range []specs.LinuxNamespaceType{specs.NetworkNamespace, specs.UTSNamespace, specs.PIDNamespace} {
				shareNamespace(s, kind, "/proc/1234/ns/"+kindNames[kind])
			}
		}},
		"init": {func(s *specs.Spec, o *CreateOptions) {
			s.Mounts, s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil, nil
			o.Init = true
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := fileSpec(t, "/no/such/root", "/bin/true")
			s.Process.Env = []string{"PATH=/bin:/usr/bin"}
			s.Linux.Seccomp = nil
			var o CreateOptions
			test.change(s, &o)
			got, err := Explain(s, o)
			if err != nil {
				t.Fatal(err)
			}
			file := "testdata/explain/" + strings.ReplaceAll(name, " ", "-") + ".txt"
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("differs from %s; -update writes it anew:\n%s", file, got)
			}
		})
	}
}

// The same spec that is explained runs, and what would not run is not explained.
func TestExplainAgrees(t *testing.T) {
	for what, change := range map[string]func(*specs.Spec, *CreateOptions){
		"no command": func(s *specs.Spec, _ *CreateOptions) { s.Process.Args = nil },
		"over proc":  func(s *specs.Spec, _ *CreateOptions) { s.Mounts = append(s.Mounts, bindMount("/tmp", "/proc")) },
		"user":       func(_ *specs.Spec, o *CreateOptions) { o.User = "nobody" },
		"group":      func(_ *specs.Spec, o *CreateOptions) { o.User = "0:nobody" },
		"bad seccomp": func(s *specs.Spec, _ *CreateOptions) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: "SCMP_ACT_NONE"}
		},
	} {
		s := newSpec(t, "/no/such/root", "")
		var o CreateOptions
		change(s, &o)
		if text, err := Explain(s, o); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: %v\n%s", what, err, text)
		}
	}
	// With a directory to look in, names are found.
	root := t.TempDir()
	writeFile(t, root+"/etc/passwd", "named:x:77:78::/home:/bin/sh\n", 0o644)
	text, err := Explain(newSpec(t, root, ""), CreateOptions{ProcessOptions: ProcessOptions{User: "named"}})
	if err != nil || !strings.Contains(text, "setresuid(77, 77, 77)") || !strings.Contains(text, "instructions})") {
		t.Errorf("%v\n%s", err, text)
	}
}
