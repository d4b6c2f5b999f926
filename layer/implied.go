package layer

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// impliedName is the list of the directories of a layer that its archive
// implies: something in them has a member, they have none. A directory that the
// archive also whites out is not among them, as nothing is left of what lower
// layers have there; nor is the root.
//
// For each, in the order of a walk that takes the names of a directory by
// their bytes, there is a uvarint, the number of leading names that its path
// shares with the one before, then its other names with a slash between them,
// then a NUL. So no name of the tree is there more than once. Paths that no
// program could name are left out.
const impliedName = "implied"

// note records what is known of a finished tree that is not in its files.
func (t *tree) note(rec *record, all []*inode, dir string) error {
	rec.Opaque = t.root.dir.opaque
	if !slices.ContainsFunc(all, func(n *inode) bool { return n.dir != nil && n.dir.implied }) {
		return nil
	}
	// It is there already if the layer has been too large for an index.
	f, err := os.OpenFile(filepath.Join(dir, impliedName), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	w := &impliedWriter{out: bufio.NewWriter(f)}
	w.walk(t.root, len("./"))
	if err := w.out.Flush(); err != nil {
		return fmt.Errorf("write list of implied directories: %w", err)
	}
	rec.ImpliedSize = w.size
	return f.Sync()
}

type impliedWriter struct {
	out    *bufio.Writer
	path   []string // of the directory that the walk is at
	shared int      // leading names that path shares with what was written last
	size   int64
}

// walk gets the length of the directory's path, as "./a/b/". It recurses no
// deeper than a path has names.
func (w *impliedWriter) walk(n *inode, length int) {
	depth := len(w.path)
	for _, c := range n.dir.children {
		length := length + len(c.name) + 1
		if c.node.dir == nil || length > maxPath {
			continue
		}
		w.path = append(w.path[:depth], c.name)
		if c.node.dir.implied {
			w.put()
		}
		w.walk(c.node, length)
		w.shared = min(w.shared, depth)
	}
}

func (w *impliedWriter) put() {
	b := binary.AppendUvarint(nil, uint64(w.shared))
	b = append(b, strings.Join(w.path[w.shared:], "/")...)
	b = append(b, 0)
	w.out.Write(b) // its error comes out of Flush
	w.size += int64(len(b))
	w.shared = len(w.path)
}

// An impliedList reads what an impliedWriter has written.
type impliedList struct {
	file *os.File
	in   *bufio.Reader
	path []string // of the current directory; nil at the end
}

// next goes to the next directory.
func (l *impliedList) next() error {
	shared, err := binary.ReadUvarint(l.in)
	if err == io.EOF {
		l.path = nil
		return nil
	}
	var names string
	if err == nil {
		names, err = l.in.ReadString(0)
	}
	if path := (*fs.PathError)(nil); errors.As(err, &path) {
		return err
	}
	if err != nil || shared > uint64(len(l.path)) {
		return fmt.Errorf("%s: damaged: %w", l.file.Name(), errdefs.ErrDataLoss)
	}
	l.path = append(l.path[:shared], strings.Split(names[:len(names)-1], "/")...)
	return nil
}
