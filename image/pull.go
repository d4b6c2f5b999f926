package image

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/inboard/engine/internal/atomicfile"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// PullOptions change how [Store.Pull] works. The zero value is right for most.
type PullOptions struct {
	// Platform is os/arch or os/arch/variant, such as "linux/arm64/v8"; empty is
	// Linux on this machine's architecture. An image for an older variant of the
	// architecture is taken when there is none for this one.
	Platform string
	// PlainHTTP speaks HTTP without TLS to the registry. It is what is always
	// spoken to a literal loopback address and to "localhost", and never to any
	// other registry without this option.
	PlainHTTP bool
	// Keychain gives the credentials, when the registry asks for any; nil is
	// authn.DefaultKeychain: Docker's config file and credential helpers, or
	// podman's auth.json.
	Keychain authn.Keychain
	// Transport makes the requests; nil is one like http.DefaultTransport, which
	// honours the proxies of the environment. Another one must not follow
	// redirects by itself, and says where "localhost" is.
	Transport http.RoundTripper
	// Progress, when not nil, is called as layers arrive, from one goroutine at a
	// time, and not any more when Pull has returned. A layer that is there
	// already is reported once, as done.
	Progress func(Progress)
}

// parallelLayers is how many layers are fetched at a time, as Docker has it.
const parallelLayers = 3

// Pull fetches the image that ref names, with those of its blobs and layers that
// are not there yet, and gives it the name; an image that had the name keeps its
// digest as name. Layers are unpacked while they arrive. An answer or a
// connection that fails in a way that may pass is tried again, and a layer goes
// on where it broke off.
//
// Pull lists the image when everything is verified and on the disk. Before that,
// when it fails or ctx ends, it removes what it fetched. A digest reference to an
// image that is complete needs no registry.
//
// Errors: ErrInvalidArgument for a malformed reference or platform; ErrNotFound
// for an unknown image and one that has nothing for the platform;
// ErrUnauthenticated, ErrPermissionDenied, ErrResourceExhausted (too many
// requests) and ErrUnavailable as the registry answers, or does not;
// ErrNotImplemented for what is no image or of an unsupported format; ErrDataLoss
// for content that is not what its digest, size, type or format promises.
func (s *Store) Pull(ctx context.Context, ref string, o PullOptions) (*Image, error) {
	r, err := ParseReference(ref)
	if err != nil {
		return nil, fmt.Errorf("pull: %w", err)
	}
	i, err := s.pull(ctx, r, o)
	if err != nil {
		// What an ended context breaks says so in many ways.
		if e := ctx.Err(); e != nil && !errors.Is(err, e) {
			err = fmt.Errorf("%w: %w", e, err)
		}
		return nil, fmt.Errorf("pull %s: %w", r, err)
	}
	return i, nil
}

func (s *Store) pull(ctx context.Context, ref Reference, o PullOptions) (_ *Image, err error) {
	want, err := parsePlatform(o.Platform)
	if err != nil {
		return nil, err
	}
	reg, err := newRegistry(ref, o, s.patience)
	if err != nil {
		return nil, err
	}
	defer reg.close()
	sel, err := (&resolver{store: s, registry: reg, want: want}).resolve(ctx, ref)
	if refused := new(statusError); errors.As(err, &refused) && refused.code == http.StatusUnauthorized {
		// So does Docker Hub answer for a repository that does not exist.
		return nil, fmt.Errorf("no such repository, or it wants other credentials: %w", err)
	}
	if err != nil {
		return nil, err
	}
	e, err := sel.entry()
	if err != nil {
		return nil, err
	}
	content := &content{*sel.oci.manifest, *sel.parsed}
	progress := &reporter{call: o.Progress}
	if s.complete(ref, &e, content) {
		for _, l := range content.manifest.Layers {
			progress.report(Progress{Layer: l.Digest, Done: l.Size, Total: l.Size})
		}
		return s.pulled(ref, e, content), nil
	}

	// From the claim on nobody removes what is found to be there.
	c, err := s.claimFor(e.needs(content))
	if err != nil {
		return nil, err
	}
	p := &pull{store: s, registry: reg, claim: c, progress: progress}
	if err = p.fetch(ctx, sel); err == nil {
		err = p.commit(ctx, ref, e)
	}
	if err != nil {
		return nil, errors.Join(err, c.abandon())
	}
	return s.pulled(ref, e, content), nil
}

