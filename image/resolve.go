package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Bounds on how long the way from a name to a manifest may be. What tools make
// is an index of manifests; indexes in it are allowed and not seen.
const (
	maxIndexDepth = 4
	maxDocuments  = 32
)

// selection is the one image that a reference and a platform mean.
type selection struct {
	chain  []*document // as served, the last one is the manifest
	oci    *document   // the manifest in OCI's form
	config []byte
	parsed *ocispec.Image
	made   bool // the manifest was made here
}

// documents is where manifests and configs come from: a registry, an image
// layout, or an image of go-containerregistry's. Both are verified.
type documents interface {
	document(ctx context.Context, tagOrDigest string, expect *ocispec.Descriptor) (*document, error)
	config(ctx context.Context, d ocispec.Descriptor) ([]byte, error)
}

// resolver finds the way from a name to an image. What the store has under a
// digest already is not fetched.
type resolver struct {
	store   *Store
	from    documents
	want    ocispec.Platform
	fetched int
}

// noPlatform is an image, or an index, that has nothing for what is wanted.
type noPlatform struct {
	want ocispec.Platform
	have []string
}

func (e *noPlatform) Error() string {
	s := "no image for platform " + platformString(e.want)
	if len(e.have) > 0 {
		s += ", only for " + strings.Join(e.have, ", ")
	}
	return s
}

func (e *noPlatform) Unwrap() error { return errdefs.ErrNotFound }

func (r *resolver) resolve(ctx context.Context, ref Reference) (*selection, error) {
	top := ref.Tag()
	var expect *ocispec.Descriptor
	if d := ref.Digest(); d != "" {
		top, expect = string(d), r.store.served(d)
	}
	doc, err := r.document(ctx, top, expect)
	if err != nil {
		return nil, err
	}
	return r.choose(ctx, doc, false, 0)
}

// choose goes down from a document. stated is set when an index has said that
// the document is for the wanted platform: then the config is not asked, whose
// platform many builds leave at that of the machine they ran on.
func (r *resolver) choose(ctx context.Context, doc *document, stated bool, depth int) (*selection, error) {
	if doc.manifest != nil {
		return r.leaf(ctx, doc, stated)
	}
	if depth == maxIndexDepth {
		return nil, fmt.Errorf("index %s: more than %d indexes inside each other: %w", doc.desc.Digest, maxIndexDepth, errdefs.ErrDataLoss)
	}
	none := &noPlatform{want: r.want, have: platformsOf(doc.index)}
	for _, c := range candidates(doc.index, r.want) {
		if err := checkDescriptor("manifest", c.Descriptor); err != nil {
			return nil, fmt.Errorf("index %s: %w", doc.desc.Digest, err)
		}
		child, err := r.document(ctx, string(c.Digest), &c.Descriptor)
		if err != nil {
			return nil, err
		}
		s, err := r.choose(ctx, child, stated || c.stated, depth+1)
		if n := new(noPlatform); errors.As(err, &n) {
			none.have = slices.Compact(slices.Sorted(slices.Values(append(none.have, n.have...))))
			continue
		}
		if err != nil {
			return nil, err
		}
		s.chain = append([]*document{doc}, s.chain...)
		return s, nil
	}
	return nil, none
}

// leaf reads the config of a manifest.
func (r *resolver) leaf(ctx context.Context, doc *document, stated bool) (*selection, error) {
	if err := checkManifest(doc.manifest); err != nil {
		return nil, fmt.Errorf("manifest %s: %w", doc.desc.Digest, err)
	}
	raw, err := r.store.readBlob(doc.manifest.Config.Digest, maxConfig)
	if err != nil || int64(len(raw)) != doc.manifest.Config.Size {
		if raw, err = r.from.config(ctx, doc.manifest.Config); err != nil {
			return nil, fmt.Errorf("image config: %w", err)
		}
	}
	config, err := parseConfig(raw, len(doc.manifest.Layers))
	if err != nil {
		return nil, err
	}
	if have := config.Platform; !stated && (have.OS != "" || have.Architecture != "") && platformRank(r.want, have) < 0 {
		return nil, &noPlatform{want: r.want, have: []string{platformString(have)}}
	}
	if err := sameDiffIDs(doc.manifest.Layers, config.RootFS.DiffIDs); err != nil {
		return nil, fmt.Errorf("image config %s: %w", doc.manifest.Config.Digest, err)
	}
	oci, err := doc.ociForm()
	if err != nil {
		return nil, err
	}
	return &selection{chain: []*document{doc}, oci: oci, config: raw, parsed: config}, nil
}

// sameDiffIDs refuses a blob that is said to unpack to two different tars.
func sameDiffIDs(layers []ocispec.Descriptor, diffIDs []digest.Digest) error {
	ids := make(map[digest.Digest]digest.Digest, len(layers))
	for n, l := range layers {
		if id, ok := ids[l.Digest]; ok && id != diffIDs[n] {
			return fmt.Errorf("layer %s has two diff IDs, %s and %s: %w", l.Digest, id, diffIDs[n], errdefs.ErrDataLoss)
		}
		ids[l.Digest] = diffIDs[n]
	}
	return nil
}

// document gets a document from the store, or else from where the image comes.
func (r *resolver) document(ctx context.Context, tagOrDigest string, expect *ocispec.Descriptor) (*document, error) {
	if r.fetched++; r.fetched > maxDocuments {
		return nil, fmt.Errorf("more than %d manifests to find one image: %w", maxDocuments, errdefs.ErrDataLoss)
	}
	if expect != nil {
		if expect.Size > maxDocument {
			return nil, fmt.Errorf("manifest %s has %d bytes, more than %d: %w", expect.Digest, expect.Size, maxDocument, errdefs.ErrDataLoss)
		}
		raw, err := r.store.readBlob(expect.Digest, maxDocument)
		if err == nil {
			return checkDocument("", raw, tagOrDigest, expect)
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errdefs.ErrDataLoss) {
			return nil, err
		}
	}
	return r.from.document(ctx, tagOrDigest, expect)
}

// served finds the descriptor under which a digest was pulled before.
func (s *Store) served(d digest.Digest) *ocispec.Descriptor {
	x, err := s.index()
	if err != nil {
		return nil
	}
	for i := range x.entries {
		for _, c := range x.entries[i].chain {
			if c.Digest == d {
				return &c
			}
		}
	}
	return nil
}
