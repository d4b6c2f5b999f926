package enginetest_test

import (
	"bytes"
	"os"
	"testing"

	"github.com/inboard/engine"
	"github.com/inboard/engine/enginetest"
)

// greeting is a test, which in a test file of one's own is TestGreeting: it pulls
// an image from a registry in this process, runs a shell in it, and is checked for
// what it leaves behind.
func greeting(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to start containers")
	}
	root := t.TempDir()
	enginetest.Leaks(t, root) // before all else, so that it looks last
	registry := enginetest.NewRegistry(t)
	image := enginetest.Shell(t, enginetest.NewLayer(
		enginetest.File("srv/names", "world\nmoon\n"),
	))
	ref := registry.Push(t, "greeting:v1", image)

	e, err := engine.Open(engine.WithRoot(root))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil { // ends and removes the containers
			t.Error(err)
		}
	})
	img, err := e.Pull(t.Context(), ref, engine.PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	c, err := e.Create(t.Context(), img, engine.Config{
		Args:    []string{"sh", "-c", "sort /srv/names | while read name; do echo hello, $name; done; exit 3"},
		Stdout:  &out,
		Stderr:  &out,
		Network: engine.NetworkNone,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	status, err := c.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if status.Code != 3 || out.String() != "hello, moon\nhello, world\n" {
		t.Errorf("%v: %q", status, out.String())
	}
}

// A test of a program that runs in a container.
func Example() {
	var t *testing.T // what a test gets
	greeting(t)
}
