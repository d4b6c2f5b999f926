//go:build linux

package main_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/inboard/engine/bench/realimage"
)

// TestRealImage pushes a Debian system with a Go toolchain to a registry
// server, and runs programs of it with the example as a user would.
func TestRealImage(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: makes a Debian system with debootstrap")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	missing := realimage.Missing()
	for _, program := range []string{"docker-registry", "skopeo", "umoci", "unshare"} {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, program)
		}
	}
	if len(missing) > 0 {
		t.Skipf("not installed: %s", strings.Join(missing, ", "))
	}

	work := t.TempDir()
	walker := build(t, "./testdata/walker")
	layout := withWalker(t, walker, work)
	server, err := realimage.Serve(work)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	ref, err := server.Push(t.Context(), layout, "debian-go")
	if err != nil {
		t.Fatal(err)
	}
	host := newHost(t, build(t, "."), ref)

	t.Run("bash", func(t *testing.T) {
		out := host.run(t, "bash", "-c", `echo "$BASH_VERSION $((6 * 7))"`)
		if !strings.Contains(out, " 42\n") {
			t.Errorf("got %q", out)
		}
	})
	t.Run("dpkg", func(t *testing.T) {
		out := host.run(t, "dpkg", "-l")
		for _, name := range []string{"base-files", "bash", "libc6"} {
			if !strings.Contains(out, "ii  "+name) {
				t.Errorf("%s is not installed:\n%s", name, out)
			}
		}
	})
	t.Run("apt-get", func(t *testing.T) {
		if out := host.run(t, "apt-get", "--version"); !strings.HasPrefix(out, "apt ") {
			t.Errorf("got %q", out)
		}
	})
	t.Run("go version", func(t *testing.T) {
		if out := host.run(t, "go", "version"); !strings.HasPrefix(out, "go version go1.") {
			t.Errorf("got %q", out)
		}
	})
	t.Run("go build", func(t *testing.T) {
		out := host.run(t, "-e", "CGO_ENABLED=0", "-e", "GOFLAGS=-mod=mod", "-e", "GOTOOLCHAIN=local", "-w", "/src/hello", "sh", "-ec", `
			printf 'module hello\n' >go.mod
			printf 'package main\n\nimport "fmt"\n\nfunc main() { fmt.Println("built inside") }\n' >hello.go
			go build -o hello .
			./hello`)
		if !strings.HasSuffix(out, "built inside\n") {
			t.Errorf("got %q", out)
		}
	})
	t.Run("su", func(t *testing.T) {
		out := host.run(t, "su", "nobody", "-s", "/bin/sh", "-c", "id")
		if want := "uid=65534(nobody) gid=65534(nogroup) groups=65534(nogroup)\n"; out != want {
			t.Errorf("got %q, want %q", out, want)
		}
	})
	t.Run("write", func(t *testing.T) {
		out := host.run(t, "sh", "-ec", "dd if=/dev/zero of=/var/tmp/big bs=1M count=1024 status=none; stat -c %s /var/tmp/big")
		if out != "1073741824\n" {
			t.Errorf("got %q", out)
		}
	})
	t.Run("tree", func(t *testing.T) {
		bundle := filepath.Join(work, "bundle")
		command(t, "umoci", "unpack", "--image", layout+":"+realimage.Tag, bundle)
		want := tree(command(t, walker, append([]string{filepath.Join(bundle, "rootfs")}, outside...)...))
		got := tree(host.run(t, append([]string{"/walker", "/"}, outside...)...))
		compare(t, got, want)
	})
}

// outside of the comparison is what a container gets from the kernel and from
// the engine.
var outside = []string{"/proc", "/sys", "/dev", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}

// withWalker gives a layout of the real image with one more layer, which
// holds the walker at /walker.
func withWalker(t *testing.T, walker, work string) string {
	t.Helper()
	cache, err := realimage.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	real, err := realimage.Make(t.Context(), cache, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	img, err := real.Open()
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(work, "walker.tar")
	command(t, "tar", "--format=posix", "--numeric-owner", "--owner=0", "--group=0", "-cf", archive, "-C", filepath.Dir(walker), ".")
	layer, err := tarball.LayerFromFile(archive, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		t.Fatal(err)
	}
	img, err = mutate.AppendLayers(img, layer)
	if err != nil {
		t.Fatal(err)
	}
	layout := filepath.Join(work, "layout")
	if err := realimage.Write(layout, img); err != nil {
		t.Fatal(err)
	}
	return layout
}

func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, stderr.Bytes())
	}
	return string(out)
}

// host runs the example with /var/lib and /run of its own, so that it neither
// sees nor changes the images of the machine.
type host struct{ program, ref, lib, state string }

func newHost(t *testing.T, program, ref string) *host {
	h := &host{program: program, ref: ref, lib: t.TempDir(), state: t.TempDir()}
	return h
}

// run takes the example's flags, then the command, and gives its output.
func (h *host) run(t *testing.T, args ...string) string {
	t.Helper()
	flags := []string{"--rm"}
	for len(args) > 1 && strings.HasPrefix(args[0], "-") {
		flags = append(flags, args[0], args[1])
		args = args[2:]
	}
	script := `mount --bind "$1" /var/lib && mount --bind "$2" /run && shift 2 && exec "$@"`
	all := append([]string{"--mount", "sh", "-c", script, "sh", h.lib, h.state, h.program}, flags...)
	return command(t, "unshare", append(append(all, h.ref), args...)...)
}

// tree is the walker's output by name.
func tree(listing string) map[string]string {
	files := map[string]string{}
	for line := range strings.Lines(listing) {
		// The name is quoted: its own quotes have a backslash before them.
		end := strings.Index(line, `" mode `)
		files[line[:end+1]] = strings.TrimSpace(line[end+1:])
	}
	return files
}

func compare(t *testing.T, got, want map[string]string) {
	t.Helper()
	if len(want) < 20_000 {
		t.Errorf("umoci's tree has %d files, fewer than a Go toolchain has", len(want))
	}
	var differences []string
	for name, line := range want {
		if got[name] != line {
			differences = append(differences, fmt.Sprintf("%s\n\tinside: %s\n\tumoci:  %s", name, got[name], line))
		}
	}
	for name, line := range got {
		if _, ok := want[name]; !ok {
			differences = append(differences, fmt.Sprintf("%s\n\tinside: %s\n\tumoci:  nothing", name, line))
		}
	}
	if len(differences) > 0 {
		shown := differences[:min(len(differences), 20)]
		t.Errorf("%d files differ, among them:\n%s", len(differences), strings.Join(shown, "\n"))
	}
	t.Logf("%d files compared", len(want))
}
