package image

import (
	"encoding/json"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxForesight is how many bytes of documents are kept in mind.
const maxForesight = 4 << 20

// foresight learns from the documents of an image layout that have come which
// blobs are going to be layers, and their diff IDs. Nothing depends on it being
// right: it is checked when the blob comes, and again when all has.
type foresight struct {
	want    ocispec.Platform
	layers  map[digest.Digest]digest.Digest        // diff ID by blob
	diffIDs map[digest.Digest][]digest.Digest      // of a config
	waiting map[digest.Digest][]ocispec.Descriptor // layers, by a config that has not come
	left    int
}

func newForesight(want ocispec.Platform) foresight {
	return foresight{
		want:    want,
		layers:  make(map[digest.Digest]digest.Digest),
		diffIDs: make(map[digest.Digest][]digest.Digest),
		waiting: make(map[digest.Digest][]ocispec.Descriptor),
		left:    maxForesight,
	}
}

// note reads a manifest or a config.
func (f *foresight) note(d digest.Digest, raw []byte) {
	if f.left -= len(raw); f.left < 0 {
		return
	}
	var doc struct {
		ocispec.Platform
		Config ocispec.Descriptor   `json:"config"`
		Layers []ocispec.Descriptor `json:"layers"`
		RootFS ocispec.RootFS       `json:"rootfs"`
	}
	if json.Unmarshal(raw, &doc) != nil {
		return
	}
	config := d
	if len(doc.RootFS.DiffIDs) > 0 {
		if platformRank(f.want, doc.Platform) < 0 {
			return
		}
		f.diffIDs[config] = doc.RootFS.DiffIDs
	} else {
		config = doc.Config.Digest
		f.waiting[config] = doc.Layers
	}
	layers, diffIDs := f.waiting[config], f.diffIDs[config]
	if len(layers) != len(diffIDs) {
		return
	}
	for n, l := range layers {
		f.layers[l.Digest] = diffIDs[n]
	}
	delete(f.waiting, config)
}
