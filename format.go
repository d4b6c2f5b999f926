package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"github.com/inboard/engine/internal/atomicfile"
)

// formatVersion is the version of everything in a root directory, but for the
// image layout and the layers, which have their own.
const formatVersion = 1

// format is the file of that name in the root. Its members that this program
// does not know survive when it writes the file again.
type format struct {
	// Version is that of the newest program that has changed the root.
	Version int `json:"version"`
	// Oldest is the version of the oldest program that may still write.
	Oldest int `json:"oldest"`
	// RunDir is the one run directory of the root.
	RunDir string `json:"run_dir"`
}

// checkFormat reads the root's format file, or writes the first. A run
// directory that is not the root's is an error while the root's own exists;
// once that is gone, as after a boot, the new one takes its place.
// The root is locked.
func checkFormat(root, run string) error {
	path := filepath.Join(root, "format")
	var members map[string]json.RawMessage
	var f format
	switch err := atomicfile.ReadJSON(path, &members); {
	case errors.Is(err, fs.ErrNotExist):
		return writeFormat(path, nil, format{formatVersion, formatVersion, run})
	case err != nil:
		return fmt.Errorf("%w: %w", err, ErrDataLoss)
	}
	if err := atomicfile.ReadJSON(path, &f); err != nil {
		return fmt.Errorf("%w: %w", err, ErrDataLoss)
	}
	switch {
	case f.Version < 1 || f.Oldest < 1 || f.RunDir == "":
		return fmt.Errorf("%s: damaged: a member is missing: %w", path, ErrDataLoss)
	case f.Oldest > formatVersion:
		return fmt.Errorf("%s: the root needs version %d or newer of its format, this program has %d: %w", path, f.Oldest, formatVersion, ErrFailedPrecondition)
	case f.RunDir == run:
		return nil
	}
	if _, err := os.Lstat(f.RunDir); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: the run directory of the root is %s, not %s: %w", path, f.RunDir, run, ErrFailedPrecondition)
	}
	f.RunDir = run
	return writeFormat(path, members, f)
}

func writeFormat(path string, members map[string]json.RawMessage, f format) error {
	data, err := json.Marshal(f)
	if err != nil {
		return err
	}
	var known map[string]json.RawMessage
	if err := json.Unmarshal(data, &known); err != nil {
		return err
	}
	if members == nil {
		members = known
	}
	maps.Copy(members, known)
	return atomicfile.WriteJSON(path, members, atomicfile.Durable)
}

// claimRunDir makes run the run directory of root alone: two roots in one
// would mix their containers and names.
func claimRunDir(root, run string) error {
	path := filepath.Join(run, "root")
	owner, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return atomicfile.Write(path, []byte(root), atomicfile.Volatile)
	case err != nil:
		return err
	case string(owner) == root:
		return nil
	}
	if _, err := os.Lstat(string(owner)); errors.Is(err, fs.ErrNotExist) {
		return atomicfile.Write(path, []byte(root), atomicfile.Volatile)
	}
	return fmt.Errorf("%s: the run directory belongs to root %s, not %s: %w", path, owner, root, ErrFailedPrecondition)
}
