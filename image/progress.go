package image

import (
	"io"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Progress says how far one layer of a pull, a load or an import is.
type Progress struct {
	Layer digest.Digest // of the blob, which most often is compressed
	Done  int64         // bytes of the blob read, by whoever fetches it; never less than before; Total when the layer is in place
	Total int64         // bytes of the blob
}

// progressStep is how many bytes are between two reports of a layer.
const progressStep = 64 << 10

// reporter calls a callback from one goroutine at a time. That a layer is in
// place it says once, and bytes that are fetched a second time do not count.
type reporter struct {
	mu   sync.Mutex
	call func(Progress)
	last map[digest.Digest]int64 // Done of each layer
}

func (r *reporter) report(p Progress) {
	if r.call == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if last, seen := r.last[p.Layer]; seen && p.Done <= last {
		return
	}
	if r.last == nil {
		r.last = make(map[digest.Digest]int64)
	}
	r.last[p.Layer] = p.Done
	r.call(p)
}

// finished reports that a layer is in place.
func (r *reporter) finished(layer digest.Digest, size int64) {
	r.report(Progress{Layer: layer, Done: size, Total: size})
}

// reader reports that a layer begins, and then what is read of it.
func (r *reporter) reader(from io.Reader, d ocispec.Descriptor) io.Reader {
	at := Progress{Layer: d.Digest, Total: d.Size}
	r.report(at)
	return &progressReader{r: from, to: r, at: at}
}

// progressReader reports what is read of a layer, short of its last byte: that
// the layer is whole is for its verifier to say.
type progressReader struct {
	r        io.Reader
	to       *reporter
	at       Progress
	reported int64
}

func (p *progressReader) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.at.Done += int64(n)
	if p.at.Done-p.reported >= progressStep && p.at.Done < p.at.Total {
		p.reported = p.at.Done
		p.to.report(p.at)
	}
	return n, err
}
