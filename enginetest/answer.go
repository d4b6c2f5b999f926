package enginetest

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
)

// Answer answers a request. It may leave that to next, the registry as it was
// without this answer, and change what that says.
type Answer func(w http.ResponseWriter, r *http.Request, next http.Handler)

// Which chooses requests.
type Which func(*http.Request) bool

// Any is every request.
func Any(*http.Request) bool { return true }

// Manifests are requests for manifests and indexes.
func Manifests(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/") }

// Blobs are requests for blobs, configurations and layers alike.
func Blobs(r *http.Request) bool { return strings.Contains(r.URL.Path, "/blobs/sha256:") }

// Blob are requests for one blob, or for one manifest by its digest.
func Blob(d digest.Digest) Which {
	return func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/"+string(d)) }
}

// First has an answer for the first n requests alone; after them next answers.
func First(n int, a Answer) Answer {
	var seen atomic.Int64
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if seen.Add(1) > int64(n) {
			next.ServeHTTP(w, r)
			return
		}
		a(w, r, next)
	}
}

// Status refuses with an HTTP status, in the form that the distribution
// specification gives errors, and with headers, as name, value, name, value.
func Status(code int, header ...string) Answer {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		for n := 0; n+1 < len(header); n += 2 {
			w.Header().Set(header[n], header[n+1])
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		fmt.Fprintf(w, `{"errors":[{"code":"UNKNOWN","message":"the test has the registry say %d"}]}`, code)
	}
}

// Stall waits until release is closed, or who asked goes away, or the registry
// closes, and then has next answer.
func Stall(release <-chan struct{}) Answer {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		wait(r, release)
		next.ServeHTTP(w, r)
	}
}

// StallAfter sends n bytes of the body, and waits as Stall does before the rest.
func StallAfter(n int, release <-chan struct{}) Answer {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		a := record(next, r)
		a.length()
		n := min(n, len(a.Body))
		a.part(w, n)
		wait(r, release)
		_, _ = w.Write(a.Body[n:])
	}
}

func wait(r *http.Request, release <-chan struct{}) {
	select {
	case <-release:
	case <-r.Context().Done():
		panic(http.ErrAbortHandler)
	}
}

// Drop breaks the connection off after n bytes of the body, of which the header
// has told the whole length.
func Drop(n int) Answer {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		a := record(next, r)
		a.length()
		a.part(w, min(n, len(a.Body)))
		panic(http.ErrAbortHandler)
	}
}

// Hangup breaks the connection off without an answer.
func Hangup(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) }

// Truncate sends the first n bytes of the body as if they were all.
func Truncate(n int) Answer {
	return body(func(data []byte) []byte { return data[:min(n, len(data))] })
}

// Extend sends more behind the body.
func Extend(more []byte) Answer {
	return body(func(data []byte) []byte { return append(data, more...) })
}

// Corrupt changes the byte at an offset, counted from the end if it is negative,
// so that size and headers are right and the digest is not.
func Corrupt(at int) Answer {
	return body(func(data []byte) []byte {
		if at := (at + len(data)) % max(len(data), 1); len(data) > 0 {
			data[at] ^= 0xff
		}
		return data
	})
}

// Replace sends other content in the body's place.
func Replace(content []byte) Answer {
	return body(func([]byte) []byte { return append([]byte(nil), content...) })
}

// body has next answer, and changes the body and its length.
func body(change func([]byte) []byte) Answer {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		a := record(next, r)
		if a.Code/100 == 2 && r.Method != http.MethodHead {
			a.Body = change(a.Body)
			a.length()
		}
		a.send(w)
	}
}

// Header has next answer with another header; an empty value takes it away.
// "Docker-Content-Digest" is what a registry says that the digest is.
func Header(name, value string) Answer {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		a := record(next, r)
		a.Header.Set(name, value)
		if value == "" {
			a.Header[http.CanonicalHeaderKey(name)] = nil
		}
		a.send(w)
	}
}

// Redirect sends whoever asks to the same path of another address, as
// "http://127.0.0.1:1".
func Redirect(to string) Answer {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		http.Redirect(w, r, to+r.URL.RequestURI(), http.StatusTemporaryRedirect)
	}
}

