package image

import (
	"errors"
	"net/url"
	"testing"

	"github.com/containerd/errdefs"
)

// TestScheme: what is spoken to a registry depends on its name and the option,
// not on what the name resolves to (moby CVE-2026-92543).
func TestScheme(t *testing.T) {
	for registry, want := range map[string]string{
		"docker.io":               "https://registry-1.docker.io",
		"ghcr.io":                 "https://ghcr.io",
		"registry.example:5000":   "https://registry.example:5000",
		"10.0.0.5:5000":           "https://10.0.0.5:5000",
		"192.168.1.1":             "https://192.168.1.1",
		"169.254.169.254":         "https://169.254.169.254",
		"app.localhost:5000":      "https://app.localhost:5000",
		"localhost.localdomain":   "https://localhost.localdomain",
		"localhost.example":       "https://localhost.example",
		"127.0.0.1.example:5000":  "https://127.0.0.1.example:5000",
		"127.1:5000":              "https://127.1:5000",
		"0x7f.0.0.1":              "https://0x7f.0.0.1",
		"registry.local":          "https://registry.local",
		"[fe80::1]:5000":          "https://[fe80::1]:5000",
		"0.0.0.0:5000":            "https://0.0.0.0:5000",
		"127.0.0.1:5000":          "http://127.0.0.1:5000",
		"127.0.0.1":               "http://127.0.0.1",
		"127.200.3.4:443":         "http://127.200.3.4:443",
		"[::1]:5000":              "http://[::1]:5000",
		"[::ffff:127.0.0.1]:5000": "http://[::ffff:127.0.0.1]:5000",
		"localhost":               "http://localhost",
		"localhost:5000":          "http://localhost:5000",
	} {
		e, err := newEndpoint(registry, false)
		if err != nil || e.scheme+"://"+e.host != want {
			t.Errorf("%s: %+v, %v, want %s", registry, e, err, want)
		}
		e, err = newEndpoint(registry, true)
		if err != nil || e.scheme != "http" {
			t.Errorf("%s, plain: %+v, %v", registry, e, err)
		}
	}
	for _, registry := range []string{"", ":5000", "a b", "user@host", "host/path", "host?x", "[::1"} {
		if e, err := newEndpoint(registry, false); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q: %+v, %v", registry, e, err)
		}
	}
}

// TestWhereARegistryMaySendUs covers redirects and token servers.
func TestWhereARegistryMaySendUs(t *testing.T) {
	for _, c := range []struct {
		registry string
		plain    bool
		to       string
		ok       bool
	}{
		{"docker.io", false, "https://auth.docker.io/token", true},
		{"r.example", false, "https://cdn.example/blob?sig=1", true},
		{"r.example", false, "https://10.1.2.3/blob", true}, // storage of the same site
		{"r.example", false, "http://cdn.example/blob", false},
		{"r.example", false, "http://r.example/blob", false},
		{"r.example", false, "https://127.0.0.1/token", false},
		{"r.example", false, "https://localhost/token", false},
		{"r.example", false, "https://[::1]/token", false},
		{"r.example", false, "https://[::ffff:127.0.0.1]/token", false},
		{"r.example", false, "https://169.254.169.254/latest", false},
		{"r.example", false, "https://[fe80::1%25eth0]/x", false},
		{"r.example", false, "https://[fd00:ec2::254]/x", false},
		{"r.example", false, "https://0.0.0.0/x", false},
		{"r.example", false, "https://user:pass@cdn.example/x", false},
		{"r.example", false, "ftp://cdn.example/x", false},
		{"r.example", false, "file:///etc/passwd", false},
		{"r.example", false, "https:opaque", false},
		{"r.example", false, "//", false},
		{"r.example", true, "http://cdn.example/blob", true},
		{"r.example", true, "http://127.0.0.1/x", false},
		{"r.example", true, "http://169.254.169.254/x", false},
		{"127.0.0.1:5000", false, "http://127.0.0.1:5001/token", true},
		{"127.0.0.1:5000", false, "http://localhost:5001/token", true},
		{"127.0.0.1:5000", false, "https://cdn.example/blob", true},
		{"127.0.0.1:5000", false, "http://cdn.example/blob", false},
		{"127.0.0.1:5000", false, "http://169.254.169.254/x", false},
		{"127.0.0.1:5000", true, "http://cdn.example/blob", true},
	} {
		e, err := newEndpoint(c.registry, c.plain)
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(c.to)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.check(u); (err == nil) != c.ok {
			t.Errorf("%s (plain %v) to %s: %v", c.registry, c.plain, c.to, err)
		}
	}
}

func TestOwn(t *testing.T) {
	e, _ := newEndpoint("r.example", false)
	for to, want := range map[string]bool{
		"https://r.example/v2/":      true,
		"https://R.Example:443/v2/":  true,
		"http://r.example/v2/":       false,
		"http://r.example:443/v2/":   false,
		"https://r.example:8443/v2/": false,
		"https://a.r.example/v2/":    false,
		"https://r.example.evil/v2/": false,
	} {
		u, err := url.Parse(to)
		if err != nil || e.owns(u) != want {
			t.Errorf("%s: %v, %v", to, e.owns(u), err)
		}
	}
}
