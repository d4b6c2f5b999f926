package enginetest

import (
	"archive/tar"
	"path"
	"strings"
)

// Entry is one member of a layer: its header as archive/tar writes it, and its
// content. The functions of this file make the usual ones; what they set can be
// changed, and a literal can have what they never would, as a name with "..".
//
// Size is set from Data when the layer is packed.
type Entry struct {
	tar.Header
	// Data is the content of a regular file.
	Data string
	// Raw, if it is not nil, is what goes into the archive instead of the header
	// and the content, in whole blocks of 512 bytes or not.
	Raw []byte
}

// File is a regular file of mode 0644.
func File(name, data string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, Data: data}
}

// Program is a regular file of mode 0755.
func Program(name string, data []byte) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755}, Data: string(data)}
}

// Dir is a directory of mode 0755.
func Dir(name string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: strings.TrimSuffix(name, "/") + "/", Mode: 0o755}}
}

// Symlink is a symbolic link.
func Symlink(name, target string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}}
}

// Link is another name of a file of the same layer.
func Link(name, of string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: of, Mode: 0o644}}
}

// CharDevice is a character device of mode 0666.
func CharDevice(name string, major, minor int64) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeChar, Name: name, Mode: 0o666, Devmajor: major, Devminor: minor}}
}

// BlockDevice is a block device of mode 0660.
func BlockDevice(name string, major, minor int64) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeBlock, Name: name, Mode: 0o660, Devmajor: major, Devminor: minor}}
}

// Fifo is a named pipe of mode 0644.
func Fifo(name string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeFifo, Name: name, Mode: 0o644}}
}

// Whiteout hides what lower layers have by a name, as the OCI image
// specification has it ("Whiteouts" in layer.md).
func Whiteout(name string) Entry {
	dir, base := path.Split(name)
	return Entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: dir + ".wh." + base, Mode: 0o644}}
}

// Opaque hides all that lower layers have in a directory.
func Opaque(dir string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: path.Join(dir, ".wh..wh..opq"), Mode: 0o644}}
}

// WithMode gives the entry another mode, set-user-ID and sticky bits included.
func (e Entry) WithMode(mode int64) Entry {
	e.Mode = mode
	return e
}

// WithOwner gives the entry another owner.
func (e Entry) WithOwner(uid, gid int) Entry {
	e.Uid, e.Gid = uid, gid
	return e
}

// WithXattr adds an extended attribute, in the form that GNU tar and Docker
// write: a PAX record SCHILY.xattr.
func (e Entry) WithXattr(name, value string) Entry {
	records := map[string]string{"SCHILY.xattr." + name: value}
	for k, v := range e.PAXRecords {
		if _, ok := records[k]; !ok {
			records[k] = v
		}
	}
	e.PAXRecords, e.Format = records, tar.FormatPAX
	return e
}
