package layer

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

const (
	maxPath  = 4096 // PATH_MAX: what a program could ever open
	maxName  = 255  // NAME_MAX
	maxLink  = 4095 // a symlink's target, without its NUL
	maxHops  = 40   // symlinks in one path, as the kernel counts them
	maxSteps = 1 << 14

	// maxTreeCost bounds the memory of one layer's tree, by a rough count
	// that is below what Go takes. It allows about five million names.
	maxTreeCost = 1 << 30
	inodeCost   = 192
)

// A tree is what extracting a layer's tar would leave, in memory. Names of
// the archive are resolved in it and nowhere else.
type tree struct {
	root *inode
	cost int64
	sets map[string][]xattr // the same attributes are kept once

	// The directory that the last name was in, while no directory or symlink
	// has been replaced: members of one directory mostly follow each other.
	lastPath string
	lastDir  *inode
}

func newTree() *tree {
	t := &tree{sets: map[string][]xattr{}}
	t.root = newDir(nil, "")
	t.root.dir.parent = t.root
	return t
}

func (t *tree) charge(n int) error {
	if t.cost += int64(n); t.cost > maxTreeCost {
		return fmt.Errorf("more names than fit into the %d MiB of memory that a layer may take: %w", maxTreeCost>>20, errdefs.ErrResourceExhausted)
	}
	return nil
}

// A change is what a member did to the tree: node stands at name in dir now,
// and replaced, if any, does not any more. node is nil for a whiteout.
type change struct {
	dir            *inode
	name           string
	node, replaced *inode
	linked         bool // node was there before, under another name
	from           place
}

// A place is a name in a directory.
type place struct {
	dir  *inode
	name string
}

// add applies one member. A later member replaces an earlier one, but a
// directory only updates a directory.
func (t *tree) add(e *entry) (change, error) {
	c, err := t.apply(e)
	if err != nil {
		return c, fmt.Errorf("%s: %w", quote(e.name), err)
	}
	return c, nil
}

func (t *tree) apply(e *entry) (change, error) {
	d, base, err := t.locate(e.name, true)
	if err != nil {
		return change{}, err
	}
	if isWhiteout(base) {
		return change{dir: d}, t.whiteout(d, base)
	}
	c := change{dir: d, name: base}
	if e.kind == kindHardlink {
		if c.node, c.from, err = t.target(e.link); err != nil {
			return c, err
		}
		c.linked = true
	} else if c.node, err = t.inode(e); err != nil {
		return c, err
	}
	if base == "" {
		if e.kind != kindDir {
			return c, invalidf("the root is not a directory")
		}
		t.root.update(c.node)
		c.node = t.root
		return c, nil
	}
	old := d.dir.kids[base]
	if old == c.node {
		return change{dir: d}, nil // a link to itself
	}
	if old != nil && old.is(modeDir) && c.node.is(modeDir) {
		old.update(c.node)
		c.node = old
		return c, nil
	}
	if old == nil {
		base = strings.Clone(base) // not the whole path
		if err := t.charge(inodeCost + len(base)); err != nil {
			return c, err
		}
	} else if old.is(modeDir) || old.is(modeSymlink) {
		t.lastDir = nil // names may lead elsewhere now
	}
	if c.replaced = old; c.node.is(modeDir) {
		c.node.dir.parent, c.node.dir.name = d, base
	}
	d.dir.set(base, c.node)
	return c, nil
}

// target finds what a hard link points to: any file that is not a directory
// and stands before the link in the archive; a symlink itself, not its target.
func (t *tree) target(link string) (*inode, place, error) {
	d, base, err := t.locate(link, false)
	if err != nil {
		return nil, place{}, fmt.Errorf("hard link to %s: %w", quote(link), err)
	}
	n := d.dir.kids[base]
	if base == "" || n == nil || n.is(modeDir) {
		return nil, place{}, invalidf("hard link to %s, which is no file that the archive has before it", quote(link))
	}
	return n, place{d, base}, nil
}

// inode makes the node of a member that is no hard link.
func (t *tree) inode(e *entry) (*inode, error) {
	n := &inode{mode: e.mode, uid: e.uid, gid: e.gid, sec: e.sec, nsec: e.nsec}
	var more details
	switch e.kind {
	case kindFile:
		n.mode |= modeFile
		n.size = e.size
		if whole := len(e.runs) == 1 && e.runs[0].length == e.size; whole {
			n.data = e.runs[0].physical
		} else if e.size > 0 {
			n.copy = true
			more.runs = slices.Clone(e.runs)
		}
	case kindSymlink:
		if e.link == "" || len(e.link) > maxLink || strings.IndexByte(e.link, 0) >= 0 {
			return nil, invalidf("symlink to %s", quote(e.link))
		}
		n.mode = modeSymlink | 0o777
		more.link, n.size = e.link, int64(len(e.link))
	case kindChar, kindBlock:
		// A character device 0:0 stays one, so overlayfs takes it for a
		// whiteout. It is a device that does not exist and cannot be shown
		// there, and what lower layers have at its name is hidden by it
		// anyway. Docker's overlay driver does the same.
		if n.mode |= modeChar; e.kind == kindBlock {
			n.mode ^= modeChar ^ modeBlock
		}
		if e.major > 0xfff || e.minor > 0xfffff {
			return nil, invalidf("device %d:%d", e.major, e.minor)
		}
		n.rdev = e.minor&0xff | e.major<<8 | e.minor&^0xff<<12
	case kindDir:
		n.mode |= modeDir
		n.dir = &directory{}
	case kindFifo:
		n.mode |= modeFifo
	}
	xattrs, err := kernelXattrs(e.xattrs, e.kind)
	if err != nil {
		return nil, err
	}
	for i, x := range xattrs {
		if x.name == xattrACLAccess {
			var minimal bool
			if n.mode, minimal = aclMode(x.value, n.mode); minimal {
				xattrs = slices.Delete(xattrs, i, i+1)
			}
			break
		}
	}
	if more.xattrs, err = t.intern(xattrs); err != nil {
		return nil, err
	}
	if more.link != "" || more.runs != nil || more.xattrs != nil {
		n.more = &more
	}
	return n, t.charge(len(more.link) + 24*len(more.runs))
}

// intern returns one copy of equal lists: a labelled image has the same few on
// all its files.
func (t *tree) intern(xattrs []xattr) ([]xattr, error) {
	if len(xattrs) == 0 {
		return nil, nil
	}
	var key strings.Builder
	for _, x := range xattrs {
		fmt.Fprintf(&key, "%d %s %d %s", len(x.name), x.name, len(x.value), x.value)
	}
	if same, ok := t.sets[key.String()]; ok {
		return same, nil
	}
	t.sets[key.String()] = xattrs
	return xattrs, t.charge(2*key.Len() + 64*len(xattrs))
}
