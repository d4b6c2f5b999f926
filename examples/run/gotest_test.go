//go:build linux

package main_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/inboard/engine"
	"github.com/inboard/engine/bench/realimage"
)

// someOfStd are packages whose tests need neither a network nor much time.
const someOfStd = "container/... errors maps slices sort unicode/..."

var gotestPackages = flag.String("gotest", someOfStd, `packages of Go's standard library that TestGoTest tests; all, "std", take a quarter of an hour`)

const (
	gotestMemory = 1 << 30
	gotestCPUs   = 1
)

// TestGoTest runs go test in containers of limited memory and processor time,
// one after the other, which share go's cache.
func TestGoTest(t *testing.T) {
	g := newGoImage(t)
	t.Run("limits", g.limits)
	t.Run("out of memory", g.outOfMemory)
}

// limits runs go test over many packages and looks whether the limits have held.
func (g *goImage) limits(t *testing.T) {
	packages := *gotestPackages
	// What the container has used is in its own view of its cgroup, v1 or v2.
	script := `
		cd /usr/local/go/src
		go list ` + packages + ` | wc -l
		go test -short -vet=off ` + packages + ` >/tmp/out 2>&1 && failed=0 || failed=$?
		cd /sys/fs/cgroup
		cat memory/memory.max_usage_in_bytes memory.peak 2>/dev/null || true
		{ cat cpuacct/cpuacct.usage 2>/dev/null || sed -n 's/usage_usec \(.*\)/\1000/p' cpu.stat; }
		grep -v -e '^ok' -e 'no test files' /tmp/out || true
		exit $failed`
	began := time.Now()
	out, status := g.run(t, script)
	took := time.Since(began)
	var count int
	var memory, cpu int64
	if _, err := fmt.Sscan(out, &count, &memory, &cpu); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%d packages in %v, with %v of processor time and %d MiB at most", count, took.Round(time.Second), time.Duration(cpu).Round(time.Second), memory>>20)
	if status.Code != 0 || status.OOMKilled {
		t.Errorf("%v:\n%s", status, out)
	}
	if count < 5 {
		t.Errorf("%d packages", count)
	}
	if memory > gotestMemory || memory < gotestMemory/10 {
		t.Errorf("%d bytes of memory", memory)
	}
	if limit := took * gotestCPUs * 105 / 100; time.Duration(cpu) > limit || time.Duration(cpu) < time.Second {
		t.Errorf("%v of processor time in %v", time.Duration(cpu), took)
	}
}

// outOfMemory has a test that takes more memory than there is: it is killed, go
// test goes on, and the container is reported.
func (g *goImage) outOfMemory(t *testing.T) {
	out, status := g.run(t, `
		mkdir -p /module/greedy /module/modest
		cd /module
		printf "module example.com/module\n\ngo 1.22\n" >go.mod
		cat >greedy/greedy_test.go <<'END'
package greedy

import (
	"bytes"
	"testing"
)

func Test(t *testing.T) {
	var all [][]byte
	for range 2 << 10 {
		all = append(all, bytes.Repeat([]byte{1}, 1<<20))
	}
	t.Log(len(all))
}
END
		sed -e s/greedy/modest/ -e 's/2 << 10/20/' greedy/greedy_test.go >modest/modest_test.go
		go test ./...`)
	if status.Code != 1 || !status.OOMKilled {
		t.Errorf("%v", status)
	}
	for _, want := range []string{"signal: killed\nFAIL\texample.com/module/greedy", "\nok  \texample.com/module/modest"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

// goImage is an image with a Go toolchain, and a directory on the host for what
// go keeps from one container to the next.
type goImage struct {
	engine *engine.Engine
	image  *engine.Image
	cache  string
}

func newGoImage(t *testing.T) *goImage {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: compiles much, on a Debian system made with debootstrap")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if missing := realimage.Missing(); len(missing) > 0 {
		t.Skipf("not installed: %s", strings.Join(missing, ", "))
	}
	cache, err := realimage.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	real, err := realimage.Make(t.Context(), cache, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	e := openEngine(t)
	images, err := e.LoadLayout(t.Context(), real.Layout, engine.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return &goImage{e, images[0], t.TempDir()}
}

// run runs a script in a container of the image, with the limits.
func (g *goImage) run(t *testing.T, script string) (string, engine.Status) {
	t.Helper()
	var out bytes.Buffer
	c, err := g.engine.Create(t.Context(), g.image, engine.Config{
		Args:      []string{"sh", "-ec", script},
		Env:       []string{"HOME=/root", "GOCACHE=/cache", "CGO_ENABLED=0", "GOTOOLCHAIN=local", "GOPROXY=off"},
		Mounts:    []engine.Mount{{Type: engine.MountBind, Source: g.cache, Target: "/cache"}},
		Stdout:    &out,
		Stderr:    &out,
		Resources: engine.Resources{Memory: gotestMemory, MemorySwap: gotestMemory, CPUs: gotestCPUs},
		Network:   engine.NetworkNone,
	})
	if err == nil {
		err = c.Start(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	status, err := c.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), status
}
