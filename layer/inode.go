package layer

import (
	"cmp"
	"slices"
)

// File types as stat(2) gives them; package syscall lacks some on Windows.
const (
	modeType    = 0o170000
	modeFifo    = 0o010000
	modeChar    = 0o020000
	modeDir     = 0o040000
	modeBlock   = 0o060000
	modeFile    = 0o100000
	modeSymlink = 0o120000
)

// An inode is a file of the layer; several names may share it.
type inode struct {
	mode     uint32 // type and permissions
	uid, gid uint32
	rdev     uint32 // as the kernel's new_encode_dev, and as mknod(2) takes it
	nlink    uint32 // set by finish
	nsec     uint32
	sec      int64
	size     int64
	data     int64 // of a file that is one run: where it starts in the tar
	nid      int64 // of the index writer
	more     *details
	dir      *directory
	copy     bool // data is not one run of whole blocks: see indexer
}

// details are what most files do not have.
type details struct {
	link   string
	runs   []run // of a file that is not one run
	xattrs []xattr
}

// A directory's names. kids is replaced by children, sorted, in finish.
type directory struct {
	kids     map[string]*inode
	children []child
	hidden   []string // whiteouts
	parent   *inode   // the root is its own parent
	name     string   // in parent
	opaque   bool
	implied  bool // no member names it
}

type child struct {
	name string
	node *inode
}

// newDir is a directory that the archive does not name: root's, mode 0755,
// time 0. A member that names it later updates it.
func newDir(parent *inode, name string) *inode {
	return &inode{mode: modeDir | 0o755, dir: &directory{parent: parent, name: name}}
}

func (n *inode) is(mode uint32) bool { return n.mode&modeType == mode }

func (n *inode) xattrs() []xattr {
	if n.more == nil {
		return nil
	}
	return n.more.xattrs
}

func (n *inode) link() string {
	if n.more == nil {
		return ""
	}
	return n.more.link
}

// allRuns returns where a regular file's data lies.
func (n *inode) allRuns() []run {
	if n.more != nil && n.more.runs != nil {
		return n.more.runs
	}
	if n.size == 0 || n.data == 0 {
		return nil
	}
	return []run{{0, n.data, n.size}}
}

// set puts a node at a name.
func (d *directory) set(name string, n *inode) {
	if d.kids == nil {
		d.kids = map[string]*inode{}
	}
	d.kids[name] = n
}

// update gives a directory the attributes of a later member; its names stay.
func (n *inode) update(to *inode) {
	n.dir.implied = false
	n.mode, n.uid, n.gid, n.sec, n.nsec, n.more = to.mode, to.uid, to.gid, to.sec, to.nsec, to.more
}

// setXattr adds an attribute. The list may be shared, so it is copied.
func (n *inode) setXattr(name, value string) {
	more := details{}
	if n.more != nil {
		more = *n.more
	}
	more.xattrs = append(slices.Clone(more.xattrs), xattr{name: name, value: value})
	slices.SortFunc(more.xattrs, func(a, b xattr) int { return cmp.Compare(a.name, b.name) })
	n.more = &more
}
