package layer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// outsideTree is a directory of the host that archives try to reach.
func outsideTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"secret": 0o600, "dir/file": 0o640} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte("host's "+name), mode); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestCVE_2021_32760 unpacks the archives of containerd's CVE-2021-32760 and
// CVE-2026-17106, umoci's CVE-2021-29136 and podman's CVE-2025-11395, and opaque
// whiteouts as in containerd's CVE-2026-95838, onto a disk that has what they
// point to: they are refused, or stay inside, and
// nothing of the host is made, changed in mode or owner, or removed. The
// directory form is where that could happen.
func TestCVE_2021_32760(t *testing.T) {
	outside := outsideTree(t)
	up := strings.Repeat("../", 30) + outside[1:]
	open := member{name: "out", kind: kindDir, mode: 0o777, uid: 1000}
	for what, members := range map[string][]member{
		"names with ..":             {{name: up + "/new", long: true}, {name: up + "/secret", data: "overwritten", long: true}},
		"absolute names":            {{name: outside + "/new", long: true}, {name: outside + "/secret", mode: 0o4777, long: true}},
		"through a link":            {symlink("out", outside), file("out/new"), {name: "out/secret", data: "overwritten", mode: 0o777}},
		"through a link with ..":    {symlink("out", up), file("out/new"), {name: "out/secret", data: "overwritten"}},
		"links to links":            {symlink("a", "b"), symlink("b", "c/.."), symlink("c", outside+"/dir"), file("a/new")},
		"chmod of a link's target":  {symlink("out", outside), open},
		"chmod below a link":        {symlink("out", outside), {name: "out/dir", kind: kindDir, mode: 0o777}},
		"chmod through a hard link": {symlink("s", outside+"/secret"), hardlink("h", "s"), {name: "h", mode: 0o4777, uid: 1000}},
		"hard link to the host":     {hardlink("h", outside+"/secret"), {name: "h", mode: 0o666, data: "overwritten"}},
		"hard link through a link":  {symlink("out", outside), hardlink("h", "out/secret")},
		"link put in its way":       {dir("out"), file("out/f"), file("out"), symlink("out", outside), file("out/new"), file("out/dir/new")},
		"link as a parent again":    {file("d/f"), symlink("d", outside), {name: "d/dir/file", data: "overwritten"}},
		"whiteouts":                 {symlink("out", outside), file("out/.wh.secret"), file("out/dir/.wh..wh..opq"), file("out/.wh..wh..opq")},
		"whiteouts with ..":         {{name: up + "/.wh.secret", long: true}, {name: up + "/.wh..wh..opq", long: true}},
		"whiteout of a parent":      {file("d/../.wh.d"), file("d/.wh..")},
		"devices and FIFOs":         {symlink("out", outside), {name: "out/null", kind: kindChar, major: 1, minor: 3}, {name: "out/secret", kind: kindFifo}},
		"xattrs":                    {symlink("out", outside), {name: "out/secret", pax: []string{"SCHILY.xattr.user.x=1"}}, {name: "out", kind: kindDir, pax: []string{"SCHILY.xattr.user.x=1"}}},
		"duplicates":                {file("out"), symlink("out", outside), dir("out"), symlink("out", outside), file("out/new"), file("out")},
		"the root as a link":        {symlink(".", outside), file("new")},
		"the store's own names":     {file("../layer.json"), file("../lost/0"), symlink("../tree", outside), file("../tree/new"), file("../../x")},
		"times":                     {{name: up, kind: kindDir, time: 1, long: true}, symlink("out", outside), {name: "out/secret", time: 1}},
	} {
		before := describe(t, outside)
		for form, s := range bothStores(t) {
			l, err := s.Add(context.Background(), bytes.NewReader(tarOf(members...)), AddOptions{})
			switch {
			case errors.Is(err, errdefs.ErrInvalidArgument):
			case err != nil:
				t.Errorf("%s, %s: %v", what, form, err)
			default:
				for name, line := range describe(t, mountPath(t, l)) {
					if strings.Contains(line, fmt.Sprintf("sha256 %s", content(t, outside+"/secret"))) {
						t.Errorf("%s, %s: %s is the host's", what, form, name)
					}
				}
			}
			noLeaks(t, s)
			if names, err := os.ReadDir(s.dir); err != nil || len(names) != 2 {
				t.Errorf("%s, %s: %v, %v", what, form, names, err)
			}
		}
		if same(t, what, describe(t, outside), before); t.Failed() {
			return
		}
	}
}

// TestCVE_2025_47290 has somebody swap directories of a layer that is being
// unpacked for links that lead out, as containerd's CVE-2025-47290 needs it.
// What is made lands inside, or the layer fails.
func TestCVE_2025_47290(t *testing.T) {
	needRoot(t)
	outside := outsideTree(t)
	before := describe(t, outside)
	s := openStore(t, FormDirectory)
	var members []member
	for i := range 700 {
		members = append(members, file(fmt.Sprintf("d%d/e/file%d", i%7, i)), symlink(fmt.Sprintf("d%d/e/link%d", i%7, i), "x"))
	}
	b := tarOf(members...)
	done, swaps := make(chan struct{}), make(chan int)
	go swap(s, outside, filepath.Join(t.TempDir(), "swap"), done, swaps)
	failed := 0
	for range 4 {
		if l, err := s.Add(context.Background(), bytes.NewReader(b), AddOptions{}); err != nil {
			failed++
		} else {
			_ = s.Remove(l.DiffID()) // they race with that too
		}
	}
	close(done)
	if n := <-swaps; n == 0 {
		t.Error("nothing was swapped: this shows nothing")
	}
	t.Logf("%d of 4 layers failed", failed)
	same(t, "outside", describe(t, outside), before)
	again, err := Open(s.dir, Options{Form: FormDirectory})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	noLeaks(t, again)
}

// swap exchanges directories of trees that are being made for a link that leads
// out, and back, and counts how often.
func swap(s *Store, outside, link string, done <-chan struct{}, swaps chan<- int) {
	n := 0
	defer func() { swaps <- n }()
	for i := 0; ; i++ {
		select {
		case <-done:
			return
		case <-time.After(time.Duration(i%20) * 50 * time.Microsecond): // or nothing would ever come through
		}
		trees, _ := filepath.Glob(filepath.Join(s.dir, "tmp", "*", treeName))
		for _, tree := range trees {
			// A tree that has been removed leaves a directory in the link's place.
			_ = os.RemoveAll(link)
			_ = os.Symlink(outside, link)
			at := filepath.Join(tree, fmt.Sprintf("d%d", i%7))
			for range 2 { // there and back
				if unix.Renameat2(unix.AT_FDCWD, at, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE) == nil {
					n++
				}
			}
		}
	}
}
