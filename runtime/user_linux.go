package runtime

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxDatabase bounds how much of a passwd or group file is read, and maxLine a
// line of it: they come from the image (CVE-2024-40635 and the like).
const (
	maxDatabase = 16 << 20
	maxLine     = 1 << 20
)

// maxID is the highest uid or gid: 2^32-1 means "no change" to the kernel, and
// runc and Docker end at 2^31-1, as 32-bit user space does.
const maxID = 1<<31 - 1

// lookupCredential finds what a process runs as: what user says, looked up in
// the passwd and group files below root, or else the numbers in the spec.
func lookupCredential(root int, user string, p *specs.Process) (*credential, error) {
	if user == "" {
		c := &credential{uid: p.User.UID, gid: p.User.GID, groups: p.User.AdditionalGids}
		if _, ok := lookupEnv(p.Env, "HOME"); ok {
			return c, nil
		}
		entry, err := findUser(root, func(line []string) bool {
			id, err := parseID(line[2])
			return err == nil && id == int64(c.uid)
		})
		if err != nil {
			return nil, err
		}
		c.home = homeOf(entry)
		return c, nil
	}
	name, group, hasGroup := strings.Cut(user, ":")
	if name == "" {
		name = "0" // as Docker reads ":group"
	}
	c, entry, err := resolveUser(root, name)
	if err != nil {
		return nil, err
	}
	c.home = homeOf(entry)
	if hasGroup {
		gid, err := resolveGroup(root, group)
		if err != nil {
			return nil, err
		}
		c.gid = gid
	} else if entry != nil {
		if c.groups, err = groupsOf(root, entry[0]); err != nil {
			return nil, err
		}
	}
	// The primary group is one of them, as after a login: a set-gid program
	// would else take it away, and with it what the group is kept from
	// (CVE-2022-36109).
	if !slices.Contains(c.groups, c.gid) {
		c.groups = append([]uint32{c.gid}, c.groups...)
	}
	return c, nil
}

// LookupUser finds the user and group of a process that runs as user, as
// ProcessOptions.User has it, in the passwd and group files below a container's
// root directory.
func LookupUser(root *os.File, user string) (uid, gid uint32, err error) {
	if user == "" {
		return 0, 0, nil
	}
	c, err := lookupCredential(int(root.Fd()), user, nil)
	if err != nil {
		return 0, 0, err
	}
	return c.uid, c.gid, nil
}

// resolveUser finds a name or a number. What looks like a number is one, even
// if passwd has it as a name: else an image could give user 1000 the uid 0
// (CVE-2016-3697). The entry is nil for a number that passwd lacks.
func resolveUser(root int, name string) (*credential, []string, error) {
	number, err := parseID(name)
	isNumber := err == nil
	if !isNumber && looksNumeric(name) {
		return nil, nil, fmt.Errorf("user %q: %w", name, err)
	}
	entry, err := findUser(root, func(line []string) bool {
		if !isNumber {
			return line[0] == name
		}
		id, err := parseID(line[2])
		return err == nil && id == number
	})
	if err != nil {
		return nil, nil, err
	}
	if entry == nil {
		if !isNumber {
			return nil, nil, fmt.Errorf("user %q: not in the container's /etc/passwd: %w", name, errdefs.ErrInvalidArgument)
		}
		return &credential{uid: uint32(number)}, nil, nil
	}
	uid, err1 := parseID(entry[2])
	gid, err2 := parseID(entry[3])
	if err := errors.Join(err1, err2); err != nil {
		return nil, nil, fmt.Errorf("user %q: the container's /etc/passwd: %w", name, err)
	}
	return &credential{uid: uint32(uid), gid: uint32(gid)}, entry, nil
}

// findUser returns the fields of the first passwd line that is the one, or nil.
func findUser(root int, is func(line []string) bool) (found []string, err error) {
	err = readDatabase(root, "etc/passwd", func(line []string) bool {
		if len(line) >= 7 && line[0] != "" && is(line) {
			found = line
		}
		return found == nil
	})
	return found, err
}

// homeOf is a passwd entry's home directory, or / as Docker has it.
func homeOf(entry []string) string {
	if entry == nil || entry[5] == "" {
		return "/"
	}
	return entry[5]
}

func resolveGroup(root int, name string) (uint32, error) {
	number, err := parseID(name)
	if err == nil {
		return uint32(number), nil
	}
	if looksNumeric(name) {
		return 0, fmt.Errorf("group %q: %w", name, err)
	}
	found := int64(-1)
	err = readDatabase(root, "etc/group", func(line []string) bool {
		if len(line) < 3 || line[0] != name || name == "" {
			return true
		}
		id, err := parseID(line[2])
		if err == nil {
			found = id
		}
		return err != nil
	})
	switch {
	case err != nil:
		return 0, err
	case found >= 0:
		return uint32(found), nil
	}
	return 0, fmt.Errorf("group %q: not in the container's /etc/group: %w", name, errdefs.ErrInvalidArgument)
}

// groupsOf lists the groups that name a user as a member.
func groupsOf(root int, user string) (groups []uint32, err error) {
	err = readDatabase(root, "etc/group", func(line []string) bool {
		if len(line) < 4 || !slices.Contains(strings.Split(line[3], ","), user) {
			return true
		}
		if id, err := parseID(line[2]); err == nil && !slices.Contains(groups, uint32(id)) {
			groups = append(groups, uint32(id))
		}
		return len(groups) < 65535 // NGROUPS_MAX, and one for the primary group
	})
	return groups, err
}

// parseID reads a uid or gid.
func parseID(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > maxID {
		return 0, fmt.Errorf("id %q is not between 0 and %d: %w", s, maxID, errdefs.ErrInvalidArgument)
	}
	return n, nil
}

// looksNumeric tells a number out of range from a name: such a number is never
// taken for a name.
func looksNumeric(s string) bool {
	s = strings.TrimLeft(s, "+-")
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// readDatabase calls each with the fields of each line of a file below root,
// until it returns false. A file that is not there has no lines. Links are
// followed inside root.
func readDatabase(root int, name string, each func(fields []string) bool) error {
	f, err := openRegular(root, name)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return nil
	}
	if err != nil {
		return fmt.Errorf("the container's /%s: %w", name, err)
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, maxDatabase))
	lines.Buffer(make([]byte, 0, 4096), maxLine)
	for lines.Scan() {
		if line := strings.TrimSpace(lines.Text()); line != "" && line[0] != '#' && !each(strings.Split(line, ":")) {
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("the container's /%s: %w", name, err)
	}
	return nil
}

// openRegular opens a regular file below root for reading. What is there is
// looked at before it is opened: to open the node of a device, which an image
// may have at any path, can already be an action, as with a watchdog.
func openRegular(root int, name string) (*os.File, error) {
	place, err := unix.Openat2(root, name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, err
	}
	defer unix.Close(place)
	var st unix.Stat_t
	if err := unix.Fstat(place, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("not a regular file: %w", errdefs.ErrInvalidArgument)
	}
	if st.Size > maxDatabase {
		return nil, fmt.Errorf("%d bytes, more than %d: %w", st.Size, maxDatabase, errdefs.ErrInvalidArgument)
	}
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(place), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}
