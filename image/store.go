package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/inboard/engine/internal/atomicfile"
	"github.com/inboard/engine/layer"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Store is a directory of images. Its methods may be called concurrently. It
// keeps no file open between calls, so there is nothing to close.
type Store struct {
	dir      string
	layers   *layer.Store
	patience patience

	mu     sync.Mutex
	read   *index      // index.json as last read
	readOf os.FileInfo // and the file that it was read from
	known  map[digest.Digest]*content
}

// content is a manifest and its config, as they lie in the blobs. Neither
// changes, so they are read once.
type content struct {
	manifest ocispec.Manifest
	config   ocispec.Image
}

// Open opens the image layout at dir, which it creates with mode 0700, and
// removes what pulls and removals of dead programs have left. The layers of
// pulled images go to layers. A layout of another version gives
// ErrFailedPrecondition.
//
// The end of ctx ends the wait for another program that changes the store.
func Open(ctx context.Context, dir string, layers *layer.Store) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	s := &Store{dir: dir, layers: layers, patience: defaultPatience, known: make(map[digest.Digest]*content)}
	if err := s.open(ctx); err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	return s, nil
}

func (s *Store) open(ctx context.Context) error {
	for _, d := range []string{".", "blobs", "blobs/sha256", "claims", "fetching", "holds"} {
		if err := os.MkdirAll(s.path(d), 0o700); err != nil {
			return err
		}
	}
	var layout ocispec.ImageLayout
	err := atomicfile.ReadJSON(s.path(ocispec.ImageLayoutFile), &layout)
	if errors.Is(err, fs.ErrNotExist) {
		err = s.create(ctx)
		layout.Version = ocispec.ImageLayoutVersion
	}
	if path := (*fs.PathError)(nil); err != nil && !errors.As(err, &path) {
		err = fmt.Errorf("%w: %w", err, errdefs.ErrDataLoss)
	}
	if err != nil {
		return err
	}
	if layout.Version != ocispec.ImageLayoutVersion {
		return fmt.Errorf("%s: image layout version %.20q, not %q: %w", s.path(ocispec.ImageLayoutFile), layout.Version, ocispec.ImageLayoutVersion, errdefs.ErrFailedPrecondition)
	}
	return s.sweep(ctx)
}

// create writes the files of an empty layout; oci-layout, which says that the
// others are there, last.
func (s *Store) create(ctx context.Context) error {
	l, err := s.lock(ctx, exclusive)
	if err != nil {
		return err
	}
	defer l.unlock()
	if _, err := os.Stat(s.path(ocispec.ImageIndexFile)); errors.Is(err, fs.ErrNotExist) {
		if err := new(index).write(s.dir); err != nil {
			return err
		}
	}
	return atomicfile.WriteJSON(s.path(ocispec.ImageLayoutFile), ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}, atomicfile.Durable)
}

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// lock takes the store's lock: exclusive to change index.json or the claims, or
// to remove anything; shared to add a hold. No other lock of the store is waited
// for while it is held; package layer's own come after it.
func (s *Store) lock(ctx context.Context, mode lockMode) (*fileLock, error) {
	return lockFile(ctx, s.path("lock"), mode)
}

// index gives index.json as it is now. Callers must not change it.
func (s *Store) index() (*index, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, err := os.Stat(s.path(ocispec.ImageIndexFile))
	if err != nil {
		return nil, err
	}
	// Every change is a new file; its time differs should its number be the same.
	if s.read != nil && os.SameFile(before, s.readOf) && before.ModTime().Equal(s.readOf.ModTime()) && before.Size() == s.readOf.Size() {
		return s.read, nil
	}
	x, err := readIndex(s.dir)
	if err != nil {
		return nil, err
	}
	s.read, s.readOf = x, before
	for d := range s.known {
		if !slices.ContainsFunc(x.entries, func(e entry) bool { return e.desc.Digest == d }) {
			delete(s.known, d)
		}
	}
	return x, nil
}

// content gives the manifest and config of an entry that is ours. A blob that is
// not there gives fs.ErrNotExist, a damaged one an ErrDataLoss that names it.
func (s *Store) content(e *entry) (*content, error) {
	d := e.desc
	s.mu.Lock()
	c := s.known[d.Digest]
	s.mu.Unlock()
	if c != nil {
		return c, nil
	}
	raw, err := s.readBlob(d.Digest, maxDocument)
	if err != nil {
		return nil, err
	}
	doc, err := parseDocument(d.MediaType, raw)
	if err == nil && doc.manifest == nil {
		err = fmt.Errorf("an index: %w", errdefs.ErrDataLoss)
	}
	if err == nil {
		err = checkManifest(doc.manifest)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.blobPath(d.Digest), err)
	}
	if got := doc.manifest.Config.Digest; got != e.id {
		return nil, fmt.Errorf("%s: damaged: config %s, listed with %s: %w", s.blobPath(d.Digest), got, e.id, errdefs.ErrDataLoss)
	}
	raw, err = s.readBlob(doc.manifest.Config.Digest, maxConfig)
	if err != nil {
		return nil, err
	}
	config, err := parseConfig(raw, len(doc.manifest.Layers))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.blobPath(doc.manifest.Config.Digest), err)
	}
	c = &content{*doc.manifest, *config}
	s.mu.Lock()
	s.known[d.Digest] = c
	s.mu.Unlock()
	return c, nil
}

// blobPath is where a blob lies. Callers have checked that the digest is one.
func (s *Store) blobPath(d digest.Digest) string {
	return s.path("blobs", string(d.Algorithm()), d.Encoded())
}

// readBlob reads and verifies a small blob.
func (s *Store) readBlob(d digest.Digest, limit int64) ([]byte, error) {
	fi, err := os.Stat(s.blobPath(d))
	if err != nil {
		return nil, err
	}
	if fi.Size() > limit {
		return nil, fmt.Errorf("%s: damaged: %d bytes: %w", s.blobPath(d), fi.Size(), errdefs.ErrDataLoss)
	}
	raw, err := os.ReadFile(s.blobPath(d))
	if err != nil {
		return nil, err
	}
	if got := digest.FromBytes(raw); got != d {
		return nil, fmt.Errorf("%s: damaged: content has digest %s: %w", s.blobPath(d), got, errdefs.ErrDataLoss)
	}
	return raw, nil
}

// hasBlob tells whether a blob of that size is there.
func (s *Store) hasBlob(d ocispec.Descriptor) bool {
	fi, err := os.Lstat(s.blobPath(d.Digest))
	return err == nil && fi.Mode().IsRegular() && fi.Size() == d.Size
}

// isSHA256Hex tells whether s is the encoded form of a digest.
func isSHA256Hex(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}
