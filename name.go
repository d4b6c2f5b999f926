package engine

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// shortID is how many digits of an ID serve as host name and default name, and
// name its record.
const shortID = 12

// namePattern is what Docker allows (RestrictedNamePattern in moby's daemon/names).
var namePattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

// maxName is the longest file name that Linux file systems take.
const maxName = 255

func newID() string {
	var b [32]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	return hex.EncodeToString(b[:])
}

func isID(s string) bool { return len(s) == 64 && isHex(s) }

func isShortID(s string) bool { return len(s) == shortID && isHex(s) }

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return s != ""
}

func checkName(name string) error {
	if !namePattern.MatchString(name) || len(name) > maxName {
		return fmt.Errorf("name %q: must be 2 to %d letters, digits, '_', '.' or '-', the first a letter or digit: %w", name, maxName, ErrInvalidArgument)
	}
	return nil
}

// defaultName is the name of a container that was given none. It is claimed by
// the container's ID: no file says so, because making one can take as long as
// everything else that Create does.
func defaultName(id string) string { return id[:shortID] }

// names are the claims of container names: symbolic links in one directory of
// the run directory, from the name to "ENGINE/ID". Making a link is atomic and
// fails if it is there, and who owns a claim is known without its container's
// record, which is written after it and removed before it.
type names string

// claim takes name for a container. ErrAlreadyExists tells whose it is.
func (n names) claim(name, engine, id string) error {
	err := os.Symlink(engine+"/"+id, filepath.Join(string(n), name))
	if errors.Is(err, fs.ErrExist) {
		return n.taken(name)
	}
	if err != nil {
		return fmt.Errorf("claim name %q: %w", name, err)
	}
	return nil
}

func (n names) taken(name string) error {
	_, id, err := n.owner(name)
	if err != nil {
		return fmt.Errorf("name %q: taken: %w", name, ErrAlreadyExists)
	}
	return fmt.Errorf("name %q: taken by container %s: %w", name, id[:shortID], ErrAlreadyExists)
}

// owner gives the engine and container that claimed name, or fs.ErrNotExist.
func (n names) owner(name string) (engine, id string, err error) {
	path := filepath.Join(string(n), name)
	target, err := os.Readlink(path)
	if err != nil {
		return "", "", err
	}
	engine, id, _ = strings.Cut(target, "/")
	if !isHex(engine) || !isID(id) {
		return "", "", fmt.Errorf("%s: damaged: links to %q: %w", path, target, ErrDataLoss)
	}
	return engine, id, nil
}

// release gives name up if it is id's.
func (n names) release(name, id string) error {
	if _, owner, err := n.owner(name); err != nil || owner != id {
		return nil
	}
	return os.Remove(filepath.Join(string(n), name))
}

// sweep gives up all names of the engines that dead tells of.
func (n names) sweep(dead func(engine string) bool) error {
	entries, err := os.ReadDir(string(n))
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		engine, _, err := n.owner(entry.Name())
		if err == nil && dead(engine) {
			err = os.Remove(filepath.Join(string(n), entry.Name()))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
