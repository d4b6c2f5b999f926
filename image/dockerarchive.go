package image

import (
	"encoding/json"
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Files of what docker save writes
// (github.com/moby/moby, image/spec/v1.2.md, "Combined Image JSON + Filesystem Changeset Format").
const (
	dockerManifestFile     = "manifest.json"
	dockerRepositoriesFile = "repositories"
)

// dockerItem is an image in manifest.json.
type dockerItem struct {
	Config   string   // name of a file
	RepoTags []string // may be null
	Layers   []string // names of files, the lowest first
}

// docker chooses the images of a docker-archive: all of them, in their order.
func (l *loader) docker(a *archive) error {
	raw, err := a.content(dockerManifestFile, maxConfig)
	if err != nil {
		return err
	}
	var items []json.RawMessage
	if err := json.Unmarshal(raw, &items); err != nil {
		return fmt.Errorf("%s: %v: %w", dockerManifestFile, err, errdefs.ErrDataLoss)
	}
	if n := len(items); n > maxImages {
		return fmt.Errorf("%s: %d images, more than %d: %w", dockerManifestFile, n, maxImages, errdefs.ErrDataLoss)
	}
	for n, item := range items {
		if err := l.dockerImage(a, item); err != nil {
			return fmt.Errorf("%s: image %d: %w", dockerManifestFile, n+1, err)
		}
	}
	return nil
}

func (l *loader) dockerImage(a *archive, raw json.RawMessage) error {
	var item dockerItem
	_, err := objectFields(raw)
	if err == nil {
		err = json.Unmarshal(raw, &item)
	}
	if err != nil {
		return fmt.Errorf("%v: %w", err, errdefs.ErrDataLoss)
	}
	sel, err := a.selection(&item)
	if err != nil {
		return err
	}
	if have := sel.parsed.Platform; !l.any && (have.OS != "" || have.Architecture != "") && platformRank(l.want, have) < 0 {
		return &noPlatform{want: l.want, have: []string{platformString(have)}}
	}
	if n := len(item.RepoTags); n > maxNames {
		return fmt.Errorf("%d names, more than %d: %w", n, maxNames, errdefs.ErrDataLoss)
	}
	var refs []Reference
	for _, tag := range item.RepoTags {
		ref, err := parseName(tag)
		if err != nil {
			return err
		}
		if ref.Tag() == "" {
			return fmt.Errorf("name %q has no tag: %w", tag, errdefs.ErrInvalidArgument)
		}
		refs = append(refs, ref)
	}
	return l.add(sel, refs)
}

// selection makes a manifest for an image of a docker-archive, which has none:
// of the config and of the layers as they are in the archive, most often plain
// tars. The same archive always gives the same one.
func (a *archive) selection(item *dockerItem) (*selection, error) {
	config, err := a.content(item.Config, maxConfig)
	if err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	id := digest.FromBytes(config)
	name := strings.TrimPrefix(strings.TrimSuffix(path.Base(item.Config), ".json"), "sha256:")
	if isSHA256Hex(name) && name != id.Encoded() {
		return nil, fmt.Errorf("image config %.150q: content has digest %s: %w", item.Config, id, errdefs.ErrDataLoss)
	}
	parsed, err := parseConfig(config, len(item.Layers))
	if err != nil {
		return nil, err
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: id, Size: int64(len(config))},
		Layers:    make([]ocispec.Descriptor, len(item.Layers)),
	}
	for n, name := range item.Layers {
		f, err := a.find(name)
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", n+1, err)
		}
		m.Layers[n] = ocispec.Descriptor{MediaType: f.layerType, Digest: f.digest, Size: f.size}
	}
	if err := sameDiffIDs(m.Layers, parsed.RootFS.DiffIDs); err != nil {
		return nil, fmt.Errorf("image config %s: %w", id, err)
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	if len(raw) > maxDocument {
		return nil, fmt.Errorf("image %s has %d layers, too many for a manifest: %w", id, len(m.Layers), errdefs.ErrDataLoss)
	}
	doc, err := parseDocument(m.MediaType, raw)
	if err != nil {
		return nil, err
	}
	return &selection{chain: []*document{doc}, oci: doc, config: config, parsed: parsed, made: true}, nil
}
