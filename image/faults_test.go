package image

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestRetryAfter: a registry that says how long to wait is asked no earlier, and
// the wait ends with the context.
func TestRetryAfter(t *testing.T) {
	f := newFakeRegistry(t)
	ref := f.push("app", "v1", build(t, hostPlatform))
	for _, after := range []func() string{
		func() string { return "1" },
		func() string { return time.Now().Add(2 * time.Second).UTC().Format(http.TimeFormat) }, // in whole seconds
	} {
		s := newStore(t)
		var refused, asked time.Time
		f.answer(func(w http.ResponseWriter, r *http.Request) bool {
			if refused.IsZero() {
				refused = time.Now()
				w.Header().Set("Retry-After", after())
				w.WriteHeader(http.StatusTooManyRequests)
				return true
			}
			if asked.IsZero() {
				asked = time.Now()
			}
			return false
		})
		if _, err := s.Pull(t.Context(), ref, anonymous); err != nil {
			t.Error(err)
		}
		if d := asked.Sub(refused); d < 900*time.Millisecond {
			t.Errorf("asked again after %v", d)
		}
	}
	s := newStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	f.answer(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Retry-After", "100000")
		w.WriteHeader(http.StatusServiceUnavailable)
		time.AfterFunc(10*time.Millisecond, cancel)
		return true
	})
	if _, err := s.Pull(ctx, ref, anonymous); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	s.mustBeEmpty(t)
}

// TestDockerHub: credentials are kept under the name of its index, and go to its
// token server.
func TestDockerHub(t *testing.T) {
	f := newFakeRegistry(t)
	f.push("library/alpine", "latest", build(t, hostPlatform, gzipLayer(t, "a", "b")))
	var sent []string
	hub := &recorder{to: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		auth := r.Header.Get("Authorization")
		switch {
		case r.Host == "auth.docker.io":
			sent = append(sent, auth)
			w.Write([]byte(`{"access_token":"for-the-hub"}`))
		case r.Host == "registry-1.docker.io" && auth != "Bearer for-the-hub":
			w.Header().Set("WWW-Authenticate", `Bearer realm="https://auth.docker.io/token",service="registry.docker.io"`)
			w.WriteHeader(http.StatusUnauthorized)
		default:
			f.backend.ServeHTTP(w, r)
		}
	})}
	keys := keychain{"index.docker.io": {Username: "user", Password: "pass"}, "docker.io": {Username: "x"}, "registry-1.docker.io": {Username: "x"}}
	if _, err := newStore(t).Pull(t.Context(), "alpine", PullOptions{Keychain: keys, Transport: hub}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(sent, []string{"Basic dXNlcjpwYXNz"}) {
		t.Errorf("the token server got %q", sent)
	}
	if slices.ContainsFunc(hub.urls, func(u string) bool { return u != "https://registry-1.docker.io" && u != "https://auth.docker.io" }) {
		t.Errorf("requests of %v", hub.urls)
	}
}

