package image

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"

	"github.com/containerd/errdefs"
)

// endpoint is where a registry is reached. Its scheme is chosen once, from the
// name and the caller's option alone: no answer of a name server or of the
// registry changes it (moby CVE-2026-92543).
type endpoint struct {
	scheme   string
	host     string // with the port, as the reference has it
	name     string // without the port
	plain    bool   // the caller asked for plain HTTP
	loopback bool
}

// newEndpoint finds the endpoint of a registry by its name in references.
func newEndpoint(registry string, plain bool) (endpoint, error) {
	host := registry
	if host == "docker.io" {
		host = "registry-1.docker.io" // what Docker Hub calls its registry
	}
	u, err := url.Parse("https://" + host + "/")
	if err != nil || u.Host != host || u.Hostname() == "" {
		return endpoint{}, fmt.Errorf("registry %q is no host: %w", registry, errdefs.ErrInvalidArgument)
	}
	e := endpoint{scheme: "https", host: host, name: u.Hostname(), plain: plain, loopback: isLoopback(u.Hostname())}
	if plain || e.loopback {
		e.scheme = "http"
	}
	return e, nil
}

// isLoopback tells a literal loopback address, or the name that RFC 6761
// reserves for it and that the default transport never looks up.
func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback() || strings.EqualFold(host, "localhost")
}

// url is an address below the repository's part of the registry.
func (e endpoint) url(repository, path string) *url.URL {
	return &url.URL{Scheme: e.scheme, Host: e.host, Path: "/v2/" + repository + "/" + path}
}

// owns tells whether an address is the registry's own: scheme, name and port.
func (e endpoint) owns(u *url.URL) bool {
	return sameOrigin(u, &url.URL{Scheme: e.scheme, Host: e.host})
}

func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

func port(u *url.URL) string {
	switch p := u.Port(); {
	case p != "":
		return p
	case u.Scheme == "http":
		return "80"
	default:
		return "443"
	}
}

// check refuses addresses to which this registry may not send us, by a redirect
// or as its token server: plain HTTP from a registry that is reached securely,
// this machine's own ports from one that is elsewhere, and addresses of the
// link, where clouds keep their metadata services.
func (e endpoint) check(u *url.URL) error {
	host := u.Hostname()
	own := strings.EqualFold(host, e.name)
	if host == "" || u.Opaque != "" {
		return errors.New("address without a host")
	}
	if u.User != nil {
		return fmt.Errorf("address with a user in it, on host %q", host)
	}
	if !own {
		a, err := netip.ParseAddr(host)
		a = a.Unmap().WithZone("")
		if err == nil && (a.IsLinkLocalUnicast() || a.IsUnspecified() || a.IsMulticast() || a == netip.MustParseAddr("fd00:ec2::254")) {
			return fmt.Errorf("registry %s may not send us to %s", e.host, host)
		}
		if isLoopback(host) && !e.loopback {
			return fmt.Errorf("registry %s may not send us to this machine's %s", e.host, host)
		}
	}
	switch {
	case u.Scheme == "https":
	case u.Scheme == "http" && e.scheme == "http" && (e.plain || isLoopback(host)):
	default:
		return fmt.Errorf("registry %s may not send us to %s://%s", e.host, u.Scheme, net.JoinHostPort(host, port(u)))
	}
	return nil
}

// mayHoldSecrets tells whether credentials may be sent to a token server that
// check lets through: never in the clear over a network to a host that the
// caller did not name.
func (e endpoint) mayHoldSecrets(u *url.URL) bool {
	return u.Scheme == "https" || strings.EqualFold(u.Hostname(), e.name) || isLoopback(u.Hostname())
}
