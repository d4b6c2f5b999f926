package image

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/inboard/engine/layer"
	"golang.org/x/sys/unix"
)

// smallTmpfs makes a filesystem that no mount table shows: other tests look at
// that at the same time.
func smallTmpfs(t *testing.T, size string) (dir string) {
	t.Helper()
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Skipf("a small filesystem needs a mount: %v", err)
	}
	defer unix.Close(fs)
	if err := errors.Join(unix.FsconfigSetString(fs, "size", size), unix.FsconfigCreate(fs)); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fmt.Sprintf("/proc/self/fd/%d/", fd)
}

// TestDiskFull pulls and loads onto a filesystem of 1 MiB what does not fit, and
// then what does.
func TestDiskFull(t *testing.T) {
	dir := smallTmpfs(t, "1m")
	f := newFakeRegistry(t)
	large := f.push("large", "v1", build(t, hostPlatform, gzipLayer(t, "small", "layer"), gzipLayer(t, "bulk", bulk(1, 3<<20))))
	small := f.push("small", "v1", build(t, hostPlatform, gzipLayer(t, "small", "layer")))
	layers, err := layer.Open(filepath.Join(t.TempDir(), "layers"), layer.Options{Form: layer.FormDirectory})
	if err != nil {
		t.Fatal(err)
	}
	defer layers.Close()
	images, err := Open(t.Context(), filepath.Join(dir, "images"), layers)
	if err != nil {
		t.Fatal(err)
	}
	s := testStore{images, layers}
	if _, err := s.Pull(t.Context(), large, anonymous); !errors.Is(err, unix.ENOSPC) {
		t.Error(err)
	}
	s.mustBeEmpty(t)
	i := imageOf(t, []string{"app:v1"}, gzipLayer(t, "small", "layer"), gzipLayer(t, "bulk", bulk(1, 3<<20)))
	for name, members := range map[string][]packed{
		"while it arrives": skopeoArchive(t, i),
		"in a file":        oldDockerArchive(t, i),
	} {
		if _, err := s.Load(t.Context(), bytes.NewReader(pack(t, members...)), LoadOptions{}); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%s: %v", name, err)
		}
		s.mustBeEmpty(t)
	}
	fits := imageOf(t, []string{"app:v1"}, gzipLayer(t, "small", "layer"))
	fits.sameAs(t, s.mustLoad(t, pack(t, oldDockerArchive(t, fits)...), LoadOptions{})[0].Image)
	s.mustPull(t, small)
}