// TestRegistryToken is a credential that needs no token server.
func TestRegistryToken(t *testing.T) {
	f := newFakeRegistry(t)
	ref := f.push("app", "v1", build(t, hostPlatform))
	f.answer(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") == "Bearer given" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+f.host+`/token"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	if _, err := newStore(t).Pull(t.Context(), ref, PullOptions{Keychain: keychain{f.host: authn.AuthConfig{RegistryToken: "given"}}}); err != nil {
		t.Error(err)
	}
	if f.Count("/token") != 0 {
		t.Error("the token server was asked")
	}
}

// TestOtherKeychains: podman's file is read too, and a credential helper that
// does not work gives an error that says so, when credentials are wanted.
func TestOtherKeychains(t *testing.T) {
	need(t, "sh")
	if runtime.GOOS == "windows" {
		t.Skip("the helper is a shell script")
	}
	r := newTokenRegistry(t)
	ref := r.push("app", "v1", build(t, hostPlatform))
	open := newFakeRegistry(t)
	openRef := open.push("app", "v1", build(t, hostPlatform))
	home, bin := t.TempDir(), t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("DOCKER_CONFIG", home)
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	write := func(path, content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	podman := filepath.Join(home, "auth.json")
	write(podman, `{"auths":{"`+r.host+`":{"auth":"dXNlcjpwYXNz"}}}`)
	t.Setenv("REGISTRY_AUTH_FILE", podman)
	if _, err := newStore(t).Pull(t.Context(), ref, PullOptions{}); err != nil {
		t.Errorf("podman's file: %v", err)
	}
	t.Setenv("REGISTRY_AUTH_FILE", "")
	os.Remove(podman)
	write(filepath.Join(bin, "docker-credential-fails"), "#!/bin/sh\necho something is locked\nexit 1\n")
	write(filepath.Join(bin, "docker-credential-babbles"), "#!/bin/sh\necho '{'\n")
	for _, helper := range []string{"fails", "babbles", "missing"} {
		write(filepath.Join(home, "config.json"), `{"credHelpers":{"`+r.host+`":"`+helper+`","`+open.host+`":"`+helper+`"}}`)
		s := newStore(t)
		if _, err := s.Pull(t.Context(), ref, PullOptions{}); err == nil || !strings.Contains(err.Error(), "credentials for "+r.host) {
			t.Errorf("%s: %v", helper, err)
		}
		if _, err := s.Pull(t.Context(), openRef, PullOptions{}); err != nil {
			t.Errorf("%s, where none are wanted: %v", helper, err)
		}
	}
	for what, config := range map[string]string{"cut off": `{"auths":`, "of another shape": `{"auths":[]}`} {
		write(filepath.Join(home, "config.json"), config)
		if _, err := newStore(t).Pull(t.Context(), ref, PullOptions{}); err == nil {
			t.Errorf("a config %s: no error", what)
		}
	}
}

// TestCVE_2024_3727 has digests that are no digests, or that lead out of the
// store, wherever a registry can put one (also containerd CVE-2026-95839). None is
// asked for, and none becomes a file's name.
func TestCVE_2024_3727(t *testing.T) {
	f := newFakeRegistry(t)
	s := newStore(t)
	good := gzipLayer(t, "a", "b")
	for _, evil := range []digest.Digest{"", "sha256", "sha256:", "sha256:../../../../etc/passwd", "sha256:" + digest.Digest(strings.Repeat("A", 64)),
		"sha256:" + digest.Digest(strings.Repeat("a", 63)), "../sha256:" + digest.Digest(strings.Repeat("a", 64)), "md5:" + digest.Digest(strings.Repeat("a", 32)), "sha256:..%2f.."} {
		for where, harm := range map[string]func(b *built, m *ocispec.Manifest){
			"config":  func(_ *built, m *ocispec.Manifest) { m.Config.Digest = evil },
			"layer":   func(_ *built, m *ocispec.Manifest) { m.Layers[0].Digest = evil },
			"diff ID": func(b *built, _ *ocispec.Manifest) {},
		} {
			b := build(t, hostPlatform, good)
			if where == "diff ID" {
				b.seal(t, ocispec.Image{Platform: hostPlatform, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{evil}}})
			}
			var m ocispec.Manifest
			mustUnmarshal(t, b.manifest, &m)
			harm(b, &m)
			b.manifest = marshal(t, m)
			for _, raw := range b.blobs {
				f.PushBlob(t, "app", raw)
			}
			f.answer(func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, "/manifests/v1") {
					return false
				}
				w.Header().Set("Content-Type", b.mediaType)
				w.Header().Set("Docker-Content-Digest", string(evil))
				w.Write(b.manifest)
				return true
			})
			if _, err := s.Pull(t.Context(), f.host+"/app:v1", anonymous); !errors.Is(err, errdefs.ErrDataLoss) {
				t.Errorf("%s %q: %v", where, evil, err)
			}
			for _, r := range f.Requests() {
				if strings.Contains(r.Path, "..") || strings.HasSuffix(r.Path, "/"+string(evil)) {
					t.Errorf("%s %q: asked for %s", where, evil, r.Path)
				}
			}
			s.mustBeEmpty(t)
		}
	}
}

