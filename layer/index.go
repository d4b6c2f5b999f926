package layer

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
)

// Files of a layer in the index form.
const (
	tarName   = "tar"
	indexName = "index"
	dataName  = "data"
)

// An indexBuilder makes the index form: the tar as it is, an index over it,
// and a data file where one is needed.
type indexBuilder struct {
	dir  string
	tree *tree
	last *inode // the file that the member before made, or nil
}

func newIndexBuilder(dir string) *indexBuilder { return &indexBuilder{dir: dir, tree: newTree()} }

func (x *indexBuilder) close() {}

func (x *indexBuilder) start(ctx context.Context, g *errgroup.Group) []*blockReader {
	in := newBlockReader(ctx)
	g.Go(func() error {
		if err := writeTar(filepath.Join(x.dir, tarName), in); err != nil {
			return fmt.Errorf("write tar: %w", err)
		}
		return nil
	})
	return []*blockReader{in}
}

// writeTar stores the tar, synced, and keeps no page of it in memory: what is
// read through an index is cached there, and once is enough. The file has whole
// blocks, also where the tar has not: EROFS reads no part of one (EIO).
func writeTar(name string, in *blockReader) (err error) {
	f, err := createTar(name)
	if err != nil {
		return err
	}
	size := int64(0)
	for {
		b, err := in.next()
		if err == io.EOF {
			if err := f.write(zeros[:padding(size)]); err != nil {
				f.f.Close()
				return err
			}
			return f.finish()
		}
		if err == nil {
			size += int64(len(b.data))
			err = f.write(b.data)
		}
		if err != nil {
			f.f.Close()
			return err
		}
	}
}

func (x *indexBuilder) member(t *tarReader, e *entry, _ *blockReader) error {
	x.settle(t)
	c, err := x.tree.add(e)
	if err == nil && e.kind == kindFile {
		x.last = c.node
	}
	return err
}

// settle notes what is known of a file only when the next header is reached.
func (x *indexBuilder) settle(t *tarReader) {
	if x.last != nil && t.dirty {
		x.last.copy = true
	}
	x.last = nil
}

func (x *indexBuilder) end(t *tarReader) error {
	x.settle(t)
	return nil
}

func (x *indexBuilder) finish(rec *record) error {
	all := x.tree.finish(func(change) {})
	if err := x.tree.note(rec, all, x.dir); err != nil {
		return err
	}
	x.tree = nil
	tar, err := os.Open(filepath.Join(x.dir, tarName))
	if err != nil {
		return err
	}
	defer tar.Close()
	f, err := os.OpenFile(filepath.Join(x.dir, indexName), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	w := &indexer{tar: tar, tarSize: rec.Size, openData: func() (*os.File, error) {
		return os.OpenFile(filepath.Join(x.dir, dataName), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	}}
	rec.IndexSize, err = w.write(f, all)
	rec.DataSize = w.dataSize
	if err == nil {
		err = f.Sync()
	}
	if w.data != nil {
		if err == nil {
			err = w.data.Sync()
		}
		w.data.Close()
	}
	if err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	return nil
}
