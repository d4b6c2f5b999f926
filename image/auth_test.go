package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"
)

// tokenRegistry is a registry with a token server of its own, on another port.
type tokenRegistry struct {
	*fakeRegistry
	tokens *fakeRegistry

	mu    sync.Mutex
	valid string // the token that is taken now
	given int
}

// newTokenRegistry gives tokens to "user" with "pass", who may have the identity
// token "identity" instead.
func newTokenRegistry(t *testing.T) *tokenRegistry {
	r := &tokenRegistry{fakeRegistry: newFakeRegistry(t), tokens: newFakeRegistry(t)}
	r.tokens.answer(func(w http.ResponseWriter, req *http.Request) bool {
		user, pass, _ := req.BasicAuth()
		req.ParseForm()
		if (user != "user" || pass != "pass") && req.PostForm.Get("refresh_token") != "identity" {
			w.WriteHeader(http.StatusUnauthorized)
			io.WriteString(w, `{"details":"incorrect username or password"}`)
			return true
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.given++
		r.valid = fmt.Sprint("token-", r.given)
		json.NewEncoder(w).Encode(map[string]string{"token": r.valid})
		return true
	})
	r.fakeRegistry.answer(r.guard)
	return r
}

func (r *tokenRegistry) guard(w http.ResponseWriter, req *http.Request) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.valid != "" && req.Header.Get("Authorization") == "Bearer "+r.valid {
		return false
	}
	r.challenge(w, "http://"+r.tokens.host+"/token")
	return true
}

func (r *tokenRegistry) challenge(w http.ResponseWriter, realm string) {
	w.Header().Set("WWW-Authenticate", `Bearer realm="`+realm+`",service="the registry",scope="repository:app:pull"`)
	w.WriteHeader(http.StatusUnauthorized)
}

