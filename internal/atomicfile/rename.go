package atomicfile

import (
	"errors"
	"os"
)

// RenameNew renames a file like os.Rename, but never over another: if there is
// one at newpath, the error is fs.ErrExist, and both stay as they are. Of many
// who race for a name one gets it.
func RenameNew(oldpath, newpath string) error {
	err := renameNew(oldpath, newpath)
	if !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	// For a moment it has both names.
	if err := os.Link(oldpath, newpath); err != nil {
		return err
	}
	return os.Remove(oldpath)
}
