package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/inboard/engine/internal/kernels/job"
)

// needGo skips where tests run without the go command.
func needGo(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go command")
	}
}

func TestListTests(t *testing.T) {
	needGo(t)
	list, err := listTests(t.Context(), arches[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list {
		if strings.Contains(p.ImportPath, "/internal/kernels") {
			t.Errorf("%s is not to run in a machine", p.ImportPath)
		}
		if len(p.TestGoFiles)+len(p.XTestGoFiles) == 0 {
			t.Errorf("%s has no tests", p.ImportPath)
		}
	}
	list, err = listTests(t.Context(), arches[1], []string{"./init=^TestA$|=", "./job", "./testdata/sample"})
	if err != nil || len(list) != 2 || list[0].ImportPath != room+"/testdata/sample" || list[0].only != "" ||
		list[1].ImportPath != room+"/init" || list[1].only != "^TestA$|=" {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestBuildPayload(t *testing.T) {
	needGo(t)
	packages, err := listTests(t.Context(), arches[1], []string{"./testdata/nobuild", "./testdata/sample"})
	if err != nil {
		t.Fatal(err)
	}
	packages[1].only = "^TestB$"
	dir := t.TempDir()
	load, err := buildPayload(t.Context(), arches[1], packages, []string{"-x"}, dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(load.broken) != 1 || load.broken[0].ok() || !strings.HasSuffix(load.broken[0].pkg, "/nobuild") {
		t.Errorf("broken: %+v", load.broken)
	}
	if len(load.tests) != 1 || load.tests[0].Dir != "1" || !slices.Equal(load.tests[0].Args, []string{"-x", "-test.run=^TestB$"}) {
		t.Fatalf("tests: %+v", load.tests)
	}
	for _, name := range []string{job.Binary, "testdata/greeting"} {
		if _, err := os.Stat(filepath.Join(dir, "tests/1", name)); err != nil {
			t.Error(err)
		}
	}
}

func TestMakeDisk(t *testing.T) {
	if _, err := exec.LookPath(findTool("mkfs.ext4")); err != nil {
		t.Skip("no mkfs.ext4 (Debian's package e2fsprogs)")
	}
	from, path := t.TempDir(), filepath.Join(t.TempDir(), "disk")
	plant(t, from, "tests/0/package.test")
	if err := makeDisk(t.Context(), path, from); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil || st.Size() != diskSize {
		t.Fatalf("%+v, %v", st, err)
	}
	out, err := exec.Command(findTool("debugfs"), "-R", "stat /tests/0/package.test", path).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "Type: regular") {
		t.Errorf("%v: %s", err, out)
	}
	if err := makeDisk(t.Context(), path, filepath.Join(from, "missing")); err == nil {
		t.Error("a missing directory is no error")
	}
}
