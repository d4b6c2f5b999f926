package archive

import (
	"encoding/binary"
	"fmt"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// An IDMap is the mappings of a container's user namespace. A stream has the
// ids that files have in there; the tree, seen from the host, has the host's.
// Whatever the kernel translates for a process in the namespace is translated
// here: owners, the users and groups of ACLs, and the root that a capability
// counts for. nil translates nothing.
//
// What has an id on the host that the container has none for is read as the
// kernel shows it to the container: owned by nobody, and in an ACL as -1. An id
// in a stream that the namespace does not have is refused with
// errdefs.ErrInvalidArgument, because both others do that: for the kernel,
// chown(2) and setxattr(2) fail with EINVAL; docker cp into a container of a
// daemon with userns-remap ends with "Container ID 70000 cannot be mapped to a
// host ID" (dockerd 20.10; what it copies out has the host's ids).
type IDMap struct {
	UIDs, GIDs []specs.LinuxIDMapping
}

const (
	// overflowID is what the kernel shows for an id that is not mapped, unless
	// somebody has changed fs.overflowuid or fs.overflowgid.
	overflowID = 65534
	// noID is no id: to chown it means "no change".
	noID = 1<<32 - 1
)

// inside tells which id of the container's one of the host's is.
func inside(list []specs.LinuxIDMapping, host uint32) (id uint32, ok bool) {
	for _, m := range list {
		if host >= m.HostID && host-m.HostID < m.Size {
			return m.ContainerID + (host - m.HostID), true
		}
	}
	return noID, false
}

// outside tells which id of the host's one of the container's is.
func outside(list []specs.LinuxIDMapping, id uint32) (host uint32, ok bool) {
	for _, m := range list {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return m.HostID + (id - m.ContainerID), true
		}
	}
	return noID, false
}

// owner is the container's for one on the host.
func (m *IDMap) owner(o Owner) Owner {
	if m == nil {
		return o
	}
	uid, ok := inside(m.UIDs, o.UID)
	if !ok {
		uid = overflowID
	}
	gid, ok := inside(m.GIDs, o.GID)
	if !ok {
		gid = overflowID
	}
	return Owner{uid, gid}
}

// host is the host's owner for one in a stream.
func (m *IDMap) host(o Owner) (Owner, error) {
	if m == nil {
		return o, nil
	}
	uid, ok := outside(m.UIDs, o.UID)
	if !ok {
		return o, notMapped("uid", o.UID)
	}
	gid, ok := outside(m.GIDs, o.GID)
	if !ok {
		return o, notMapped("gid", o.GID)
	}
	return Owner{uid, gid}, nil
}

func notMapped(what string, id uint32) error {
	return fmt.Errorf("%s %d is not one of the container's user namespace: %w", what, id, errdefs.ErrInvalidArgument)
}

// root is the host's owner for the container's root.
func (m *IDMap) root() (Owner, error) { return m.host(Owner{0, 0}) }

const (
	xattrCapability = "security.capability"
	xattrACL        = "system.posix_acl_access"
	xattrDefaultACL = "system.posix_acl_default"
)

// read translates an extended attribute of a file on the host. It changes value.
// ok is false if a process in the container could not read it.
func (m *IDMap) read(name string, value []byte) (_ []byte, ok bool) {
	if m == nil {
		return value, true
	}
	switch name {
	case xattrCapability:
		return m.readCapability(value)
	case xattrACL, xattrDefaultACL:
		for _, e := range aclEntries(value) {
			id, _ := inside(m.list(e), e.id()) // posix_acl_to_xattr, fs/posix_acl.c
			e.setID(id)
		}
	}
	return value, true
}

// write translates an extended attribute of a stream. It changes value.
func (m *IDMap) write(name string, value []byte) ([]byte, error) {
	if m == nil {
		return value, nil
	}
	switch name {
	case xattrCapability:
		return m.writeCapability(value)
	case xattrACL, xattrDefaultACL:
		for _, e := range aclEntries(value) {
			id, ok := outside(m.list(e), e.id())
			if !ok {
				return nil, notMapped(map[uint16]string{aclUser: "uid", aclGroup: "gid"}[e.tag()], e.id())
			}
			e.setID(id)
		}
	}
	return value, nil
}

