package engine

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/inboard/engine/runtime"
)

// MountType says what a Mount brings.
type MountType string

const (
	// MountBind is a directory or file of the host.
	MountBind MountType = "bind"
	// MountTmpfs is a new, empty filesystem in memory, gone with the run.
	MountTmpfs MountType = "tmpfs"
)

// Mount is what a container gets at a path beside its image's files. Mounts are
// made at each start, those of outer paths before those in them.
//
// A link in the image on the way to Target leads where it does inside the
// container. What is missing there is made: in the writable layer, or in
// another Mount's source if Target is inside of that. A Mount at /proc or in it
// is refused, but for files such as /proc/meminfo, as is one at "/". One at or
// above /etc/hosts, /etc/hostname or /etc/resolv.conf replaces these.
type Mount struct {
	Type MountType `json:"type"`
	// Source is an absolute path on the host, which must be there at each
	// start. Links in it are followed. For MountBind only.
	Source string `json:"source,omitempty"`
	// Target is an absolute path in the container.
	Target string `json:"target"`
	// ReadOnly also holds for what is mounted below Source on the host.
	ReadOnly bool `json:"read_only,omitempty"`
	// NonRecursive leaves out what is mounted below Source on the host.
	NonRecursive bool `json:"non_recursive,omitempty"`
	// Propagation says which mounts made below Source later show up on the
	// other side: "private", "slave" (the host's in the container) or "shared"
	// (both ways), with an "r" before also for mounts below it. Empty:
	// "rprivate", none.
	Propagation string `json:"propagation,omitempty"`
	// Size bounds a MountTmpfs, in bytes. Zero: half of the machine's memory.
	Size int64 `json:"size,omitempty"`
	// Mode is the permission of a MountTmpfs's root, with set-id and sticky
	// bits as chmod(2) has them. Zero: 01777.
	Mode uint32 `json:"mode,omitempty"`
	// Options are further ones of mount(8): "noexec", "nosuid", "nodev",
	// "noatime" and their opposites, and for MountTmpfs those of tmpfs(5). A
	// MountTmpfs has the first three unless they are reversed here. In a container
	// with a user namespace, "idmap" has the files of a MountBind, and "ridmap"
	// also those mounted below, belong to whom they belong to on the host.
	Options []string `json:"options,omitempty"`
}

// check finds what is wrong with a mount by itself.
func (m *Mount) check() error {
	no := func(format string, args ...any) error {
		return fmt.Errorf("mount on %q: %s: %w", m.Target, fmt.Sprintf(format, args...), ErrInvalidArgument)
	}
	switch {
	case !path.IsAbs(m.Target) || path.Clean(m.Target) == "/":
		return no("target is not an absolute path below /")
	case m.Type != MountBind && m.Type != MountTmpfs:
		return no("type %q is neither %q nor %q", m.Type, MountBind, MountTmpfs)
	case m.Type == MountBind && !path.IsAbs(m.Source):
		return no("source %q is not an absolute path", m.Source)
	case m.Type == MountBind && (m.Size != 0 || m.Mode != 0):
		return no("size and mode are those of a tmpfs")
	case m.Type == MountTmpfs && (m.Source != "" || m.NonRecursive || m.Propagation != ""):
		return no("a tmpfs has no source")
	case m.Size < 0 || m.Mode > 0o7777:
		return no("size %d or mode %#o is out of range", m.Size, m.Mode)
	}
	switch strings.TrimPrefix(m.Propagation, "r") {
	case "", "private", "slave", "shared":
	default:
		return no("propagation %q", m.Propagation)
	}
	for _, s := range append(m.Options, m.Source, m.Target) {
		if err := checkText("mount", s); err != nil {
			return err
		}
	}
	return nil
}

func checkMounts(mounts []Mount) error {
	targets := make(map[string]bool)
	for i := range mounts {
		m := &mounts[i]
		if err := m.check(); err != nil {
			return err
		}
		target := path.Clean(m.Target)
		if targets[target] {
			return fmt.Errorf("two mounts on %s: %w", target, ErrInvalidArgument)
		}
		targets[target] = true
	}
	return nil
}

// spec is the mount as the runtime wants it.
func (m *Mount) spec() specs.Mount {
	s := specs.Mount{Destination: path.Clean(m.Target), Type: string(m.Type), Source: m.Source}
	if m.Type == MountTmpfs {
		s.Source = "tmpfs"
		s.Options = []string{"nosuid", "nodev", "noexec"}
		if m.Size > 0 {
			s.Options = append(s.Options, "size="+strconv.FormatInt(m.Size, 10))
		}
		if m.Mode != 0 {
			s.Options = append(s.Options, "mode="+strconv.FormatUint(uint64(m.Mode), 8))
		}
	} else {
		s.Options = []string{"rbind", cmp.Or(m.Propagation, "rprivate")}
		if m.NonRecursive {
			s.Options[0] = "bind"
		}
	}
	s.Options = append(s.Options, m.Options...)
	switch {
	case m.ReadOnly && m.Type == MountBind:
		s.Options = append(s.Options, "rro") // mount_setattr(2), Linux 5.12
	case m.ReadOnly:
		s.Options = append(s.Options, "ro")
	}
	return s
}

// addMounts puts a container's own mounts in place of defaults at the same
// paths and behind the others, outer ones first as Docker sorts them.
func addMounts(defaults []specs.Mount, mounts []Mount) []specs.Mount {
	var own []specs.Mount
	for i := range mounts {
		own = append(own, mounts[i].spec())
	}
	slices.SortStableFunc(own, func(a, b specs.Mount) int {
		return strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/")
	})
	kept := slices.DeleteFunc(defaults, func(d specs.Mount) bool {
		return slices.ContainsFunc(own, func(m specs.Mount) bool { return m.Destination == d.Destination && d.Destination != "/proc" })
	})
	return append(kept, own...)
}

// notCovered leaves out files that a mount brings, or may bring, itself.
func notCovered(files []runtime.File, mounts []Mount) []runtime.File {
	return slices.DeleteFunc(files, func(f runtime.File) bool {
		return slices.ContainsFunc(mounts, func(m Mount) bool {
			return strings.HasPrefix(f.Path+"/", path.Clean(m.Target)+"/")
		})
	})
}
