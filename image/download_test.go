package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// hangUp ends the connection in the middle of an answer.
func hangUp() { panic(http.ErrAbortHandler) }

// isBlob tells a request for this blob.
func isBlob(r *http.Request, d digest.Digest) bool {
	return strings.HasSuffix(r.URL.Path, "/blobs/"+string(d))
}

// ranged gives what of a blob a request asks for, and the answer's head.
func ranged(w http.ResponseWriter, r *http.Request, raw []byte) []byte {
	from := 0
	if s, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok {
		first, _, _ := strings.Cut(s, "-")
		from, _ = strconv.Atoi(first)
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(raw)-1, len(raw)))
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(raw)-from))
	if from > 0 {
		w.WriteHeader(http.StatusPartialContent)
	}
	return raw[from:]
}

// TestResume cuts each connection after some bytes: the rest is asked for, and no
// byte comes twice.
func TestResume(t *testing.T) {
	f := newFakeRegistry(t)
	b := build(t, hostPlatform, gzipLayer(t, "bulk", bulk(1, 3<<20)))
	ref := f.push("app", "v1", b)
	raw := b.blobs[b.layers[0].Digest]
	for _, name := range []string{"ranges", "no ranges", "refused ranges"} {
		withRanges := name == "ranges"
		s := newStore(t)
		var sent atomic.Int64
		next := len(raw) / 3
		f.answer(func(w http.ResponseWriter, r *http.Request) bool {
			if !isBlob(r, b.layers[0].Digest) {
				return false
			}
			if name == "refused ranges" && r.Header.Get("Range") != "" {
				w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
				return true
			}
			if !withRanges {
				r.Header.Del("Range")
			}
			part := ranged(w, r, raw)
			n := min(len(part), next)
			if !withRanges {
				n = min(len(part), int(sent.Load())+next)
			}
			w.Write(part[:n])
			sent.Add(int64(n))
			if n < len(part) {
				w.(http.Flusher).Flush()
				hangUp()
			}
			return true
		})
		i, err := s.Pull(t.Context(), ref, anonymous)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if withRanges && sent.Load() != int64(len(raw)) {
			t.Errorf("%d bytes were sent of %d", sent.Load(), len(raw))
		}
		if l, err := i.Layers(); err != nil || l[0].DiffID() != b.diffIDs[0] {
			t.Errorf("%s: %v, %v", name, l, err)
		}
	}
}

// TestResumeIsChecked answers the second request with something else.
func TestResumeIsChecked(t *testing.T) {
	f := newFakeRegistry(t)
	b := build(t, hostPlatform, gzipLayer(t, "bulk", bulk(2, 1<<20)))
	ref := f.push("app", "v1", b)
	raw := b.blobs[b.layers[0].Digest]
	for name, second := range map[string]func(w http.ResponseWriter, from int){
		"another range": func(w http.ResponseWriter, from int) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(raw)-1, len(raw)))
			w.WriteHeader(http.StatusPartialContent)
			w.Write(raw)
		},
		"another blob": func(w http.ResponseWriter, from int) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(raw)-1, len(raw)))
			w.WriteHeader(http.StatusPartialContent)
			w.Write(make([]byte, len(raw)-from))
		},
	} {
		s := newStore(t)
		f.answer(func(w http.ResponseWriter, r *http.Request) bool {
			if !isBlob(r, b.layers[0].Digest) {
				return false
			}
			var from int
			if n, _ := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); n == 1 {
				second(w, from)
				return true
			}
			w.Header().Set("Content-Length", strconv.Itoa(len(raw)))
			w.Write(raw[:len(raw)/2])
			w.(http.Flusher).Flush()
			hangUp()
			return true
		})
		if _, err := s.Pull(t.Context(), ref, anonymous); err == nil {
			t.Errorf("%s: no error", name)
		} else if !strings.Contains(err.Error(), string(b.layers[0].Digest)) {
			t.Errorf("%s: the error does not name the layer: %v", name, err)
		}
		s.mustBeEmpty(t)
	}
}

// TestBadLayers: what a registry can do to a layer. Nothing is left behind, also
// not of the layer that was good.
func TestBadLayers(t *testing.T) {
	f := newFakeRegistry(t)
	good := gzipLayer(t, "good", "layer")
	b := build(t, hostPlatform, good, gzipLayer(t, "bulk", bulk(3, 1<<20)))
	ref := f.push("app", "v1", b)
	bad := b.layers[1].Digest
	raw := b.blobs[bad]
	flipped := append([]byte(nil), raw...)
	flipped[len(raw)/2] ^= 1
	for _, c := range []struct {
		name   string
		answer func(w http.ResponseWriter)
		want   error
	}{
		{"flipped bit", func(w http.ResponseWriter) { w.Write(flipped) }, nil},
		{"garbage", func(w http.ResponseWriter) { w.Write(make([]byte, len(raw))) }, errdefs.ErrDataLoss},
		{"another layer", func(w http.ResponseWriter) { w.Write(good.packed) }, errdefs.ErrDataLoss},
		{"cut, and says so", func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", strconv.Itoa(len(raw)/2))
			w.Write(raw[:len(raw)/2])
		}, errdefs.ErrDataLoss},
		{"cut, and does not say so", func(w http.ResponseWriter) {
			w.(http.Flusher).Flush() // chunked
			w.Write(raw[:len(raw)/2])
		}, errdefs.ErrUnavailable},
		{"one byte more", func(w http.ResponseWriter) {
			w.(http.Flusher).Flush()
			w.Write(append(raw[:len(raw):len(raw)], 0))
		}, errdefs.ErrDataLoss},
		{"empty", func(w http.ResponseWriter) {}, errdefs.ErrDataLoss},
		{"never more than a part", func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", strconv.Itoa(len(raw)))
			w.Write(raw[:100])
			w.(http.Flusher).Flush()
			hangUp()
		}, errdefs.ErrUnavailable},
		{"gone", func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) }, errdefs.ErrNotFound},
	} {
		s := newStore(t)
		f.answer(func(w http.ResponseWriter, r *http.Request) bool {
			if !isBlob(r, bad) {
				return false
			}
			r.Header.Del("Range")
			c.answer(w)
			return true
		})
		_, err := s.Pull(t.Context(), ref, anonymous)
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		} else if !strings.Contains(err.Error(), string(bad)) {
			t.Errorf("%s: the error does not name the layer: %v", c.name, err)
		}
		s.mustBeEmpty(t)
	}
}