// complete tells whether the store lists just this under the name, and has it.
func (s *Store) complete(ref Reference, e *entry, c *content) bool {
	x, err := s.index()
	if err != nil || !slices.ContainsFunc(x.entries, func(o entry) bool {
		return o.name() == ref.String() && o.desc.Digest == e.desc.Digest && o.id == e.id &&
			slices.EqualFunc(o.chain, e.chain, func(a, b ocispec.Descriptor) bool { return a.Digest == b.Digest })
	}) {
		return false
	}
	for _, l := range c.manifest.Layers {
		if !s.hasBlob(l) {
			return false
		}
	}
	for _, d := range e.documents().Blobs { // small enough to be verified
		if _, err := s.readBlob(d, maxConfig); err != nil {
			return false
		}
	}
	for _, id := range c.config.RootFS.DiffIDs {
		if _, err := s.layers.Get(id); err != nil {
			return false
		}
	}
	return true
}

// claimFor is claim under the store's lock.
func (s *Store) claimFor(what claimed) (*claim, error) {
	l, err := s.lock(exclusive)
	if err != nil {
		return nil, err
	}
	defer l.unlock()
	return s.claim(what)
}

// entry is the image as index.json lists it, without a name yet.
func (sel *selection) entry() (entry, error) {
	chain := make([]ocispec.Descriptor, len(sel.chain))
	for i, doc := range sel.chain {
		chain[i] = doc.desc
	}
	desc := sel.oci.desc
	if p := sel.parsed.Platform; p.OS != "" && p.Architecture != "" {
		desc.Platform = &ocispec.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}
	}
	return newEntry(desc, chain, sel.oci.manifest.Config.Digest)
}

// pulled is the image that was just listed. It may have more names.
func (s *Store) pulled(ref Reference, e entry, c *content) *Image {
	if _, i, err := s.find(func(i *Image) bool { return i.id == e.id }); err == nil {
		i.content, i.digest = c, e.pulled()
		return i
	}
	return &Image{store: s, id: e.id, digest: e.pulled(), names: []string{ref.Familiar()}, content: c}
}

// pull is a pull at work, once it is known what to fetch.
type pull struct {
	store    *Store
	registry *registry
	claim    *claim
	progress *reporter
}

// fetch brings all blobs and layers of an image into the stores.
func (p *pull) fetch(ctx context.Context, sel *selection) error {
	docs := map[digest.Digest][]byte{
		sel.oci.desc.Digest:            sel.oci.raw,
		sel.oci.manifest.Config.Digest: sel.config,
	}
	for _, doc := range sel.chain {
		docs[doc.desc.Digest] = doc.raw
	}
	for d, raw := range docs {
		if err := p.put(d, raw); err != nil {
			return fmt.Errorf("blob %s: %w", d, err)
		}
	}
	// The first failure ends the others; they were asked to stop, so theirs is
	// not the error to show.
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelLayers)
	seen := make(map[digest.Digest]bool)
	for n, l := range sel.oci.manifest.Layers {
		if seen[l.Digest] {
			continue
		}
		seen[l.Digest] = true
		g.Go(func() error { return p.layer(ctx, l, sel.parsed.RootFS.DiffIDs[n]) })
	}
	return g.Wait()
}

// put stores a small blob, unless it is there, whole.
func (p *pull) put(d digest.Digest, raw []byte) error {
	if _, err := p.store.readBlob(d, int64(len(raw))); err == nil {
		return nil
	}
	f, err := os.OpenFile(filepath.Join(p.claim.dir, d.Encoded()), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	return p.store.place(f, d, err)
}

// place gives a blob that is written, and verified, its name. It closes the file
// and removes it when err or anything else failed.
func (s *Store) place(f *os.File, d digest.Digest, err error) error {
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), s.blobPath(d))
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// commit lists the image under its name.
func (p *pull) commit(ctx context.Context, ref Reference, e entry) error {
	s := p.store
	if err := atomicfile.SyncDir(s.path("blobs", "sha256")); err != nil {
		return err
	}
	l, err := s.lock(exclusive)
	if err != nil {
		return err
	}
	defer l.unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	x, err := readIndex(s.dir)
	if err != nil {
		return err
	}
	// The name's last image may have blobs that this one has not, such as its
	// index. They go when the image is listed, and should that fail, later.
	stale := s.candidates(x, x.setName(ref, e))
	var old *claim
	if len(stale.Blobs) > 0 {
		if old, err = s.claim(stale); err != nil {
			return err
		}
	}
	if err := x.write(s.dir); err != nil {
		if old != nil {
			err = errors.Join(err, old.remove())
		}
		return err
	}
	p.claim.remove()
	if old != nil {
		old.finish()
	}
	return nil
}
