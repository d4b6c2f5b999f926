package layer

import (
	"cmp"
	"slices"
	"strings"
)

// Names of AUFS, which image layers use.
const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh."     // AUFS's own files
	whiteoutOpaque = ".wh..wh..opq" // hides what lower layers have in the directory
)

// isWhiteout tells the name of a whiteout from that of a file, and of AUFS's own.
func isWhiteout(base string) bool {
	return strings.HasPrefix(base, whiteoutPrefix) && (!strings.HasPrefix(base, whiteoutMeta) || base == whiteoutOpaque)
}

// whiteout records that a name of lower layers is hidden. Where the archive
// has it does not matter: it never applies to its own layer ("Whiteouts" in
// the OCI image specification's layer.md).
func (t *tree) whiteout(d *inode, base string) error {
	if base == whiteoutOpaque {
		d.dir.opaque = true
		return nil
	}
	name := base[len(whiteoutPrefix):]
	if name == "" || name == "." || name == ".." {
		return invalidf("a whiteout of no name")
	}
	d.dir.hidden = append(d.dir.hidden, strings.Clone(name))
	return t.charge(inodeCost + len(name))
}

// finish returns all inodes, each once, a directory before what it holds. It
// turns whiteouts into overlayfs's form, removes AUFS's own files (telling
// drop about each), sorts names and counts links. The tree takes no more
// members.
func (t *tree) finish(drop func(change)) []*inode {
	all := []*inode{t.root}
	for i := 0; i < len(all); i++ {
		n := all[i]
		d := n.dir
		if d == nil {
			continue
		}
		n.whiteouts(drop)
		d.children = make([]child, 0, len(d.kids))
		for name, kid := range d.kids {
			d.children = append(d.children, child{name, kid})
		}
		d.kids = nil
		slices.SortFunc(d.children, func(a, b child) int { return cmp.Compare(a.name, b.name) })
		n.nlink = 2
		for _, c := range d.children {
			if c.node.dir != nil {
				n.nlink++
			} else {
				c.node.nlink++
			}
			if c.node.dir != nil || c.node.nlink == 1 {
				all = append(all, c.node)
			}
		}
	}
	t.sets, t.lastDir = nil, nil
	return all
}

// whiteouts applies a directory's whiteouts in overlayfs's form ("whiteouts
// and opaque directories" in Documentation/filesystems/overlayfs.rst).
func (n *inode) whiteouts(drop func(change)) {
	d := n.dir
	for name, kid := range d.kids {
		if strings.HasPrefix(name, whiteoutMeta) {
			drop(change{dir: n, name: name, replaced: kid})
			delete(d.kids, name)
		}
	}
	holds := false
	for _, name := range d.hidden {
		if kid := d.kids[name]; kid == nil {
			d.set(name, &inode{mode: modeChar})
		} else if kid.dir != nil {
			// Removed below, made anew here: nothing of the old one counts,
			// its attributes neither.
			kid.dir.opaque, kid.dir.implied = true, false
		}
	}
	for _, kid := range d.kids {
		holds = holds || kid.is(modeChar) && kid.rdev == 0
	}
	d.hidden = nil
	if d.opaque {
		n.setXattr(xattrOpaque, "y")
	}
	if holds {
		// Otherwise a directory that no lower layer has is listed as it is,
		// whiteouts included: names that nothing can open. overlayfs filters
		// where this says that whiteouts may be (ovl_path_check_origin_xattr).
		n.setXattr(xattrOrigin, "")
	}
}
