package image

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// Reference is a full name of an image: a registry, a repository in it, and a
// tag or a digest. The zero value names nothing.
type Reference struct {
	named reference.Named
}

// ParseReference reads a name as Docker does: no registry is Docker Hub, no
// namespace there is "library", neither tag nor digest is "latest", and of a tag
// and a digest together only the digest counts. A name that breaks the grammar
// gives ErrInvalidArgument, a digest that is not SHA-256 ErrNotImplemented.
func ParseReference(s string) (Reference, error) {
	if s == "" {
		return Reference{}, fmt.Errorf("empty image reference: %w", errdefs.ErrInvalidArgument)
	}
	// The library knows an algorithm only when something links it; this way the
	// answer does not depend on what else is linked.
	if _, after, ok := strings.Cut(s, "@"); ok {
		if algorithm, _, ok := strings.Cut(after, ":"); ok && algorithm != string(digest.SHA256) {
			return Reference{}, fmt.Errorf("image reference %q: digest algorithm %q: %w", s, algorithm, errdefs.ErrNotImplemented)
		}
	}
	named, err := reference.ParseDockerRef(s)
	if err != nil {
		return Reference{}, fmt.Errorf("image reference %q: %v: %w", s, err, errdefs.ErrInvalidArgument)
	}
	return Reference{named}, nil
}

// String is the reference with nothing left out, such as
// "docker.io/library/alpine:latest".
func (r Reference) String() string {
	if r.named == nil {
		return ""
	}
	return r.named.String()
}

// Familiar is the short form that Docker shows, such as "alpine:latest".
func (r Reference) Familiar() string {
	if r.named == nil {
		return ""
	}
	return reference.FamiliarString(r.named)
}

// Registry is the registry's name, such as "docker.io" or "127.0.0.1:5000".
func (r Reference) Registry() string {
	if r.named == nil {
		return ""
	}
	return reference.Domain(r.named)
}

// Repository is the path inside the registry, such as "library/alpine".
func (r Reference) Repository() string {
	if r.named == nil {
		return ""
	}
	return reference.Path(r.named)
}

// Tag is empty in a reference by digest.
func (r Reference) Tag() string {
	if t, ok := r.named.(reference.Tagged); ok {
		return t.Tag()
	}
	return ""
}

// Digest is empty in a reference by tag.
func (r Reference) Digest() digest.Digest {
	if d, ok := r.named.(reference.Digested); ok {
		return d.Digest()
	}
	return ""
}

// withDigest is the same repository, by digest.
func (r Reference) withDigest(d digest.Digest) Reference {
	named, err := reference.WithDigest(reference.TrimNamed(r.named), d)
	if err != nil {
		return Reference{}
	}
	return Reference{named}
}

// sameRepository tells whether both name the same repository.
func (r Reference) sameRepository(o Reference) bool {
	return r.named != nil && o.named != nil && r.named.Name() == o.named.Name()
}
