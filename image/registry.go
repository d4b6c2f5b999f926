package image

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"
)

const (
	userAgent    = "inboard"
	maxRedirects = 10
)

// patience says how long a registry may try ours.
type patience struct {
	attempts int           // for one thing, without progress
	pause    time.Duration // after the first failure; doubles with each
	stall    time.Duration // without a byte until a connection is given up
}

var defaultPatience = patience{attempts: 5, pause: 200 * time.Millisecond, stall: time.Minute}

// registry reads one repository of a registry. Its requests are made by hand on
// a RoundTripper: an http.Client would follow redirects to anywhere, and take
// Authorization along to another port of the same host.
type registry struct {
	end       endpoint
	login     login
	transport http.RoundTripper
	own       *http.Transport // the transport, when nobody gave one
	patience  patience
	reached   atomic.Bool // it has answered before
}

func newRegistry(ref Reference, o PullOptions, p patience) (*registry, error) {
	end, err := newEndpoint(ref.Registry(), o.PlainHTTP)
	if err != nil {
		return nil, err
	}
	r := &registry{end: end, transport: o.Transport, patience: p}
	r.login.keychain = o.Keychain
	if r.login.keychain == nil {
		r.login.keychain = authn.DefaultKeychain
	}
	r.login.resource = resource{ref.Registry(), ref.Repository()}
	if r.transport == nil {
		r.own = newTransport()
		r.transport = r.own
	}
	return r, nil
}

// close ends the idle connections of a transport that is ours.
func (r *registry) close() {
	if r.own != nil {
		r.own.CloseIdleConnections()
	}
}

// newTransport is like http.DefaultTransport, except that "localhost" is the
// loopback address and no question to a name server: plain HTTP depends on it.
func newTransport() *http.Transport {
	dialer := &net.Dialer{Timeout: 30 * time.Second}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			host, port, err := net.SplitHostPort(address)
			if err != nil || !isLoopback(host) || net.ParseIP(host) != nil {
				return dialer.DialContext(ctx, network, address)
			}
			conn, err := dialer.DialContext(ctx, network, net.JoinHostPort("127.0.0.1", port))
			if err == nil {
				return conn, nil
			}
			if conn, err6 := dialer.DialContext(ctx, network, net.JoinHostPort("::1", port)); err6 == nil {
				return conn, nil
			}
			return nil, err
		},
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: parallelLayers,
		IdleConnTimeout:     90 * time.Second,
		TLSHandshakeTimeout: 10 * time.Second,
	}
}

// get asks for a path below the repository and gives the answer of the last
// redirect, with the address it came from. It authenticates when the registry
// wants that; whoever else asks for credentials gets none.
func (r *registry) get(ctx context.Context, path string, header http.Header) (*http.Response, *url.URL, error) {
	for again := false; ; again = true {
		used := r.login.authorization()
		resp, from, err := r.follow(ctx, r.end.url(r.login.resource.repository, path), header, func(to *url.URL) string {
			if r.end.owns(to) {
				return used
			}
			return ""
		})
		if err != nil || resp.StatusCode != http.StatusUnauthorized || again || !r.end.owns(from) {
			return resp, from, err
		}
		drain(resp)
		if err := r.login.answer(ctx, r, parseChallenges(resp.Header.Values("WWW-Authenticate")), used); err != nil {
			return nil, nil, err
		}
	}
}

// follow gets an address and goes where its redirects lead, as far as the
// endpoint permits. authorize gives the Authorization of each hop.
func (r *registry) follow(ctx context.Context, u *url.URL, header http.Header, authorize func(*url.URL) string) (*http.Response, *url.URL, error) {
	for range maxRedirects {
		h := header.Clone()
		if h == nil {
			h = make(http.Header)
		}
		if a := authorize(u); a != "" {
			h.Set("Authorization", a)
		}
		resp, err := r.once(ctx, http.MethodGet, u, h, nil)
		if err != nil {
			return nil, nil, err
		}
		location := resp.Header.Get("Location")
		switch resp.StatusCode {
		case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		default:
			return resp, u, nil
		}
		drain(resp)
		next, err := u.Parse(location)
		if err != nil || location == "" {
			return nil, nil, fmt.Errorf("GET %s: redirect without a usable address: %w", place(u), errdefs.ErrDataLoss)
		}
		if err := r.end.check(next); err != nil {
			return nil, nil, fmt.Errorf("GET %s: redirect: %v: %w", place(u), err, errdefs.ErrPermissionDenied)
		}
		u = next
	}
	return nil, nil, fmt.Errorf("GET %s: more than %d redirects: %w", place(u), maxRedirects, errdefs.ErrDataLoss)
}

