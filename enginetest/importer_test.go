package enginetest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// importer is a test of somebody else's module.
const importer = `package somewhere

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/inboard/engine/enginetest"
)

func TestTools(t *testing.T) {
	enginetest.Leaks(t)
	tools := filepath.Join(t.TempDir(), "tools")
	if err := os.WriteFile(tools, enginetest.Tools(t), 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(tools, "sh", "-c", "echo $((6*7))").Output()
	if err != nil || string(out) != "42\n" {
		t.Errorf("%q, %v", out, err)
	}
	b, err := enginetest.Shell(t).Build()
	if err != nil || len(b.Layers) != 1 {
		t.Error(err)
	}
}
`

// TestImporter makes a module outside of this one, whose test uses the tools. It
// has the files of this module that a module's zip has: none of directories with
// a go.mod of their own.
func TestImporter(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("needs the go command")
	}
	sums, err := os.ReadFile(filepath.Join("..", "go.sum"))
	if err != nil {
		t.Skip("needs the source of this module")
	}
	mod, err := os.ReadFile(filepath.Join("..", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	engine, dir := filepath.Join(t.TempDir(), "engine"), t.TempDir()
	if err := os.CopyFS(filepath.Join(engine, "enginetest"), os.DirFS(".")); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(engine, "internal", "tools"), os.DirFS(filepath.Join("..", "internal", "tools"))); err != nil {
		t.Fatal(err)
	}
	nested, err := exec.Command("find", engine, "-mindepth", "2", "-name", "go.mod").Output()
	if err != nil || len(nested) > 0 {
		t.Fatalf("a module within the module, which a zip would not have: %s%v", nested, err)
	}
	_, requirements, _ := strings.Cut(string(mod), "\nrequire ")
	for name, text := range map[string]string{
		filepath.Join(engine, "go.mod"): string(mod),
		filepath.Join(engine, "go.sum"): string(sums),
		filepath.Join(dir, "go.sum"):    string(sums),
		filepath.Join(dir, "go.mod"): "module example.com/somewhere\n\ngo 1.26.0\n\nrequire github.com/inboard/engine v0.0.0\n\nreplace github.com/inboard/engine => " + engine +
			"\n\nrequire " + requirements,
		filepath.Join(dir, "somewhere_test.go"): importer,
	} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "test", "-v", ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off", "GOPROXY=off", "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.Contains(string(out), "--- PASS: TestTools") {
		if strings.Contains(string(out), "module cache lacks") {
			t.Skipf("%s", out)
		}
		t.Errorf("%s", out)
	}
}
