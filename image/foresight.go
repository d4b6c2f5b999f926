package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/inboard/engine/layer"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// maxForesight is how many bytes of documents are kept in mind.
	maxForesight = 4 << 20
	// maxAhead is how many layers are made while an archive arrives: each adds to
	// the claim, which is then written again.
	maxAhead = 512
)

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

// known tells of a file that begins with head whether it is a layer: then its
// digest and diff ID are known. A tar's are the same; skopeo and podman name it
// after them in a docker-archive too.
func (a *archive) known(name string, blob digest.Digest, head []byte) (_, diffID digest.Digest) {
	if !isTar(head) {
		return blob, a.layers[blob]
	}
	if hex, ok := strings.CutSuffix(name, ".tar"); ok && isSHA256Hex(hex) {
		blob = digest.NewDigestFromEncoded(digest.SHA256, hex)
	}
	return blob, blob
}

// takeAhead makes a layer of the current member while it arrives. It does not
// wait for others who are at work on the same one: their stream may be fed by
// who feeds this one. When it turns out that the member is no such layer it is
// kept as a file; whether that matters is seen when all has been read.
func (a *archive) takeAhead(ctx context.Context, m *member, blob, diffID digest.Digest) (done bool, err error) {
	d := ocispec.Descriptor{Digest: blob, Size: m.size}
	right, err := a.store.tryFetching(d)
	if right == nil || err != nil {
		return false, err
	}
	defer right.end()
	a.ahead++
	if err := a.claim.extend(ctx, claimed{[]digest.Digest{blob}, []digest.Digest{diffID}}); err != nil {
		return false, err
	}
	if a.store.hasBlob(d) && a.store.checkLayer(diffID) == nil {
		if m.digest, err = digest.FromReader(a.head); err == nil && m.digest != blob {
			err = fmt.Errorf("content has digest %s: %w", m.digest, errdefs.ErrDataLoss)
		}
		if err == nil {
			a.progress.finished(blob, m.size)
		}
		return true, err
	}
	f, err := a.create()
	if err != nil {
		return false, err
	}
	l, err := a.store.layers.Add(ctx, a.progress.reader(a.head, d), layer.AddOptions{Digest: blob, Size: m.size, DiffID: diffID, Tee: f})
	switch {
	case err == nil:
		m.digest = blob
		a.progress.finished(blob, m.size)
		if a.claim.linkTar(l, blob) {
			return true, errors.Join(f.Close(), os.Remove(f.Name()))
		}
		return true, a.store.place(f, blob, nil)
	case ctx.Err() != nil:
		return false, errors.Join(err, f.Close())
	}
	return true, a.spool(m, f)
}
