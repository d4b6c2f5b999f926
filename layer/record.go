package layer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/inboard/engine/internal/atomicfile"
	"github.com/opencontainers/go-digest"
)

const (
	recordName    = "layer.json"
	recordVersion = 1

	// treeName is the directory of a layer in the directory form.
	treeName = "tree"
)

// A record is a layer's layer.json. Fields may be added to version 1: a
// program that does not know them keeps them when it writes the record.
type record struct {
	Version   int           `json:"version"`
	DiffID    digest.Digest `json:"diffID"`
	Form      string        `json:"form"`                // "index" or "directory"
	Size      int64         `json:"size"`                // of the tar, in bytes
	IndexSize int64         `json:"indexSize,omitempty"` // of index, in bytes
	DataSize  int64         `json:"dataSize,omitempty"`  // of data, in bytes; 0: there is none
	Opaque    bool          `json:"opaque,omitempty"`    // hides all layers below

	// ImpliedSize is that of implied, in bytes. 0: there is none, or the layer
	// is older than the field, and all its directories count as named.
	ImpliedSize int64 `json:"impliedSize,omitempty"`

	unknown map[string]json.RawMessage
}

func (r *record) UnmarshalJSON(b []byte) error {
	type plain record
	if err := json.Unmarshal(b, (*plain)(r)); err != nil {
		return err
	}
	r.unknown = map[string]json.RawMessage{}
	if err := json.Unmarshal(b, &r.unknown); err != nil {
		return err
	}
	for _, known := range []string{"version", "diffID", "form", "size", "indexSize", "dataSize", "opaque", "impliedSize"} {
		delete(r.unknown, known)
	}
	return nil
}

func (r record) MarshalJSON() ([]byte, error) {
	type plain record
	b, err := json.Marshal(plain(r))
	if err != nil || len(r.unknown) == 0 {
		return b, err
	}
	all := map[string]json.RawMessage{}
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, err
	}
	maps.Copy(all, r.unknown)
	return json.Marshal(all)
}

// A part is a file of a layer, or its tree.
type part struct {
	name string
	kind fs.FileMode // its type
	size int64       // of a file
}

// parts lists what the record says is there, the index first.
func (r *record) parts() []part {
	var all []part
	add := func(name string, size int64) {
		if size > 0 {
			all = append(all, part{name: name, size: size})
		}
	}
	if r.Form == FormIndex.String() {
		all = append(all, part{name: indexName, size: r.IndexSize})
		add(tarName, round(r.Size, blockSize)) // an empty tar is no device
		add(dataName, r.DataSize)
	} else {
		all = append(all, part{name: treeName, kind: fs.ModeDir})
	}
	add(impliedName, r.ImpliedSize)
	return all
}

// readRecord reads and checks the record in a layer's directory.
func readRecord(dir string, want digest.Digest) (record, error) {
	var r record
	name := filepath.Join(dir, recordName)
	if err := atomicfile.ReadJSON(name, &r); err != nil {
		var path *fs.PathError
		if !errors.As(err, &path) || errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: %w", err, errdefs.ErrDataLoss)
		}
		return r, err
	}
	switch {
	case r.Version > recordVersion:
		return r, fmt.Errorf("%s: version %d is of a newer program: %w", name, r.Version, errdefs.ErrNotImplemented)
	case r.Version < 1, r.DiffID != want, r.Form != FormIndex.String() && r.Form != FormDirectory.String(),
		r.Size < 0, r.IndexSize < 0, r.DataSize < 0, r.ImpliedSize < 0:
		return r, fmt.Errorf("%s: damaged: %w", name, errdefs.ErrDataLoss)
	}
	return r, nil
}
