package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// progressWorth is how much a connection must have brought for its failure not
// to count against our patience.
const progressWorth = 1 << 20

// document gets a manifest or an index by its tag or digest. expect, when not
// nil, is the descriptor that led to it.
func (r *registry) document(ctx context.Context, tagOrDigest string, expect *ocispec.Descriptor) (*document, error) {
	var doc *document
	err := r.retry(ctx, func() error {
		resp, from, err := r.get(ctx, "manifests/"+tagOrDigest, http.Header{"Accept": {acceptDocuments}})
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return newStatusError(resp, from)
		}
		raw, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
		if err != nil {
			return fmt.Errorf("GET %s: %w", place(from), &networkError{err})
		}
		if len(raw) > maxDocument {
			return fmt.Errorf("GET %s: a manifest of more than %d bytes: %w", place(from), maxDocument, errdefs.ErrDataLoss)
		}
		doc, err = checkDocument(servedType(resp.Header), raw, tagOrDigest, expect)
		if err != nil {
			return fmt.Errorf("GET %s: %w", place(from), err)
		}
		return nil
	})
	return doc, err
}

// servedType is the media type of an answer, empty when it says nothing more
// than what any JSON is: then the document's own word counts.
func servedType(h http.Header) string {
	t, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	switch t = strings.TrimSpace(t); t {
	case "application/json", "application/octet-stream", "text/plain":
		return ""
	}
	return t
}

// checkDocument verifies a document against the digest that it was asked by and
// the descriptor that led to it, and parses it.
func checkDocument(served string, raw []byte, tagOrDigest string, expect *ocispec.Descriptor) (*document, error) {
	mediaType := served
	if expect != nil {
		if served != "" && served != expect.MediaType {
			return nil, fmt.Errorf("served as %.100q, listed as %.100q: %w", served, expect.MediaType, errdefs.ErrDataLoss)
		}
		mediaType = expect.MediaType
		if expect.Size != int64(len(raw)) {
			return nil, fmt.Errorf("%d bytes, listed with %d: %w", len(raw), expect.Size, errdefs.ErrDataLoss)
		}
	}
	if got := digest.FromBytes(raw); strings.Contains(tagOrDigest, ":") && string(got) != tagOrDigest {
		return nil, fmt.Errorf("content has digest %s: %w", got, errdefs.ErrDataLoss)
	}
	return parseDocument(mediaType, raw)
}

// config gets an image's config into memory, verified. Its size is known to be bounded.
func (r *registry) config(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
	b, err := r.blob(ctx, d, 0)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	raw, err := io.ReadAll(io.LimitReader(b, d.Size+1))
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", d.Digest, err)
	}
	if got := digest.FromBytes(raw); got != d.Digest {
		return nil, fmt.Errorf("blob %s: content has digest %s: %w", d.Digest, got, errdefs.ErrDataLoss)
	}
	return raw, nil
}

// blobReader reads a blob of a known size and goes on where it was when a
// connection breaks. It does not verify the digest, and its errors do not name
// the blob.
type blobReader struct {
	ctx      context.Context
	registry *registry
	desc     ocispec.Descriptor
	body     io.ReadCloser
	at       int64 // bytes read, or not asked for
	mark     int64 // at, when patience began to count
	failed   int
	noRange  bool // the server does not understand ranges
}

func (r *registry) blob(ctx context.Context, d ocispec.Descriptor, have int64) (io.ReadCloser, error) {
	return &blobReader{ctx: ctx, registry: r, desc: d, at: have, mark: have}, nil
}

func (b *blobReader) Read(p []byte) (int, error) {
	for {
		if b.at == b.desc.Size && (b.body != nil || b.desc.Size > 0) {
			return 0, io.EOF
		}
		n, err := b.read(p)
		if n > 0 || err == nil || err == io.EOF {
			return n, err
		}
		if b.body != nil {
			b.body.Close()
			b.body = nil
		}
		if b.at-b.mark >= progressWorth {
			b.mark, b.failed = b.at, 0
		}
		b.failed++
		if b.failed >= b.registry.patience.attempts || !b.registry.transient(err) {
			return 0, fmt.Errorf("after %d of %d bytes: %w", b.at, b.desc.Size, err)
		}
		if err := b.registry.pause(b.ctx, b.failed, err); err != nil {
			return 0, err
		}
	}
}

// read reads once; it connects when there is no connection.
func (b *blobReader) read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	if b.body == nil {
		if err := b.open(); err != nil {
			return 0, err
		}
	}
	if left := b.desc.Size - b.at; int64(len(p)) > left {
		p = p[:left]
	}
	n, err := b.body.Read(p)
	b.at += int64(n)
	switch {
	case b.at == b.desc.Size:
		return n, b.end(err)
	case n > 0:
		return n, nil // the error comes again
	case err == io.EOF:
		return 0, &networkError{io.ErrUnexpectedEOF}
	case err != nil:
		return 0, &networkError{err}
	}
	return 0, nil
}

// end refuses a blob that goes on after its last byte. A connection that breaks
// just there has brought all that was asked for.
func (b *blobReader) end(err error) error {
	if err != nil {
		return nil
	}
	if n, _ := b.body.Read(make([]byte, 1)); n > 0 {
		return fmt.Errorf("more than the %d bytes it is listed with: %w", b.desc.Size, errdefs.ErrDataLoss)
	}
	return nil
}

func (b *blobReader) open() error {
	header := http.Header{}
	if b.at > 0 && !b.noRange {
		// With its end, which some servers want to see.
		header.Set("Range", fmt.Sprintf("bytes=%d-%d", b.at, b.desc.Size-1))
	}
	resp, from, err := b.registry.get(b.ctx, "blobs/"+string(b.desc.Digest), header)
	if err != nil {
		return err
	}
	skip, length := int64(0), b.desc.Size
	switch {
	case resp.StatusCode == http.StatusPartialContent && b.at > 0:
		length -= b.at
		if want := fmt.Sprintf("bytes %d-%d/", b.at, b.desc.Size-1); !strings.HasPrefix(resp.Header.Get("Content-Range"), want) {
			err = fmt.Errorf("GET %s: asked for bytes from %d, got %.60q: %w", place(from), b.at, resp.Header.Get("Content-Range"), errdefs.ErrDataLoss)
		}
	case resp.StatusCode == http.StatusOK:
		skip = b.at // a server without ranges begins at the beginning
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && header.Get("Range") != "":
		b.noRange = true
		resp.Body.Close()
		return b.open()
	default:
		err = newStatusError(resp, from)
	}
	if err == nil && resp.ContentLength >= 0 && resp.ContentLength != length {
		err = fmt.Errorf("GET %s: %d bytes to come, not the %d of its descriptor: %w", place(from), resp.ContentLength, length, errdefs.ErrDataLoss)
	}
	if err == nil && skip > 0 {
		if _, e := io.CopyN(io.Discard, resp.Body, skip); e != nil {
			err = &networkError{errors.Join(io.ErrUnexpectedEOF, e)}
		}
	}
	if err != nil {
		resp.Body.Close()
		return err
	}
	b.body = resp.Body
	return nil
}

func (b *blobReader) Close() error {
	if b.body == nil {
		return nil
	}
	return b.body.Close()
}
