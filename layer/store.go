package layer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/inboard/engine/internal/atomicfile"
	"github.com/opencontainers/go-digest"
)

// A Form is how a layer lies on disk.
type Form int

const (
	// FormAuto is FormIndex where a probe in the store's own directory
	// succeeds, else FormDirectory. For an ordinary user, who could not give
	// a directory's files their owners, it is FormIndex.
	FormAuto Form = iota
	// FormIndex is the layer's plain tar and an EROFS index over it, which
	// the kernel mounts. It takes Linux 6.12 to mount from a file; whether
	// overlayfs takes the detached mount too is what the probe finds out.
	FormIndex
	// FormDirectory is the layer's files in a directory.
	FormDirectory
)

// String is "auto", "index" or "directory".
func (f Form) String() string {
	switch f {
	case FormIndex:
		return "index"
	case FormDirectory:
		return "directory"
	}
	return "auto"
}

// Options are those of Open. The zero value is right.
type Options struct {
	// Form is what new layers get. Layers of the other form stay usable.
	Form Form
}

// A Store keeps layers below one directory, by diff ID. Several Stores, also
// of several processes, may have the same directory. All methods may be called
// by several goroutines at once.
type Store struct {
	dir  string
	form func() (Form, error) // and why it is no index, when that was asked of a probe

	mu       sync.Mutex
	mounts   map[digest.Digest]*mounted
	trimmer  *time.Timer // nil: not needed yet
	trimming bool        // it runs
	closed   bool
}

// Open opens the store in dir, which it makes, mode 0700, where it is missing.
// It removes what Adds and Removes of processes that are gone have left there.
func Open(dir string, o Options) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("layer store: %w", err)
	}
	switch o.Form {
	case FormAuto, FormIndex, FormDirectory:
	default:
		return nil, fmt.Errorf("layer store: %w", invalidf("form %d", o.Form))
	}
	s := &Store{dir: dir, mounts: map[digest.Digest]*mounted{}}
	if err := makeDirs(dir); err != nil {
		return nil, fmt.Errorf("layer store: %w", err)
	}
	// The directory may be older than this program; what is in it must not
	// be readable by others (CVE-2021-41091, CVE-2024-25621).
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("layer store: %w", err)
	}
	if err := s.sweep(); err != nil {
		return nil, fmt.Errorf("layer store: %w", err)
	}
	s.form = func() (Form, error) { return o.Form, nil }
	if o.Form == FormAuto {
		s.form = sync.OnceValues(func() (Form, error) {
			if err := s.probe(); err != nil && os.Geteuid() == 0 {
				return FormDirectory, err
			}
			return FormIndex, nil
		})
	}
	return s, nil
}

// makeDirs makes a store's directories durable, so that its layers are.
func makeDirs(dir string) error {
	layers := filepath.Join(dir, "sha256")
	if _, err := os.Stat(layers); err == nil {
		return os.MkdirAll(filepath.Join(dir, "tmp"), 0o700)
	}
	for _, d := range []string{filepath.Join(dir, "tmp"), layers} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	return errors.Join(atomicfile.SyncDir(dir), atomicfile.SyncDir(filepath.Dir(dir)))
}

// Form returns what new layers get: FormIndex or FormDirectory. With FormAuto
// the first call makes the probe.
func (s *Store) Form() Form {
	f, _ := s.form()
	return f
}

// Close lets go of the mounts that no caller uses; one that is in use goes
// with the last Mount.Close. The Store gives no more mounts.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.trimmer != nil {
		s.trimmer.Stop()
	}
	var errs []error
	for id, m := range s.mounts {
		if m.refs == 0 {
			delete(s.mounts, id)
			errs = append(errs, m.close())
		}
	}
	return errors.Join(errs...)
}

// A Layer is a layer in a Store. It is a snapshot of the layer's record, and
// does not keep the layer from being removed.
type Layer struct {
	store *Store
	rec   record
}

// DiffID is the digest of the layer's tar.
func (l *Layer) DiffID() digest.Digest { return l.rec.DiffID }

// Size is that of the layer's tar in bytes.
func (l *Layer) Size() int64 { return l.rec.Size }

// Form is FormIndex or FormDirectory.
func (l *Layer) Form() Form {
	if l.rec.Form == FormIndex.String() {
		return FormIndex
	}
	return FormDirectory
}

// Opaque says that the layer has an opaque whiteout in its root, so that
// nothing of the layers below it may be seen. overlayfs does not look for that
// mark on the root of a lower layer (Linux 6.18): leave those layers out.
func (l *Layer) Opaque() bool { return l.rec.Opaque }

