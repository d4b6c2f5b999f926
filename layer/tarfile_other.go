//go:build !linux

package layer

import "os"

// A tarFile writes a layer's tar.
type tarFile struct{ f *os.File }

func createTar(name string) (*tarFile, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	return &tarFile{f}, err
}

func (t *tarFile) write(b []byte) error {
	_, err := t.f.Write(b)
	return err
}

// finish syncs and closes the file.
func (t *tarFile) finish() error {
	err := t.f.Sync()
	if e := t.f.Close(); err == nil {
		err = e
	}
	return err
}
