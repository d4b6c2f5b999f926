// Package arrows holds what the packages of this module may import, and what a
// program that uses them links.
package arrows

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/inboard/engine"

// arrows are the packages of this module that each may import, in rooms as
// design has them: cmd to api and build, to engine, to network, runtime, image;
// image to layer. The engine names layers in its options. What is internal is
// for all, and imports nothing else of the house; enginetest likewise, so that
// tests within every package can use it.
var arrows = map[string][]string{
	"layer":      {"internal"},
	"image":      {"internal", "layer"},
	"runtime":    {"internal"},
	"network":    {"internal"},
	"internal":   {"internal"},
	"":           {"internal", "layer", "image", "runtime", "network"},
	"api":        {"internal", "", "layer", "image", "runtime", "network"},
	"build":      {"internal", "", "layer", "image", "runtime", "network"},
	"enginetest": {"internal"},
	"cmd":        {"internal", "", "layer", "image", "runtime", "network", "api", "build"},
	"examples":   {"", "layer", "image", "runtime", "network", "api", "build", "enginetest"},
	"bench":      {"internal", "", "layer", "image", "runtime", "network", "api", "build"},
}

// linked are the modules that a program links which pulls and runs an image.
// A new one is a decision: at most maxModules, and better fewer.
var linked = []string{
	"github.com/containerd/errdefs",
	"github.com/distribution/reference",
	"github.com/docker/cli",
	"github.com/docker/docker-credential-helpers",
	"github.com/google/go-containerregistry",
	"github.com/klauspost/compress",
	"github.com/moby/profiles/seccomp",
	"github.com/opencontainers/go-digest",
	"github.com/opencontainers/image-spec",
	"github.com/opencontainers/runtime-spec",
	"github.com/sirupsen/logrus",
	"golang.org/x/sync",
	"golang.org/x/sys",
}

const (
	maxModules = 25
	maxSize    = 12_000_000 // bytes, stripped
)

// pkg is what the go command says of a package.
type pkg struct {
	ImportPath string
	Imports    []string
	CgoFiles   []string
	Dir        string
	GoFiles    []string
	Standard   bool
	Module     *struct{ Path string }
}

// list runs go list at the module's root, for Linux without cgo.
func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("needs the go command")
	}
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports,CgoFiles,Dir,GoFiles,Standard,Module"}, args...)...)
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %s", exit.Stderr)
		}
		t.Fatal(err)
	}
	var pkgs []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); err == io.EOF {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

// room is the first element of a package's path in the module; "" is the root.
func room(path string) (string, bool) {
	if path == module {
		return "", true
	}
	rest, ok := strings.CutPrefix(path, module+"/")
	first, _, _ := strings.Cut(rest, "/")
	return first, ok
}

func TestArrows(t *testing.T) {
	for _, p := range list(t, "./...") {
		from, ok := room(p.ImportPath)
		allowed, known := arrows[from]
		if !ok || !known {
			t.Errorf("%s: a room without arrows", p.ImportPath)
			continue
		}
		if len(p.CgoFiles) > 0 || slices.Contains(p.Imports, "C") {
			t.Errorf("%s uses cgo", p.ImportPath)
		}
		for _, path := range p.Imports {
			to, ours := room(path)
			if ours && to != from && !slices.Contains(allowed, to) {
				t.Errorf("%s imports %s", p.ImportPath, path)
			}
		}
	}
}

// programs are the rooms that print: they are programs, or are for tests.
var programs = []string{"cmd", "examples", "bench", "enginetest"}

// What a program gets to see is its own: a library never prints, and logs to
// nothing but what it was given.
func TestNothingPrints(t *testing.T) {
	for _, p := range list(t, "-deps", "./...") {
		from, ours := room(p.ImportPath)
		if !ours || slices.Contains(programs, from) || strings.HasPrefix(p.ImportPath, module+"/internal/kernels") {
			continue
		}
		for _, name := range p.GoFiles {
			path := filepath.Join(p.Dir, name)
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			for _, what := range printers(file) {
				t.Errorf("%s: %s", path, what)
			}
		}
	}
}

// printers are the uses in a file of what prints.
func printers(file *ast.File) (found []string) {
	for _, i := range file.Imports {
		if i.Path.Value == `"log"` {
			found = append(found, "imports log")
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			if f, ok := n.Fun.(*ast.Ident); ok && (f.Name == "print" || f.Name == "println") {
				found = append(found, f.Name)
			}
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok {
				switch name := x.Name + "." + n.Sel.Name; name {
				case "os.Stdout", "os.Stderr", "fmt.Print", "fmt.Printf", "fmt.Println", "slog.Default",
					"slog.Debug", "slog.Info", "slog.Warn", "slog.Error":
					found = append(found, name)
				}
			}
		}
		return true
	})
	return found
}

func TestPrinters(t *testing.T) {
	const text = `package x
import ("fmt"; "log"; "os")
func f() { fmt.Println(1); println(2); log.Print(3); os.Stderr.WriteString("4"); fmt.Fprint(nil) }`
	file, err := parser.ParseFile(token.NewFileSet(), "x.go", text, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := printers(file), []string{"imports log", "fmt.Println", "println", "os.Stderr"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestLinkedModules(t *testing.T) {
	var modules []string
	for _, p := range list(t, "-deps", "./examples/run") {
		if p.Module != nil && p.Module.Path != module && !slices.Contains(modules, p.Module.Path) {
			modules = append(modules, p.Module.Path)
		}
	}
	slices.Sort(modules)
	for _, m := range modules {
		if !slices.Contains(linked, m) {
			t.Errorf("%s is linked, and not on the list", m)
		}
	}
	for _, m := range linked {
		if !slices.Contains(modules, m) {
			t.Errorf("%s is on the list, and not linked", m)
		}
	}
	t.Logf("%d modules", len(modules))
	if len(modules) > maxModules {
		t.Errorf("%d modules, at most %d", len(modules), maxModules)
	}
}

func TestSize(t *testing.T) {
	list(t, "./examples/run") // skips where there is no go command
	path := filepath.Join(t.TempDir(), "run")
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", path, "./examples/run")
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%.2f MB", float64(st.Size())/1e6)
	if st.Size() > maxSize {
		t.Errorf("%d bytes, at most %d", st.Size(), maxSize)
	}
}
