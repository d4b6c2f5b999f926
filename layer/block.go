package layer

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
	"unsafe"
)

const (
	// Direct writes of this size reach what a disk can do one at a time.
	blockBytes = 2 << 20
	blockCount = 10 // in flight in one Add
	directSize = 4096
)

// A block is a piece of a layer's tar on its way from the decompressor to
// those who hash, parse and store it. It is free again when all have let go.
type block struct {
	data []byte // what is filled of mem
	mem  []byte // aligned for direct I/O
	refs atomic.Int32
	pool *blockPool
}

func (b *block) release() {
	if b.refs.Add(-1) == 0 {
		b.pool.free <- b
	}
}

// A blockPool bounds the memory of one Add. Only one goroutine may get.
type blockPool struct {
	free chan *block
	made int
}

// Memory is kept from one Add to the next while the garbage collector lets it.
var blockMemory = sync.Pool{New: func() any {
	b := make([]byte, blockBytes+directSize)
	skip := -int(uintptr(unsafe.Pointer(&b[0]))) & (directSize - 1)
	return &block{mem: b[skip : skip+blockBytes]}
}}

func newBlockPool() *blockPool { return &blockPool{free: make(chan *block, blockCount)} }

// get returns a block for n users.
func (p *blockPool) get(ctx context.Context, n int32) (*block, error) {
	var b *block
	select {
	case b = <-p.free:
	default:
		if p.made < blockCount {
			p.made++
			b = blockMemory.Get().(*block)
			b.pool = p
			break
		}
		select {
		case b = <-p.free:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	b.refs.Store(n)
	return b, nil
}

// close gives the memory back. Nobody may use a block any more.
func (p *blockPool) close() {
	for range p.made {
		select {
		case b := <-p.free:
			blockMemory.Put(b)
		default: // dropped by someone who failed
		}
	}
}

// A blockReader is one user's end of the stream of blocks.
type blockReader struct {
	ctx context.Context
	in  chan *block
	cur *block
}

func newBlockReader(ctx context.Context) *blockReader {
	return &blockReader{ctx: ctx, in: make(chan *block, blockCount)}
}

// next lets go of the current block and returns the following one, or io.EOF.
func (r *blockReader) next() (*block, error) {
	if r.cur != nil {
		r.cur.release()
		r.cur = nil
	}
	select {
	case b, ok := <-r.in:
		if !ok {
			return nil, io.EOF
		}
		r.cur = b
		return b, nil
	case <-r.ctx.Done():
		return nil, context.Cause(r.ctx)
	}
}

// fill is next for a tarReader.
func (r *blockReader) fill() ([]byte, error) {
	b, err := r.next()
	if err != nil {
		return nil, err
	}
	return b.data, nil
}

// drain lets go of all that is left.
func (r *blockReader) drain() error {
	for {
		if _, err := r.next(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// pump fills blocks from src until its end, and hands each to all readers.
func pump(ctx context.Context, p *blockPool, src io.Reader, readers ...*blockReader) error {
	for {
		b, err := p.get(ctx, int32(len(readers)))
		if err != nil {
			return err
		}
		n, err := io.ReadFull(src, b.mem)
		if b.data = b.mem[:n]; n > 0 {
			for _, r := range readers {
				r.in <- b // has room for all blocks there are
			}
		}
		switch err {
		case nil:
			continue
		case io.EOF, io.ErrUnexpectedEOF:
			if n == 0 {
				b.refs.Store(1)
				b.release()
			}
			for _, r := range readers {
				close(r.in)
			}
			return nil
		}
		return err
	}
}
