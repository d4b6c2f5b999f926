//go:build linux

package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestMain lets start-heap start this test binary as its host process.
func TestMain(m *testing.M) {
	if slices.Contains(os.Args, "-serve-start") {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestShort runs everything once with the smallest inputs and no peers.
func TestShort(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for program, in := range map[string]string{"busybox": "busybox-static", "tar": "tar"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("not installed: %s (Debian: %s)", program, in)
		}
	}
	dir := t.TempDir()
	var stdout, stderr strings.Builder
	if err := run(t.Context(), []string{"-short", "-json", "-peers", "", "-dir", dir}, &stdout, &stderr); err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	var names []string
	for line := range strings.Lines(stdout.String()) {
		var r Result
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Errorf("%q: %v", line, err)
		}
		// The page cache is the whole machine's.
		if r.Name != "mounts" && r.Name != "pagecache" && r.Ours <= 0 {
			t.Errorf("measured nothing: %s", line)
		}
		names = append(names, r.Name)
	}
	want := strings.Fields("start start-idle start-heap userns exec parallel mounts unpack unpack-dir logging layers100 running2000 pagecache memory threads copyout weight weight-modules")
	if !slices.Equal(names, want) {
		t.Errorf("results %q, want %q", names, want)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestArguments(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for _, args := range []string{"nothing-like-it", "-peers lxc start", "-unknown"} {
		var stdout, stderr strings.Builder
		err := run(t.Context(), append([]string{"-dir", t.TempDir()}, strings.Fields(args)...), &stdout, &stderr)
		if err == nil || stdout.Len() > 0 {
			t.Errorf("%s: got %v, %q", args, err, stdout.String())
		}
	}
}

// TestSynthetic shows that the small image is the same each time, so that two
// runs can be compared.
func TestSynthetic(t *testing.T) {
	var digests []string
	for _, name := range []string{"a", "b"} {
		dir := t.TempDir()
		layout := filepath.Join(dir, name)
		if err := makeSynthetic(layout); err != nil {
			t.Fatal(err)
		}
		image, err := readUnpackImage(layout, dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := digestsOf(t, image); err != nil {
			t.Error(err)
		}
		digests = append(digests, image.manifest.String())
	}
	if digests[0] != digests[1] {
		t.Errorf("two images differ: %q", digests)
	}
}

func digestsOf(t *testing.T, image *unpackImage) error {
	if len(image.layers) != 2 || len(image.blobs) != 4 {
		t.Errorf("%d layers, %d blobs", len(image.layers), len(image.blobs))
	}
	return digests(t.Context(), image.layers)
}
