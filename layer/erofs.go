package layer

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"os"

	"github.com/containerd/errdefs"
)

// The on-disk format is fs/erofs/erofs_fs.h of Linux. Blocks have 512 bytes,
// as those of a tar, so that any member's data is a run of whole blocks.
// Floors: the device table needs 5.16, blocks of 512 bytes 6.4, a mount
// straight from a file 6.12.
const (
	blockBits = 9
	blockSize = 1 << blockBits
	slotSize  = 32            // an inode's number is its offset in these
	superAt   = 1024          // the device table follows at once
	inodesAt  = 3 * blockSize // the root comes first: its number has 16 bits

	layoutPlain  = 0
	layoutInline = 2 // the last part block follows the inode

	// A data file is copied to blocks that pages can be read from directly.
	dataAlign = 4096
)

// errTooLarge says that block numbers of 32 bits do not reach all the data.
// Such a layer is stored as a directory.
var errTooLarge = errors.New("more than 2 TiB of data in an index")

// An indexer writes an EROFS image of metadata only. Its first extra device
// is the layer's tar, in which most files' data lies. What is not one run of
// whole blocks there (sparse files; a file whose padding is not zero, which
// mmap would show) it copies to the second, the data file.
type indexer struct {
	tar      io.ReaderAt
	tarSize  int64
	openData func() (*os.File, error) // called at most once
	data     *os.File
	dataSize int64

	out  *bufio.Writer
	sum  hash.Hash
	at   int64
	base [3]int64 // start of index, tar and data in the address space of all
	buf  []byte
}

// write writes the index of a finished tree, and returns its size. The same
// tree gives the same bytes.
func (x *indexer) write(f *os.File, all []*inode) (int64, error) {
	size, err := x.plan(all)
	if err != nil {
		return 0, err
	}
	x.base = [3]int64{0, size, size + round(x.tarSize, blockSize)}
	if end := x.base[2] + x.dataSize; end>>blockBits >= 1<<32-1 {
		return 0, fmt.Errorf("%w: %w", errTooLarge, errdefs.ErrOutOfRange)
	}
	if _, err := f.Seek(inodesAt, io.SeekStart); err != nil {
		return 0, err
	}
	x.sum = sha256.New()
	x.out, x.at = bufio.NewWriterSize(io.MultiWriter(f, x.sum), 1<<20), inodesAt
	for i, n := range all {
		x.pad(n.nid * slotSize)
		x.inode(n, uint32(i+1))
	}
	for _, n := range all {
		if !n.is(modeDir) && !n.is(modeSymlink) || n.outside() == 0 {
			continue
		}
		x.pad(n.data)
		x.put(x.body(n)[:n.outside()])
	}
	x.pad(size)
	if err := x.out.Flush(); err != nil {
		return 0, err
	}
	_, err = f.WriteAt(x.super(size, len(all), all[0].nid), 0)
	return size, err
}

// plan gives each inode its place, copies what must be copied, and returns
// the size of the index.
func (x *indexer) plan(all []*inode) (int64, error) {
	at := int64(inodesAt)
	for _, n := range all {
		if n.dir != nil {
			n.size = n.direntsSize()
		}
		if n.copy {
			if err := x.copyData(n); err != nil {
				return 0, err
			}
		}
		at = round(at, slotSize)
		head := 64 + xattrSize(n.xattrs())
		tail := n.tail()
		for tail > 0 && (at+head)%blockSize+tail > blockSize {
			at += slotSize // an inode may cross blocks, its tail may not
		}
		n.nid = at / slotSize
		at += head + tail
	}
	for _, n := range all {
		if n.is(modeDir) || n.is(modeSymlink) {
			if out := n.outside(); out > 0 {
				at = round(at, blockSize)
				n.data = at
				at += out
			}
		}
	}
	return round(at, blockSize), nil
}

