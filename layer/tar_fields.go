package layer

import (
	"bytes"
	"strconv"
	"strings"
)

// checksum checks a header block. Old writers added the bytes as signed ones.
func checksum(b []byte) error {
	want, err := number(b[148:156])
	unsigned, signed := int64(8*' '), int64(8*' ')
	for i, c := range b {
		if i < 148 || i >= 156 {
			unsigned += int64(c)
			signed += int64(int8(c))
		}
	}
	if err != nil || want != unsigned && want != signed {
		return invalidf("not a tar header: its checksum does not match")
	}
	return nil
}

// number reads octal digits, or GNU's base 256: two's complement, big endian,
// the first bit set.
func number(b []byte) (int64, error) {
	if b[0]&0x80 != 0 {
		first := b[0] & 0x7f
		var x uint64
		if first&0x40 != 0 {
			first |= 0x80
			x = 1<<64 - 1
		}
		for i, c := range b {
			if i == 0 {
				c = first
			}
			// What is shifted out must be the sign, nothing else.
			if sign := int64(x) >> 63; int64(x)>>55 != sign {
				return 0, strconv.ErrRange
			}
			x = x<<8 | uint64(c)
		}
		return int64(x), nil
	}
	s := strings.Trim(string(b), " \x00")
	if s == "" {
		return 0, nil
	}
	// A few writers put a NUL between the digits and something else.
	s, _, _ = strings.Cut(s, "\x00")
	n, err := strconv.ParseUint(s, 8, 63)
	return int64(n), err
}

// cstring returns the bytes before the first NUL.
func cstring(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// parseTime reads a PAX time: seconds with an optional fraction, of which
// digits beyond nanoseconds are cut off towards the past, as GNU tar does.
func parseTime(s string) (sec int64, nsec uint32, err error) {
	whole, frac, _ := strings.Cut(s, ".")
	digits := strings.TrimLeft(whole, "-+")
	if digits == "" && frac == "" || strings.Trim(frac, "0123456789") != "" {
		return 0, 0, strconv.ErrSyntax
	}
	if digits == "" {
		whole += "0"
	}
	if sec, err = strconv.ParseInt(whole, 10, 64); err != nil {
		return 0, 0, err
	}
	n, err := strconv.ParseUint((frac + "000000000")[:9], 10, 32)
	if err != nil || !strings.HasPrefix(s, "-") {
		return sec, uint32(n), err
	}
	if len(frac) > 9 && strings.Trim(frac[9:], "0") != "" {
		n++
	}
	if n == 0 {
		return sec, 0, nil
	}
	if sec == -1<<63 {
		return 0, 0, strconv.ErrRange
	}
	return sec - 1, uint32(1e9 - n), nil
}
