package image

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/inboard/engine/layer"
	"golang.org/x/sys/unix"
)

// TestDiskFull pulls onto a filesystem of 1 MiB what does not fit, and then what
// does.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("inboard-test", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=1m,mode=700"); err != nil {
		t.Skipf("a small filesystem needs a mount: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	f := newFakeRegistry(t)
	large := f.push("large", "v1", build(t, hostPlatform, gzipLayer(t, "small", "layer"), gzipLayer(t, "bulk", bulk(1, 3<<20))))
	small := f.push("small", "v1", build(t, hostPlatform, gzipLayer(t, "small", "layer")))
	layers, err := layer.Open(filepath.Join(t.TempDir(), "layers"), layer.Options{Form: layer.FormDirectory})
	if err != nil {
		t.Fatal(err)
	}
	defer layers.Close()
	images, err := Open(filepath.Join(dir, "images"), layers)
	if err != nil {
		t.Fatal(err)
	}
	s := testStore{images, layers}
	if _, err := s.Pull(t.Context(), large, anonymous); !errors.Is(err, unix.ENOSPC) {
		t.Error(err)
	}
	s.mustBeEmpty(t)
	s.mustPull(t, small)
}