// What vfs_cap_data and vfs_ns_cap_data of linux/capability.h have: a word of
// revision and flags, two pairs of sets, and in revision 3 the uid of the root
// of the user namespace that they count in.
const (
	capRevision  = 0xff000000
	capRevision2 = 0x02000000
	capRevision3 = 0x03000000
	capSize2     = 20
	capSize3     = 24
)

func capRevisionOf(value []byte) uint32 {
	if len(value) != capSize2 && len(value) != capSize3 {
		return 0
	}
	revision := binary.LittleEndian.Uint32(value) & capRevision
	if (revision == capRevision3) != (len(value) == capSize3) {
		return 0
	}
	return revision
}

// asRevision gives capabilities with room for a root, or none.
func asRevision(value []byte, revision uint32) []byte {
	flags := binary.LittleEndian.Uint32(value) &^ capRevision
	size := capSize2
	if revision == capRevision3 {
		size = capSize3
	}
	value = append(value[:capSize2:capSize2], make([]byte, size-capSize2)...)
	binary.LittleEndian.PutUint32(value, flags|revision)
	return value
}

// readCapability is cap_inode_getsecurity of security/commoncap.c: of a
// namespace's own root they have no root in it. The host's own are shown to all
// below it.
func (m *IDMap) readCapability(value []byte) (_ []byte, ok bool) {
	if capRevisionOf(value) != capRevision3 {
		return value, true
	}
	root, ok := inside(m.UIDs, binary.LittleEndian.Uint32(value[capSize2:]))
	switch {
	case !ok:
		return nil, false // EOVERFLOW
	case root == 0:
		return asRevision(value, capRevision2), true
	}
	binary.LittleEndian.PutUint32(value[capSize2:], root)
	return value, true
}

// writeCapability is cap_convert_nscap: capabilities count in the container
// alone, whichever revision they are of. What is neither is the kernel's to
// refuse.
func (m *IDMap) writeCapability(value []byte) ([]byte, error) {
	root := uint32(0)
	switch capRevisionOf(value) {
	case capRevision2:
		value = asRevision(value, capRevision3)
	case capRevision3:
		root = binary.LittleEndian.Uint32(value[capSize2:])
	default:
		return value, nil
	}
	host, ok := outside(m.UIDs, root)
	if !ok {
		return nil, notMapped("uid", root)
	}
	binary.LittleEndian.PutUint32(value[capSize2:], host)
	return value, nil
}

// An ACL is a version and entries of tag, permissions and id, see
// linux/posix_acl_xattr.h. Only entries of two tags have an id.
const (
	aclVersion   = 2
	aclEntrySize = 8
	aclUser      = 0x02
	aclGroup     = 0x08
)

type aclEntry []byte

func (e aclEntry) tag() uint16     { return binary.LittleEndian.Uint16(e) }
func (e aclEntry) id() uint32      { return binary.LittleEndian.Uint32(e[4:]) }
func (e aclEntry) setID(id uint32) { binary.LittleEndian.PutUint32(e[4:], id) }

func (m *IDMap) list(e aclEntry) []specs.LinuxIDMapping {
	if e.tag() == aclUser {
		return m.UIDs
	}
	return m.GIDs
}

// aclEntries are those with ids, to be changed in place. What is no ACL has none.
func aclEntries(value []byte) (entries []aclEntry) {
	if len(value) < 4 || binary.LittleEndian.Uint32(value) != aclVersion {
		return nil
	}
	for value = value[4:]; len(value) >= aclEntrySize; value = value[aclEntrySize:] {
		if e := aclEntry(value[:aclEntrySize]); e.tag() == aclUser || e.tag() == aclGroup {
			entries = append(entries, e)
		}
	}
	return entries
}
