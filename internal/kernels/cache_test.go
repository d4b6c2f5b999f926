package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// plant makes the files of an unpacked system, each empty.
func plant(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFindInCache(t *testing.T) {
	c := &cache{dir: t.TempDir()}
	if _, err := c.find(kernels[0], arches[0]); !errdefs.IsNotFound(err) {
		t.Errorf("empty cache: %v", err)
	}
	dir := c.path(kernels[0], arches[0])
	plant(t, dir, "boot/vmlinuz-6.1.0-1-cloud-amd64", "boot/config-6.1", "bin/busybox")
	if _, err := c.find(kernels[0], arches[0]); !errdefs.IsNotFound(err) {
		t.Errorf("no modules: %v", err)
	}
	plant(t, dir, "lib/modules/6.1.0-1-cloud-amd64/modules.builtin")
	s, err := c.find(kernels[0], arches[0])
	if err != nil {
		t.Fatal(err)
	}
	if s.String() != "amd64 6.1.0-1-cloud-amd64" || s.image != filepath.Join(dir, "boot/vmlinuz-6.1.0-1-cloud-amd64") {
		t.Errorf("found %+v", s)
	}
	if _, err := c.find(kernels[0], arches[1]); !errdefs.IsNotFound(err) {
		t.Errorf("another architecture: %v", err)
	}
	plant(t, dir, "boot/vmlinuz-6.1.0-2-cloud-amd64")
	if _, err := c.find(kernels[0], arches[0]); err == nil {
		t.Error("two kernels in one directory are no error")
	}
}

func TestOpenMergedUsr(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir, "boot/vmlinuz-7", "usr/bin/busybox", "usr/lib/modules/7/modules.builtin")
	if s, err := openSystem(kernels[0], arches[0], dir); err != nil || s.release != "7" {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestDependency(t *testing.T) {
	const text = "linux-image-cloud-amd64\n  Depends: linux-image-6.12.95+deb12-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n"
	for prefix, want := range map[string]string{
		"linux-image-6.1.":  "linux-image-6.1.0-56-cloud-amd64",
		"linux-image-6.12.": "linux-image-6.12.95+deb12-cloud-amd64",
		"linux-image-6.2.":  "",
	} {
		if got, err := dependency(text, prefix); got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", prefix, got, err)
		}
	}
}

func TestAptSources(t *testing.T) {
	for _, k := range kernels {
		text := aptSources("http://mirror.example", k)
		for line := range strings.Lines(text) {
			if !strings.HasPrefix(line, "deb [signed-by=/") || !strings.Contains(line, "] http://mirror.example/debian") {
				t.Errorf("%s: %s", k.version, line)
			}
		}
		if k.prefer != "" && !strings.Contains(text, " "+k.prefer+" ") {
			t.Errorf("%s prefers %s, which is not among its sources", k.version, k.prefer)
		}
	}
}
