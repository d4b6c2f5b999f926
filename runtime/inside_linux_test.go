package runtime

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Both ways to open an overlay give a mount that can be written, on no table of
// mounts of the host's.
func TestOverlayOpen(t *testing.T) {
	needRoot(t)
	for way, byDescriptor := range map[string]bool{"descriptors": true, "mount(2)": false} {
		t.Run(way, func(t *testing.T) {
			forceOverlay(t, byDescriptor)
			base := t.TempDir()
			layers := overlayLayers(t, base, 3)
			o := &Overlay{Upper: filepath.Join(base, "upper"), Work: filepath.Join(base, "work"), Volatile: true}
			for _, dir := range []string{o.Upper, o.Work} {
				if err := os.Mkdir(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for i := range layers {
				o.Lower = append(o.Lower, Lower{Path: layers[len(layers)-1-i]})
			}
			before, _ := os.ReadFile("/proc/self/mountinfo")
			m, err := o.Open()
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			if err := Quieten(m); err != nil {
				t.Fatal(err)
			}
			if after, _ := os.ReadFile("/proc/self/mountinfo"); string(after) != string(before) {
				t.Errorf("mounts: %s", after)
			}
			fd, err := unix.Openat(int(m.Fd()), "data/all", unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			f := os.NewFile(uintptr(fd), "all")
			defer f.Close()
			got := make([]byte, 16)
			n, _ := f.Read(got)
			if string(got[:n]) != "from 2" {
				t.Errorf("%q", got[:n])
			}
			if _, err := f.WriteString("x"); err != nil {
				t.Error(err)
			}
		})
	}
}
