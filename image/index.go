package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/inboard/engine/internal/atomicfile"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Annotations of the descriptors in index.json that are ours; one without them is
// another program's.
const (
	// annotationChain is a JSON array of the descriptors of what a registry
	// served or an archive had, from what the name named down to the manifest.
	annotationChain = "com.github.inboard.chain"
	// annotationID is the digest of the image's config.
	annotationID = "com.github.inboard.id"
)

// index is index.json. Fields and descriptors that this version does not know
// are written back as they were read.
type index struct {
	fields  map[string]json.RawMessage
	entries []entry

	once    sync.Once
	grouped []*Image
}

// entry is one name of one image.
type entry struct {
	fields map[string]json.RawMessage // of the descriptor
	desc   ocispec.Descriptor
	chain  []ocispec.Descriptor // nil: not ours
	id     digest.Digest
}

func newEntry(desc ocispec.Descriptor, chain []ocispec.Descriptor, id digest.Digest) (entry, error) {
	raw, err := json.Marshal(chain)
	if err != nil {
		return entry{}, err
	}
	desc.Annotations = map[string]string{annotationChain: string(raw), annotationID: string(id)}
	return entry{desc: desc, chain: chain, id: id}, nil
}

// name is the full reference, empty for an image that lost its names.
func (e *entry) name() string { return e.desc.Annotations[ocispec.AnnotationRefName] }

// renamed is the same entry under another name; its annotations are its own.
func (e *entry) renamed(name string) entry {
	n := *e
	n.desc.Annotations = maps.Clone(e.desc.Annotations)
	if name == "" {
		delete(n.desc.Annotations, ocispec.AnnotationRefName)
	} else {
		n.desc.Annotations[ocispec.AnnotationRefName] = name
	}
	return n
}

// pulled is what the name named where the image came from.
func (e *entry) pulled() digest.Digest { return e.chain[0].Digest }

// served tells whether d is the image or what led to it at the registry.
func (e *entry) served(d digest.Digest) bool {
	return slices.ContainsFunc(e.chain, func(c ocispec.Descriptor) bool { return c.Digest == d })
}

const maxIndexFile = 64 << 20

