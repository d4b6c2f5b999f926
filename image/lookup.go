package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

func isNotFound(err error) bool { return errors.Is(err, errdefs.ErrNotFound) }

// Lookup finds an image by a reference, by its ID, or by a prefix of the ID's
// hexadecimal digits, in this order. A prefix that several images have gives
// ErrInvalidArgument, anything that is not there ErrNotFound. A reference by
// digest also finds an image that was pulled from that repository by a tag.
func (s *Store) Lookup(ctx context.Context, ref string) (*Image, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		x, i, _, err := s.lookup(ref)
		var again bool
		if err == nil {
			again, err = s.load(x, i)
		}
		if err != nil {
			return nil, &Error{"look up image", ref, err}
		}
		if !again {
			return i, nil
		}
	}
}

// lookup is Lookup without the image's content. named is set when it was a
// reference that matched.
func (s *Store) lookup(ref string) (x *index, i *Image, named *Reference, err error) {
	if hex, ok := idPrefix(ref, true); ok {
		x, i, err = s.byPrefix(hex)
		return x, i, nil, err
	}
	r, parseErr := ParseReference(ref)
	if parseErr == nil {
		x, i, err = s.byReference(r)
		if err == nil {
			return x, i, &r, nil
		}
		if !isNotFound(err) {
			return nil, nil, nil, err
		}
	}
	if hex, ok := idPrefix(ref, false); ok {
		x, i, err = s.byPrefix(hex)
		return x, i, nil, err
	}
	if parseErr != nil {
		err = parseErr
	}
	return nil, nil, nil, err
}

// idPrefix gives the digits of an ID or the start of one. Sure is for what can be
// nothing else: digits after "sha256:", or all 64 of them.
func idPrefix(s string, sure bool) (string, bool) {
	hex, prefixed := strings.CutPrefix(s, string(digest.SHA256)+":")
	if hex == "" || len(hex) > 64 || strings.Trim(hex, "0123456789abcdef") != "" {
		return "", false
	}
	return hex, !sure || prefixed || len(hex) == 64
}

func (s *Store) byReference(r Reference) (*index, *Image, error) {
	name := r.String()
	x, i, err := s.find(func(i *Image) bool { return slices.Contains(i.full, name) })
	if isNotFound(err) && r.Digest() != "" {
		x, i, err = s.find(func(i *Image) bool { return i.servedBy(r) })
	}
	return x, i, err
}

func (s *Store) byPrefix(hex string) (*index, *Image, error) {
	var ids []string
	x, i, err := s.find(func(i *Image) bool {
		if strings.HasPrefix(i.id.Encoded(), hex) {
			ids = append(ids, i.id.Encoded())
		}
		return len(ids) == 1 && ids[0] == i.id.Encoded()
	})
	if len(ids) > 1 {
		return nil, nil, fmt.Errorf("several IDs begin with it, %s: %w", strings.Join(ids, ", "), errdefs.ErrInvalidArgument)
	}
	return x, i, err
}

// find asks match about every image and gives the first one that it took,
// without its content, and the index that it is in.
func (s *Store) find(match func(*Image) bool) (*index, *Image, error) {
	x, err := s.index()
	if err != nil {
		return nil, nil, err
	}
	var found *Image
	for _, i := range x.images() {
		if match(i) && found == nil {
			found = i
		}
	}
	if found == nil {
		return nil, nil, errdefs.ErrNotFound
	}
	return x, found.of(s), nil
}

// List gives all images, the newest first. When some are damaged it gives the
// others, and an ErrDataLoss that names the damaged files.
func (s *Store) List(ctx context.Context) ([]*Image, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		x, err := s.index()
		if err != nil {
			return nil, &Error{"list images", "", err}
		}
		images, again, err := s.loadAll(x)
		if again {
			continue
		}
		slices.SortStableFunc(images, func(a, b *Image) int { return b.Created().Compare(a.Created()) })
		if err != nil {
			return images, &Error{"list images", "", err}
		}
		return images, nil
	}
}

func (s *Store) loadAll(x *index) (images []*Image, again bool, err error) {
	var errs []error
	for _, i := range x.images() {
		i = i.of(s)
		again, err := s.load(x, i)
		switch {
		case again:
			return nil, true, nil
		case err != nil:
			errs = append(errs, err)
		default:
			images = append(images, i)
		}
	}
	return images, false, errors.Join(errs...)
}

// load reads the content of an image of index x. There is no lock: a blob that
// is not there may have been removed since the index was read, and then there
// is a newer index to ask again.
func (s *Store) load(x *index, i *Image) (again bool, err error) {
	i.content, err = s.content(i.entries[0])
	if errors.Is(err, fs.ErrNotExist) {
		if newer, e := s.index(); e != nil || newer != x {
			return true, nil
		}
		err = fmt.Errorf("damaged: %w: %w", err, errdefs.ErrDataLoss)
	}
	return false, err
}

// servedBy tells whether the image came from r's repository under r's digest.
func (i *Image) servedBy(r Reference) bool {
	return slices.ContainsFunc(i.entries, func(e *entry) bool {
		name, err := ParseReference(e.name())
		return err == nil && name.sameRepository(r) && e.served(r.Digest())
	})
}
