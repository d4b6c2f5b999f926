// Package tools builds a shell and the usual tools as one static program for
// Linux, without C and without a network, for the images of tests.
//
// The program's source lies in _program, a Go module of its own: nothing that
// it imports becomes a requirement of this one. Its go.mod and go.sum are there
// as mod.txt and sum.txt, because the go command leaves a directory that has a
// go.mod out of embedded files and of the module around it; so a program that
// imports this package from elsewhere has the source in itself. To work on the
// source, copy it with the two files under their own names.
package tools

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
)

//go:embed _program
var source embed.FS

// Env names a file that Build gives instead of building one: for a machine
// without a go command.
const Env = "INBOARD_TOOLS"

// builds are the programs that this process has, by architecture.
var builds sync.Map

type build struct {
	once sync.Once
	data []byte
	err  error
}

// Build gives the program for Linux on an architecture, by its name in GOARCH.
// It runs the go command once in a process. The program is kept in inboard-tools
// in the user's cache directory, and is linked again only when the go command
// finds it out of date. Modules come from the module cache, or with a network
// from where the go command gets them; what cannot be had gives an error that
// wraps errdefs.ErrUnavailable and says what that is. The bytes are shared.
//
// It may be called by several goroutines and processes at once.
func Build(arch string) ([]byte, error) {
	if name := os.Getenv(Env); name != "" {
		data, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("the tools, of %s: %w: %w", Env, err, errdefs.ErrUnavailable)
		}
		return data, err
	}
	found, _ := builds.LoadOrStore(arch, new(build))
	b := found.(*build)
	b.once.Do(func() { b.data, b.err = compile(arch) })
	return b.data, b.err
}

func compile(arch string) ([]byte, error) {
	if _, err := exec.LookPath("go"); err != nil {
		return nil, fmt.Errorf("build the tools: there is no go command, and %s is not set: %w", Env, errdefs.ErrUnavailable)
	}
	dir, err := os.MkdirTemp("", "inboard-tools-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := Source(dir); err != nil {
		return nil, err
	}
	// The go command looks at what is in the output's place, and links only if
	// that is of other inputs.
	to := filepath.Join(dir, "tools.out")
	kept := keptAt(arch)
	old, err := os.ReadFile(kept)
	if err == nil && bytes.HasPrefix(old, []byte("\x7fELF")) { // it refuses to overwrite what is no program
		if err := os.WriteFile(to, old, 0o755); err != nil {
			return nil, err
		}
	}
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags=-s -w", "-o", to, ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+arch, "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GOEXPERIMENT=")
	if out, err := cmd.CombinedOutput(); err != nil {
		if missing := missing(dir); len(missing) > 0 {
			list := strings.Join(missing, " ")
			return nil, fmt.Errorf("build the tools: the module cache lacks %s, which \"go mod download %s\" brings: %w", list, list, errdefs.ErrUnavailable)
		}
		return nil, fmt.Errorf("build the tools: %w\n%s", err, bytes.TrimSpace(out))
	}
	data, err := os.ReadFile(to)
	if err != nil {
		return nil, err
	}
	if kept != "" && !bytes.Equal(old, data) {
		keep(kept, data)
	}
	return data, nil
}

// keptAt is where the program is kept between processes; empty for nowhere.
func keptAt(arch string) string {
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "inboard-tools", arch)
}

// keep replaces what is kept. That it cannot is no failure of the build.
func keep(name string, data []byte) {
	if os.MkdirAll(filepath.Dir(name), 0o755) != nil {
		return
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".part-")
	if err != nil {
		return
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
	}
}

// Source writes the program's module to a directory.
func Source(dir string) error {
	files, err := fs.Sub(source, "_program")
	if err != nil {
		return err
	}
	return fs.WalkDir(files, ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		switch name {
		case "mod.txt":
			name = "go.mod"
		case "sum.txt":
			name = "go.sum"
		}
		return os.WriteFile(filepath.Join(dir, filepath.FromSlash(name)), data, 0o644)
	})
}

// missing are the modules that the program needs and the module cache lacks,
// as path@version.
func missing(dir string) (list []string) {
	cache, err := exec.Command("go", "env", "GOMODCACHE").Output()
	if err != nil {
		return nil
	}
	mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(mod)) {
		f := strings.Fields(line)
		if len(f) < 2 || !strings.Contains(f[0], ".") || !strings.HasPrefix(f[1], "v") {
			continue
		}
		zip := path.Join("cache", "download", f[0], "@v", f[1]+".zip")
		if _, err := os.Stat(filepath.Join(strings.TrimSpace(string(cache)), filepath.FromSlash(zip))); err != nil {
			list = append(list, f[0]+"@"+f[1])
		}
	}
	return list
}
