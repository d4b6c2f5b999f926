package enginetest

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
)

// fetched is what a client sees of an answer.
type fetched struct {
	code   int
	header http.Header
	body   []byte
	err    error // of the request, or of reading the body
}

// fetch makes one request, in a connection of its own, with headers as name,
// value.
func fetch(t *testing.T, url string, header ...string) fetched {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n+1 < len(header); n += 2 {
		req.Header.Set(header[n], header[n+1])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}
	res, err := client.Do(req)
	if err != nil {
		return fetched{err: err}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return fetched{res.StatusCode, res.Header, body, err}
}

// TestAnswers has each of them, as a client sees it.
func TestAnswers(t *testing.T) {
	Leaks(t)
	r := NewRegistry(t)
	b, err := Image{Layers: []Layer{{Tar: bytes.Repeat([]byte("0123456789"), 100), Compression: Uncompressed}}}.Build()
	if err != nil {
		t.Fatal(err)
	}
	r.Push(t, "app:v1", b)
	layer := b.Layers[0]
	whole := string(layer.Blob)
	released := make(chan struct{})
	close(released)
	url := "http://" + r.Host + "/v2/app/blobs/" + string(layer.Descriptor.Digest)
	for name, c := range map[string]struct {
		answer Answer
		header []string
		check  func(f fetched) bool
	}{
		"right":         {nil, nil, func(f fetched) bool { return f.code == 200 && string(f.body) == whole && f.err == nil }},
		"a range":       {nil, []string{"Range", "bytes=10-19"}, func(f fetched) bool { return f.code == 206 && string(f.body) == whole[10:20] }},
		"an open range": {nil, []string{"Range", "bytes=990-"}, func(f fetched) bool { return f.code == 206 && string(f.body) == whole[990:] }},
		"no such range": {nil, []string{"Range", "bytes=5000-"}, func(f fetched) bool { return f.code == 416 }},
		"status": {Status(503, "Retry-After", "7"), nil, func(f fetched) bool {
			return f.code == 503 && f.header.Get("Retry-After") == "7" && bytes.Contains(f.body, []byte(`"errors"`))
		}},
		"released":       {Stall(released), nil, func(f fetched) bool { return string(f.body) == whole }},
		"released later": {StallAfter(10, released), nil, func(f fetched) bool { return string(f.body) == whole }},
		"drop": {Drop(10), nil, func(f fetched) bool {
			return f.code == 200 && string(f.body) == whole[:10] && f.err == io.ErrUnexpectedEOF
		}},
		"hang up":  {Hangup, nil, func(f fetched) bool { return f.code == 0 && f.err != nil }},
		"truncate": {Truncate(10), nil, func(f fetched) bool { return string(f.body) == whole[:10] && f.err == nil }},
		"extend":   {Extend([]byte("more")), nil, func(f fetched) bool { return string(f.body) == whole+"more" && f.err == nil }},
		"corrupt": {Corrupt(-1), nil, func(f fetched) bool {
			return len(f.body) == 1000 && digest.FromBytes(f.body) != layer.Descriptor.Digest && string(f.body[:999]) == whole[:999]
		}},
		"replace": {Replace([]byte("other")), nil, func(f fetched) bool { return string(f.body) == "other" }},
		"digest": {Header("Docker-Content-Digest", "sha256:0"), nil, func(f fetched) bool {
			return f.header.Get("Docker-Content-Digest") == "sha256:0" && string(f.body) == whole
		}},
		"no type":       {Header("Content-Type", ""), nil, func(f fetched) bool { return f.header["Content-Type"] == nil }},
		"redirect loop": {RedirectLoop, nil, func(f fetched) bool { return f.err != nil && strings.Contains(f.err.Error(), "redirects") }},
		"redirect":      {Redirect("http://127.0.0.1:1"), nil, func(f fetched) bool { return f.err != nil && strings.Contains(f.err.Error(), "127.0.0.1:1") }},
		"ignored range": {IgnoreRange, []string{"Range", "bytes=10-"}, func(f fetched) bool { return f.code == 200 && string(f.body) == whole }},
		"wrong range": {WrongRange(5), []string{"Range", "bytes=10-"}, func(f fetched) bool {
			return f.code == 206 && string(f.body) == whole[5:995] && f.header.Get("Content-Range") == "bytes 5-994/1000"
		}},
		"lying range": {LyingRange(-5), []string{"Range", "bytes=10-"}, func(f fetched) bool {
			return f.code == 206 && string(f.body) == whole[15:] && strings.HasPrefix(f.header.Get("Content-Range"), "bytes 10-")
		}},
		"once": {First(0, Hangup), nil, func(f fetched) bool { return string(f.body) == whole }},
		"basic": {BasicAuth("u", "p"), nil, func(f fetched) bool {
			return f.code == 401 && strings.HasPrefix(f.header.Get("WWW-Authenticate"), "Basic ")
		}},
		"basic, met": {BasicAuth("u", "p"), []string{"Authorization", "Basic dTpw"}, func(f fetched) bool { return string(f.body) == whole }},
	} {
		t.Run(name, func(t *testing.T) {
			if c.answer != nil {
				defer r.Answer(Blob(layer.Descriptor.Digest), c.answer)()
			}
			if f := fetch(t, url, c.header...); !c.check(f) {
				t.Errorf("%d %v %.40q %v", f.code, f.header, f.body, f.err)
			}
		})
	}
	if f := fetch(t, url); string(f.body) != whole {
		t.Error("an answer stays after its stop")
	}
}

// TestStalled: who waits for a stalled answer gets away, by going and by Close.
func TestStalled(t *testing.T) {
	Leaks(t)
	r := StartRegistry()
	came := make(chan bool, 1)
	r.Answer(Any, func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		came <- true
		Stall(nil)(w, req, next)
	})
	done := make(chan fetched)
	go func() { done <- fetch(t, "http://"+r.Host+"/v2/") }()
	<-came
	r.Close()
	if f := <-done; f.err == nil {
		t.Errorf("%+v", f)
	}
}

