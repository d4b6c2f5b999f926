package layer

import (
	pathpkg "path"
	"strings"
)

// A walk resolves one path, with bounds on what a hostile one can cost.
type walk struct {
	t           *tree
	create      bool // directories that are missing
	hops, steps int
}

// dir returns the directory at path, starting from a directory. Like an
// extraction inside a chroot it follows symlinks, and ".." stops at the root.
func (w *walk) dir(path string, from *inode) (*inode, error) {
	d := from
	if strings.HasPrefix(path, "/") {
		d = w.t.root
	}
	for name := range strings.SplitSeq(path, "/") {
		if name == "" || name == "." {
			continue
		}
		if w.steps++; w.steps > maxSteps {
			return nil, invalidf("too many names on the way")
		}
		if name == ".." {
			d = d.dir.parent
			continue
		}
		kid := d.dir.kids[name]
		var err error
		switch {
		case kid == nil:
			kid, err = w.make(d, name)
		case kid.is(modeSymlink):
			if w.hops++; w.hops > maxHops {
				return nil, invalidf("too many symlinks on the way")
			}
			kid, err = w.dir(kid.link(), d)
		case !kid.is(modeDir):
			err = invalidf("%s on the way is not a directory", quote(name))
		}
		if err != nil {
			return nil, err
		}
		d = kid
	}
	return d, nil
}

func (w *walk) make(d *inode, name string) (*inode, error) {
	if !w.create {
		return nil, invalidf("%s on the way is not in the layer", quote(name))
	}
	if len(name) > maxName {
		return nil, invalidf("a name of %d bytes, %d more than a file can have", len(name), len(name)-maxName)
	}
	if err := w.t.charge(inodeCost + len(name)); err != nil {
		return nil, err
	}
	kid := newDir(d, strings.Clone(name))
	kid.dir.implied = true
	d.dir.set(kid.dir.name, kid)
	return kid, nil
}

// locate returns the directory of a member and its name there, "" for the
// root. Names are taken as Docker takes them: relative to the root, with "."
// and ".." removed by text first, so that none leads out.
func (t *tree) locate(path string, create bool) (*inode, string, error) {
	if len(path) > maxPath {
		return nil, "", invalidf("a path of %d bytes, %d more than a program can name", len(path), len(path)-maxPath)
	}
	if strings.IndexByte(path, 0) >= 0 {
		return nil, "", invalidf("a NUL in the name")
	}
	path = pathpkg.Clean("/" + path)[1:]
	i := strings.LastIndexByte(path, '/')
	parent, base := path[:i+1], path[i+1:]
	name := base
	if isWhiteout(base) {
		name = base[len(whiteoutPrefix):] // nobody makes a file called base
	}
	if len(name) > maxName {
		return nil, "", invalidf("a name of %d bytes, %d more than a file can have", len(name), len(name)-maxName)
	}
	if t.lastDir != nil && parent == t.lastPath {
		return t.lastDir, base, nil
	}
	w := walk{t: t, create: create}
	d, err := w.dir(parent, t.root)
	if err == nil {
		t.lastPath, t.lastDir = strings.Clone(parent), d
	}
	return d, base, err
}