// copyData puts a file into the data file, holes as holes of that file.
func (x *indexer) copyData(n *inode) error {
	if x.data == nil {
		var err error
		if x.data, err = x.openData(); err != nil {
			return err
		}
	}
	to := round(x.dataSize, dataAlign)
	if n.size > 1<<(32+blockBits)-to {
		return fmt.Errorf("%w: %w", errTooLarge, errdefs.ErrOutOfRange)
	}
	for _, r := range n.allRuns() {
		w := io.NewOffsetWriter(x.data, to+r.logical)
		if _, err := io.Copy(w, io.NewSectionReader(x.tar, r.physical, r.length)); err != nil {
			return fmt.Errorf("copy sparse data: %w", err)
		}
	}
	n.data = to
	x.dataSize = to + round(n.size, blockSize)
	if err := x.data.Truncate(x.dataSize); err != nil {
		return fmt.Errorf("copy sparse data: %w", err)
	}
	return nil
}

// inode writes one extended inode (a compact one has no time) with its xattrs
// and its tail.
func (x *indexer) inode(n *inode, ino uint32) {
	le := binary.LittleEndian
	b := append(x.buf[:0], make([]byte, 64)...)
	layout := uint16(layoutPlain)
	if n.tail() > 0 {
		layout = layoutInline
	}
	size, union := n.size, uint32(0)
	switch n.mode & modeType {
	case modeFile:
		device := 1
		if n.copy {
			device = 2
		}
		if size > 0 {
			union = uint32((x.base[device] + n.data) >> blockBits)
		}
	case modeDir, modeSymlink:
		if n.outside() > 0 {
			union = uint32(n.data >> blockBits)
		}
	default:
		size, union = 0, n.rdev
	}
	xattrs := xattrSize(n.xattrs())
	le.PutUint16(b[0:], 1|layout<<1)
	if xattrs > 0 {
		le.PutUint16(b[2:], uint16((xattrs-12)/4+1))
	}
	le.PutUint16(b[4:], uint16(n.mode))
	le.PutUint64(b[8:], uint64(size))
	le.PutUint32(b[16:], union)
	le.PutUint32(b[20:], ino)
	le.PutUint32(b[24:], n.uid)
	le.PutUint32(b[28:], n.gid)
	le.PutUint64(b[32:], uint64(n.sec))
	le.PutUint32(b[40:], n.nsec)
	le.PutUint32(b[44:], n.nlink)
	b = appendXattrs(b, n.xattrs())
	x.buf = b
	x.put(b)
	if n.tail() > 0 {
		x.put(x.body(n)[n.outside():])
	}
}

// super returns the blocks before the first inode. The UUID is taken from the
// content, so that it tells images apart and needs no randomness.
func (x *indexer) super(size int64, inodes int, root int64) []byte {
	le := binary.LittleEndian
	h := make([]byte, inodesAt)
	s := h[superAt:]
	devices := []int64{x.tarSize}
	if x.dataSize > 0 {
		devices = append(devices, x.dataSize)
	}
	le.PutUint32(s[0:], 0xE0F5E1E2)
	le.PutUint32(s[8:], 1|2) // compatible features: checksum, times
	s[12] = blockBits
	le.PutUint16(s[14:], uint16(root))
	le.PutUint64(s[16:], uint64(inodes))
	le.PutUint32(s[36:], uint32(size>>blockBits))
	le.PutUint32(s[80:], 8) // incompatible features: device table
	le.PutUint16(s[86:], uint16(len(devices)))
	le.PutUint16(s[88:], (superAt+128)/128) // where that is, in slots of 128
	for i, n := range devices {
		d := s[128+128*i:]
		le.PutUint32(d[64:], uint32(round(n, blockSize)>>blockBits))
		le.PutUint32(d[68:], uint32(x.base[i+1]>>blockBits))
	}
	x.sum.Write(h)
	copy(s[48:64], x.sum.Sum(nil))
	// The CRC is stored without its final inversion (wrong: EBADMSG).
	le.PutUint32(s[4:], ^crc32.Checksum(s[:blockSize], crc32.MakeTable(crc32.Castagnoli)))
	return h
}

func (x *indexer) put(b []byte) {
	x.out.Write(b) // its error comes out of Flush
	x.at += int64(len(b))
}

func (x *indexer) pad(to int64) {
	for x.at < to {
		x.put(zeros[:min(to-x.at, int64(len(zeros)))])
	}
}

var zeros [blockSize]byte

func round(n, to int64) int64 { return (n + to - 1) / to * to }
