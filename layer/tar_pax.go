package layer

import (
	"bytes"
	"encoding/base64"
	"net/url"
	"strconv"
	"strings"
)

// A paxRecord is one "key=value" of a PAX header. A value may hold any byte.
type paxRecord struct{ key, value string }

type paxRecords []paxRecord

func (rs paxRecords) has(key string) bool {
	for _, r := range rs {
		if r.key == key {
			return true
		}
	}
	return false
}

// parseRecords reads the body of a PAX header: records of the form
// "length key=value\n", where length counts the whole record.
func parseRecords(b []byte) (paxRecords, error) {
	var rs paxRecords
	for len(b) > 0 {
		sp := bytes.IndexByte(b[:min(len(b), 20)], ' ')
		if sp < 1 {
			if len(bytes.TrimLeft(b, "\x00")) == 0 {
				break // some writers count the padding
			}
			return nil, invalidf("PAX record without a length")
		}
		n, err := strconv.ParseUint(string(b[:sp]), 10, 31)
		if err != nil || int(n) <= sp+1 || int(n) > len(b) || b[n-1] != '\n' {
			return nil, invalidf("PAX record of length %q", b[:sp])
		}
		key, value, ok := strings.Cut(string(b[sp+1:n-1]), "=")
		if !ok || key == "" {
			return nil, invalidf("PAX record %s without a key", quote(string(b[sp+1:n-1])))
		}
		rs = append(rs, paxRecord{key, value})
		b = b[n:]
	}
	return rs, nil
}

// parseGlobal reads a global PAX header, of which owner and time apply to the
// members after it. What would change the names or the framing of all of them
// is refused: readers disagree about it, and no writer puts it there.
func parseGlobal(b []byte) (paxRecords, error) {
	all, err := parseRecords(b)
	if err != nil {
		return nil, err
	}
	last := map[string]string{}
	for _, r := range all {
		switch {
		case r.key == "uid" || r.key == "gid" || r.key == "mtime":
			last[r.key] = r.value
		case r.key == "path" || r.key == "linkpath" || r.key == "size" ||
			strings.HasPrefix(r.key, "GNU.sparse.") || strings.HasPrefix(r.key, "SCHILY.") ||
			strings.HasPrefix(r.key, "LIBARCHIVE."):
			return nil, invalidf("global PAX header with record %q", r.key)
		}
	}
	var rs paxRecords
	for key, value := range last {
		rs = append(rs, paxRecord{key, value})
	}
	return rs, nil
}

// apply merges one PAX record into the member. An empty value means that the
// header's own stands, except for an xattr, which may be empty.
func (e *entry) apply(r paxRecord, size *int64, sparse *sparseRecords) error {
	if name, ok := strings.CutPrefix(r.key, "SCHILY.xattr."); ok {
		e.xattrs = append(e.xattrs, xattr{unescapeXattr(name), r.value, rankSchily})
		return nil
	}
	var err error
	if name, ok := strings.CutPrefix(r.key, "LIBARCHIVE.xattr."); ok {
		err = e.applyLibarchive(name, r.value)
	} else if r.value != "" {
		err = e.applyField(r, size, sparse)
	}
	if err != nil {
		return invalidf("PAX record %s=%s: %w", quote(r.key), quote(r.value), err)
	}
	return nil
}

func (e *entry) applyField(r paxRecord, size *int64, sparse *sparseRecords) (err error) {
	switch r.key {
	case "path":
		e.name = r.value
	case "linkpath":
		e.link = r.value
	case "size":
		*size, err = parseSize(r.value)
	case "uid":
		e.uid, err = parseID(r.value)
	case "gid":
		e.gid, err = parseID(r.value)
	case "mtime":
		e.sec, e.nsec, err = parseTime(r.value)
	case "SCHILY.devmajor":
		e.major, err = parseID(r.value)
	case "SCHILY.devminor":
		e.minor, err = parseID(r.value)
	case "SCHILY.acl.access":
		e.applyACL(xattrACLAccess, r.value)
	case "SCHILY.acl.default":
		e.applyACL(xattrACLDefault, r.value)
	case "SCHILY.realsize":
		err = strconv.ErrSyntax // star's own sparse format
	default:
		if key, ok := strings.CutPrefix(r.key, "GNU.sparse."); ok {
			err = sparse.add(key, r.value)
		}
	}
	return err
}

// unescapeXattr undoes what GNU tar does to names: "=" would end the key.
func unescapeXattr(name string) string {
	return strings.NewReplacer("%3D", "=", "%25", "%").Replace(name)
}

// applyLibarchive takes the form that bsdtar writes beside SCHILY's: the name
// in URL encoding, the value in base64 without padding.
func (e *entry) applyLibarchive(name, value string) error {
	name, err := url.PathUnescape(name)
	if err != nil {
		return err
	}
	v, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
	if err != nil {
		return err
	}
	e.xattrs = append(e.xattrs, xattr{name, string(v), rankLibarchive})
	return nil
}

func parseID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err == nil && n > maxID {
		err = strconv.ErrRange
	}
	return uint32(n), err
}

func parseSize(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 62)
	return int64(n), err
}
