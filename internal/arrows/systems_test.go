package arrows

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// systems are those where the module compiles, that of the tests apart.
var systems = []string{"darwin/arm64", "windows/amd64"}

// source is what the go command says of a package's source on one system.
type source struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	ImportMap  map[string]string
	Module     *struct{ Main bool }
}

// Programs and tests of the module have no error of syntax or types on systems
// where nobody runs them. That takes neither compiled packages nor a linker.
func TestOtherSystems(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("needs the go command")
	}
	for _, system := range systems {
		t.Run(system, func(t *testing.T) {
			t.Parallel()
			goos, goarch, _ := strings.Cut(system, "/")
			cmd := exec.Command("go", "list", "-test", "-deps", "-json=ImportPath,Dir,GoFiles,ImportMap,Module", "./...")
			cmd.Dir = filepath.Join("..", "..")
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+goos, "GOARCH="+goarch)
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			c := &checker{files: token.NewFileSet(), goarch: goarch, packages: map[string]*types.Package{"unsafe": types.Unsafe}}
			ours := 0
			for d := json.NewDecoder(strings.NewReader(string(out))); ; { // each after what it imports
				var s source
				if err := d.Decode(&s); err == io.EOF {
					break
				} else if err != nil {
					t.Fatal(err)
				}
				if s.ImportPath == "unsafe" || strings.HasSuffix(s.ImportPath, ".test") { // the go command's own
					continue
				}
				if s.Module != nil && s.Module.Main {
					ours++
				}
				for _, err := range c.check(&s) {
					t.Errorf("%s: %v", s.ImportPath, err)
				}
			}
			if ours < 10 {
				t.Errorf("%d packages of the module", ours)
			}
		})
	}
}

// checker finds errors in packages that come in the order of their imports.
type checker struct {
	files    *token.FileSet
	goarch   string
	packages map[string]*types.Package
	of       *source // which is being checked
}

// check gives the first errors of a package. Of one that is not the module's it
// only reads the declarations.
func (c *checker) check(s *source) (errs []error) {
	own := s.Module != nil && s.Module.Main
	var files []*ast.File
	for _, name := range s.GoFiles {
		if !filepath.IsAbs(name) {
			name = filepath.Join(s.Dir, name)
		}
		f, err := parser.ParseFile(c.files, name, nil, parser.SkipObjectResolution)
		if err != nil {
			return []error{err}
		}
		files = append(files, f)
	}
	c.of = s
	config := types.Config{
		Importer:         c,
		Sizes:            types.SizesFor("gc", c.goarch),
		IgnoreFuncBodies: !own,
		Error:            func(err error) { errs = append(errs, err) },
	}
	path, _, _ := strings.Cut(s.ImportPath, " ")
	c.packages[s.ImportPath], _ = config.Check(path, c.files, files, nil)
	if !own {
		return nil // the compiler forgives the standard library what others may not do
	}
	return errs[:min(len(errs), 10)]
}

// Import gives a package that was checked before.
func (c *checker) Import(path string) (*types.Package, error) {
	if as, ok := c.of.ImportMap[path]; ok {
		path = as
	}
	if p := c.packages[path]; p != nil {
		return p, nil
	}
	return nil, &os.PathError{Op: "import", Path: path, Err: os.ErrNotExist}
}

// The checker sees what a compiler would.
func TestCheckerFinds(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]string{
		"package x\nvar a int = 1\nfunc f() int { return a }":   "",
		"package x\nfunc f() int { return \"\" }":               `cannot use ""`,
		"package x\nfunc f() { undefined() }":                   "undefined: undefined",
		"package x\nfunc f() { var unused int }":                "declared and not used: unused",
		"package x\nimport \"missing\"\nfunc f() { missing.F }": "could not import missing",
		"package x\nfunc f() {":                                 "expected '}'",
		"package x\nconst c = 1 << 70\nvar v uintptr = c":       "overflows",
	} {
		path := filepath.Join(dir, "x.go")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c := &checker{files: token.NewFileSet(), goarch: "amd64", packages: map[string]*types.Package{}}
		errs := c.check(&source{ImportPath: "x", Dir: dir, GoFiles: []string{"x.go"}, Module: &struct{ Main bool }{true}})
		if len(errs) == 0 && want != "" || len(errs) > 0 && (want == "" || !strings.Contains(errs[0].Error(), want)) {
			t.Errorf("%q: %v, want %q", text, errs, want)
		}
	}
}
