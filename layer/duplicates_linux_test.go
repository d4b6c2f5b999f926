package layer

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// kinds are what can stand at a name.
var kinds = map[string]func(name string) []member{
	"file":  func(n string) []member { return []member{{name: n, data: "data of " + n, mode: 0o640, time: 11}} },
	"empty": func(n string) []member { return []member{{name: n, mode: 0o600, time: 12}} },
	"dir": func(n string) []member {
		return []member{{name: n + "/", kind: kindDir, mode: 0o750, uid: 5, time: 13}}
	},
	"full": func(n string) []member {
		top, deep := member{name: n + "/", kind: kindDir, mode: 0o711, time: 18}, member{name: n + "/deep/", kind: kindDir, mode: 0o710, time: 19}
		return []member{top, file(n + "/child"), deep, file(n + "/deep/er")}
	},
	"link":      func(n string) []member { return []member{symlink(n, "target")} },
	"dangling":  func(n string) []member { return []member{symlink(n, "nothing")} },
	"linkdir":   func(n string) []member { return []member{symlink(n, "targetdir")} },
	"hard":      func(n string) []member { return []member{hardlink(n, "target")} },
	"character": func(n string) []member { return []member{{name: n, kind: kindChar, major: 1, minor: 3, time: 14}} },
	"block":     func(n string) []member { return []member{{name: n, kind: kindBlock, major: 7, minor: 70000, time: 15}} },
	"fifo":      func(n string) []member { return []member{{name: n, kind: kindFifo, mode: 0o620, time: 16}} },
	"sparse": func(n string) []member {
		return []member{{name: n, data: "data", time: 17, pax: []string{"GNU.sparse.size=9000", "GNU.sparse.numblocks=2", "GNU.sparse.map=5000,4,9000,0"}}}
	},
}

// duplicates has each kind after each kind, under one name. What can have a
// second name has got one in between.
func duplicates() []byte {
	members := []member{file("target"), {name: "targetdir/", kind: kindDir, mode: 0o755, time: 18}}
	for first, one := range kinds {
		for second, two := range kinds {
			name := first + "-" + second
			members = append(members, one(name)...)
			if first != "dir" && first != "full" {
				members = append(members, hardlink(name+".kept", name))
			}
			members = append(members, two(name)...)
		}
	}
	return tarOf(members...)
}

// TestDuplicates: the last member of a name wins, whatever the two are; only a
// directory updates a directory. GNU tar, which is told to remove directories
// that are in the way, and umoci agree.
func TestDuplicates(t *testing.T) {
	b := duplicates()
	var first map[string]string
	for form, s := range bothStores(t) {
		got := describe(t, mountPath(t, mustAdd(t, s, b)))
		delete(got, "") // no member
		noLeaks(t, s)
		if first == nil {
			first = got
		}
		same(t, form, got, first)
	}
	for what, extract := range map[string]func(*testing.T, ...[]byte) string{"GNU tar": gnuUnpack, "umoci": umociUnpack} {
		t.Run(what, func(t *testing.T) {
			want := describe(t, extract(t, b))
			delete(want, "")
			got := maps.Clone(first)
			if what == "GNU tar" { // told so, it also empties what it updates
				maps.DeleteFunc(got, func(name, _ string) bool { return strings.HasPrefix(name, "full-dir/") })
			}
			same(t, what, got, want)
		})
	}
}

func gnuUnpack(t *testing.T, archives ...[]byte) string {
	t.Helper()
	if out, err := exec.Command("tar", "--version").Output(); err != nil || !bytes.Contains(out, []byte("GNU tar")) {
		t.Skip("needs GNU tar")
	}
	dir := t.TempDir()
	for _, b := range archives {
		c := exec.Command("tar", "--numeric-owner", "--recursive-unlink", "--delay-directory-restore", "-xp", "-C", dir, "-f", "-")
		c.Stdin = bytes.NewReader(b)
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", c, err, out)
		}
	}
	return dir
}

// umociUnpack unpacks an image of layers, the lowest first.
func umociUnpack(t *testing.T, archives ...[]byte) string {
	t.Helper()
	if _, err := exec.LookPath("umoci"); err != nil {
		t.Skip("needs umoci")
	}
	dir := t.TempDir()
	layout, archive := filepath.Join(dir, "layout"), filepath.Join(dir, "layer.tar")
	command(t, dir, "umoci", "init", "--layout", layout)
	command(t, dir, "umoci", "new", "--image", layout+":v1")
	for _, b := range archives {
		if err := os.WriteFile(archive, b, 0o600); err != nil {
			t.Fatal(err)
		}
		command(t, dir, "umoci", "raw", "add-layer", "--image", layout+":v1", archive)
	}
	command(t, dir, "umoci", "unpack", "--image", layout+":v1", filepath.Join(dir, "bundle"))
	return filepath.Join(dir, "bundle", "rootfs")
}

// TestWhiteoutAndEntry: a layer that hides a name of the layers below and has an
// entry of that name shows the entry and nothing of what was there, whichever of
// the two comes first. So does umoci.
func TestWhiteoutAndEntry(t *testing.T) {
	lower := []member{file("target"), {name: "targetdir/", kind: kindDir, mode: 0o755, time: 18}}
	var upper []member
	for below, one := range kinds {
		for above, two := range kinds {
			for order, first := range map[string]bool{"before": true, "after": false} {
				name := below + "-" + above + "-" + order
				lower = append(lower, one(name)...)
				if first {
					upper = append(append(upper, file(".wh."+name)), two(name)...)
				} else {
					upper = append(append(upper, two(name)...), file(".wh."+name))
				}
			}
		}
	}
	upper = append([]member{file("target")}, upper...) // hard links have no other layer
	archives := [][]byte{tarOf(lower...), tarOf(upper...)}
	kept := func(tree map[string]string) map[string]string {
		names := map[string]string{}
		for name, is := range tree {
			if name == "" || strings.Contains(name, "/deep") { // implied: its time is anybody's
				continue
			}
			if is, _, _ = strings.Cut(is, " links"); strings.HasPrefix(is, "40") {
				is, _, _ = strings.Cut(is, " ") // a directory's time is that of what was made in it
			}
			names[name] = is
		}
		return names
	}
	var first map[string]string
	for form, s := range bothStores(t) {
		var stack []*os.File
		for _, b := range [][]byte{archives[1], archives[0]} {
			m, err := mustAdd(t, s, b).Mount(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			stack = append(stack, m.File())
		}
		root := overlay(t, stack...)
		defer root.Close()
		got := kept(describe(t, fdPath(root)))
		if first == nil {
			first = got
		}
		same(t, form, got, first)
		for name := range got {
			if below, rest, _ := strings.Cut(name, "-"); below == "full" && strings.Contains(rest, "/") && !strings.HasPrefix(rest, "full") {
				t.Errorf("%s: %s is still there", form, name)
			}
		}
	}
	t.Run("umoci", func(t *testing.T) { same(t, "umoci", first, kept(describe(t, umociUnpack(t, archives...)))) })
}