// TestCVE_2021_21285 has manifests and configs with holes where a program might
// look without asking: an error each, and no panic.
func TestCVE_2021_21285(t *testing.T) {
	f := newFakeRegistry(t)
	s := newStore(t)
	b := build(t, hostPlatform, gzipLayer(t, "a", "b"))
	f.push("app", "image", b)
	image := string(b.manifest)
	layers := image[strings.Index(image, `"layers":`):]
	serve := func(path, mediaType, body string) {
		f.answer(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, path) {
				return false
			}
			if mediaType != "" {
				w.Header().Set("Content-Type", mediaType)
			}
			w.Write([]byte(body))
			return true
		})
	}
	for _, manifest := range []string{
		`{"schemaVersion":2}`, `{"schemaVersion":2,"config":null,"layers":null}`, `{"schemaVersion":2,"config":{},"layers":[null]}`,
		`{"schemaVersion":2,"config":[],"layers":[]}`, `{"schemaVersion":2,"config":{"size":1e400}}`, `{"schemaVersion":2,"config":{"size":"1"}}`,
		`{"schemaVersion":"2","config":{}}`, `{"schemaVersion":2.5}`, `{"schemaVersion":2,"layers":{"0":{}}}`, `{"schemaVersion":2,` + layers,
		strings.Replace(image, `"size":`, `"size":-`, 1), strings.Replace(image, `"size":`, `"size":9223372036854775807,"x":`, 1),
		strings.Replace(image, `"digest":`, `"urls":null,"annotations":null,"x":`, 1), "\x00", "\xff\xfe{", image + image, strings.Repeat(`{"a":`, 5000),
	} {
		serve("/manifests/v1", b.mediaType, manifest)
		if _, err := s.Pull(t.Context(), f.host+"/app:v1", anonymous); err == nil {
			t.Errorf("%.80q: no error", manifest)
		}
		s.mustBeEmpty(t)
	}
	for _, index := range []string{
		`{"schemaVersion":2,"manifests":null}`, `{"schemaVersion":2,"manifests":[null]}`, `{"schemaVersion":2,"manifests":[{}]}`,
		`{"schemaVersion":2,"manifests":[{"platform":null}]}`, `{"schemaVersion":2,"manifests":[{"platform":{}}]}`, `{"schemaVersion":2,"manifests":[{"platform":[]}]}`,
		`{"schemaVersion":2,"manifests":[{"mediaType":"` + b.mediaType + `","digest":"` + anyDigest + `","platform":{"os":"linux","architecture":"` + runtime.GOARCH + `","variant":"v"}}]}`,
	} {
		serve("/manifests/v1", ocispec.MediaTypeImageIndex, index)
		if _, err := s.Pull(t.Context(), f.host+"/app:v1", anonymous); err == nil {
			t.Errorf("%.80q: no error", index)
		}
		s.mustBeEmpty(t)
	}
	for _, config := range []string{`null`, `{}`, `{"rootfs":null}`, `{"rootfs":{"diff_ids":null}}`, `{"rootfs":{"diff_ids":[null]}}`, `{"rootfs":[]}`,
		`{"history":[null],"config":null,"rootfs":null}`, `{"created":"yesterday","rootfs":{"type":"layers","diff_ids":["` + string(b.diffIDs[0]) + `"]}}`} {
		bad := build(t, hostPlatform, gzipLayer(t, "a", "b"))
		bad.seal(t, rawJSON(config))
		if _, err := s.Pull(t.Context(), f.push("app", "bad", bad), anonymous); err == nil {
			t.Errorf("config %s: no error", config)
		}
		s.mustBeEmpty(t)
	}
}

