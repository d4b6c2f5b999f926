package image

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// recorder is a transport that sends everything to one handler, or nowhere.
type recorder struct {
	mu   sync.Mutex
	urls []string
	to   http.Handler
}

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	r.mu.Lock()
	r.urls = append(r.urls, req.URL.Scheme+"://"+req.URL.Host)
	r.mu.Unlock()
	if r.to == nil {
		return nil, &net.OpError{Op: "dial", Err: errors.New("nobody there")}
	}
	w := httptest.NewRecorder()
	r.to.ServeHTTP(w, req)
	return w.Result(), nil
}

// TestNothingButTheChosenScheme pulls from registries of all kinds that answer,
// fail and ask for credentials, and looks at each request that is made.
func TestNothingButTheChosenScheme(t *testing.T) {
	s := newStore(t)
	f := newFakeRegistry(t)
	b := build(t, hostPlatform, gzipLayer(t, "a", "b"))
	f.push("app", "v1", b)
	answers := map[string]http.Handler{
		"down":  nil,
		"works": f.backend,
		"broken": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusBadGateway)
		}),
		"plain speaker": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, "Client sent an HTTP request to an HTTPS server.", http.StatusBadRequest)
		}),
		"downgrade": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token"`)
			w.WriteHeader(http.StatusUnauthorized)
		}),
	}
	for host, want := range map[string]string{
		"registry.example":   "https",
		"10.0.0.5:5000":      "https",
		"app.localhost:5000": "https",
		"registry.local":     "https",
		"127.0.0.1:5000":     "http",
		"[::1]:5000":         "http",
		"localhost:5000":     "http",
	} {
		for name, to := range answers {
			r := &recorder{to: to}
			_, err := s.Pull(t.Context(), host+"/app:v1", PullOptions{Keychain: keychain{}, Transport: r})
			if (err == nil) != (name == "works") {
				t.Errorf("%s, %s: %v", host, name, err)
			}
			if len(r.urls) == 0 {
				t.Errorf("%s, %s: no request", host, name)
			}
			for _, u := range r.urls {
				if u != want+"://"+host {
					t.Errorf("%s, %s: request of %s", host, name, u)
				}
			}
		}
	}
}

// TestNoFallbackToHTTP has a registry without TLS under a name that must have it.
func TestNoFallbackToHTTP(t *testing.T) {
	s := newStore(t)
	f := newFakeRegistry(t)
	f.push("app", "v1", build(t, hostPlatform, gzipLayer(t, "a", "b")))
	transport := newTransport()
	defer transport.CloseIdleConnections()
	transport.Proxy = nil
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, f.host)
	}
	o := PullOptions{Keychain: keychain{}, Transport: transport}
	_, err := s.Pull(t.Context(), "registry.example/app:v1", o)
	if !errors.Is(err, errdefs.ErrUnavailable) || len(f.Requests()) > 0 {
		t.Errorf("%v, with %d requests in the clear", err, len(f.Requests()))
	}
	s.mustBeEmpty(t)
	o.PlainHTTP = true
	if _, err := s.Pull(t.Context(), "registry.example/app:v1", o); err != nil {
		t.Errorf("with the option: %v", err)
	}
}

// TestLocalhostIsNotLookedUp: the default transport dials the loopback address.
func TestLocalhostIsNotLookedUp(t *testing.T) {
	s := newStore(t)
	f := newFakeRegistry(t)
	f.push("app", "v1", build(t, hostPlatform, gzipLayer(t, "a", "b")))
	_, port, _ := net.SplitHostPort(f.host)
	transport := newTransport()
	defer transport.CloseIdleConnections()
	for _, name := range []string{"localhost", "LOCALHOST"} {
		conn, err := transport.DialContext(t.Context(), "tcp", net.JoinHostPort(name, port))
		if err != nil {
			t.Fatal(err)
		}
		if got := conn.RemoteAddr().String(); got != f.host {
			t.Errorf("%s is %s", name, got)
		}
		conn.Close()
	}
	if _, err := s.Pull(t.Context(), "localhost:"+port+"/app:v1", anonymous); err != nil {
		t.Error(err)
	}
}

