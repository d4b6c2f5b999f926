package layer

import "encoding/binary"

// tail returns how many bytes of a directory or symlink follow its inode.
func (n *inode) tail() int64 {
	if !n.is(modeDir) && !n.is(modeSymlink) {
		return 0
	}
	tail := n.size % blockSize
	if tail > blockSize*3/4 || n.is(modeSymlink) && tail != n.size {
		return 0 // saves little; a long symlink must lie in one piece
	}
	return tail
}

// outside returns how many bytes of a directory or symlink lie in blocks.
func (n *inode) outside() int64 { return n.size - n.tail() }

// body returns the content of a directory or symlink.
func (x *indexer) body(n *inode) []byte {
	if n.dir == nil {
		return []byte(n.link())
	}
	return n.appendDirents(nil)
}

// direntsSize is the length of what appendDirents writes.
func (n *inode) direntsSize() int64 {
	blocks, used := int64(0), 0
	n.names(func(name string, _ *inode) {
		if used+12+len(name) > blockSize {
			blocks, used = blocks+1, 0
		}
		used += 12 + len(name)
	})
	return blocks*blockSize + int64(used)
}

// appendDirents encodes a directory: blocks that each hold dirents, and the
// names after them. The names of a directory are in order across its blocks.
func (n *inode) appendDirents(out []byte) []byte {
	le := binary.LittleEndian
	var names []child
	used := 0
	flush := func(last bool) {
		start := len(out)
		length := blockSize
		if last {
			length = used
		}
		out = append(out, make([]byte, length)...)
		b := out[start:]
		nameAt := 12 * len(names)
		for i, c := range names {
			d := b[12*i:]
			le.PutUint64(d, uint64(c.node.nid))
			le.PutUint16(d[8:], uint16(nameAt))
			d[10] = direntType[c.node.mode>>12]
			nameAt += copy(b[nameAt:], c.name)
		}
		names, used = names[:0], 0
	}
	n.names(func(name string, kid *inode) {
		if used+12+len(name) > blockSize {
			flush(false)
		}
		names = append(names, child{name, kid})
		used += 12 + len(name)
	})
	flush(true)
	return out
}

// direntType maps the type in a mode to EROFS_FT_*.
var direntType = [16]byte{modeFifo >> 12: 5, modeChar >> 12: 3, modeDir >> 12: 2, modeBlock >> 12: 4, modeFile >> 12: 1, modeSymlink >> 12: 7}

// names calls f for all names of a directory in order. "." and ".." have their
// places among them, after "+" and "-": a name out of order is listed, but not
// found.
func (n *inode) names(f func(string, *inode)) {
	dots := []child{{".", n}, {"..", n.dir.parent}}
	for _, c := range n.dir.children {
		for len(dots) > 0 && dots[0].name < c.name {
			f(dots[0].name, dots[0].node)
			dots = dots[1:]
		}
		f(c.name, c.node)
	}
	for _, dot := range dots {
		f(dot.name, dot.node)
	}
}
