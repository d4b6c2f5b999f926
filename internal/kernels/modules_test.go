package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// fakeModules is a tree whose dependencies are given as "a: b c", a soft one as
// "?b".
func fakeModules(lines ...string) *moduleTree {
	t := &moduleTree{files: map[string]string{}, builtin: map[string]bool{"built_in": true}}
	wants := map[string][]need{}
	for _, line := range lines {
		name, list, _ := strings.Cut(line, ":")
		t.files[name] = name + ".ko"
		for n := range strings.FieldsSeq(list) {
			n, soft := strings.CutPrefix(n, "?")
			wants[name+".ko"] = append(wants[name+".ko"], need{n, soft})
		}
	}
	t.needs = func(path string) ([]need, error) { return wants[path], nil }
	return t
}

func TestModuleOrder(t *testing.T) {
	tree := fakeModules("a: b c", "b: d", "c: d built-in", "d:", "dashed_name: a", "e: ?missing ?d")
	for _, c := range []struct{ names, want string }{
		{"d", "d"},
		{"a", "d b c a"},
		{"c a", "d c b a"},
		{"dashed-name d a", "d b c a dashed_name"},
		{"built-in", ""},
		{"e", "d e"},
	} {
		files, err := tree.order(strings.Fields(c.names))
		if err != nil {
			t.Errorf("%s: %v", c.names, err)
		}
		if got := strings.ReplaceAll(strings.Join(files, " "), ".ko", ""); got != c.want {
			t.Errorf("order of %s is %q, want %q", c.names, got, c.want)
		}
	}
}

func TestModuleOrderFails(t *testing.T) {
	for _, c := range []struct {
		tree *moduleTree
		want string
	}{
		{fakeModules("x: y", "y: z", "z: x"), "module x needs itself by way of z"},
		{fakeModules("x: y"), "module y, needed by x, is not in this kernel"},
		{fakeModules(), "module x, needed by the tests, is not in this kernel"},
	} {
		if _, err := c.tree.order([]string{"x"}); err == nil || err.Error() != c.want {
			t.Errorf("error %v, want %s", err, c.want)
		}
	}
}

func TestParseModinfo(t *testing.T) {
	for _, c := range []struct{ info, want string }{
		{"", "[]"},
		{"license=GPL\x00depends=\x00name=erofs\x00", "[]"},
		{"depends=llc,stp\x00", "[{llc false} {stp false}]"},
		{"softdep=pre: crc32c\x00depends=x", "[{crc32c true} {x false}]"},
		{"softdep=pre: a b post: c\x00", "[{a true} {b true}]"},
		{"softdep=post: c\x00description=depends=no\x00", "[]"},
	} {
		if got := fmt.Sprint(parseModinfo([]byte(c.info))); got != c.want {
			t.Errorf("%q: %s, want %s", c.info, got, c.want)
		}
	}
}

func TestReadModule(t *testing.T) {
	dir := t.TempDir()
	want := strings.Repeat("module", 1000)
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	for name, data := range map[string][]byte{
		"m.ko": []byte(want), "m.ko.zst": z.EncodeAll([]byte(want), nil),
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := readModule(path); err != nil || string(got) != want {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	if _, err := readModule("m.ko.lz4"); err == nil {
		t.Error("an unknown compression is no error")
	}
	if _, err := moduleNeeds(filepath.Join(dir, "m.ko")); err == nil {
		t.Error("a module that is no ELF file is no error")
	}
}

// TestModulesOfKernels orders the modules of each kernel that is in the cache.
func TestModulesOfKernels(t *testing.T) {
	for _, s := range cached(t) {
		t.Run(s.String(), func(t *testing.T) {
			tree, err := openModules(s.modules)
			if err != nil {
				t.Fatal(err)
			}
			files, err := tree.order(required)
			if err != nil {
				t.Fatal(err)
			}
			for i, file := range files {
				needs, err := moduleNeeds(file)
				if err != nil {
					t.Fatal(err)
				}
				for _, n := range needs {
					path, ok := tree.files[moduleName(n.name)]
					if ok && !slices.Contains(files[:i], path) {
						t.Errorf("%s comes before %s, which it needs", file, path)
					}
				}
			}
			if i := slices.IndexFunc(files, func(f string) bool { return moduleName(f) == "bridge" }); i < 2 {
				t.Errorf("bridge is at %d of %v: it needs stp and llc", i, files)
			}
		})
	}
}

// cached gives the kernels that earlier runs of the command fetched; tests fetch
// none.
func cached(t *testing.T) []*system {
	t.Helper()
	c, err := openCache("")
	if err != nil {
		t.Skip("no cache directory: ", err)
	}
	var list []*system
	for _, k := range kernels {
		for _, a := range arches {
			if s, err := c.find(k, a); err == nil {
				list = append(list, s)
			}
		}
	}
	if len(list) == 0 {
		t.Skipf("no kernel in %s; `go run ./internal/kernels` puts some there", c.dir)
	}
	return list
}