// TestStall has servers that stop answering: before the answer and inside of it.
func TestStall(t *testing.T) {
	f := newFakeRegistry(t)
	b := build(t, hostPlatform, gzipLayer(t, "bulk", bulk(4, 1<<20)))
	ref := f.push("app", "v1", b)
	for _, where := range []string{"/manifests/", "/blobs/"} {
		for _, inside := range []bool{false, true} {
			s := newStore(t)
			// Short, so that the test is; a busy machine may need more attempts.
			s.patience.stall, s.patience.attempts = 200*time.Millisecond, 20
			var stalled atomic.Int64
			f.answer(func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.Contains(r.URL.Path, where) || stalled.Add(1) > 1 {
					return false
				}
				if inside {
					if where == "/manifests/" {
						w.Header().Set("Content-Type", b.mediaType)
					}
					w.(http.Flusher).Flush()
				}
				<-r.Context().Done() // until the client gives up
				return true
			})
			if _, err := s.Pull(t.Context(), ref, anonymous); err != nil {
				t.Errorf("one stall at %s, inside %v: %v", where, inside, err)
			}
			if stalled.Load() < 2 {
				t.Errorf("no second request at %s", where)
			}
		}
	}
	s := newStore(t)
	s.patience.stall, s.patience.attempts = 20*time.Millisecond, 2
	f.answer(func(w http.ResponseWriter, r *http.Request) bool {
		<-r.Context().Done()
		return true
	})
	if _, err := s.Pull(t.Context(), ref, anonymous); !errors.Is(err, errdefs.ErrUnavailable) || !errors.Is(err, errStalled) {
		t.Errorf("stalled for ever: %v", err)
	}
	s.mustBeEmpty(t)
}

// TestCancel ends the context while the registry has two layers half sent.
func TestCancel(t *testing.T) {
	f := newFakeRegistry(t)
	b := build(t, hostPlatform, gzipLayer(t, "whole", "layer"), gzipLayer(t, "one", bulk(5, 1<<20)), gzipLayer(t, "two", bulk(6, 1<<20)))
	ref := f.push("app", "v1", b)
	reached := make(chan struct{}, 2)
	f.answer(func(w http.ResponseWriter, r *http.Request) bool {
		for _, l := range b.layers[1:] {
			if isBlob(r, l.Digest) {
				w.Header().Set("Content-Length", strconv.FormatInt(l.Size, 10))
				w.Write(b.blobs[l.Digest][:l.Size/2])
				w.(http.Flusher).Flush()
				reached <- struct{}{}
				<-r.Context().Done()
				return true
			}
		}
		return false
	})
	s := newStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		<-reached
		<-reached
		cancel()
	}()
	if _, err := s.Pull(ctx, ref, anonymous); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	s.mustBeEmpty(t)
	if _, err := s.Pull(ctx, ref, anonymous); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
}

// TestBlobReader reads in pieces of all sizes, also nothing.
func TestBlobReader(t *testing.T) {
	f := newFakeRegistry(t)
	s := newStore(t)
	ref, err := ParseReference(f.host + "/app")
	if err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{"", "x", bulk(7, 100<<10)} {
		f.PushBlob(t, "app", []byte(content))
		for _, size := range []int{1, 1000, 1 << 20} {
			r, err := newRegistry(ref, anonymous, s.patience)
			if err != nil {
				t.Fatal(err)
			}
			b, err := r.blob(t.Context(), ocispec.Descriptor{Digest: digest.FromString(content), Size: int64(len(content))}, 0)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(struct{ io.Reader }{io.LimitReader(&pieces{b, size}, 1<<30)})
			if err != nil || string(got) != content {
				t.Errorf("%d bytes by %d: %d, %v", len(content), size, len(got), err)
			}
			if n, err := b.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Errorf("after the end: %d, %v", n, err)
			}
			b.Close()
			r.close()
		}
	}
}

type pieces struct {
	r    io.Reader
	size int
}

func (p *pieces) Read(b []byte) (int, error) { return p.r.Read(b[:min(len(b), p.size)]) }