func TestTLS(t *testing.T) {
	s := newStore(t)
	f := newFakeRegistry(t)
	f.push("app", "v1", build(t, hostPlatform, gzipLayer(t, "a", "b")))
	server := httptest.NewUnstartedServer(f)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
	}
	good := server.Client().Transport.(*http.Transport).Clone()
	good.DialContext = dial
	defer good.CloseIdleConnections()
	if _, err := s.Pull(t.Context(), "example.com/app:v1", PullOptions{Keychain: keychain{}, Transport: good}); err != nil {
		t.Error(err)
	}
	// Unknown authority: one attempt, and nothing is asked.
	dials := 0
	unknown := &http.Transport{DialContext: func(ctx context.Context, network, a string) (net.Conn, error) {
		dials++
		return dial(ctx, network, a)
	}}
	f.answer(nil)
	_, err := s.Pull(t.Context(), "example.com/app:v1", PullOptions{Keychain: keychain{}, Transport: unknown})
	if !errors.Is(err, errdefs.ErrUnavailable) || !strings.Contains(err.Error(), "certificate") || dials != 1 || len(f.Requests()) > 0 {
		t.Errorf("%v, %d dials, %d requests", err, dials, len(f.Requests()))
	}
}

// TestStatus: what a registry answers decides the error's class, and whether it
// is asked again.
func TestStatus(t *testing.T) {
	s := newStore(t)
	f := newFakeRegistry(t)
	for _, c := range []struct {
		status   int
		want     error
		requests int
	}{
		{http.StatusNotFound, errdefs.ErrNotFound, 1},
		{http.StatusUnauthorized, errdefs.ErrUnauthenticated, 2},
		{http.StatusForbidden, errdefs.ErrPermissionDenied, 1},
		{http.StatusTeapot, errdefs.ErrUnknown, 1},
		{http.StatusTooManyRequests, errdefs.ErrResourceExhausted, 4},
		{http.StatusRequestTimeout, errdefs.ErrUnknown, 4},
		{http.StatusInternalServerError, errdefs.ErrUnavailable, 4},
		{http.StatusServiceUnavailable, errdefs.ErrUnavailable, 4},
		{http.StatusNotImplemented, errdefs.ErrUnavailable, 1},
		{http.StatusNoContent, errdefs.ErrUnknown, 1},
	} {
		f.answer(func(w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(c.status)
			io.WriteString(w, `{"errors":[{"code":"SOME_CODE","message":"some\u001b[31m\nmessage"}]}`)
			return true
		})
		_, err := s.Pull(t.Context(), f.host+"/app:v1", anonymous)
		if !errors.Is(err, c.want) || len(f.Requests()) != c.requests {
			t.Errorf("%d: %v after %d requests", c.status, err, len(f.Requests()))
		}
		if c.status != http.StatusNoContent && !strings.HasSuffix(err.Error(), "SOME_CODE: some [31m message") {
			t.Errorf("%d: %q", c.status, err)
		}
	}
	s.mustBeEmpty(t)
}

func TestTransientFailures(t *testing.T) {
	f := newFakeRegistry(t)
	ref := f.push("app", "v1", build(t, hostPlatform, gzipLayer(t, "a", "b")))
	for _, status := range []int{408, 429, 500, 502, 503, 504} {
		s := newStore(t)
		var mu sync.Mutex
		failed := map[string]int{}
		f.answer(func(w http.ResponseWriter, r *http.Request) bool {
			mu.Lock()
			defer mu.Unlock()
			if failed[r.URL.Path]++; failed[r.URL.Path] <= 3 {
				w.WriteHeader(status)
				return true
			}
			return false
		})
		if _, err := s.Pull(t.Context(), ref, anonymous); err != nil {
			t.Errorf("%d three times each: %v", status, err)
		}
		if len(failed) != 3 {
			t.Errorf("%d: asked for %v", status, failed)
		}
	}
}

