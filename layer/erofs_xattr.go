package layer

import "strings"

// xattrPrefixes are the namespaces that EROFS has numbers for.
var xattrPrefixes = []struct {
	prefix string
	index  byte
}{{"user.", 1}, {xattrACLAccess, 2}, {xattrACLDefault, 3}, {"trusted.", 4}, {"security.", 6}}

func splitXattr(name string) (index byte, rest string) {
	for _, p := range xattrPrefixes {
		if rest, ok := strings.CutPrefix(name, p.prefix); ok {
			return p.index, rest
		}
	}
	return 0, name // kernelXattrs lets no other pass
}

// xattrSize is the length of what appendXattrs writes.
func xattrSize(xattrs []xattr) int64 {
	if len(xattrs) == 0 {
		return 0
	}
	size := 12
	for _, x := range xattrs {
		_, rest := splitXattr(x.name)
		size += (4 + len(rest) + len(x.value) + 3) &^ 3
	}
	return int64(size)
}

func appendXattrs(b []byte, xattrs []xattr) []byte {
	if len(xattrs) == 0 {
		return b
	}
	b = append(b, make([]byte, 12)...)
	for _, x := range xattrs {
		index, rest := splitXattr(x.name)
		b = append(b, byte(len(rest)), index, byte(len(x.value)), byte(len(x.value)>>8))
		b = append(append(b, rest...), x.value...)
		b = append(b, make([]byte, -(len(rest)+len(x.value))&3)...)
	}
	return b
}
