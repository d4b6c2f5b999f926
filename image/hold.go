package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

var holderName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)

// Hold keeps the image with this ID from being removed, by any program, until
// release is called or [Store.Release] with the same holder, which is a
// container's ID or another name of letters, digits, '_', '.' and '-'. Holding
// twice is holding once. An image that is not there gives ErrNotFound.
//
// A hold is a file and outlives the program, but it is not synced: one that was
// made in the seconds before a power cut may be lost with it. A holder whose
// program died is released by whoever finds that out; to find it at all, that
// program must have recorded the holder before it holds.
//
// The end of ctx ends the wait for another program that changes the store.
func (s *Store) Hold(ctx context.Context, id digest.Digest, holder string) (release func() error, err error) {
	if !holderName.MatchString(holder) {
		return nil, fmt.Errorf("hold image %s: holder %.150q: %w", id, holder, errdefs.ErrInvalidArgument)
	}
	// Shared: a removal in between sees the hold or has taken the image.
	l, err := s.lock(ctx, shared)
	if err != nil {
		return nil, fmt.Errorf("hold image %s: %w", id, err)
	}
	defer l.unlock()
	if _, _, err := s.find(func(i *Image) bool { return i.id == id }); err != nil {
		return nil, fmt.Errorf("hold image %s: %w", id, err)
	}
	path := s.path("holds", id.Encoded()+"-"+holder)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("hold image %s: %w", id, err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("hold image %s: %w", id, err)
	}
	return func() error { return removeHold(path) }, nil
}

// Release ends all holds of a holder. One that holds nothing is no error.
func (s *Store) Release(holder string) error {
	names, err := os.ReadDir(s.path("holds"))
	if err != nil {
		return fmt.Errorf("release %s: %w", holder, err)
	}
	var errs []error
	for _, n := range names {
		if _, h, _ := cutHold(n.Name()); h == holder && holder != "" {
			errs = append(errs, removeHold(s.path("holds", n.Name())))
		}
	}
	return errors.Join(errs...)
}

func removeHold(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("release: %w", err)
	}
	return nil
}

// Holders gives for each image that is held who holds it. With it a sweep finds
// the holds of what is no more.
func (s *Store) Holders() (map[digest.Digest][]string, error) {
	names, err := os.ReadDir(s.path("holds"))
	if err != nil {
		return nil, fmt.Errorf("image holders: %w", err)
	}
	all := make(map[digest.Digest][]string)
	for _, n := range names {
		if id, holder, ok := cutHold(n.Name()); ok {
			all[id] = append(all[id], holder)
		}
	}
	return all, nil
}

func cutHold(name string) (id digest.Digest, holder string, ok bool) {
	hex, holder, ok := strings.Cut(name, "-")
	if !ok || !isSHA256Hex(hex) || !holderName.MatchString(holder) {
		return "", "", false
	}
	return digest.NewDigestFromEncoded(digest.SHA256, hex), holder, true
}
