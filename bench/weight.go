//go:build linux

package main

import (
	"context"
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
)

// benchWeight builds the program in the directory minimal, which pulls and
// runs, as a user would build it for release. A peer's weight is that of its
// programs; the shared libraries that some of them need come on top.
func benchWeight(ctx context.Context, b *bench) ([]Result, error) {
	path := filepath.Join(b.dir, "minimal")
	args := []string{"build", "-ldflags=-s -w", "-o", path, "github.com/inboard/engine/bench/minimal"}
	if !b.short { // which has the go command compile everything once more
		args = slices.Insert(args, 1, "-trimpath")
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build: %w (is the working directory in the module?): %s", err, out)
	}
	size, err := megabytes(path)
	if err != nil {
		return nil, err
	}
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return nil, err
	}
	peers := map[string]float64{}
	for _, k := range kinds {
		if !slices.Contains(b.wanted, k.name) {
			continue
		}
		for _, program := range k.programs {
			path, err := exec.LookPath(program)
			if err != nil {
				return nil, err
			}
			mb, err := megabytes(path)
			if err != nil {
				return nil, err
			}
			peers[k.name] += mb
		}
	}
	return []Result{
		newResult("weight", "MB", size, 0, peers),
		newResult("weight-modules", "modules", float64(len(info.Deps)), 0, nil),
	}, nil
}

func megabytes(path string) (float64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return float64(info.Size()) / 1e6, nil
}
