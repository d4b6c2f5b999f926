package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Bounds on an archive's members. docker save writes four for each layer.
const (
	maxMembers    = 1 << 16
	maxMemberName = 512
	maxLinks      = 8 // from one to another
	// memberHead is how much of a member is looked at before it is taken in.
	memberHead = 64 << 10
)

// archive takes in the members of an image archive in the order in which they
// come; only then is it known what they are. A layer that its name, or what has
// come before, tells already goes into the stores while it arrives. All else,
// the index and the manifests too, goes to files in the claim's directory.
type archive struct {
	store    *Store
	claim    *claim
	progress *reporter
	head     *bufio.Reader // of the current member
	members  map[string]*member
	byDigest map[digest.Digest]*member
	parts    int
	ahead    int
	foresight
}

// member is a file of an archive, or a link to another.
type member struct {
	link   string // the other's name
	digest digest.Digest
	size   int64
	// layerType is the media type if it is a layer's blob.
	layerType string
	part      string // where it lies; empty: with the store's blobs
}

func newArchive(s *Store, c *claim, p *reporter, want ocispec.Platform) *archive {
	return &archive{
		store: s, claim: c, progress: p,
		head:      bufio.NewReaderSize(nil, memberHead),
		members:   make(map[string]*member),
		byDigest:  make(map[digest.Digest]*member),
		foresight: newForesight(want),
	}
}

// read takes in the whole archive.
func (a *archive) read(ctx context.Context, r io.Reader) error {
	in, err := decompress(r)
	if err != nil {
		return broken(err)
	}
	defer in.Close()
	t := tar.NewReader(in)
	for n := 0; ; n++ {
		h, err := t.Next()
		switch {
		case err == io.EOF:
			return end(in)
		case n == 0 && errors.Is(err, tar.ErrHeader):
			return fmt.Errorf("no tar archive, nor one compressed with gzip, zstd or bzip2: %w", errdefs.ErrInvalidArgument)
		case err != nil:
			return fmt.Errorf("after %d members: %w", n, broken(err))
		case n == maxMembers:
			return fmt.Errorf("more than %d members: %w", maxMembers, errdefs.ErrInvalidArgument)
		}
		if err := a.member(ctx, h, t); err != nil {
			return fmt.Errorf("member %.150q: %w", h.Name, err)
		}
	}
}

// end reads what is left behind a tar's end marker: zeros, or somebody has put
// two archives into one, and another program may read the other.
func end(in io.Reader) error {
	b := make([]byte, 32<<10)
	for {
		n, err := in.Read(b)
		if len(bytes.Trim(b[:n], "\x00")) > 0 {
			return fmt.Errorf("data behind the end of the archive: %w", errdefs.ErrDataLoss)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return broken(err)
		}
	}
}

