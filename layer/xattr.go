package layer

import (
	"cmp"
	"encoding/binary"
	"slices"
	"strings"
)

const (
	xattrACLAccess  = "system.posix_acl_access"
	xattrACLDefault = "system.posix_acl_default"
	xattrCapability = "security.capability"
	xattrOpaque     = "trusted.overlay.opaque"
	xattrOrigin     = "trusted.overlay.origin"

	maxXattrValue = 1<<16 - 1 // EROFS's length field; XATTR_SIZE_MAX is one more
	maxXattrName  = 255       // XATTR_NAME_MAX
	maxXattrNames = 1 << 16   // XATTR_LIST_MAX, a NUL after each name
	maxXattrArea  = 12 + 4*(1<<16-2)
)

// The same attribute can come in several forms; a higher rank wins.
const (
	rankLibarchive uint8 = iota
	rankText
	rankSchily
)

type xattr struct {
	name, value string
	rank        uint8
}

// kernelXattrs sorts the attributes of a member, and returns what an
// extraction by root leaves of them on a file of that kind: what both forms of
// a layer show.
//
//   - trusted.overlay.* and user.overlay.* are dropped, because an image could
//     redirect overlayfs's lookups with them.
//   - Names outside user., trusted., security. and the ACLs are dropped: no
//     filesystem of Linux stores them, and Docker ignores them too.
//   - user.* is dropped where the kernel has none (links and special files, see
//     xattr(7)), ACLs on symlinks, and default ACLs except on directories.
//   - An ACL or file capability that the kernel would refuse is an error.
func kernelXattrs(list []xattr, kind byte) ([]xattr, error) {
	if len(list) == 0 {
		return nil, nil
	}
	slices.SortStableFunc(list, func(a, b xattr) int {
		return cmp.Or(strings.Compare(a.name, b.name), cmp.Compare(a.rank, b.rank))
	})
	var out []xattr
	names, area := 0, 12
	for i, x := range list {
		if i+1 < len(list) && list[i+1].name == x.name || !kept(x.name, kind) {
			continue
		}
		switch x.name {
		case xattrACLAccess, xattrACLDefault:
			if err := checkACL(x.value); err != nil {
				return nil, invalidf("xattr %s: %w", x.name, err)
			}
			if len(x.value) == 4 {
				continue // no entries: the kernel removes such an ACL
			}
		case xattrCapability:
			if !validCapability(x.value) {
				return nil, invalidf("xattr %s: %x is no file capability", x.name, clip(x.value))
			}
		}
		if len(x.name) > maxXattrName || len(x.value) > maxXattrValue || strings.IndexByte(x.name, 0) >= 0 {
			return nil, invalidf("xattr %s with a value of %d bytes", quote(x.name), len(x.value))
		}
		names += len(x.name) + 1
		area += 4 + (len(x.name)+len(x.value)+3)&^3
		if names > maxXattrNames || area > maxXattrArea {
			return nil, invalidf("more xattrs than a file can have")
		}
		out = append(out, x)
	}
	return out, nil
}

// kept says whether a file of that kind can have an xattr of that name.
func kept(name string, kind byte) bool {
	switch {
	case strings.HasPrefix(name, "trusted.overlay."), strings.HasPrefix(name, "user.overlay."):
		return false
	case strings.HasPrefix(name, "user."):
		return len(name) > len("user.") && (kind == kindFile || kind == kindDir)
	case strings.HasPrefix(name, "trusted."):
		return len(name) > len("trusted.")
	case strings.HasPrefix(name, "security."):
		return len(name) > len("security.")
	case name == xattrACLAccess:
		return kind != kindSymlink
	case name == xattrACLDefault:
		return kind == kindDir
	}
	return false
}

// validCapability is the kernel's validheader (security/commoncap.c): version
// 2, or version 3 with the user that is root where the capability counts.
func validCapability(v string) bool {
	if len(v) < 4 {
		return false
	}
	version := binary.LittleEndian.Uint32([]byte(v)) &^ 1
	return version == 0x02000000 && len(v) == 20 || version == 0x03000000 && len(v) == 24
}

func clip(s string) string { return s[:min(len(s), 64)] }
