package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types of Docker's image manifest version 2, schema 2, and of schema 1
// (github.com/distribution/distribution, docs/content/spec/deprecated-schema-v1.md).
const (
	dockerManifest      = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList          = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerSchema1       = "application/vnd.docker.distribution.manifest.v1+json"
	dockerSchema1Signed = "application/vnd.docker.distribution.manifest.v1+prettyjws"
	dockerConfig        = "application/vnd.docker.container.image.v1+json"
	dockerLayer         = "application/vnd.docker.image.rootfs.diff.tar"
	dockerLayerGzip     = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	dockerLayerZstd     = "application/vnd.docker.image.rootfs.diff.tar.zstd"
	dockerForeign       = "application/vnd.docker.image.rootfs.foreign.diff.tar"
	ociNondistributable = "application/vnd.oci.image.layer.nondistributable.v1.tar"
)

// Bounds on what is read into memory. 4 MiB is what the distribution
// specification asks registries to accept as a manifest.
const (
	maxDocument = 4 << 20
	maxConfig   = 8 << 20
)

// acceptDocuments is asked of a registry for a manifest or an index.
var acceptDocuments = strings.Join([]string{
	ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, dockerList, dockerManifest,
}, ", ")

func isIndexType(t string) bool    { return t == ocispec.MediaTypeImageIndex || t == dockerList }
func isManifestType(t string) bool { return t == ocispec.MediaTypeImageManifest || t == dockerManifest }

// document is a manifest or an index as it was served: one of the two is set.
type document struct {
	desc     ocispec.Descriptor // mediaType, digest and size
	raw      []byte
	index    *ocispec.Index
	manifest *ocispec.Manifest
}

