package image

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"
)

const maxToken = 64 << 10

// resource is a repository as a keychain knows it. Docker Hub's credentials are
// kept under the name of its index, which is not the host that is asked.
type resource struct{ registry, repository string }

func (r resource) RegistryStr() string {
	if r.registry == "docker.io" {
		return "index.docker.io"
	}
	return r.registry
}

func (r resource) String() string { return r.RegistryStr() + "/" + r.repository }

// login holds what a registry is told about who asks. The keychain is asked only
// when the registry wants to know, and once.
type login struct {
	keychain authn.Keychain
	resource resource

	mu          sync.Mutex // held while a token is fetched: others need it too
	header      string     // Authorization for the registry itself
	credentials *authn.AuthConfig
}

func (l *login) authorization() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.header
}

// answer makes a new Authorization header out of the registry's challenges.
// used is the one that was refused; when another request has replaced it in the
// meantime nothing is left to do.
func (l *login) answer(ctx context.Context, r *registry, challenges []challenge, used string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.header != used {
		return nil
	}
	if l.credentials == nil {
		a, err := authn.Resolve(ctx, l.keychain, l.resource)
		if err != nil {
			return fmt.Errorf("credentials for %s: %w", l.resource.RegistryStr(), err)
		}
		if l.credentials, err = authn.Authorization(ctx, a); err != nil {
			return fmt.Errorf("credentials for %s: %w", l.resource.RegistryStr(), err)
		}
	}
	if l.credentials.RegistryToken != "" {
		l.header = "Bearer " + l.credentials.RegistryToken
		return nil
	}
	for _, c := range challenges {
		if c.scheme == "bearer" {
			token, err := l.token(ctx, r, c.params)
			if err != nil {
				return err
			}
			l.header = "Bearer " + token
			return nil
		}
	}
	for _, c := range challenges {
		if basic := basicAuth(l.credentials); c.scheme == "basic" && basic != "" {
			l.header = basic
			return nil
		}
	}
	l.header = ""
	return nil
}

// basicAuth is the Authorization header of a name and password, empty for none.
func basicAuth(c *authn.AuthConfig) string {
	switch {
	case c.Username != "" && c.Username != "<token>" || c.Password != "":
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(c.Username+":"+c.Password))
	case c.Auth != "":
		return "Basic " + c.Auth
	}
	return ""
}

// token asks the token server that the registry names (its realm) for a token
// (distribution's token authentication specification). That server gets the
// credentials: Docker Hub's and GitLab's is another host than the registry, and a
// registry could as well ask for them itself. What is never right is refused: a
// realm without TLS for a registry with it, and one on this machine or link
// (distribution CVE-2026-33540, oras-go CVE-2026-48978).
func (l *login) token(ctx context.Context, r *registry, params map[string]string) (string, error) {
	realm, err := url.Parse(params["realm"])
	if err != nil {
		return "", fmt.Errorf("token server of registry %s: malformed address: %w", r.end.host, errdefs.ErrDataLoss)
	}
	if err := r.end.check(realm); err != nil {
		return "", fmt.Errorf("token server of registry %s: %v: %w", r.end.host, err, errdefs.ErrPermissionDenied)
	}
	basic := basicAuth(l.credentials)
	if (basic != "" || l.credentials.IdentityToken != "") && !r.end.mayHoldSecrets(realm) {
		return "", fmt.Errorf("token server %s of registry %s: credentials are not sent in the clear: %w", realm.Host, r.end.host, errdefs.ErrPermissionDenied)
	}
	query := realm.Query()
	if params["service"] != "" {
		query.Set("service", params["service"])
	}
	query.Set("scope", cmp.Or(params["scope"], "repository:"+l.resource.repository+":pull"))
	if l.credentials.IdentityToken != "" {
		token, err := l.refreshToken(ctx, r, realm, query)
		if !errdefs.IsNotFound(err) || basic == "" {
			return token, err
		}
		// A server without OAuth; it takes the password, if there is one.
	}
	u := *realm
	u.RawQuery = query.Encode()
	resp, _, err := r.follow(ctx, &u, nil, func(to *url.URL) string {
		if sameOrigin(to, realm) {
			return basic
		}
		return ""
	})
	if err != nil {
		return "", fmt.Errorf("token server: %w", err)
	}
	return readToken(resp, realm)
}

// refreshToken trades an identity token, which a credential helper keeps instead
// of a password, for an access token.
func (l *login) refreshToken(ctx context.Context, r *registry, realm *url.URL, query url.Values) (string, error) {
	form := url.Values{
		"grant_type":    {"refresh_token"},
		"refresh_token": {l.credentials.IdentityToken},
		"client_id":     {userAgent},
		"service":       query["service"],
		"scope":         query["scope"],
	}
	header := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	resp, err := r.once(ctx, http.MethodPost, realm, header, strings.NewReader(form.Encode()))
	if err != nil {
		return "", fmt.Errorf("token server: %w", err)
	}
	return readToken(resp, realm)
}

func readToken(resp *http.Response, realm *url.URL) (string, error) {
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("token server: %w", newStatusError(resp, realm))
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxToken+1))
	if err != nil {
		return "", fmt.Errorf("token server %s: %w", realm.Host, &networkError{err})
	}
	var answer struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
	}
	// The body is not quoted in errors: it holds secrets.
	if err := json.Unmarshal(body, &answer); err != nil || len(body) > maxToken {
		return "", fmt.Errorf("token server %s: answer is not a token: %w", realm.Host, errdefs.ErrDataLoss)
	}
	token := cmp.Or(answer.Token, answer.AccessToken)
	if token == "" || strings.ContainsAny(token, " \r\n") {
		return "", fmt.Errorf("token server %s: answer holds no token: %w", realm.Host, errdefs.ErrDataLoss)
	}
	return token, nil
}