// once sends one request, which fails with a networkError when no byte comes for
// the length of our patience, before the answer or inside of it.
func (r *registry) once(ctx context.Context, method string, u *url.URL, header http.Header, body io.Reader) (*http.Response, error) {
	watched, cancel := context.WithCancelCause(ctx)
	req, err := http.NewRequestWithContext(watched, method, u.String(), body)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	req.Header.Set("User-Agent", userAgent)
	// Says that what a digest is of must not be packed once more on the way.
	req.Header.Set("Accept-Encoding", "identity")
	watch := time.AfterFunc(r.patience.stall, func() { cancel(errStalled) })
	resp, err := r.transport.RoundTrip(req)
	watch.Stop()
	if err != nil {
		if context.Cause(watched) == errStalled {
			err = errStalled
		}
		cancel(nil)
		return nil, fmt.Errorf("%s %s: %w", method, place(u), &networkError{err})
	}
	r.reached.Store(true)
	resp.Body = &watchedBody{body: resp.Body, ctx: watched, cancel: cancel, watch: watch, stall: r.patience.stall}
	return resp, nil
}

// errStalled is why a connection without a byte for too long was given up.
var errStalled = errors.New("no answer for too long")

// watchedBody gives up a read that takes too long. The time between reads does
// not count: there the reader is the slow one.
type watchedBody struct {
	body   io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	watch  *time.Timer
	stall  time.Duration
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.watch.Reset(b.stall)
	n, err := b.body.Read(p)
	b.watch.Stop()
	if err != nil && err != io.EOF && context.Cause(b.ctx) == errStalled {
		err = errStalled
	}
	return n, err
}

func (b *watchedBody) Close() error {
	b.watch.Stop()
	b.cancel(nil)
	return b.body.Close()
}

// retry runs f until it succeeds, fails for good or patience ends.
func (r *registry) retry(ctx context.Context, f func() error) error {
	for attempt := 1; ; attempt++ {
		err := f()
		if err == nil || attempt >= r.patience.attempts || !r.transient(err) {
			return err
		}
		if err := r.pause(ctx, attempt, err); err != nil {
			return err
		}
	}
}

// pause waits before the next attempt, as long as the registry asked if it did.
func (r *registry) pause(ctx context.Context, failed int, cause error) error {
	d := r.patience.pause << min(failed-1, 10)
	d += rand.N(d/4 + 1)
	if s := new(statusError); errors.As(cause, &s) && s.after > 0 {
		d = max(d, min(s.after, 30*time.Second))
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// transient tells whether trying again may help.
func (r *registry) transient(err error) bool {
	if s := new(statusError); errors.As(err, &s) {
		switch s.code {
		case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
			http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return true
		}
		return false
	}
	if n := new(networkError); !errors.As(err, &n) || errors.Is(err, context.Canceled) && !errors.Is(err, errStalled) {
		return false
	}
	var (
		certificate *tls.CertificateVerificationError
		authority   x509.UnknownAuthorityError
		record      tls.RecordHeaderError
		dns         *net.DNSError
	)
	switch {
	case errors.As(err, &certificate), errors.As(err, &authority), errors.As(err, &record):
		return false
	case errors.As(err, &dns):
		return !dns.IsNotFound
	case errors.Is(err, syscall.ECONNREFUSED):
		return r.reached.Load() // it may be restarting; else nobody is there
	}
	return true
}

// place is an address as errors show it: its query may hold a signature.
func place(u *url.URL) string { return u.Scheme + "://" + u.Host + u.EscapedPath() }

// drain lets a connection be used again when little is left to read.
func drain(resp *http.Response) {
	io.CopyN(io.Discard, resp.Body, 8<<10)
	resp.Body.Close()
}
