package runtime

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// What the kernel takes as an id map: so many lines, in less than a page
// (user_namespaces(7), Linux 4.15).
const (
	maxExtents = 340
	maxMapText = pageSize - 1
)

// An idMap is what a user namespace makes of ids.
type idMap struct {
	uids, gids []specs.LinuxIDMapping
}

// check refuses maps that the kernel would, that leave the container without a
// root, or that make anyone in it the host's.
func (m *idMap) check() error {
	for what, list := range map[string][]specs.LinuxIDMapping{"uid": m.uids, "gid": m.gids} {
		if err := checkMappings(list); err != nil {
			return fmt.Errorf("%s mappings: %w", what, err)
		}
		if _, ok := mapID(list, 0); !ok {
			return fmt.Errorf("%s mappings: 0, the container's root, is not mapped: %w", what, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// checkMappings checks one list. A host id 0 is refused: it is what a mapping
// has that nobody has thought of.
func checkMappings(list []specs.LinuxIDMapping) error {
	no := func(format string, args ...any) error {
		return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
	}
	if len(list) == 0 || len(list) > maxExtents {
		return no("%d of them, not 1 to %d", len(list), maxExtents)
	}
	if n := len(mapText(list)); n > maxMapText {
		return no("%d bytes, more than %d", n, maxMapText)
	}
	for i, a := range list {
		switch {
		case a.Size == 0 || uint64(a.ContainerID)+uint64(a.Size) > math.MaxUint32 || uint64(a.HostID)+uint64(a.Size) > math.MaxUint32:
			return no("%d ids from %d at %d", a.Size, a.ContainerID, a.HostID)
		case a.HostID == 0:
			return no("the host's id 0 at %d", a.ContainerID)
		}
		for _, b := range list[:i] {
			if overlap(a.ContainerID, b.ContainerID, a.Size, b.Size) || overlap(a.HostID, b.HostID, a.Size, b.Size) {
				return no("%d ids from %d at %d, and %d from %d at %d: they overlap", b.Size, b.ContainerID, b.HostID, a.Size, a.ContainerID, a.HostID)
			}
		}
	}
	return nil
}

func overlap(a, b, sizeA, sizeB uint32) bool {
	return uint64(a) < uint64(b)+uint64(sizeB) && uint64(b) < uint64(a)+uint64(sizeA)
}

// mapID tells which of the host's ids a container's is.
func mapID(list []specs.LinuxIDMapping, id uint32) (host uint32, ok bool) {
	for _, m := range list {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return m.HostID + (id - m.ContainerID), true
		}
	}
	return 0, false
}

// host translates an owner.
func (m *idMap) host(uid, gid uint32) (hostUID, hostGID uint32, err error) {
	hostUID, ok := mapID(m.uids, uid)
	if !ok {
		return 0, 0, fmt.Errorf("uid %d is not one of the container's user namespace: %w", uid, errdefs.ErrInvalidArgument)
	}
	if hostGID, ok = mapID(m.gids, gid); !ok {
		return 0, 0, fmt.Errorf("gid %d is not one of the container's user namespace: %w", gid, errdefs.ErrInvalidArgument)
	}
	return hostUID, hostGID, nil
}

// root are the host's ids of the container's root.
func (m *idMap) root() (uid, gid uint32) {
	uid, _ = mapID(m.uids, 0)
	gid, _ = mapID(m.gids, 0)
	return uid, gid
}

// parseMap reads what mapText writes, with blanks between as the kernel has them.
func parseMap(text string) (list []specs.LinuxIDMapping, err error) {
	for line := range strings.Lines(text) {
		var l specs.LinuxIDMapping
		if _, err := fmt.Sscan(line, &l.ContainerID, &l.HostID, &l.Size); err != nil {
			return nil, fmt.Errorf("id map %q: %w", line, err)
		}
		list = append(list, l)
	}
	return list, nil
}

func mapText(list []specs.LinuxIDMapping) (text []byte) {
	for _, l := range list {
		text = fmt.Appendf(text, "%d %d %d\n", l.ContainerID, l.HostID, l.Size)
	}
	return text
}

// write gives a process's new user namespace its maps.
func (m *idMap) write(proc string) error {
	for name, list := range map[string][]specs.LinuxIDMapping{"/uid_map": m.uids, "/gid_map": m.gids} {
		f, err := os.OpenFile(proc+name, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.Write(mapText(list)) // the kernel takes one write, of all
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// checkCredential refuses users and groups that are not in the container's user
// namespace, as the kernel would with EINVAL.
func (m *idMap) checkCredential(c *credential) error {
	if m == nil {
		return nil
	}
	for _, gid := range append([]uint32{c.gid}, c.groups...) {
		if _, _, err := m.host(c.uid, gid); err != nil {
			return err
		}
	}
	return nil
}

// options translates the owners among a filesystem's options.
func (m *idMap) options(data []string) ([]string, error) {
	data = slices.Clone(data)
	for i := 0; i < len(data); i += 2 {
		list := map[string][]specs.LinuxIDMapping{"uid": m.uids, "gid": m.gids}[data[i]]
		if list == nil {
			continue
		}
		id, err := parseID(data[i+1])
		if err != nil {
			return nil, fmt.Errorf("option %s: %w", data[i], err)
		}
		host, ok := mapID(list, uint32(id))
		if !ok {
			return nil, fmt.Errorf("option %s=%d: not one of the container's user namespace: %w", data[i], id, errdefs.ErrInvalidArgument)
		}
		data[i+1] = strconv.FormatUint(uint64(host), 10)
	}
	return data, nil
}

// own gives what is in a directory of a new filesystem, and the directory, to
// the ids that its owners are on the host.
func (m *idMap) own(mount *os.File) error {
	fd, err := unix.Openat(int(mount.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("openat", err)
	}
	dir := os.NewFile(uintptr(fd), mount.Name())
	defer dir.Close()
	if err := m.ownFile(dir, "."); err != nil {
		return err
	}
	entries, err := dir.ReadDir(-1)
	if err != nil && err != io.EOF {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			fd, err := unix.Openat(int(dir.Fd()), e.Name(), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err != nil {
				return os.NewSyscallError("openat", err)
			}
			below := os.NewFile(uintptr(fd), e.Name())
			err = m.own(below)
			below.Close()
			if err != nil {
				return err
			}
		} else if err := m.ownFile(dir, e.Name()); err != nil {
			return err
		}
	}
	return nil
}

func (m *idMap) ownFile(dir *os.File, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("stat %s: %w", name, err)
	}
	uid, gid, err := m.host(st.Uid, st.Gid)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := unix.Fchownat(int(dir.Fd()), name, int(uid), int(gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("chown %s: %w", name, err)
	}
	return nil
}
