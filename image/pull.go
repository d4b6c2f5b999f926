package image

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/google/go-containerregistry/pkg/authn"
)

// PullOptions change how [Store.Pull] works. The zero value is right for most.
type PullOptions struct {
	// Platform is os/arch or os/arch/variant, such as "linux/arm64/v8"; empty is
	// Linux on this machine's architecture. An image for an older variant of the
	// architecture is taken when there is none for this one.
	Platform string
	// PlainHTTP speaks HTTP without TLS to the registry. It is what is always
	// spoken to a literal loopback address and to "localhost", and never to any
	// other registry without this option.
	PlainHTTP bool
	// Keychain gives the credentials, when the registry asks for any; nil is
	// authn.DefaultKeychain: Docker's config file and credential helpers, or
	// podman's auth.json.
	Keychain authn.Keychain
	// Transport makes the requests; nil is one like http.DefaultTransport, which
	// honours the proxies of the environment. Another one must not follow
	// redirects by itself, and says where "localhost" is.
	Transport http.RoundTripper
	// Progress, when not nil, is called as layers arrive, from one goroutine at a
	// time, and not any more when Pull has returned. A layer that is there
	// already is reported once, as done.
	Progress func(Progress)
}

// Pull fetches the image that ref names, with those of its blobs and layers that
// are not there yet, and gives it the name; an image that had the name keeps its
// digest as name. Layers are unpacked while they arrive. An answer or a
// connection that fails in a way that may pass is tried again, and a layer goes
// on where it broke off.
//
// Pull lists the image when everything is verified and on the disk. Before that,
// when it fails or ctx ends, it removes what it fetched. A digest reference to an
// image that is complete needs no registry.
//
// Errors: ErrInvalidArgument for a malformed reference or platform; ErrNotFound
// for an unknown image and one that has nothing for the platform;
// ErrUnauthenticated, ErrPermissionDenied, ErrResourceExhausted (too many
// requests) and ErrUnavailable as the registry answers, or does not;
// ErrNotImplemented for what is no image or of an unsupported format; ErrDataLoss
// for content that is not what its digest, size, type or format promises.
func (s *Store) Pull(ctx context.Context, ref string, o PullOptions) (*Image, error) {
	r, err := ParseReference(ref)
	if err != nil {
		return nil, &Error{"pull", "", err}
	}
	i, err := s.pull(ctx, r, o)
	if err != nil {
		return nil, &Error{"pull", r.String(), ended(ctx, err)}
	}
	return i, nil
}

func (s *Store) pull(ctx context.Context, ref Reference, o PullOptions) (*Image, error) {
	want, err := parsePlatform(o.Platform)
	if err != nil {
		return nil, err
	}
	reg, err := newRegistry(ref, o, s.patience)
	if err != nil {
		return nil, err
	}
	defer reg.close()
	sel, err := (&resolver{store: s, from: reg, want: want}).resolve(ctx, ref)
	if refused := new(statusError); errors.As(err, &refused) && refused.code == http.StatusUnauthorized {
		// So does Docker Hub answer for a repository that does not exist.
		return nil, fmt.Errorf("no such repository, or it wants other credentials: %w", err)
	}
	if err != nil {
		return nil, err
	}
	i, err := sel.listing(ref)
	if err != nil {
		return nil, err
	}
	progress := &reporter{call: o.Progress}
	if s.lists(ref, &i.entry) && s.whole(&i.entry, i.content) {
		for _, l := range i.content.manifest.Layers {
			progress.finished(l.Digest, l.Size)
		}
		return s.image(i), nil
	}

	// From the claim on nobody removes what is found to be there.
	c, err := s.claimFor(ctx, i.entry.needs(i.content))
	if err != nil {
		return nil, err
	}
	a := &arrival{store: s, blobs: reg, claim: c, progress: progress}
	if err := a.take(ctx, []listing{i}); err != nil {
		return nil, errors.Join(err, c.abandon(ctx))
	}
	return s.image(i), nil
}
