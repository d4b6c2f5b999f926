package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/inboard/engine/runtime"
)

// apply changes the default spec to what a container may do.
func (s *Security) apply(spec *specs.Spec, capabilities []string) (err error) {
	spec.Root.Readonly = s.ReadOnlyRoot
	spec.Linux.Sysctl = maps.Clone(s.Sysctls)
	switch {
	case s.Seccomp != nil:
		spec.Linux.Seccomp = s.Seccomp
	case s.Privileged || s.SeccompUnconfined:
		spec.Linux.Seccomp = nil
	default:
		if spec.Linux.Seccomp, err = runtime.DefaultSeccomp(capabilities); err != nil {
			return err
		}
	}
	if s.Privileged {
		return unconfine(spec)
	}
	for _, d := range s.Devices {
		devices, err := d.find()
		if err != nil {
			return err
		}
		for _, device := range devices {
			spec.Linux.Devices = append(spec.Linux.Devices, device)
			spec.Linux.Resources.Devices = append(spec.Linux.Resources.Devices, specs.LinuxDeviceCgroup{
				Allow: true, Type: device.Type, Major: &device.Major, Minor: &device.Minor, Access: first(d.Access, "rwm"),
			})
		}
	}
	for _, text := range s.DeviceRules {
		rule, err := parseDeviceRule(text)
		if err != nil {
			return err
		}
		spec.Linux.Resources.Devices = append(spec.Linux.Resources.Devices, rule)
	}
	return nil
}

// unconfine is Privileged.
func unconfine(spec *specs.Spec) error {
	spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths = nil, nil
	spec.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	for i := range spec.Mounts {
		m := &spec.Mounts[i]
		if m.Type == "sysfs" || m.Type == "cgroup" {
			m.Options = slices.DeleteFunc(m.Options, func(o string) bool { return o == "ro" })
		}
	}
	devices, err := (&Device{Path: "/dev"}).find()
	spec.Linux.Devices = devices
	return err
}

// find gives the device at a path of the host, or those in a directory.
func (d *Device) find() (list []specs.LinuxDevice, err error) {
	target := path.Clean(first(d.Target, d.Path))
	err = filepath.WalkDir(d.Path, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			if file != d.Path && errors.Is(err, fs.ErrNotExist) { // gone meanwhile
				return nil
			}
			return err
		}
		if entry.IsDir() {
			if file != d.Path && slices.Contains(ownDevices, file) {
				return fs.SkipDir
			}
			return nil
		}
		var st unix.Stat_t
		stat := unix.Lstat
		if file == d.Path {
			stat = unix.Stat // the caller's own link
		}
		if err := stat(file, &st); err != nil {
			return &os.PathError{Op: "stat", Path: file, Err: err}
		}
		kind := map[uint32]string{unix.S_IFCHR: "c", unix.S_IFBLK: "b"}[st.Mode&unix.S_IFMT]
		if kind == "" || slices.Contains(ownDevices, file) {
			if file == d.Path {
				return fmt.Errorf("%s: not a device: %w", file, ErrInvalidArgument)
			}
			return nil
		}
		mode := fs.FileMode(st.Mode & 0o7777)
		list = append(list, specs.LinuxDevice{
			Path: path.Clean(target + strings.TrimPrefix(file, d.Path)), Type: kind,
			Major: int64(unix.Major(uint64(st.Rdev))), Minor: int64(unix.Minor(uint64(st.Rdev))),
			FileMode: &mode, UID: &st.Uid, GID: &st.Gid,
		})
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w", err, ErrInvalidArgument)
	}
	if err != nil {
		return nil, fmt.Errorf("device: %w", err)
	}
	return list, nil
}

// ownDevices are what a container has of its own in /dev.
var ownDevices = []string{"/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd", "/dev/console", "/dev/ptmx", "/dev/tty"}