func TestTokenAuthentication(t *testing.T) {
	r := newTokenRegistry(t)
	ref := r.push("app", "v1", build(t, hostPlatform, gzipLayer(t, "a", "b"), gzipLayer(t, "c", "d"), gzipLayer(t, "e", "f")))
	for name, c := range map[string]struct {
		auth authn.AuthConfig
		want error
	}{
		"password":       {authn.AuthConfig{Username: "user", Password: "pass"}, nil},
		"encoded":        {authn.AuthConfig{Auth: "dXNlcjpwYXNz"}, nil},
		"identity token": {authn.AuthConfig{Username: "<token>", IdentityToken: "identity"}, nil},
		"wrong password": {authn.AuthConfig{Username: "user", Password: "no"}, errdefs.ErrUnauthenticated},
		"nobody":         {authn.AuthConfig{}, errdefs.ErrUnauthenticated},
	} {
		s := newStore(t)
		r.tokens.Forget()
		r.fakeRegistry.Forget()
		r.valid = ""
		_, err := s.Pull(t.Context(), ref, PullOptions{Keychain: keychain{r.host: c.auth}})
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err != nil {
			if !strings.Contains(err.Error(), "incorrect username or password") {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		// One token serves the manifest, the config and three layers at once.
		if n := len(r.tokens.Requests()); n != 1 {
			t.Errorf("%s: asked for %d tokens", name, n)
		}
		asked := r.Requests()
		if asked[0].Header.Get("Authorization") != "" || len(asked) != 6 {
			t.Errorf("%s: %d requests, first %+v", name, len(asked), asked[0])
		}
		for _, a := range asked[1:] {
			if !strings.HasPrefix(a.Header.Get("Authorization"), "Bearer token-") {
				t.Errorf("%s: %s with %q", name, a.Path, a.Header.Get("Authorization"))
			}
		}
	}
}

func TestTokenRequest(t *testing.T) {
	r := newTokenRegistry(t)
	ref := r.push("app", "v1", build(t, hostPlatform))
	user := keychain{r.host: {Username: "user", Password: "pass"}}
	if _, err := newStore(t).Pull(t.Context(), ref, PullOptions{Keychain: user}); err != nil {
		t.Fatal(err)
	}
	if q := r.tokens.Requests()[0]; q.Method != "GET" || q.Path != "/token" || q.Query != "scope=repository%3Aapp%3Apull&service=the+registry" {
		t.Errorf("%+v", q)
	}
}

// TestTokenExpires takes the token away after each request.
func TestTokenExpires(t *testing.T) {
	r := newTokenRegistry(t)
	ref := r.push("app", "v1", build(t, hostPlatform, gzipLayer(t, "a", "b"), gzipLayer(t, "c", "d")))
	r.fakeRegistry.answer(func(w http.ResponseWriter, req *http.Request) bool {
		answered := r.guard(w, req)
		if !answered && strings.Contains(req.URL.Path, "/manifests/") {
			r.mu.Lock()
			r.valid = "expired"
			r.mu.Unlock()
		}
		return answered
	})
	s := newStore(t)
	if _, err := s.Pull(t.Context(), ref, PullOptions{Keychain: keychain{r.host: {Username: "user", Password: "pass"}}}); err != nil {
		t.Error(err)
	}
	if n := len(r.tokens.Requests()); n != 2 {
		t.Errorf("asked for %d tokens", n)
	}
}

func TestBasicAuthentication(t *testing.T) {
	f := newFakeRegistry(t)
	ref := f.push("app", "v1", build(t, hostPlatform, gzipLayer(t, "a", "b")))
	f.answer(func(w http.ResponseWriter, r *http.Request) bool {
		if u, p, _ := r.BasicAuth(); u == "user" && p == "pass" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Negotiate, Basic realm="somewhere"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	s := newStore(t)
	for _, k := range []keychain{{}, {f.host: {Username: "user", Password: "no"}}, {"other.example": {Username: "user", Password: "pass"}}} {
		if _, err := s.Pull(t.Context(), ref, PullOptions{Keychain: k}); !errors.Is(err, errdefs.ErrUnauthenticated) {
			t.Errorf("%v: %v", k, err)
		}
	}
	s.mustBeEmpty(t)
	if _, err := s.Pull(t.Context(), ref, PullOptions{Keychain: keychain{f.host: {Username: "user", Password: "pass"}}}); err != nil {
		t.Error(err)
	}
}

// TestDockerConfig reads Docker's config file and runs a credential helper.
func TestDockerConfig(t *testing.T) {
	need(t, "sh")
	if runtime.GOOS == "windows" {
		t.Skip("the helper is a shell script")
	}
	r := newTokenRegistry(t)
	ref := r.push("app", "v1", build(t, hostPlatform, gzipLayer(t, "a", "b")))
	home, bin := t.TempDir(), t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("DOCKER_CONFIG", home)
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	helper := "#!/bin/sh\nread server\necho \"$server\" >>" + bin + "/asked\necho '{\"Username\":\"user\",\"Secret\":\"pass\"}'\n"
	if err := os.WriteFile(filepath.Join(bin, "docker-credential-inboardtest"), []byte(helper), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, config := range map[string]string{
		"file":   `{"auths":{"` + r.host + `":{"auth":"dXNlcjpwYXNz"}}}`,
		"helper": `{"credHelpers":{"` + r.host + `":"inboardtest"}}`,
	} {
		if err := os.WriteFile(filepath.Join(home, "config.json"), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := newStore(t).Pull(t.Context(), ref, PullOptions{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	asked, err := os.ReadFile(filepath.Join(bin, "asked"))
	if err != nil || !strings.Contains(string(asked), r.host) {
		t.Errorf("the helper was asked for %q, %v", asked, err)
	}
}

// TestCredentialsStayAtHome redirects to another host that records what comes and
// asks for credentials itself (CVE-2020-15157, CVE-2021-41092).
func TestCredentialsStayAtHome(t *testing.T) {
	for _, ask := range []string{"", `Basic realm="x"`, `Bearer realm="http://%s/token"`} {
		r, other := newTokenRegistry(t), newFakeRegistry(t)
		ref := r.push("app", "v1", build(t, hostPlatform, gzipLayer(t, "a", "b")))
		r.fakeRegistry.answer(func(w http.ResponseWriter, req *http.Request) bool {
			if r.guard(w, req) {
				return true
			}
			if strings.Contains(req.URL.Path, "/blobs/") {
				http.Redirect(w, req, "http://"+other.host+req.URL.Path, http.StatusTemporaryRedirect)
				return true
			}
			return false
		})
		other.answer(func(w http.ResponseWriter, req *http.Request) bool {
			if ask == "" {
				r.backend.ServeHTTP(w, req)
				return true
			}
			w.Header().Set("WWW-Authenticate", strings.Replace(ask, "%s", other.host, 1))
			w.WriteHeader(http.StatusUnauthorized)
			return true
		})
		s := newStore(t)
		_, err := s.Pull(t.Context(), ref, PullOptions{Keychain: keychain{
			r.host:     {Username: "user", Password: "pass"},
			other.host: {Username: "user", Password: "pass"},
		}})
		if ask == "" && err != nil || ask != "" && !errors.Is(err, errdefs.ErrUnauthenticated) {
			t.Errorf("asking %q: %v", ask, err)
		}
		if len(other.Requests()) == 0 {
			t.Error("the other host was not asked")
		}
		for _, a := range other.Requests() {
			if a.Header.Get("Authorization") != "" || a.Header.Get("Cookie") != "" || strings.Contains(a.Path, "token") {
				t.Errorf("asking %q: the other host got %+v", ask, a)
			}
		}
	}
}

// TestHostileRealm has registries that name a token server where credentials, or
// we, must not go (CVE-2019-10214, distribution CVE-2026-33540, oras-go
// CVE-2026-48978).
func TestHostileRealm(t *testing.T) {
	s := newStore(t)
	for _, c := range []struct{ registry, realm string }{
		{"registry.example", "http://registry.example/token"},
		{"registry.example", "http://auth.example/token"},
		{"registry.example", "https://127.0.0.1/token"},
		{"registry.example", "https://169.254.169.254/latest/meta-data/iam"},
		{"registry.example", "https://user:pass@auth.example/token"},
		{"registry.example", "file:///etc/passwd"},
		{"registry.example", ""},
		{"127.0.0.1:5000", "http://auth.example/token"},
		{"127.0.0.1:5000", "http://169.254.169.254/latest"},
	} {
		r := &recorder{to: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			(*tokenRegistry)(nil).challenge(w, c.realm)
		})}
		_, err := s.Pull(t.Context(), c.registry+"/app", PullOptions{
			Keychain:  keychain{c.registry: {Username: "user", Password: "pass"}},
			Transport: r,
		})
		if !errors.Is(err, errdefs.ErrPermissionDenied) {
			t.Errorf("%s with %q: %v", c.registry, c.realm, err)
		}
		if len(r.urls) != 1 {
			t.Errorf("%s with %q: requests of %v", c.registry, c.realm, r.urls)
		}
	}
	// With the option alone, credentials still do not go to others in the clear.
	r := &recorder{to: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		(*tokenRegistry)(nil).challenge(w, "http://auth.example/token")
	})}
	_, err := s.Pull(t.Context(), "registry.example/app", PullOptions{
		PlainHTTP: true, Transport: r,
		Keychain: keychain{"registry.example": {Username: "user", Password: "pass"}},
	})
	if !errors.Is(err, errdefs.ErrPermissionDenied) || len(r.urls) != 1 {
		t.Errorf("%v, requests of %v", err, r.urls)
	}
}

// TestTokenServerRedirects: to another host, it gets no password.
func TestTokenServerRedirects(t *testing.T) {
	r, other := newTokenRegistry(t), newFakeRegistry(t)
	ref := r.push("app", "v1", build(t, hostPlatform))
	other.answer(func(w http.ResponseWriter, req *http.Request) bool {
		io.WriteString(w, `{"token":"stolen"}`)
		return true
	})
	r.tokens.answer(func(w http.ResponseWriter, req *http.Request) bool {
		http.Redirect(w, req, "http://"+other.host+"/token", http.StatusFound)
		return true
	})
	_, err := newStore(t).Pull(t.Context(), ref, PullOptions{Keychain: keychain{r.host: {Username: "user", Password: "pass"}}})
	if !errors.Is(err, errdefs.ErrUnauthenticated) || len(other.Requests()) == 0 {
		t.Errorf("%v", err)
	}
	for _, a := range other.Requests() {
		if a.Header.Get("Authorization") != "" {
			t.Errorf("the other host got %q", a.Header.Get("Authorization"))
		}
	}
}

func TestTokenServerNonsense(t *testing.T) {
	r := newTokenRegistry(t)
	ref := r.push("app", "v1", build(t, hostPlatform))
	s := newStore(t)
	for _, body := range []string{"", "<html>", "{}", `{"token":3}`, `{"token":"a\r\nX: y"}`, `{"token":"` + strings.Repeat("x", maxToken) + `"}`} {
		r.tokens.answer(func(w http.ResponseWriter, req *http.Request) bool {
			io.WriteString(w, body)
			return true
		})
		_, err := s.Pull(t.Context(), ref, anonymous)
		if !errors.Is(err, errdefs.ErrDataLoss) {
			t.Errorf("%.30q: %v", body, err)
		}
		if len(body) > 8 && strings.Contains(err.Error(), body[:8]) {
			t.Errorf("the error shows the answer: %v", err)
		}
	}
}

// failing is a keychain that cannot be read.
type failing struct{}

func (failing) Resolve(authn.Resource) (authn.Authenticator, error) {
	return nil, errors.New("the helper is broken")
}

func TestKeychainIsAskedOnlyWhenNeeded(t *testing.T) {
	f, r := newFakeRegistry(t), newTokenRegistry(t)
	s := newStore(t)
	if _, err := s.Pull(t.Context(), f.push("app", "v1", build(t, hostPlatform)), PullOptions{Keychain: failing{}}); err != nil {
		t.Error(err)
	}
	_, err := s.Pull(t.Context(), r.push("app", "v1", build(t, hostPlatform)), PullOptions{Keychain: failing{}})
	if err == nil || !strings.Contains(err.Error(), "the helper is broken") {
		t.Error(err)
	}
}
