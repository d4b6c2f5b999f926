package enginetest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
)

// Registry is a registry in this process, on a port of the loopback interface,
// without TLS and, until it is told otherwise, without credentials. It speaks the
// OCI distribution protocol, keeps what it has in memory, records requests, and
// answers as [Registry.Answer] says: late, wrongly, or only in part.
//
// All methods may be called by several goroutines at once.
type Registry struct {
	// Host is the registry in references: "127.0.0.1:40123".
	Host string

	server *httptest.Server
	store  http.Handler
	end    context.CancelFunc // of all requests

	mu       sync.Mutex
	rules    []*rule // the latest first
	requests []Request
}

// rule is an answer, and the requests it is for.
type rule struct {
	which  Which
	answer Answer
}

// Request is one that the registry got.
type Request struct {
	Method, Path, Query string
	Header              http.Header
}

// NewRegistry starts a registry that ends with the test.
func NewRegistry(t testing.TB) *Registry {
	r := StartRegistry()
	t.Cleanup(r.Close)
	return r
}

// StartRegistry starts a registry for more than one test. Who started it calls
// Close.
func StartRegistry() *Registry {
	ctx, end := context.WithCancel(context.Background())
	r := &Registry{store: registry.New(registry.Logger(log.New(io.Discard, "", 0))), end: end}
	r.server = httptest.NewUnstartedServer(r)
	r.server.Config.BaseContext = func(net.Listener) context.Context { return ctx }
	r.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	r.server.Start()
	r.Host = r.server.Listener.Addr().String()
	return r
}

// Close ends the registry, its connections, and answers that stall.
func (r *Registry) Close() {
	r.end()
	r.Disconnect()
	r.server.Close()
}

// Disconnect ends all connections, idle ones and those in use.
func (r *Registry) Disconnect() { r.server.CloseClientConnections() }

// Answer has the registry answer some requests in a way of its own, until stop
// is called. Of several answers for a request the latest comes first, and the
// one before it is its next.
func (r *Registry) Answer(which Which, answer Answer) (stop func()) {
	added := &rule{which, answer}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rules = append([]*rule{added}, r.rules...)
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.rules = slices.DeleteFunc(slices.Clone(r.rules), func(x *rule) bool { return x == added })
	}
}

// Reset takes all answers back, and forgets the requests so far.
func (r *Registry) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rules, r.requests = nil, nil
}

// Forget forgets the requests so far.
func (r *Registry) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = nil
}

// Requests are those since the start, or the last Reset or Forget, in their order.
func (r *Registry) Requests() []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.requests)
}

// Count tells how many requests there were of paths that contain a word.
func (r *Registry) Count(word string) int {
	n := 0
	for _, q := range r.Requests() {
		if strings.Contains(q.Path, word) {
			n++
		}
	}
	return n
}

// ServeHTTP answers a request, for servers of one's own, with TLS for example.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	r.requests = append(r.requests, Request{req.Method, req.URL.Path, req.URL.RawQuery, req.Header.Clone()})
	handler := r.Handler()
	for _, rule := range slices.Backward(r.rules) {
		if rule.which(req) {
			next, answer := handler, rule.answer
			handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { answer(w, req, next) })
		}
	}
	r.mu.Unlock()
	handler.ServeHTTP(w, req)
}

// Handler is the registry alone: nothing is recorded, and every answer is right.
func (r *Registry) Handler() http.Handler { return http.HandlerFunc(r.serve) }

// serve has the store answer; ranges of blobs are done here, as the store knows
// only those whose end is given.
func (r *Registry) serve(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodGet || req.Header.Get("Range") == "" || !strings.Contains(req.URL.Path, "/blobs/sha256:") {
		r.store.ServeHTTP(w, req)
		return
	}
	whole := req.Clone(req.Context())
	whole.Header.Del("Range")
	a := record(r.store, whole)
	if a.Code != http.StatusOK {
		a.send(w)
		return
	}
	for name, values := range a.Header {
		if name != "Content-Length" {
			w.Header()[name] = values
		}
	}
	http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(a.Body))
}

// Push puts an image or an index into the registry, under a name as "app:v1", and
// gives the whole reference. It is neither recorded nor answered otherwise.
func (r *Registry) Push(t testing.TB, name string, f Fixture) (ref string) {
	t.Helper()
	b, err := f.Build()
	if err != nil {
		t.Fatal(err)
	}
	repository, tag, ok := strings.Cut(name, ":")
	if !ok {
		tag = "latest"
	}
	r.put(t, repository, tag, b)
	return fmt.Sprintf("%s/%s:%s", r.Host, repository, tag)
}

func (r *Registry) put(t testing.TB, repository, tag string, b *Built) {
	t.Helper()
	for _, i := range b.Images {
		r.put(t, repository, string(i.Digest()), i)
	}
	for _, data := range b.Blobs {
		r.PushBlob(t, repository, data)
	}
	r.PushManifest(t, repository, tag, b.MediaType, b.Manifest)
}

// PushBlob puts a blob into a repository.
func (r *Registry) PushBlob(t testing.TB, repository string, data []byte) {
	t.Helper()
	r.do(t, http.MethodPost, "/v2/"+repository+"/blobs/uploads/?digest="+string(digest.FromBytes(data)), "", data)
}

// PushManifest puts a manifest or index into a repository, under a tag or digest.
func (r *Registry) PushManifest(t testing.TB, repository, tag, mediaType string, data []byte) {
	t.Helper()
	r.do(t, http.MethodPut, "/v2/"+repository+"/manifests/"+tag, mediaType, data)
}

// do makes a request of the store.
func (r *Registry) do(t testing.TB, method, path, contentType string, body []byte) {
	t.Helper()
	req := httptest.NewRequest(method, path, bytes.NewReader(body))
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if a := record(r.store, req); a.Code/100 != 2 {
		t.Fatalf("%s %s: %d %s", method, path, a.Code, a.Body)
	}
}
