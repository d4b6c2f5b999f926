package image

import (
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

func TestParseReference(t *testing.T) {
	d := "sha256:" + strings.Repeat("ab", 32)
	for _, c := range []struct{ in, full, familiar, registry, repository string }{
		{"alpine", "docker.io/library/alpine:latest", "alpine:latest", "docker.io", "library/alpine"},
		{"alpine:3.22", "docker.io/library/alpine:3.22", "alpine:3.22", "docker.io", "library/alpine"},
		{"index.docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest", "docker.io", "library/alpine"},
		{"user/app", "docker.io/user/app:latest", "user/app:latest", "docker.io", "user/app"},
		{"localhost/app", "localhost/app:latest", "localhost/app:latest", "localhost", "app"},
		{"127.0.0.1:5000/a/b/c:v1", "127.0.0.1:5000/a/b/c:v1", "127.0.0.1:5000/a/b/c:v1", "127.0.0.1:5000", "a/b/c"},
		{"[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest", "[::1]:5000", "a"},
		{"alpine@" + d, "docker.io/library/alpine@" + d, "alpine@" + d, "docker.io", "library/alpine"},
		{"alpine:3.22@" + d, "docker.io/library/alpine@" + d, "alpine@" + d, "docker.io", "library/alpine"},
		{"host.example:5000/a__b", "host.example:5000/a__b:latest", "host.example:5000/a__b:latest", "host.example:5000", "a__b"},
	} {
		r, err := ParseReference(c.in)
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		if r.String() != c.full || r.Familiar() != c.familiar || r.Registry() != c.registry || r.Repository() != c.repository {
			t.Errorf("%s: %s, %s, %s, %s", c.in, r, r.Familiar(), r.Registry(), r.Repository())
		}
		if (r.Tag() == "") == (r.Digest() == "") {
			t.Errorf("%s: tag %q and digest %q", c.in, r.Tag(), r.Digest())
		}
		for _, s := range []string{r.String(), r.Familiar()} {
			if again, err := ParseReference(s); err != nil || again.String() != r.String() {
				t.Errorf("%s: reads as %s, %v", s, again, err)
			}
		}
	}
}

func TestParseReferenceErrors(t *testing.T) {
	for in, want := range map[string]error{
		"":                                     errdefs.ErrInvalidArgument,
		"Alpine":                               errdefs.ErrInvalidArgument,
		"a b":                                  errdefs.ErrInvalidArgument,
		"a:":                                   errdefs.ErrInvalidArgument,
		"/a":                                   errdefs.ErrInvalidArgument,
		"a/../b":                               errdefs.ErrInvalidArgument,
		"https://host/a":                       errdefs.ErrInvalidArgument,
		"a@sha256:12":                          errdefs.ErrInvalidArgument,
		strings.Repeat("ab", 32):               errdefs.ErrInvalidArgument,
		"a:" + strings.Repeat("v", 200):        errdefs.ErrInvalidArgument,
		"a/" + strings.Repeat("v/", 200):       errdefs.ErrInvalidArgument,
		"a@sha512:" + strings.Repeat("ab", 64): errdefs.ErrNotImplemented,
		"host/a:1@md5:" + strings.Repeat("ab", 16):             errdefs.ErrNotImplemented,
		"a@sha256:" + strings.ToUpper(strings.Repeat("a", 64)): errdefs.ErrInvalidArgument,
	} {
		if r, err := ParseReference(in); !errors.Is(err, want) {
			t.Errorf("%q: %v, %v, want %v", in, r, err, want)
		}
	}
}

func TestZeroReference(t *testing.T) {
	var r Reference
	if r.String() != "" || r.Familiar() != "" || r.Registry() != "" || r.Repository() != "" || r.Tag() != "" || r.Digest() != "" {
		t.Errorf("the zero reference names something: %+v", r)
	}
}

func FuzzParseReference(f *testing.F) {
	for _, s := range []string{"alpine", "a/b:c", "host:1/a@sha256:00", "[::1]:5000/a", "localhost/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseReference(s)
		if err != nil {
			return
		}
		again, err := ParseReference(r.String())
		if err != nil || again.String() != r.String() {
			t.Fatalf("%q reads as %q, and that as %q, %v", s, r, again, err)
		}
		if d := r.Digest(); d != "" && (d.Validate() != nil || d.Algorithm() != digest.SHA256) {
			t.Fatalf("%q: digest %q", s, d)
		}
		if end, err := newEndpoint(r.Registry(), false); err == nil && (end.scheme != "https" && !end.loopback) {
			t.Fatalf("%q: %+v", s, end)
		}
	})
}