// Check tells, without reading them, whether the layer's files are on the disk as
// its record has them. What is gone, cut off or something else gives
// errdefs.ErrDataLoss and is named; Add mends it.
func (l *Layer) Check() error {
	dir, err := l.store.path(l.rec.DiffID)
	if err != nil {
		return err
	}
	for _, part := range l.rec.parts() {
		name := filepath.Join(dir, part.name)
		st, err := os.Lstat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("layer: %w: %w", err, errdefs.ErrDataLoss)
		case err != nil:
			return fmt.Errorf("layer: %w", err)
		case st.Mode().Type() != part.kind:
			return fmt.Errorf("layer: %s: damaged: it is %s: %w", name, st.Mode(), errdefs.ErrDataLoss)
		case part.kind == 0 && st.Size() != part.size:
			return fmt.Errorf("layer: %s: damaged: %d bytes where %d are expected: %w", name, st.Size(), part.size, errdefs.ErrDataLoss)
		}
	}
	return nil
}

// LinkTar makes a hard link of the layer's tar, so that a blob which is the same
// bytes takes no space of its own. Whoever writes to the link harms the layer. The
// error is errdefs.ErrNotImplemented where there is no such file: a directory has no
// tar, and one whose last block is not whole is padded.
func (l *Layer) LinkTar(name string) error {
	if l.Form() != FormIndex || l.rec.Size == 0 || l.rec.Size%blockSize != 0 {
		return fmt.Errorf("layer %s: no tar as it came: %w", l.rec.DiffID, errdefs.ErrNotImplemented)
	}
	dir, err := l.store.path(l.rec.DiffID)
	if err != nil {
		return err
	}
	return os.Link(filepath.Join(dir, tarName), name)
}

// path returns a layer's directory.
func (s *Store) path(diffID digest.Digest) (string, error) {
	if err := diffID.Validate(); err != nil || diffID.Algorithm() != digest.SHA256 {
		return "", invalidf("diff ID %s", quote(string(diffID)))
	}
	return filepath.Join(s.dir, "sha256", diffID.Encoded()), nil
}

// sound is Get and Check.
func (s *Store) sound(diffID digest.Digest) (*Layer, error) {
	l, err := s.Get(diffID)
	if err == nil {
		err = l.Check()
	}
	return l, err
}

// Get returns a layer. The error is errdefs.ErrNotFound if there is none, and
// names the file if its record is damaged; Remove and Add mend that.
func (s *Store) Get(diffID digest.Digest) (*Layer, error) {
	dir, err := s.path(diffID)
	if err != nil {
		return nil, fmt.Errorf("layer: %w", err)
	}
	rec, err := readRecord(dir, diffID)
	if err != nil {
		if _, e := os.Lstat(dir); errors.Is(e, fs.ErrNotExist) {
			return nil, fmt.Errorf("layer %s: %w", diffID, errdefs.ErrNotFound)
		}
		return nil, fmt.Errorf("layer: %w", err)
	}
	return &Layer{store: s, rec: rec}, nil
}

// List returns all layers in the order of their diff IDs. Those that are damaged
// are named by the error, beside the others.
func (s *Store) List() ([]*Layer, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "sha256"))
	if err != nil {
		return nil, fmt.Errorf("layers: %w", err)
	}
	var all []*Layer
	var errs []error
	for _, e := range entries {
		l, err := s.Get(digest.NewDigestFromEncoded(digest.SHA256, e.Name()))
		if errors.Is(err, errdefs.ErrNotFound) {
			continue // removed meanwhile
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		all = append(all, l)
	}
	return all, errors.Join(errs...)
}

// Remove removes a layer, which nobody may use: the error is
// errdefs.ErrFailedPrecondition while this Store has it mounted for a caller.
// Uses by others are for the caller to know. A layer that is not there gives
// errdefs.ErrNotFound, a damaged one is removed.
func (s *Store) Remove(diffID digest.Digest) error {
	dir, err := s.path(diffID)
	if err != nil {
		return fmt.Errorf("remove layer: %w", err)
	}
	if err := s.unmount(diffID); err != nil {
		return fmt.Errorf("remove layer %s: %w", diffID, err)
	}
	w, err := s.beginEmpty()
	if err != nil {
		return fmt.Errorf("remove layer %s: %w", diffID, err)
	}
	err = os.Rename(dir, w.dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = errdefs.ErrNotFound
	}
	if err == nil {
		err = atomicfile.SyncDir(filepath.Dir(dir))
	}
	if err = errors.Join(err, w.end()); err != nil {
		return fmt.Errorf("remove layer %s: %w", diffID, err)
	}
	return nil
}
