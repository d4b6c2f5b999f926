//go:build linux

package main

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// smallImage is Debian's busybox-static in all forms that engines want.
type smallImage struct {
	// rootfs is a directory with the image's only layer.
	rootfs string
	// true_ is the program that is started, the file in rootfs.
	true_ string
	// archive is what `docker save` would write.
	archive string
	image   v1.Image
}

// smallName is fully qualified, so that each engine takes it as it is.
const smallName = "localhost/bench:latest"

func makeSmallImage(dir string) (*smallImage, error) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return nil, errors.New("needs busybox (Debian: busybox-static)")
	}
	if err := checkStatic(busybox); err != nil {
		return nil, err
	}
	s := &smallImage{rootfs: filepath.Join(dir, "rootfs"), archive: filepath.Join(dir, "image.tar")}
	s.true_ = filepath.Join(s.rootfs, "bin/true")
	// The directories are there for runc, which cannot make them in a layer of
	// its own as we do.
	for _, d := range []string{"bin", "etc", "proc", "sys", "dev", "tmp"} {
		if err := os.MkdirAll(filepath.Join(s.rootfs, d), 0o755); err != nil {
			return nil, err
		}
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(s.rootfs, "bin/busybox"), program, 0o755); err != nil {
		return nil, err
	}
	for _, applet := range []string{"true", "sleep", "sh"} {
		if err := os.Link(filepath.Join(s.rootfs, "bin/busybox"), filepath.Join(s.rootfs, "bin", applet)); err != nil {
			return nil, err
		}
	}
	return s, s.pack(dir)
}

// pack makes an image of the directory.
func (s *smallImage) pack(dir string) error {
	layer := filepath.Join(dir, "layer.tar")
	if out, err := exec.Command("tar", "--numeric-owner", "-cf", layer, "-C", s.rootfs, ".").CombinedOutput(); err != nil {
		return fmt.Errorf("tar: %w: %s", err, out)
	}
	l, err := tarball.LayerFromFile(layer)
	if err != nil {
		return err
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		return err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.Env = []string{"PATH=/bin"}
	config.Config.Cmd = []string{"/bin/sh"}
	if s.image, err = mutate.ConfigFile(img, config); err != nil {
		return err
	}
	tag, err := name.NewTag(smallName)
	if err != nil {
		return err
	}
	return tarball.WriteToFile(s.archive, tag, s.image)
}

// checkStatic refuses a program that needs a loader: the image has none.
func checkStatic(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s is not linked statically (Debian: busybox-static)", path)
		}
	}
	return nil
}
