package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// kernel is a Linux version that the tests can run on, and where Debian has it.
type kernel struct {
	version string   // what -kernel selects
	prefer  string   // the suite whose kernel is taken, where the newest is not wanted
	sources []string // the archive's part of an apt source line: path, suite, component
}

// kernels are those that -kernel can name. Debian's cloud kernels are small,
// have the file systems and network drivers of a server, and are what many
// virtual machines run.
var kernels = []kernel{
	{"6.1", "", []string{
		"debian bookworm main",
		"debian-security bookworm-security main",
	}},
	{"6.12", "bookworm-backports", []string{
		"debian bookworm main",
		"debian bookworm-backports main",
	}},
}

// arch is a processor architecture that qemu emulates.
type arch struct {
	name    string   // as in GOARCH, and as Debian calls it
	qemu    string   // the emulator
	pkg     string   // the Debian package that has it
	machine []string // arguments that choose board and processor
	console string   // the kernel's name of the first serial port
}

// arches are those that -arch can name. Without five-level page tables and
// cheaper pointer authentication the emulation is faster. Without cx16 it is
// right: qemu 7.2 loses the flags over the cmpxchg16b that Linux allocates
// memory with, which ended every second boot of 6.12 in a double fault.
var arches = []arch{
	{"amd64", "qemu-system-x86_64", "qemu-system-x86", []string{"-M", "q35", "-cpu", "max,la57=off,cx16=off"}, "ttyS0"},
	{"arm64", "qemu-system-aarch64", "qemu-system-arm", []string{"-M", "virt", "-cpu", "max,pauth-impdef=on"}, "ttyAMA0"},
}

// pick gives those of all that the comma-separated list names, in that order.
func pick[T any](what, list string, all []T, name func(T) string) ([]T, error) {
	var picked []T
	for want := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(all, func(v T) bool { return name(v) == want })
		if i < 0 {
			var known []string
			for _, v := range all {
				known = append(known, name(v))
			}
			return nil, fmt.Errorf("unknown %s %q; there are %s", what, want, strings.Join(known, ", "))
		}
		picked = append(picked, all[i])
	}
	return picked, nil
}

// system is a kernel for one architecture, unpacked from Debian's packages:
// the kernel, its modules and a static busybox.
type system struct {
	kernel  kernel
	arch    arch
	dir     string
	image   string // path of the file that qemu boots
	release string // as in uname -r
	modules string // path of the directory of modules
	busybox string // path
}

// openSystem finds the parts of what was unpacked into dir.
func openSystem(k kernel, a arch, dir string) (*system, error) {
	s := &system{kernel: k, arch: a, dir: dir}
	for _, part := range []struct {
		path     *string
		patterns []string
	}{
		{&s.image, []string{"boot/vmlinuz-*"}},
		// Releases after bookworm have everything below /usr.
		{&s.modules, []string{"lib/modules/*", "usr/lib/modules/*"}},
		{&s.busybox, []string{"bin/busybox", "usr/bin/busybox"}},
	} {
		var found []string
		for _, pattern := range part.patterns {
			names, err := filepath.Glob(filepath.Join(dir, pattern))
			if err != nil {
				return nil, err
			}
			found = append(found, names...)
		}
		if len(found) != 1 {
			return nil, fmt.Errorf("%s: %d files match %s, want one: %w", dir, len(found), strings.Join(part.patterns, " or "), os.ErrNotExist)
		}
		*part.path = found[0]
	}
	s.release = filepath.Base(s.modules)
	return s, nil
}

// String is how the system is called in the output.
func (s *system) String() string { return s.arch.name + " " + s.release }
