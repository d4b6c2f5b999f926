package image

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// TestLoadLayoutRace exchanges a blob for a link to the outside, and for a FIFO
// that nobody writes, while layouts are loaded: what is loaded is the layout's
// own, and nothing blocks.
func TestLoadLayoutRace(t *testing.T) {
	i := imageOf(t, nil, gzipLayer(t, "a", "b"))
	dir := unpackTo(t, ociArchive(t, []ocispec.Descriptor{i.desc()}, all(i.built)...))
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	blob := filepath.Join(dir, blobName(i.config))
	link, fifo := filepath.Join(dir, "link"), filepath.Join(dir, "fifo")
	if err := errors.Join(os.Symlink(secret, link), unix.Mkfifo(fifo, 0o600)); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan error)
	go func() {
		for {
			for _, other := range []string{link, fifo, fifo, link} { // and back
				if err := unix.Renameat2(unix.AT_FDCWD, blob, unix.AT_FDCWD, other, unix.RENAME_EXCHANGE); err != nil {
					stopped <- err
					return
				}
			}
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
		}
	}()
	s := newStore(t)
	loaded, refused := 0, 0
	for range 3000 {
		if loaded >= 10 && refused >= 100 {
			break
		}
		_, err := s.LoadLayout(t.Context(), dir, LoadOptions{})
		if err == nil {
			loaded++
			_, err = s.Remove(t.Context(), string(i.config), RemoveOptions{})
			if err != nil {
				t.Fatal(err)
			}
			continue
		}
		refused++
		if strings.Contains(err.Error(), digest.FromString("secret").Encoded()) {
			t.Fatalf("read what lies outside: %v", err)
		}
	}
	close(stop)
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	t.Logf("%d loaded, %d refused", loaded, refused)
	if loaded == 0 || refused == 0 {
		t.Error("the race was not run")
	}
	s.mustBeEmpty(t)
}