// member takes in one member. No name of it is ever looked up on the host.
func (a *archive) member(ctx context.Context, h *tar.Header, r io.Reader) error {
	name, err := memberName(h.Name)
	if err != nil {
		return err
	}
	var m *member
	switch h.Typeflag {
	case tar.TypeDir, tar.TypeXGlobalHeader:
		return nil
	case tar.TypeReg:
		if isSparse(h) {
			return fmt.Errorf("a sparse file, of %d bytes: %w", h.Size, errdefs.ErrInvalidArgument)
		}
		m, err = a.file(ctx, name, h.Size, unbroken{r})
	case tar.TypeSymlink:
		m, err = linkTo(name, path.Join(path.Dir(name), h.Linkname), h)
	case tar.TypeLink:
		m, err = linkTo(name, path.Clean(h.Linkname), h)
	default:
		err = fmt.Errorf("type %q, neither a file nor a link: %w", h.Typeflag, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return err
	}
	// The same twice is harmless; of two that differ, programs take either.
	if old := a.members[name]; old != nil {
		if old.digest != m.digest || old.link != m.link {
			return fmt.Errorf("comes twice, with different content: %w", errdefs.ErrDataLoss)
		}
		return a.discard(m)
	}
	a.members[name] = m
	if m.link == "" && a.byDigest[m.digest] == nil {
		a.byDigest[m.digest] = m
	}
	return nil
}

// isSparse tells a file that has holes, of which a few bytes of an archive make
// as many as they like. What writes archives of images makes none.
func isSparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// memberName is a member's name in its one form.
func memberName(name string) (string, error) {
	if len(name) > maxMemberName {
		return "", fmt.Errorf("a name of %d bytes, more than %d: %w", len(name), maxMemberName, errdefs.ErrInvalidArgument)
	}
	clean := path.Clean(name)
	if !fs.ValidPath(clean) || slices.Contains(strings.Split(name, "/"), "..") {
		return "", fmt.Errorf("not a name inside an archive: %w", errdefs.ErrInvalidArgument)
	}
	return clean, nil
}

// linkTo is a link as docker save writes it for a layer that it has written
// before.
func linkTo(name, target string, h *tar.Header) (*member, error) {
	switch {
	case path.IsAbs(h.Linkname) || len(target) > maxMemberName || !fs.ValidPath(target):
		return nil, fmt.Errorf("links to %.150q, outside of the archive: %w", h.Linkname, errdefs.ErrInvalidArgument)
	case strings.HasPrefix(name, "blobs/"):
		return nil, fmt.Errorf("a blob that is a link, to %.150q: %w", h.Linkname, errdefs.ErrInvalidArgument)
	}
	return &member{link: target}, nil
}

// file takes in a regular file.
func (a *archive) file(ctx context.Context, name string, size int64, r io.Reader) (*member, error) {
	a.head.Reset(r)
	head, err := a.head.Peek(int(min(size, memberHead)))
	if err != nil {
		return nil, broken(err)
	}
	m := &member{size: size, layerType: blobType(head)}
	blob := blobDigest(name)
	if blob != "" && size <= memberHead && bytes.HasPrefix(head, []byte("{")) {
		a.note(blob, head)
	}
	taken := false
	if known, diffID := a.known(name, blob, head); diffID != "" && a.members[name] == nil && a.ahead < maxAhead {
		taken, err = a.takeAhead(ctx, m, known, diffID)
	}
	if !taken && err == nil {
		var f *os.File
		if f, err = a.create(); err == nil {
			err = a.spool(m, f)
		}
	}
	if err != nil {
		return nil, err
	}
	if blob != "" && m.digest != blob {
		return nil, fmt.Errorf("content has digest %s: %w", m.digest, errdefs.ErrDataLoss)
	}
	return m, nil
}

// blobDigest is what the name of a blob in an image layout promises.
func blobDigest(name string) digest.Digest {
	if hex, ok := strings.CutPrefix(name, "blobs/sha256/"); ok && isSHA256Hex(hex) {
		return digest.NewDigestFromEncoded(digest.SHA256, hex)
	}
	return ""
}

func blobName(d digest.Digest) string { return "blobs/sha256/" + d.Encoded() }

func (a *archive) create() (*os.File, error) {
	a.parts++
	return os.OpenFile(filepath.Join(a.claim.dir, strconv.Itoa(a.parts)), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

// spool writes to a file what of the current member is not there yet, and closes
// it.
func (a *archive) spool(m *member, f *os.File) error {
	sum := sha256.New()
	_, err := f.Seek(0, io.SeekStart)
	if err == nil {
		m.size, err = io.Copy(sum, f)
	}
	if err == nil {
		var n int64
		n, err = io.Copy(io.MultiWriter(f, sum), a.head)
		m.size += n
	}
	m.digest, m.part = digest.NewDigest(digest.SHA256, sum), f.Name()
	return errors.Join(err, f.Close())
}

// discard forgets a member's file.
func (a *archive) discard(m *member) error {
	if m.part == "" {
		return nil
	}
	return os.Remove(m.part)
}

// find gives the file of a name, which may be a link's.
func (a *archive) find(name string) (*member, error) {
	at := path.Clean(name)
	for range maxLinks {
		m := a.members[at]
		if m == nil {
			return nil, fmt.Errorf("%.150q is not in the archive: %w", name, errdefs.ErrDataLoss)
		}
		if m.link == "" {
			return m, nil
		}
		at = m.link
	}
	return nil, fmt.Errorf("%.150q: more than %d links: %w", name, maxLinks, errdefs.ErrDataLoss)
}

// content reads a file that is a document.
func (a *archive) content(name string, limit int64) ([]byte, error) {
	m, err := a.find(name)
	if err != nil {
		return nil, err
	}
	if m.size > limit {
		return nil, fmt.Errorf("%.150q has %d bytes, more than %d: %w", name, m.size, limit, errdefs.ErrDataLoss)
	}
	if m.part == "" {
		return os.ReadFile(a.store.blobPath(m.digest))
	}
	return os.ReadFile(m.part)
}

// keep claims what the images need.
func (a *archive) keep(ctx context.Context, images []listing) error {
	if err := a.claim.extend(ctx, needs(images)); err != nil {
		return err
	}
	for n := range images {
		if err := a.reuse(ctx, &images[n]); err != nil {
			return err
		}
	}
	return nil
}

// reuse takes the manifest under which the store has an image, whole, in place
// of one that was made: its layers need not be kept in two forms.
func (a *archive) reuse(ctx context.Context, i *listing) error {
	if !i.selection.made {
		return nil
	}
	x, err := a.store.index()
	if err != nil {
		return err
	}
	for n := range x.entries {
		e := &x.entries[n]
		if e.chain == nil || e.id != i.entry.id {
			continue
		}
		c, err := a.store.content(e)
		if err != nil {
			continue // damaged, or gone meanwhile
		}
		if err := a.claim.extend(ctx, e.needs(c)); err != nil {
			return err
		}
		if a.store.whole(e, c) {
			for _, l := range c.manifest.Layers {
				a.progress.finished(l.Digest, l.Size)
			}
			*i = listing{refs: i.refs, entry: *e, content: c}
			return nil
		}
	}
	return nil
}
