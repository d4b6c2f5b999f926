package layer

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"
)

const (
	tarBlock = 512

	// maxExtension bounds one PAX header or long name. Docker's reader,
	// archive/tar, has the same bound.
	maxExtension = 1 << 20
)

// A run is a piece of a file's data: length bytes at offset logical of the
// file lie at offset physical of the tar. What no run covers is a hole.
type run struct{ logical, physical, length int64 }

// An entry is one member of a tar with its extension headers applied. Its
// kind is one of the type flags of regular file, link, symlink, character and
// block device, directory and FIFO; the other flags are mapped to these.
type entry struct {
	name, link   string
	kind         byte
	mode         uint32 // permission bits, 07777 at most
	uid, gid     uint32
	major, minor uint32
	sec          int64
	nsec         uint32
	size         int64 // of the file, holes included
	runs         []run // ordered; empty where size is 0 or all is a hole
	xattrs       []xattr
}

const (
	kindFile     = '0'
	kindHardlink = '1'
	kindSymlink  = '2'
	kindChar     = '3'
	kindBlock    = '4'
	kindDir      = '5'
	kindFifo     = '6'
)

// A tarReader reads the members of a tar from a stream, so that a layer is
// indexed while it arrives. It parses sparse maps itself: archive/tar expands
// sparse files and does not say where in the archive a piece lies.
//
// After next, chunk hands out the member's stored data (its runs, one after
// the other); what is not taken is skipped by the following next.
type tarReader struct {
	in      stream
	global  paxRecords // of the last global PAX header
	left    int64      // stored bytes of the current member not yet taken
	padding int64      // bytes between its end and the next header
	dirty   bool       // some padding byte of the member before is not zero
	e       entry
}

func newTarReader(fill func() ([]byte, error)) *tarReader {
	return &tarReader{in: stream{fill: fill}}
}

// next returns the following member, valid until the next call, or io.EOF at
// the end marker. A tar that ends without one, between two members, is
// accepted, as GNU tar and archive/tar accept it.
func (t *tarReader) next() (*entry, error) {
	dirty, err := t.finish()
	if err != nil {
		return nil, err
	}
	t.dirty = dirty
	var x extensions
	for {
		at := t.in.pos
		b, err := t.in.take(tarBlock)
		if err == io.EOF && !x.waiting {
			return nil, io.EOF
		}
		if err != nil {
			return nil, fmt.Errorf("tar header at byte %d: %w", at, unexpected(err))
		}
		if b[0] == 0 && len(bytes.TrimLeft(b, "\x00")) == 0 {
			if x.waiting {
				return nil, invalidf("tar header at byte %d: end marker after an extension header", at)
			}
			return nil, io.EOF
		}
		done, err := t.header(b, &x)
		if err != nil {
			return nil, fmt.Errorf("tar header at byte %d: %w", at, err)
		}
		if done {
			return &t.e, nil
		}
	}
}

// finish skips what is left of a member, and says whether its padding is not
// zero: the kernel maps whole blocks, so a program would see it past the
// file's end.
func (t *tarReader) finish() (dirty bool, err error) {
	for t.left > 0 {
		if _, err := t.chunk(); err != nil {
			return false, fmt.Errorf("%s: data: %w", quote(t.e.name), err)
		}
	}
	for t.padding > 0 {
		b, err := t.in.chunk(t.padding)
		if err == io.EOF {
			break // the last member's padding may be missing
		}
		if err != nil {
			return false, fmt.Errorf("%s: %w", quote(t.e.name), err)
		}
		dirty = dirty || len(bytes.TrimLeft(b, "\x00")) > 0
		t.padding -= int64(len(b))
	}
	t.padding = 0
	return dirty, nil
}

// chunk returns the next stored bytes of the current member, io.EOF after the
// last. The slice is part of what fill returned, and is not copied.
func (t *tarReader) chunk() ([]byte, error) {
	if t.left == 0 {
		return nil, io.EOF
	}
	b, err := t.in.chunk(t.left)
	t.left -= int64(len(b))
	return b, unexpected(err)
}

// extensions are the headers that precede a member and describe it.
type extensions struct {
	pax                paxRecords
	longName, longLink string
	bytes              int64
	waiting            bool // for the member that they describe
}

// header handles one header block: it collects an extension (false) or
// completes a member (true).
func (t *tarReader) header(b []byte, x *extensions) (bool, error) {
	if err := checksum(b); err != nil {
		return false, err
	}
	size, err := number(b[124:136])
	if err != nil || size < 0 {
		return false, invalidf("size %q", b[124:136])
	}
	switch b[156] {
	case 'x', 'X', 'g', 'L', 'K': // X is what Solaris wrote for x
		return false, t.extension(b[156], size, x)
	case 'V': // GNU volume label
		t.left, t.padding = size, padding(size)
		_, err := t.finish()
		return false, err
	}
	if err := t.e.decode(b); err != nil {
		return false, err
	}
	e := &t.e
	sparse, err := t.apply(x, &size)
	if err != nil {
		return false, fmt.Errorf("%s: %w", quote(e.name), err)
	}
	if err := e.classify(&size); err != nil {
		return false, fmt.Errorf("%s: %w", quote(e.name), err)
	}
	if err := t.locate(b, sparse, size); err != nil {
		return false, fmt.Errorf("%s: %w", quote(e.name), err)
	}
	return true, nil
}

