package layer

import (
	"fmt"
	"strconv"
	"strings"
)

// maxPieces bounds the sparse map of one file.
const maxPieces = 1 << 20

// sparseRecords collects the GNU.sparse.* records of a PAX header. Format 0.0
// repeats offset and numbytes, 0.1 has them in one map, and 1.0 puts the map
// before the data. See "Storing Sparse Files" in GNU tar's manual.
type sparseRecords struct {
	name         string
	major, minor string
	real         int64
	hasReal      bool
	pieces       []int64 // offset, length, offset, length ...
}

func (s *sparseRecords) add(key, value string) (err error) {
	switch key {
	case "name":
		s.name = value
	case "major":
		s.major = value
	case "minor":
		s.minor = value
	case "size", "realsize":
		s.real, err = parseSize(value)
		s.hasReal = true
	case "offset", "numbytes":
		if (key == "offset") != (len(s.pieces)%2 == 0) {
			return strconv.ErrSyntax
		}
		err = s.addPiece(value)
	case "map":
		s.pieces = nil
		for f := range strings.SplitSeq(value, ",") {
			if err := s.addPiece(f); err != nil {
				return err
			}
		}
	}
	return err
}

func (s *sparseRecords) addPiece(value string) error {
	n, err := parseSize(value)
	s.pieces = append(s.pieces, n)
	return err
}

// locate sets the member's size and runs. The stream stands behind the
// header, and behind the map when it returns.
func (t *tarReader) locate(b []byte, s *sparseRecords, stored int64) error {
	e := &t.e
	t.left, t.padding = stored, padding(stored)
	if e.kind == kindDir {
		return nil
	}
	e.size = stored
	switch {
	case e.kind == 'S':
		e.kind = kindFile
		pieces, real, err := t.oldMap(b)
		if err != nil {
			return err
		}
		e.size = real
		return e.setRuns(pieces, t.in.pos, t.left)
	case e.kind != kindFile:
		return nil
	case s.major == "1" && s.minor == "0":
		if !s.hasReal {
			return invalidf("sparse file without its size")
		}
		pieces, err := t.mapBeforeData()
		if err != nil {
			return err
		}
		e.size = s.real
		return e.setRuns(pieces, t.in.pos, t.left)
	case s.major != "" && s.major != "0":
		return invalidf("sparse format %s.%s is not supported", s.major, s.minor)
	case s.hasReal:
		e.size = s.real
		return e.setRuns(s.pieces, t.in.pos, t.left)
	}
	if stored > 0 {
		e.runs = append(e.runs, run{0, t.in.pos, stored})
	}
	return nil
}

// oldMap reads GNU's first sparse format: four pieces in the header, 21 in
// each block that follows it. Those blocks do not count as data.
func (t *tarReader) oldMap(b []byte) (pieces []int64, real int64, err error) {
	if real, err = number(b[483:495]); err != nil || real < 0 {
		return nil, 0, invalidf("sparse file of size %q", b[483:495])
	}
	area, more := b[386:482], b[482] != 0
	for {
		for ; len(area) >= 24 && area[0] != 0; area = area[24:] {
			off, err1 := number(area[:12])
			n, err2 := number(area[12:24])
			if err1 != nil || err2 != nil || off < 0 || n < 0 {
				return nil, 0, invalidf("sparse map: piece of %q at %q", area[12:24], area[:12])
			}
			pieces = append(pieces, off, n)
		}
		if !more {
			return pieces, real, nil
		}
		if len(pieces) > 2*maxPieces {
			return nil, 0, invalidf("sparse map of more than %d pieces", maxPieces)
		}
		if b, err = t.in.take(tarBlock); err != nil {
			return nil, 0, fmt.Errorf("sparse map: %w", unexpected(err))
		}
		area, more = b[:504], b[504] != 0
	}
}

// mapBeforeData reads the map of format 1.0, decimal numbers in lines, with
// zeros after it up to a whole block. It is part of the stored data.
func (t *tarReader) mapBeforeData() ([]int64, error) {
	var pieces []int64
	value, digits, want := int64(0), 0, int64(-1)
	for want < 0 || int64(len(pieces)) < want {
		if t.left < tarBlock {
			return nil, invalidf("sparse map: it ends too early")
		}
		b, err := t.in.take(tarBlock)
		if err != nil {
			return nil, fmt.Errorf("sparse map: %w", unexpected(err))
		}
		t.left -= tarBlock
		for _, c := range b {
			switch {
			case c >= '0' && c <= '9' && digits < 18:
				value, digits = value*10+int64(c-'0'), digits+1
				continue
			case c != '\n' || digits == 0:
				return nil, invalidf("sparse map: byte %q where a number is expected", c)
			case want >= 0:
				pieces = append(pieces, value)
			case value > maxPieces:
				return nil, invalidf("sparse map of more than %d pieces", maxPieces)
			default:
				want = 2 * value
			}
			value, digits = 0, 0
			if int64(len(pieces)) == want {
				break
			}
		}
	}
	return pieces, nil
}

// setRuns turns a sparse map into runs. Pieces are in order and do not
// overlap; their data lies together from position at on.
func (e *entry) setRuns(pieces []int64, at, stored int64) error {
	if len(pieces)%2 != 0 {
		return invalidf("sparse map: an offset without a length")
	}
	end := int64(0)
	for i := 0; i < len(pieces); i += 2 {
		off, n := pieces[i], pieces[i+1]
		if off < end || n > stored || off > e.size-n {
			return invalidf("sparse map: a piece of %d bytes at %d does not fit", n, off)
		}
		end = off + n
		if n == 0 {
			continue
		}
		if last := len(e.runs) - 1; last >= 0 && e.runs[last].logical+e.runs[last].length == off {
			e.runs[last].length += n
		} else {
			e.runs = append(e.runs, run{off, at, n})
		}
		at, stored = at+n, stored-n
	}
	if stored != 0 {
		return invalidf("sparse map: %d bytes of data belong to no piece", stored)
	}
	return nil
}