// readIndex reads index.json. One that is damaged gives an ErrDataLoss that
// names the file.
func readIndex(dir string) (*index, error) {
	path := filepath.Join(dir, ocispec.ImageIndexFile)
	if fi, err := os.Stat(path); err == nil && fi.Size() > maxIndexFile {
		return nil, fmt.Errorf("%s: damaged: %d bytes: %w", path, fi.Size(), errdefs.ErrDataLoss)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	x, err := parseIndexFile(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: damaged: %v: %w", path, err, errdefs.ErrDataLoss)
	}
	return x, nil
}

func parseIndexFile(raw []byte) (*index, error) {
	x := new(index)
	if err := json.Unmarshal(raw, &x.fields); err != nil {
		return nil, err
	}
	var head struct {
		SchemaVersion int               `json:"schemaVersion"`
		Manifests     []json.RawMessage `json:"manifests"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return nil, err
	}
	if head.SchemaVersion != 2 {
		return nil, fmt.Errorf("schema version %d", head.SchemaVersion)
	}
	for i, raw := range head.Manifests {
		var e entry
		err := json.Unmarshal(raw, &e.fields)
		if err == nil {
			err = json.Unmarshal(raw, &e.desc)
		}
		if err == nil {
			err = e.readChain()
		}
		if err != nil {
			return nil, fmt.Errorf("manifest %d: %w", i, err)
		}
		x.entries = append(x.entries, e)
	}
	return x, nil
}

func (e *entry) readChain() error {
	if e.fields == nil {
		return errors.New("no object")
	}
	chain, ok := e.desc.Annotations[annotationChain]
	if !ok {
		return nil
	}
	if err := json.Unmarshal([]byte(chain), &e.chain); err != nil {
		return fmt.Errorf("annotation %s: %w", annotationChain, err)
	}
	if len(e.chain) == 0 {
		return fmt.Errorf("annotation %s is empty", annotationChain)
	}
	e.id = digest.Digest(e.desc.Annotations[annotationID])
	for _, d := range append(slices.Clone(e.chain), e.desc, ocispec.Descriptor{Digest: e.id}) {
		if err := checkDescriptor("manifest", d); err != nil {
			return err
		}
	}
	return nil
}

// images makes an image of the entries of each ID, without store and content. The
// entries must not change any more.
func (x *index) images() []*Image {
	x.once.Do(func() {
		byID := make(map[digest.Digest]*Image)
		for n := range x.entries {
			e := &x.entries[n]
			if e.chain == nil {
				continue
			}
			i := byID[e.id]
			if i == nil {
				i = &Image{id: e.id, digest: e.pulled()}
				byID[e.id] = i
				x.grouped = append(x.grouped, i)
			}
			i.entries = append(i.entries, e)
			if r, err := ParseReference(e.name()); err == nil {
				i.full = append(i.full, r.String())
				i.names = append(i.names, r.Familiar())
			}
		}
		for _, i := range x.grouped {
			slices.Sort(i.names)
		}
	})
	return x.grouped
}

// write replaces index.json; the caller holds the store's lock.
func (x *index) write(dir string) error {
	raw, err := x.marshal()
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, ocispec.ImageIndexFile), append(raw, '\n'), atomicfile.Durable)
}

func (x *index) marshal() ([]byte, error) {
	manifests := make([]json.RawMessage, len(x.entries))
	for i := range x.entries {
		raw, err := x.entries[i].marshal()
		if err != nil {
			return nil, err
		}
		manifests[i] = raw
	}
	raw, err := json.Marshal(manifests)
	if err != nil {
		return nil, err
	}
	fields := maps.Clone(x.fields)
	if fields == nil {
		fields = map[string]json.RawMessage{
			"schemaVersion": json.RawMessage("2"),
			"mediaType":     json.RawMessage(`"` + ocispec.MediaTypeImageIndex + `"`),
		}
	}
	fields["manifests"] = raw
	return json.Marshal(fields)
}

// marshal overlays what is known of the descriptor on what was read. An entry
// of another program is written as it was read.
func (e *entry) marshal() ([]byte, error) {
	if e.chain == nil {
		return json.Marshal(e.fields)
	}
	raw, err := json.Marshal(e.desc)
	if err != nil {
		return nil, err
	}
	known := make(map[string]json.RawMessage)
	if err := json.Unmarshal(raw, &known); err != nil {
		return nil, err
	}
	fields := maps.Clone(e.fields)
	if fields == nil {
		fields = make(map[string]json.RawMessage)
	}
	maps.Copy(fields, known)
	return json.Marshal(fields)
}

// setName gives a name to an image, and returns the entries that are no more.
// The image that had the name keeps repository@digest when it has no other, so
// that each can still be addressed.
func (x *index) setName(ref Reference, image entry) (dropped []entry) {
	name := ref.String()
	image = image.renamed(name)
	kept := x.entries[:0:0]
	for _, e := range x.entries {
		same := e.desc.Digest == image.desc.Digest
		switch {
		case e.name() == name && e.chain != nil && !same && !x.hasOther(&e):
			// The digest of the one platform: an index may have several here.
			old := ref.withDigest(e.chain[len(e.chain)-1].Digest)
			kept = append(kept, e.renamed(old.String()))
		case e.name() == name, e.name() == "" && e.chain != nil && same:
			if same {
				image.fields = e.fields
			}
			dropped = append(dropped, e)
		default:
			kept = append(kept, e)
		}
	}
	x.entries = append(kept, image)
	return dropped
}

// keep lists an image without a name, unless it is listed.
func (x *index) keep(image entry) {
	if !slices.ContainsFunc(x.entries, func(o entry) bool { return o.chain != nil && o.desc.Digest == image.desc.Digest }) {
		x.entries = append(x.entries, image.renamed(""))
	}
}

// hasOther tells whether e's manifest is listed under another name too.
func (x *index) hasOther(e *entry) bool {
	return slices.ContainsFunc(x.entries, func(o entry) bool {
		return o.chain != nil && o.desc.Digest == e.desc.Digest && o.name() != e.name()
	})
}
