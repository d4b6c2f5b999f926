package layer

import (
	"encoding/binary"
	"errors"
	"strconv"
	"strings"
)

// Tags of ACL entries, in the order that the kernel wants them
// (include/uapi/linux/posix_acl.h and posix_acl_xattr.h). An ACL as xattr is
// a version, 2, and entries of tag, permissions and id, little endian.
const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
)

type aclEntry struct {
	tag, perm uint16
	id        uint32
}

var errACL = errors.New("no valid ACL")

func decodeACL(v string) ([]aclEntry, error) {
	b := []byte(v)
	if len(b) < 4 || (len(b)-4)%8 != 0 || binary.LittleEndian.Uint32(b) != 2 {
		return nil, errACL
	}
	entries := make([]aclEntry, 0, len(b)/8)
	for b = b[4:]; len(b) > 0; b = b[8:] {
		entries = append(entries, aclEntry{
			tag:  binary.LittleEndian.Uint16(b),
			perm: binary.LittleEndian.Uint16(b[2:]),
			id:   binary.LittleEndian.Uint32(b[4:]),
		})
	}
	return entries, nil
}

func encodeACL(entries []aclEntry) string {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return string(b)
}

// checkACL is the kernel's posix_acl_valid: owner, users, owning group,
// groups, a mask if there are users or groups, others.
func checkACL(v string) error {
	entries, err := decodeACL(v)
	if err != nil || len(entries) == 0 {
		return err
	}
	next, needsMask := uint16(aclUserObj), false
	for _, e := range entries {
		ok := e.perm <= 7
		switch e.tag {
		case aclUserObj:
			ok = ok && next == aclUserObj
			next = aclUser
		case aclUser, aclGroup:
			ok = ok && next == e.tag && e.id <= maxID
			needsMask = true
		case aclGroupObj:
			ok = ok && next == aclUser
			next = aclGroup
		case aclMask:
			ok = ok && next == aclGroup
			next = aclOther
		case aclOther:
			ok = ok && (next == aclOther || next == aclGroup && !needsMask)
			next = 0
		default:
			ok = false
		}
		if !ok {
			return errACL
		}
	}
	if next != 0 {
		return errACL
	}
	return nil
}

// aclMode returns the mode that a file gets from its access ACL, and whether
// the mode says all that the ACL says (the kernel then keeps only the mode:
// posix_acl_update_mode).
func aclMode(v string, mode uint32) (uint32, bool) {
	entries, err := decodeACL(v)
	if err != nil {
		return mode, false
	}
	var owner, group, other uint32
	minimal := true
	for _, e := range entries {
		switch e.tag {
		case aclUserObj:
			owner = uint32(e.perm)
		case aclGroupObj:
			group = uint32(e.perm)
		case aclOther:
			other = uint32(e.perm)
		default:
			minimal = false
		}
	}
	for _, e := range entries {
		if e.tag == aclMask {
			group = uint32(e.perm)
		}
	}
	return mode&^0o777 | owner<<6 | group<<3 | other, minimal
}

// applyACL takes an ACL as text: "user::rwx,user:1000:r--,...", or with names
// and the number after the permissions, as star and bsdtar write it. A name
// without a number means somebody of the machine that wrote the archive, whom
// nobody here can know; then the ACL is left out whole, as Docker leaves out
// every such text, and the mode stands (its group bits are the ACL's mask).
func (e *entry) applyACL(name, text string) {
	entries, ok := parseACL(text)
	if ok {
		e.xattrs = append(e.xattrs, xattr{name, encodeACL(entries), rankText})
	}
}

func parseACL(text string) ([]aclEntry, bool) {
	classes := map[uint16][]aclEntry{}
	for line := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' || r == '\n' }) {
		line, _, _ = strings.Cut(line, "#")
		line = strings.TrimPrefix(strings.TrimSpace(line), "default:")
		if line == "" {
			continue
		}
		e, ok := parseACLEntry(strings.Split(line, ":"))
		if !ok {
			return nil, false
		}
		classes[e.tag] = append(classes[e.tag], e)
	}
	var out []aclEntry
	for _, tag := range []uint16{aclUserObj, aclUser, aclGroupObj, aclGroup, aclMask, aclOther} {
		out = append(out, classes[tag]...)
	}
	return out, checkACL(encodeACL(out)) == nil && len(out) > 0
}

func parseACLEntry(f []string) (aclEntry, bool) {
	if len(f) == 2 { // "mask:rwx" and "other:rwx" of Solaris and bsdtar
		f = []string{f[0], "", f[1]}
	}
	if len(f) < 3 {
		return aclEntry{}, false
	}
	e := aclEntry{id: 1<<32 - 1}
	tags := map[string][2]uint16{
		"user": {aclUserObj, aclUser}, "group": {aclGroupObj, aclGroup}, "mask": {aclMask}, "other": {aclOther},
		"u": {aclUserObj, aclUser}, "g": {aclGroupObj, aclGroup}, "m": {aclMask}, "o": {aclOther},
	}
	tag, ok := tags[f[0]]
	if !ok {
		return e, false
	}
	if e.tag = tag[0]; f[1] != "" {
		e.tag = tag[1]
		id := f[1]
		if len(f) > 3 {
			id = f[3]
		}
		n, err := strconv.ParseUint(strings.TrimSpace(id), 10, 32)
		if err != nil || e.tag == 0 {
			return e, false
		}
		e.id = uint32(n)
	}
	for _, c := range strings.TrimSpace(f[2]) {
		switch c {
		case 'r':
			e.perm |= 4
		case 'w':
			e.perm |= 2
		case 'x':
			e.perm |= 1
		case '-':
		default:
			return e, false
		}
	}
	return e, true
}