func TestRegistryDown(t *testing.T) {
	s := newStore(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host := l.Addr().String()
	l.Close()
	_, err = s.Pull(t.Context(), host+"/app", anonymous)
	if !errors.Is(err, errdefs.ErrUnavailable) || !strings.Contains(err.Error(), "refused") || !strings.Contains(err.Error(), host) {
		t.Error(err)
	}
	_, err = s.Pull(t.Context(), "no-such-host.invalid/app", anonymous)
	if !errors.Is(err, errdefs.ErrUnavailable) {
		t.Error(err)
	}
	s.mustBeEmpty(t)
}

func TestErrorsHideSignatures(t *testing.T) {
	s := newStore(t)
	f := newFakeRegistry(t)
	f.answer(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.RawQuery == "" {
			http.Redirect(w, r, "/elsewhere?signature=secret", http.StatusFound)
		} else {
			w.WriteHeader(http.StatusForbidden)
		}
		return true
	})
	_, err := s.Pull(t.Context(), f.host+"/app", anonymous)
	if err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "/elsewhere") {
		t.Error(err)
	}
}

func TestRedirectLoop(t *testing.T) {
	s := newStore(t)
	f := newFakeRegistry(t)
	for name, to := range map[string]string{"loop": "/v2/again", "nowhere": "", "nonsense": "http://[::1", "other scheme": "gopher://x/"} {
		f.answer(func(w http.ResponseWriter, r *http.Request) bool {
			w.Header()["Location"] = []string{to}
			w.WriteHeader(http.StatusTemporaryRedirect)
			return true
		})
		if _, err := s.Pull(t.Context(), f.host+"/app", anonymous); err == nil || len(f.Requests()) > maxRedirects {
			t.Errorf("%s: %v after %d requests", name, err, len(f.Requests()))
		}
	}
}

// TestNonsenseAnswers: each document a registry can get wrong, with the class of
// the error and with nothing left behind.
func TestNonsenseAnswers(t *testing.T) {
	s := newStore(t)
	f := newFakeRegistry(t)
	b := build(t, hostPlatform, gzipLayer(t, "a", "b"))
	f.push("app", "v1", b)
	manifest := "/v2/app/manifests/v1"
	config := "/v2/app/blobs/" + string(b.config)
	long := strings.Repeat(" ", maxDocument) + string(b.manifest)
	for _, c := range []struct {
		name, path, contentType, body string
		want                          error
	}{
		{"HTML", manifest, "text/html", "<html>", errdefs.ErrDataLoss},
		{"empty", manifest, b.mediaType, "", errdefs.ErrDataLoss},
		{"cut", manifest, b.mediaType, string(b.manifest[:len(b.manifest)-9]), errdefs.ErrDataLoss},
		{"other type", manifest, dockerManifest, string(b.manifest), errdefs.ErrDataLoss},
		{"endless", manifest, b.mediaType, long, errdefs.ErrDataLoss},
		{"schema 1", manifest, dockerSchema1Signed, `{"schemaVersion":1}`, errdefs.ErrNotImplemented},
		{"ambiguous", manifest, b.mediaType, `{"manifests":[],` + string(b.manifest[1:]), errdefs.ErrDataLoss},
		{"another config", config, "", strings.Repeat("x", len(b.blobs[b.config])), errdefs.ErrDataLoss},
		{"short config", config, "", "{}", errdefs.ErrDataLoss},
		{"long config", config, "", string(b.blobs[b.config]) + " ", errdefs.ErrDataLoss},
	} {
		f.answer(func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != c.path {
				return false
			}
			w.Header().Set("Content-Type", c.contentType)
			io.WriteString(w, c.body)
			return true
		})
		_, err := s.Pull(t.Context(), f.host+"/app:v1", anonymous)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		s.mustBeEmpty(t)
	}
	// A type that says nothing is no contradiction.
	for _, mediaType := range []string{"application/json; charset=utf-8", "text/plain", "application/octet-stream"} {
		f.answer(func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != manifest {
				return false
			}
			w.Header().Set("Content-Type", mediaType)
			w.Write(b.manifest)
			return true
		})
		if i, err := s.Pull(t.Context(), f.host+"/app:v1", anonymous); err != nil || i.Digest() != digest.FromBytes(b.manifest) {
			t.Errorf("%s: %v", mediaType, err)
		}
	}
}