// TestRequests has answers in their order, and the record of requests.
func TestRequests(t *testing.T) {
	Leaks(t)
	r := NewRegistry(t)
	image := Image{Layers: []Layer{NewLayer(File("a", "b"))}}
	ref := r.Push(t, "some/app:v1", Index{Images: []Image{image}})
	if len(r.Requests()) > 0 {
		t.Error("a push is recorded")
	}
	said := ""
	r.Answer(Manifests, func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		said += "first "
		next.ServeHTTP(w, req)
	})
	stop := r.Answer(Manifests, func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		said += "second "
		next.ServeHTTP(w, req)
	})
	url := "http://" + r.Host + "/v2/some/app/manifests/v1"
	if f := fetch(t, url, "X-Test", "1"); f.code != 200 || said != "second first " {
		t.Errorf("%+v, %q", f, said)
	}
	stop()
	if fetch(t, url); said != "second first first " {
		t.Errorf("%q", said)
	}
	asked := r.Requests()
	if len(asked) != 2 || asked[0].Method != "GET" || asked[0].Path != "/v2/some/app/manifests/v1" || asked[0].Header.Get("X-Test") != "1" || r.Count("blobs") != 0 || r.Count("manifests") != 2 {
		t.Errorf("%+v", asked)
	}
	r.Reset()
	if fetch(t, url); said != "second first first " || len(r.Requests()) != 1 {
		t.Errorf("after Reset: %q, %d", said, len(r.Requests()))
	}
	// A client of the real protocol, with a token.
	r.Answer(Any, TokenAuth("user", "password"))
	parsed, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	defer transport.CloseIdleConnections()
	if _, err := remote.Index(parsed, remote.WithTransport(transport), remote.WithAuth(&authn.Basic{Username: "user", Password: "password"})); err != nil {
		t.Error(err)
	}
	if _, err := remote.Index(parsed, remote.WithTransport(transport)); err == nil {
		t.Error("no password is wanted")
	}
}
