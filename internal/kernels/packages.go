package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/inboard/engine/internal/kernels/job"
	"github.com/inboard/engine/internal/tools"
)

// module is the import path of what this program tests, and room that of this
// program.
const (
	module = "github.com/inboard/engine"
	room   = module + "/internal/kernels"
)

// goPackage is what `go list -json` says of a package, and which tests of it
// are to run, or all.
type goPackage struct {
	only         string
	ImportPath   string
	Dir          string
	TestGoFiles  []string
	XTestGoFiles []string
}

// listTests gives the packages that match patterns and have tests on Linux,
// this program's own left out unless a pattern names them. A pattern may have a
// "=" and a regular expression for the names of tests behind it.
func listTests(ctx context.Context, a arch, patterns []string) ([]goPackage, error) {
	own := len(patterns) > 0
	if !own {
		patterns = []string{module + "/..."}
	}
	var all []string
	var some []goPackage
	for _, pattern := range patterns {
		pattern, only, found := strings.Cut(pattern, "=")
		if !found {
			all = append(all, pattern)
			continue
		}
		list, err := listPackages(ctx, a, own, pattern)
		if err != nil {
			return nil, err
		}
		for i := range list {
			list[i].only = only
		}
		some = append(some, list...)
	}
	if len(all) == 0 {
		return some, nil
	}
	list, err := listPackages(ctx, a, own, all...)
	return append(list, some...), err
}

// listPackages gives those that match patterns and have tests, and also this
// program's own if asked to.
func listPackages(ctx context.Context, a arch, own bool, patterns ...string) ([]goPackage, error) {
	args := []string{"list", "-e", "-json=ImportPath,Dir,TestGoFiles,XTestGoFiles"}
	text, err := output(goCommand(ctx, a, append(args, patterns...)...))
	if err != nil {
		return nil, err
	}
	var list []goPackage
	for d := json.NewDecoder(strings.NewReader(text)); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return list, nil
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		itself := p.ImportPath == room || strings.HasPrefix(p.ImportPath, room+"/")
		if len(p.TestGoFiles)+len(p.XTestGoFiles) > 0 && (own || !itself) {
			list = append(list, p)
		}
	}
}

// goCommand is the go command for a static Linux program.
func goCommand(ctx context.Context, a arch, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+a.name)
	return cmd
}

// buildInit makes the machine's pid 1 at path.
func buildInit(ctx context.Context, a arch, path string) error {
	_, err := output(goCommand(ctx, a, "build", "-o", path, room+"/init"))
	return err
}

// payload is a directory that becomes the machine's disk, and what the machine
// is to do with it.
type payload struct {
	dir    string
	tests  []job.Test
	broken []result // packages whose tests do not build
}

// buildPayload compiles the tests of packages into dir, each with a copy of its
// package's testdata, and the tools that images of tests have. Where these cannot
// be had, tests say so.
func buildPayload(ctx context.Context, a arch, packages []goPackage, args []string, dir string) (*payload, error) {
	p := &payload{dir: dir}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	failures := make([]error, len(packages))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, pkg := range packages {
		g.Go(func() error {
			own := filepath.Join(dir, "tests", strconv.Itoa(i))
			if err := os.MkdirAll(own, 0o755); err != nil {
				return err
			}
			data := filepath.Join(pkg.Dir, "testdata")
			if _, err := os.Stat(data); err == nil {
				if err := os.CopyFS(filepath.Join(own, "testdata"), os.DirFS(data)); err != nil {
					return err
				}
			}
			_, failures[i] = output(goCommand(ctx, a, "test", "-c", "-vet=off", "-ldflags=-s -w", "-o", filepath.Join(own, job.Binary), pkg.ImportPath))
			return nil
		})
	}
	g.Go(func() error {
		program, err := tools.Build(a.name)
		if errdefs.IsUnavailable(err) {
			return nil
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, filepath.Base(job.Tools)), program, 0o755)
		}
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for i, pkg := range packages {
		if err := failures[i]; err != nil {
			p.broken = append(p.broken, result{pkg: pkg.ImportPath, code: 1, output: err.Error() + "\n"})
			continue
		}
		t := job.Test{Package: pkg.ImportPath, Dir: strconv.Itoa(i), Args: args}
		if pkg.only != "" {
			t.Args = append(slices.Clone(args), "-test.run="+pkg.only) // the last one counts
		}
		p.tests = append(p.tests, t)
	}
	return p, ctx.Err()
}