// extension reads a PAX header or a GNU long name.
func (t *tarReader) extension(kind byte, size int64, x *extensions) error {
	if x.bytes += max(size, 1); x.bytes > 2*maxExtension || size > maxExtension {
		return invalidf("extension headers of more than %d bytes", maxExtension)
	}
	b, err := t.in.take(int(size))
	if err != nil {
		return fmt.Errorf("extension header: %w", unexpected(err))
	}
	x.waiting = x.waiting || kind != 'g'
	switch kind {
	case 'x', 'X':
		x.pax, err = parseRecords(b)
	case 'g':
		t.global, err = parseGlobal(b)
	case 'L':
		x.longName = cstring(b)
	case 'K':
		x.longLink = cstring(b)
	}
	t.left, t.padding = 0, padding(size)
	if err == nil {
		_, err = t.finish()
	}
	return err
}

// apply merges the extension headers into the member: the global header, the
// PAX header over it, and GNU's long names over both, as archive/tar does.
func (t *tarReader) apply(x *extensions, size *int64) (*sparseRecords, error) {
	sparse := &sparseRecords{}
	for _, r := range t.global {
		if !x.pax.has(r.key) {
			if err := t.e.apply(r, size, sparse); err != nil {
				return nil, err
			}
		}
	}
	for _, r := range x.pax {
		if err := t.e.apply(r, size, sparse); err != nil {
			return nil, err
		}
	}
	if sparse.name != "" {
		t.e.name = sparse.name
	}
	if x.longName != "" {
		t.e.name = x.longName
	}
	if x.longLink != "" {
		t.e.link = x.longLink
	}
	return sparse, nil
}

// decode reads the fields of a ustar or GNU header.
func (e *entry) decode(b []byte) error {
	runs, xattrs := e.runs[:0], e.xattrs[:0]
	*e = entry{name: cstring(b[:100]), link: cstring(b[157:257]), kind: b[156], runs: runs, xattrs: xattrs}
	// GNU's magic is "ustar  ", and its headers hold other things there.
	if string(b[257:263]) == "ustar\x00" && b[345] != 0 {
		prefix := b[345:500]
		if string(b[508:512]) == "tar\x00" {
			prefix = b[345:476] // star keeps two times behind it
		}
		e.name = cstring(prefix) + "/" + e.name
	}
	fields := []struct {
		name     string
		from, to int
		value    *uint32
	}{
		{"mode", 100, 108, &e.mode}, {"uid", 108, 116, &e.uid}, {"gid", 116, 124, &e.gid},
		{"major", 329, 337, &e.major}, {"minor", 337, 345, &e.minor},
	}
	if e.kind != kindChar && e.kind != kindBlock {
		fields = fields[:3] // old headers hold anything there
	}
	for _, f := range fields {
		n, err := number(b[f.from:f.to])
		if err != nil || n < 0 || n > maxID {
			return invalidf("%s: %s %q", quote(e.name), f.name, b[f.from:f.to])
		}
		*f.value = uint32(n)
	}
	e.mode &= 0o7777
	var err error
	if e.sec, err = number(b[136:148]); err != nil {
		return invalidf("%s: time %q", quote(e.name), b[136:148])
	}
	return nil
}

// maxID is the largest user or group: the next one means "leave it" to chown.
const maxID = 1<<32 - 2

// classify maps the type flag to a kind, and sets the stored size of members
// that have no data, whatever their header claims (as archive/tar does).
func (e *entry) classify(size *int64) error {
	switch e.kind {
	case 0, '7', kindFile:
		e.kind = kindFile
		if strings.HasSuffix(e.name, "/") { // directories before POSIX
			if *size != 0 {
				return invalidf("a directory with %d bytes of data", *size)
			}
			e.kind = kindDir
		}
	case 'S':
	case 'D': // GNU incremental dump: the data lists the directory's names
		e.kind = kindDir
		return nil
	case kindHardlink, kindSymlink, kindChar, kindBlock, kindDir, kindFifo:
		*size = 0
	default:
		return invalidf("type flag %q is not supported", e.kind)
	}
	return nil
}

// quote makes a name of an archive fit for an error message.
func quote(name string) string {
	if len(name) > 255 {
		return fmt.Sprintf("%q...", name[:255])
	}
	return fmt.Sprintf("%q", name)
}

func invalidf(format string, args ...any) error {
	return fmt.Errorf("%w: %w", fmt.Errorf(format, args...), errdefs.ErrInvalidArgument)
}
