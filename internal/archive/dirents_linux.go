package archive

import (
	"bytes"
	"encoding/binary"
	"io"

	"golang.org/x/sys/unix"
)

// dirents lists an open directory by getdents64(2), which tells what each name
// is, so that nothing has to be looked at to know how to open it.
type dirents struct {
	fd        int
	buf, left []byte
}

// next gives a name and its type, one of unix.DT_REG and its kin, or io.EOF.
func (d *dirents) next() (name string, kind uint8, err error) {
	const (
		lengthAt = 16 // of struct linux_dirent64
		typeAt   = 18
		nameAt   = 19
	)
	for {
		if len(d.left) < nameAt {
			if d.buf == nil {
				d.buf = make([]byte, 8<<10)
			}
			n, err := unix.Getdents(d.fd, d.buf)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				if err == unix.ENOENT { // removed meanwhile
					return "", 0, io.EOF
				}
				return "", 0, err
			}
			if n == 0 {
				return "", 0, io.EOF
			}
			d.left = d.buf[:n]
		}
		entry := d.left[:binary.NativeEndian.Uint16(d.left[lengthAt:])]
		d.left = d.left[len(entry):]
		b := entry[nameAt:]
		b = b[:bytes.IndexByte(b, 0)]
		if name := string(b); name != "." && name != ".." {
			return name, entry[typeAt], nil
		}
	}
}