// RedirectLoop redirects to the same address for ever, with a query that counts.
func RedirectLoop(w http.ResponseWriter, r *http.Request, _ http.Handler) {
	n, _ := strconv.Atoi(r.URL.Query().Get("again"))
	http.Redirect(w, r, fmt.Sprintf("%s?again=%d", r.URL.Path, n+1), http.StatusTemporaryRedirect)
}

// IgnoreRange sends the whole body when a part of it is asked for, with status
// 200, as the protocol allows.
func IgnoreRange(w http.ResponseWriter, r *http.Request, next http.Handler) {
	next.ServeHTTP(w, withoutRange(r))
}

// WrongRange answers requests for a part with another part, as long but by that
// many bytes further back or, if it is negative, further ahead, and says so.
func WrongRange(by int) Answer { return otherRange(by, by) }

// LyingRange is WrongRange, but says that the part is the one asked for.
func LyingRange(by int) Answer { return otherRange(by, 0) }

// otherRange sends a part that lies elsewhere, and says that it lies where.
func otherRange(by, said int) Answer {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		var from int
		if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err != nil {
			next.ServeHTTP(w, r)
			return
		}
		a := record(next, withoutRange(r))
		if a.Code != http.StatusOK || from >= len(a.Body) {
			a.send(w)
			return
		}
		whole := a.Body
		at := min(max(from-by, 0), len(whole)-1)
		a.Body = whole[at:min(at+len(whole)-from, len(whole))]
		a.Code = http.StatusPartialContent
		first := from - said
		a.Header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, first+len(a.Body)-1, len(whole)))
		a.length()
		a.send(w)
	}
}

func withoutRange(r *http.Request) *http.Request {
	r = r.Clone(r.Context())
	r.Header.Del("Range")
	return r
}

// Challenge refuses with status 401 and a WWW-Authenticate header what is not
// allowed, and has next answer the rest.
func Challenge(header string, allowed func(*http.Request) bool) Answer {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if allowed(r) {
			next.ServeHTTP(w, r)
			return
		}
		Status(http.StatusUnauthorized, "WWW-Authenticate", header)(w, r, next)
	}
}

// BasicAuth wants a user's password with each request.
func BasicAuth(user, password string) Answer {
	return Challenge(`Basic realm="the registry"`, func(r *http.Request) bool {
		u, p, _ := r.BasicAuth()
		return u == user && p == password
	})
}

// TokenAuth wants a token with each request, which it gives itself, at /token, to
// a user with a password. It is for all requests, those for tokens included.
func TokenAuth(user, password string) Answer {
	const token = "a-token-of-the-test"
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.URL.Path == "/token" {
			BasicAuth(user, password)(w, r, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				fmt.Fprintf(w, `{"token":%q}`, token)
			}))
			return
		}
		header := fmt.Sprintf(`Bearer realm="http://%s/token",service="the registry"`, r.Host)
		Challenge(header, func(r *http.Request) bool { return r.Header.Get("Authorization") == "Bearer "+token })(w, r, next)
	}
}

// answered is an answer that was not sent yet.
type answered struct {
	Code   int
	Header http.Header
	Body   []byte
}

// record has a handler answer.
func record(h http.Handler, r *http.Request) *answered {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	res := w.Result()
	data, _ := io.ReadAll(res.Body)
	return &answered{res.StatusCode, res.Header, data}
}

// length has the header tell the body's length.
func (a *answered) length() { a.Header.Set("Content-Length", strconv.Itoa(len(a.Body))) }

func (a *answered) send(w http.ResponseWriter) {
	maps.Copy(w.Header(), a.Header)
	w.WriteHeader(a.Code)
	_, _ = w.Write(a.Body)
}

// part sends the header and the first n bytes.
func (a *answered) part(w http.ResponseWriter, n int) {
	maps.Copy(w.Header(), a.Header)
	w.WriteHeader(a.Code)
	_, _ = w.Write(a.Body[:n])
	w.(http.Flusher).Flush()
}