// parseDocument reads a manifest or an index of the given media type; an empty
// one is taken from the document. The type must be what the document itself says
// and what its fields are, or two programs could run different images under one
// digest (CVE-2021-41190). Errors are ErrDataLoss for a document that breaks its
// format and ErrNotImplemented for a format that is not supported.
func parseDocument(mediaType string, raw []byte) (*document, error) {
	d := digest.FromBytes(raw)
	fields, err := objectFields(raw)
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %v: %w", d, err, errdefs.ErrDataLoss)
	}
	var head struct {
		SchemaVersion int    `json:"schemaVersion"`
		MediaType     string `json:"mediaType"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return nil, fmt.Errorf("manifest %s: %v: %w", d, err, errdefs.ErrDataLoss)
	}
	switch {
	case head.SchemaVersion == 1, mediaType == dockerSchema1, mediaType == dockerSchema1Signed:
		return nil, fmt.Errorf("manifest %s has Docker's schema 1, which registries gave up in 2019; push the image again with a current tool: %w", d, errdefs.ErrNotImplemented)
	case head.SchemaVersion != 2:
		return nil, fmt.Errorf("manifest %s has schema version %d, not 2: %w", d, head.SchemaVersion, errdefs.ErrDataLoss)
	case mediaType == "":
		mediaType = head.MediaType
	case head.MediaType != "" && head.MediaType != mediaType:
		return nil, fmt.Errorf("manifest %s says media type %q and is served as %q: %w", d, head.MediaType, mediaType, errdefs.ErrDataLoss)
	}
	listed := fields["manifests"]
	plain := fields["layers"] || fields["config"]
	schema1 := fields["fslayers"] || fields["history"]
	if listed && plain || schema1 {
		return nil, fmt.Errorf("manifest %s is ambiguous, with fields of more than one format (CVE-2021-41190): %w", d, errdefs.ErrDataLoss)
	}
	doc := &document{desc: ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(raw))}, raw: raw}
	switch {
	case isIndexType(mediaType):
		if plain {
			return nil, fmt.Errorf("manifest %s of type %q has an image's fields: %w", d, mediaType, errdefs.ErrDataLoss)
		}
		doc.index = new(ocispec.Index)
		err = json.Unmarshal(raw, doc.index)
	case isManifestType(mediaType):
		if listed {
			return nil, fmt.Errorf("manifest %s of type %q has an index's fields: %w", d, mediaType, errdefs.ErrDataLoss)
		}
		doc.manifest = new(ocispec.Manifest)
		err = json.Unmarshal(raw, doc.manifest)
	default:
		return nil, fmt.Errorf("manifest %s has media type %q: %w", d, mediaType, errdefs.ErrNotImplemented)
	}
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %v: %w", d, err, errdefs.ErrDataLoss)
	}
	return doc, nil
}

// checkDescriptor refuses what no blob can be found or verified by.
func checkDescriptor(what string, d ocispec.Descriptor) error {
	switch {
	case d.Digest.Validate() != nil:
		return fmt.Errorf("%s has the malformed digest %.100q: %w", what, string(d.Digest), errdefs.ErrDataLoss)
	case d.Digest.Algorithm() != digest.SHA256:
		return fmt.Errorf("%s %s: digest algorithm %q: %w", what, d.Digest, d.Digest.Algorithm(), errdefs.ErrNotImplemented)
	case d.Size < 0:
		return fmt.Errorf("%s %s has size %d: %w", what, d.Digest, d.Size, errdefs.ErrDataLoss)
	}
	return nil
}

// checkManifest tells whether a manifest is of an image that can be unpacked.
func checkManifest(m *ocispec.Manifest) error {
	if err := checkDescriptor("image config", m.Config); err != nil {
		return err
	}
	if t := m.Config.MediaType; t != ocispec.MediaTypeImageConfig && t != dockerConfig {
		return fmt.Errorf("an artifact with a config of type %.100q, not a container image: %w", t, errdefs.ErrNotImplemented)
	}
	if m.Config.Size > maxConfig {
		return fmt.Errorf("image config %s has %d bytes, more than %d: %w", m.Config.Digest, m.Config.Size, maxConfig, errdefs.ErrDataLoss)
	}
	sizes := make(map[digest.Digest]int64, len(m.Layers))
	for _, l := range m.Layers {
		if err := checkDescriptor("layer", l); err != nil {
			return err
		}
		if _, err := layerType(l); err != nil {
			return err
		}
		if size, ok := sizes[l.Digest]; ok && size != l.Size {
			return fmt.Errorf("layer %s is listed with %d and with %d bytes: %w", l.Digest, size, l.Size, errdefs.ErrDataLoss)
		}
		sizes[l.Digest] = l.Size
	}
	return nil
}

// layerType gives OCI's name for a layer's media type. Package layer finds the
// compression from the bytes; the type must only be one it can be.
func layerType(l ocispec.Descriptor) (string, error) {
	switch t := l.MediaType; {
	case t == dockerLayer, t == ocispec.MediaTypeImageLayer:
		return ocispec.MediaTypeImageLayer, nil
	case t == dockerLayerGzip, t == ocispec.MediaTypeImageLayerGzip:
		return ocispec.MediaTypeImageLayerGzip, nil
	case t == dockerLayerZstd, t == ocispec.MediaTypeImageLayerZstd:
		return ocispec.MediaTypeImageLayerZstd, nil
	case strings.HasPrefix(t, dockerForeign), strings.HasPrefix(t, ociNondistributable):
		return "", fmt.Errorf("layer %s is foreign (%s): registries may not distribute it, and no other host is asked: %w", l.Digest, t, errdefs.ErrNotImplemented)
	default:
		return "", fmt.Errorf("layer %s has media type %.100q: %w", l.Digest, t, errdefs.ErrNotImplemented)
	}
}

// ociForm is the manifest with OCI's media types: itself when it has them,
// else a second document about the same config and layers.
func (doc *document) ociForm() (*document, error) {
	if doc.desc.MediaType == ocispec.MediaTypeImageManifest {
		return doc, nil
	}
	m := *doc.manifest
	m.MediaType = ocispec.MediaTypeImageManifest
	m.Config.MediaType = ocispec.MediaTypeImageConfig
	m.Layers = make([]ocispec.Descriptor, len(doc.manifest.Layers))
	for i, l := range doc.manifest.Layers {
		t, err := layerType(l)
		if err != nil {
			return nil, err
		}
		m.Layers[i] = ocispec.Descriptor{MediaType: t, Digest: l.Digest, Size: l.Size, Annotations: l.Annotations}
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	return parseDocument(ocispec.MediaTypeImageManifest, raw)
}

// parseConfig reads the config of an image with the given number of layers.
func parseConfig(raw []byte, layers int) (*ocispec.Image, error) {
	d := digest.FromBytes(raw)
	if _, err := objectFields(raw); err != nil {
		return nil, fmt.Errorf("image config %s: %v: %w", d, err, errdefs.ErrDataLoss)
	}
	c := new(ocispec.Image)
	if err := json.Unmarshal(raw, c); err != nil {
		return nil, fmt.Errorf("image config %s: %v: %w", d, err, errdefs.ErrDataLoss)
	}
	if t := c.RootFS.Type; t != "layers" && (t != "" || layers > 0) {
		return nil, fmt.Errorf("image config %s has a rootfs of type %.100q, not of layers: %w", d, t, errdefs.ErrDataLoss)
	}
	if n := len(c.RootFS.DiffIDs); n != layers {
		return nil, fmt.Errorf("image config %s has %d diff IDs for %d layers: %w", d, n, layers, errdefs.ErrDataLoss)
	}
	for _, id := range c.RootFS.DiffIDs {
		if err := checkDescriptor("diff ID", ocispec.Descriptor{Digest: id}); err != nil {
			return nil, fmt.Errorf("image config %s: %w", d, err)
		}
	}
	return c, nil
}

// objectFields gives the folded names of a JSON object's fields. A name that
// comes twice is refused, at the top also in another case, because decoders
// differ in which of the two they take.
func objectFields(raw []byte) (map[string]bool, error) {
	if !json.Valid(raw) {
		return nil, errors.New("not JSON")
	}
	type level struct {
		names map[string]bool // nil in an array
		value bool            // the next token is a value, not a name
	}
	var levels []level
	var top map[string]bool
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber() // a number too large for a float64 is the decoder's to judge
	for {
		t, err := dec.Token()
		if err == io.EOF && top != nil {
			return top, nil
		}
		if err != nil {
			return nil, err
		}
		if t == json.Delim('}') || t == json.Delim(']') {
			levels = levels[:len(levels)-1]
			continue
		}
		if n := len(levels); n > 0 && levels[n-1].names != nil {
			l := &levels[n-1]
			if name, ok := t.(string); ok && !l.value {
				if n == 1 {
					name = foldCase(name)
				}
				if l.names[name] {
					return nil, fmt.Errorf("field %.100q comes twice", name)
				}
				l.names[name], l.value = true, true
				continue
			}
			l.value = false
		}
		switch t {
		case json.Delim('{'):
			levels = append(levels, level{names: make(map[string]bool)})
			if top == nil {
				top = levels[0].names
			}
		case json.Delim('['):
			levels = append(levels, level{})
		}
		if top == nil {
			return nil, errors.New("not a JSON object")
		}
	}
}

// foldCase maps names that encoding/json takes for the same field to one:
// it also takes U+017F for s and U+212A for k.
func foldCase(s string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		return unicode.ToLower(least)
	}, s)
}
