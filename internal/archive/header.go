package archive

import (
	"slices"
	"strconv"
	"strings"
)

// blockSize is the unit of a tar.
const blockSize = 512

// Kinds of members.
const (
	kindFile     = '0'
	kindHardlink = '1'
	kindSymlink  = '2'
	kindChar     = '3'
	kindBlock    = '4'
	kindDir      = '5'
	kindFIFO     = '6'
	kindPAX      = 'x'
)

// header is what is said of a member before its data, in POSIX's ustar format,
// with a PAX header before it where that has no room ("pax Interchange Format"
// in POSIX.1-2024). archive/tar's Writer says the same, but wants all data to go
// through it.
type header struct {
	name, link   string
	kind         byte
	mode         uint32
	uid, gid     uint32
	major, minor uint32
	size         int64 // of the data in the archive
	sec          int64
	nsec         uint32
	xattrs       []xattr
	sparse       int64 // of a sparse member, the size of its file; else -1
}

type xattr struct{ name, value string }

// What the fields of the format hold, in octal digits with a NUL after them.
const (
	maxID   = 1<<21 - 1
	maxSize = 1<<33 - 1
)

// append adds the member's header blocks to b.
func (h *header) append(b []byte) []byte {
	var pax []byte
	name := h.name
	if h.sparse >= 0 { // version 1.0 of GNU tar's sparse files, "Storing Sparse Files" in its manual
		pax = record(pax, "GNU.sparse.major", "1")
		pax = record(pax, "GNU.sparse.minor", "0")
		pax = record(pax, "GNU.sparse.name", name)
		pax = record(pax, "GNU.sparse.realsize", strconv.FormatInt(h.sparse, 10))
		i := strings.LastIndexByte(name, '/') + 1
		name = name[:i] + "GNUSparseFile.0/" + name[i:]
	}
	prefix, rest, fits := split(name)
	if !fits {
		pax = record(pax, "path", name)
	}
	if len(h.link) > 100 {
		pax = record(pax, "linkpath", h.link)
	}
	if h.size > maxSize {
		pax = record(pax, "size", strconv.FormatInt(h.size, 10))
	}
	if h.uid > maxID {
		pax = record(pax, "uid", strconv.FormatUint(uint64(h.uid), 10))
	}
	if h.gid > maxID {
		pax = record(pax, "gid", strconv.FormatUint(uint64(h.gid), 10))
	}
	if h.nsec != 0 || h.sec < 0 || h.sec > maxSize {
		pax = record(pax, "mtime", decimal(h.sec, h.nsec))
	}
	for _, x := range h.xattrs {
		pax = record(pax, schilyXattr+escapeKey.Replace(x.name), x.value)
	}
	if len(pax) > 0 {
		extension := header{name: "PaxHeaders/" + rest[strings.LastIndexByte(rest, '/')+1:], kind: kindPAX, mode: 0o644, size: int64(len(pax))}
		b = extension.block(b, "", cut(extension.name))
		b = append(b, pax...)
		b = pad(b, int64(len(pax)))
	}
	return h.block(b, prefix, rest)
}

// block adds the one block that each member has.
func (h *header) block(b []byte, prefix, name string) []byte {
	b, block := extend(b, blockSize)
	copy(block, name)
	octal(block[100:108], uint64(h.mode))
	octal(block[108:116], within(uint64(h.uid), maxID))
	octal(block[116:124], within(uint64(h.gid), maxID))
	octal(block[124:136], within(uint64(h.size), maxSize))
	octal(block[136:148], within(uint64(max(h.sec, 0)), maxSize))
	copy(block[148:156], "        ")
	block[156] = h.kind
	copy(block[157:257], h.link[:min(len(h.link), 100)])
	copy(block[257:], "ustar\x0000")
	octal(block[329:337], within(uint64(h.major), maxID))
	octal(block[337:345], within(uint64(h.minor), maxID))
	copy(block[345:500], prefix)
	var sum uint64
	for _, c := range block {
		sum += uint64(c)
	}
	octal(block[148:155], sum)
	return b
}

// within is v, or 0 where a PAX record has it.
func within(v, limit uint64) uint64 {
	if v > limit {
		return 0
	}
	return v
}

// octal writes v with leading zeros and a NUL at the end.
func octal(field []byte, v uint64) {
	for i := len(field) - 2; i >= 0; i-- {
		field[i] = '0' + byte(v&7)
		v >>= 3
	}
}

// split divides a name into the fields that the format has for it. Where it
// does not fit, rest is something to show.
func split(name string) (prefix, rest string, fits bool) {
	if len(name) <= 100 {
		return "", name, true
	}
	// The last slash that leaves a first part of at most 155 bytes.
	if i := strings.LastIndexByte(name[:min(len(name)-1, 156)], '/'); i > 0 && len(name)-i-1 <= 100 {
		return name[:i], name[i+1:], true
	}
	return "", cut(name), false
}

func cut(name string) string { return name[:min(len(name), 100)] }

const schilyXattr = "SCHILY.xattr."

// A key ends at the first "=". GNU tar writes it so in names of attributes.
var (
	escapeKey   = strings.NewReplacer("%", "%25", "=", "%3D")
	unescapeKey = strings.NewReplacer("%25", "%", "%3D", "=")
)

// record adds a PAX record: its own length in decimal, key and value.
func record(b []byte, key, value string) []byte {
	n := len(key) + len(value) + 3
	size := n + len(strconv.Itoa(n))
	if len(strconv.Itoa(size)) != len(strconv.Itoa(n)) {
		size = n + len(strconv.Itoa(size))
	}
	b = strconv.AppendInt(b, int64(size), 10)
	b = append(b, ' ')
	b = append(b, key...)
	b = append(b, '=')
	b = append(b, value...)
	return append(b, '\n')
}

// decimal is a time as PAX has it.
func decimal(sec int64, nsec uint32) string {
	sign := ""
	if sec < 0 {
		sign, sec = "-", -sec
		if nsec > 0 {
			sec, nsec = sec-1, 1e9-nsec
		}
	}
	text := sign + strconv.FormatInt(sec, 10)
	if nsec == 0 {
		return text
	}
	digits := strconv.FormatUint(1e9+uint64(nsec), 10)[1:]
	return text + "." + strings.TrimRight(digits, "0")
}

// pad adds zeros after n bytes of data, up to a whole block.
func pad(b []byte, n int64) []byte {
	b, _ = extend(b, int(-n&(blockSize-1)))
	return b
}

// extend adds n zeros and gives them too.
func extend(b []byte, n int) (all, added []byte) {
	b = slices.Grow(b, n)[:len(b)+n]
	added = b[len(b)-n:]
	clear(added)
	return b, added
}
