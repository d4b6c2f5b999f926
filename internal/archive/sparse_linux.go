package archive

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// maxRuns bounds how many pieces of a sparse file are remembered. One with more
// is written with its holes as zeros.
const maxRuns = 64 << 10

// run is a piece of a file that has data.
type run struct{ off, size int64 }

// dataRuns gives the pieces of a file that are not holes; nil if there are no
// holes, or too many.
func dataRuns(fd int, size int64) []run {
	runs := []run{}
	for at := int64(0); at < size; {
		begin, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break // nothing but a hole up to the end
		}
		if err != nil {
			return nil
		}
		end, err := unix.Seek(fd, begin, unix.SEEK_HOLE)
		if err != nil {
			return nil
		}
		begin, end = min(begin, size), min(end, size)
		if begin < end {
			runs = append(runs, run{begin, end - begin})
		}
		if len(runs) > maxRuns || end <= at {
			return nil
		}
		at = end
	}
	if len(runs) == 1 && runs[0] == (run{0, size}) {
		return nil
	}
	return runs
}

// sparse writes a file without its holes: before the data comes a map of it.
func (x *writer) sparse(h *header, fd int, runs []run) error {
	// The last run ends where the file does, as GNU tar has it.
	if n := len(runs); n == 0 || runs[n-1].off+runs[n-1].size < h.size {
		runs = append(runs, run{h.size, 0})
	}
	list := strconv.AppendInt(nil, int64(len(runs)), 10)
	var data int64
	for _, r := range runs {
		list = strconv.AppendInt(append(list, '\n'), r.off, 10)
		list = strconv.AppendInt(append(list, '\n'), r.size, 10)
		data += r.size
	}
	list = append(list, '\n')
	list = pad(list, int64(len(list)))
	h.sparse, h.size = h.size, int64(len(list))+data
	if err := x.header(h); err != nil {
		return err
	}
	x.buf = append(x.buf, list...)
	for _, r := range runs {
		if err := x.data(fd, r.off, r.size); err != nil {
			return x.dataError(err)
		}
	}
	return x.zeros(-h.size & (blockSize - 1))
}
