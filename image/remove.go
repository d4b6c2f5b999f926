package image

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// RemoveOptions change what [Store.Remove] does.
type RemoveOptions struct {
	// Force takes the last name from an image that is held: the image stays,
	// without a name. Given an ID, it removes an image that has several names.
	// What is held is never removed.
	Force bool
}

// Removed says what a removal did.
type Removed struct {
	Untagged []string        // references, in their short form
	Deleted  []digest.Digest // the image's ID when it is gone, and the diff IDs of the layers that went with it
}

// Remove takes a name from an image as Docker does. With the last tag of a
// repository the image's digest names in it go too; with its last name the
// image, and with the image all blobs and layers that no other one needs. Given
// an ID or the start of one, it removes the image with its name.
//
// An image that is held, as [Store.Hold] has it, and would lose its last name, or
// one with several names that is given by ID, gives ErrConflict and stays as it
// is. What is not there gives ErrNotFound. A removal needs no space on the disk.
func (s *Store) Remove(ctx context.Context, ref string, o RemoveOptions) (*Removed, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r, err := s.remove(ctx, ref, o)
	if err != nil {
		return nil, &Error{"remove image", ref, err}
	}
	return r, nil
}

func (s *Store) remove(ctx context.Context, ref string, o RemoveOptions) (*Removed, error) {
	l, err := s.lock(ctx, exclusive)
	if err != nil {
		return nil, err
	}
	defer l.unlock()
	_, i, named, err := s.lookup(ref)
	if err != nil {
		return nil, err
	}
	drop, err := i.namesToDrop(named, o.Force)
	if err != nil {
		return nil, err
	}
	holders, err := s.Holders()
	if err != nil {
		return nil, err
	}
	last := len(drop) == len(i.full)
	held := holders[i.id]
	if last && len(held) > 0 && (named == nil || !o.Force) {
		return nil, fmt.Errorf("it is used by %s: %w", strings.Join(held, ", "), errdefs.ErrConflict)
	}

	// The index without what goes.
	x, err := readIndex(s.dir)
	if err != nil {
		return nil, err
	}
	result := new(Removed)
	var dropped []entry
	kept := x.entries[:0:0]
	for _, e := range x.entries {
		switch {
		case e.chain == nil || e.id != i.id || !last && !slices.Contains(drop, e.name()):
			kept = append(kept, e)
		case last && len(held) > 0 && len(dropped) == 0:
			kept = append(kept, e.renamed(""))
			dropped = append(dropped, e)
		default:
			dropped = append(dropped, e)
		}
	}
	x.entries = kept
	for _, name := range drop {
		r, err := ParseReference(name)
		if err != nil {
			return nil, err
		}
		result.Untagged = append(result.Untagged, r.Familiar())
	}
	removed, err := s.drop(x, dropped)
	if err != nil {
		return nil, err
	}
	if last && len(held) == 0 {
		result.Deleted = append(result.Deleted, i.id)
	}
	result.Deleted = append(result.Deleted, removed.Layers...)
	return result, nil
}

// namesToDrop gives the names that a removal takes. named is the reference that
// was given; none, or one that is no name of the image, means the image.
func (i *Image) namesToDrop(named *Reference, force bool) ([]string, error) {
	if named == nil || !slices.Contains(i.full, named.String()) {
		tags := 0
		for _, n := range i.full {
			if r, err := ParseReference(n); err == nil && r.Tag() != "" {
				tags++
			}
		}
		if tags > 1 && !force {
			return nil, fmt.Errorf("it has several names, %s: %w", strings.Join(i.names, ", "), errdefs.ErrConflict)
		}
		return i.full, nil
	}
	drop := []string{named.String()}
	if named.Tag() == "" {
		return drop, nil
	}
	for _, n := range i.full {
		r, err := ParseReference(n)
		switch {
		case err != nil || !r.sameRepository(*named) || n == named.String():
		case r.Tag() != "":
			return []string{named.String()}, nil
		default:
			drop = append(drop, n)
		}
	}
	return drop, nil
}

// drop writes an index and removes what only the dropped entries needed. On a full
// disk it makes room for that first. The caller holds the store's lock,
// exclusively.
func (s *Store) drop(x *index, dropped []entry) (claimed, error) {
	removed, err := s.tryDrop(x, dropped)
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		return removed, err
	}
	room, e := s.makeRoom(x, dropped)
	if e == nil {
		removed, err = s.tryDrop(x, dropped)
	}
	room.add(removed)
	return room, errors.Join(err, e)
}

// makeRoom removes blobs and layers that only the dropped entries need, before an
// index says that. Should the program die now, they are listed and not whole, as
// after damage to a disk: they can be removed, or pulled again.
func (s *Store) makeRoom(x *index, dropped []entry) (claimed, error) {
	all := s.candidates(x, dropped)
	var documents claimed
	for n := range dropped {
		documents.add(dropped[n].documents())
	}
	return s.collectBeside(x, claimed{without(all.Blobs, documents.Blobs), all.Layers}, nil)
}

// tryDrop is drop on a disk that has room. Should the program die in between, the
// claim tells the next Open.
func (s *Store) tryDrop(x *index, dropped []entry) (claimed, error) {
	c, err := s.claim(s.candidates(x, dropped))
	if err != nil {
		return claimed{}, err
	}
	if err := x.write(s.dir); err != nil {
		return claimed{}, errors.Join(err, c.remove())
	}
	return c.finish()
}

// candidates is what may be nobody's when index x is written without some
// entries.
func (s *Store) candidates(x *index, dropped []entry) claimed {
	var all claimed
	for n := range dropped {
		e := &dropped[n]
		if slices.ContainsFunc(x.entries, func(o entry) bool { return o.chain != nil && o.desc.Digest == e.desc.Digest }) {
			all.add(e.documents()) // its index may be another
		} else {
			all.add(s.reach(e))
		}
	}
	return all
}

// reach is all that an entry needs, as far as it can be read: a damaged image
// can be removed too.
func (s *Store) reach(e *entry) claimed {
	var n claimed
	if e.chain == nil {
		s.markForeign(e.desc, &n, 0)
		return n
	}
	if c, err := s.content(e); err == nil {
		return e.needs(c)
	}
	return e.documents()
}