type rawJSON string

func (r rawJSON) MarshalJSON() ([]byte, error) { return []byte(r), nil }

// TestCVE_2026_53493 has indexes that list the same few indexes again and again,
// so that there are far more ways through them than documents (containerd
// CVE-2026-53493): the work is bounded, and the error names an index.
func TestCVE_2026_53493(t *testing.T) {
	f := newFakeRegistry(t)
	s := newStore(t)
	other := build(t, ocispec.Platform{OS: "plan9", Architecture: "mips"})
	f.push("app", "other", other)
	raw := indexOf(t, other.desc())
	for range maxIndexDepth - 1 {
		f.PushManifest(t, "app", "part", ocispec.MediaTypeImageIndex, raw)
		d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
		raw = indexOf(t, slices.Repeat([]ocispec.Descriptor{d}, 30)...)
	}
	f.PushManifest(t, "app", "v1", ocispec.MediaTypeImageIndex, raw)
	f.answer(nil)
	_, err := s.Pull(t.Context(), f.host+"/app:v1", anonymous)
	if !errors.Is(err, errdefs.ErrDataLoss) || len(f.Requests()) > maxDocuments {
		t.Errorf("%v after %d requests", err, len(f.Requests()))
	}
	s.mustBeEmpty(t)
}

// TestRemovalBesideDamaged: where it cannot be told what another image needs, an
// image loses its name and its blobs stay, until that can be told again.
func TestRemovalBesideDamaged(t *testing.T) {
	f := newFakeRegistry(t)
	s := newStore(t)
	shared := gzipLayer(t, "shared", "layer")
	bad, good := build(t, hostPlatform, shared, gzipLayer(t, "a", "1")), build(t, hostPlatform, shared, gzipLayer(t, "b", "2"))
	badRef, goodRef := f.push("bad", "v1", bad), f.push("good", "v1", good)
	s.mustPull(t, badRef)
	s.mustPull(t, goodRef)
	path := s.blobPath(digest.FromBytes(bad.manifest))
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 10); err != nil {
		t.Fatal(err)
	}
	fresh := openStore(t, filepath.Dir(s.dir)) // without what was read before
	if _, err := fresh.Remove(t.Context(), goodRef, RemoveOptions{}); !errors.Is(err, errdefs.ErrDataLoss) || !strings.Contains(err.Error(), path) {
		t.Errorf("remove: %v", err)
	}
	if _, err := fresh.Lookup(t.Context(), goodRef); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("after its removal: %v", err)
	}
	for _, id := range append(bad.diffIDs, good.diffIDs...) {
		if _, err := fresh.layers.Get(id); err != nil {
			t.Errorf("taken from an image that may need it: %v", err)
		}
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	fresh = openStore(t, filepath.Dir(s.dir))
	if i, err := fresh.Lookup(t.Context(), badRef); err != nil {
		t.Error(err)
	} else if _, err := i.Layers(); err != nil {
		t.Error(err)
	}
	if _, err := fresh.layers.Get(good.diffIDs[1]); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("what only the removed image needed: %v", err)
	}
	if _, err := fresh.Remove(t.Context(), badRef, RemoveOptions{}); err != nil {
		t.Error(err)
	}
	fresh.mustBeEmpty(t)
}

// TestManyErrors: the error of a registry that answers with many errors, or
// with very long ones, stays readable.
func TestManyErrors(t *testing.T) {
	f := newFakeRegistry(t)
	f.answer(func(w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, `{"errors":[{"code":"A","message":"first"},{"code":"B","message":%q}]}`, strings.Repeat("x", 5000))
		return true
	})
	_, err := newStore(t).Pull(t.Context(), f.host+"/app", anonymous)
	if err == nil || !strings.Contains(err.Error(), "A: first; B: xxx") || len(err.Error()) > 600 {
		t.Error(err)
	}
}
