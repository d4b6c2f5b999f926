package enginetest

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
)

// A thing is something that can be left behind. Its name tells it from others
// of its kind.
type thing struct{ kind, name string }

// The kinds that are named in more than one place.
const (
	kindCgroup     = "cgroup"
	kindDescriptor = "descriptor"
	kindFile       = "file"
	kindGoroutine  = "goroutine"
	kindNamespace  = "namespace"
	kindProcess    = "process"
)

// stock is all that stands at one moment: how many there are of each thing.
type stock map[thing]int

// look takes stock.
func (w *Watch) look() stock {
	s := make(stock)
	s.goroutines()
	s.files(w.Dirs)
	s.roots(w.Roots)
	s.system(w.cgroups())
	return s
}

func (s stock) add(kind, name string) { s[thing{kind, name}]++ }

// more are the things of now of which there were fewer before, sorted.
func (s stock) more(now stock) (list []thing) {
	for t, n := range now {
		if n > s[t] {
			list = append(list, t)
		}
	}
	slices.SortFunc(list, func(a, b thing) int {
		return cmp.Or(strings.Compare(a.kind, b.kind), strings.Compare(a.name, b.name))
	})
	return ours(list)
}

// goroutines by their numbers, which are never used again.
func (s stock) goroutines() {
	for _, g := range goroutines() {
		s.add(kindGoroutine, g.number)
	}
}

// goroutine is one of a dump of all stacks.
type goroutine struct{ number, text string }

func goroutines() (list []goroutine) {
	buf := make([]byte, 1<<16)
	for {
		if n := runtime.Stack(buf, true); n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	for text := range strings.SplitSeq(string(buf), "\n\n") {
		if f := strings.Fields(text); len(f) > 1 && f[0] == "goroutine" {
			list = append(list, goroutine{f[1], text})
		}
	}
	return list
}

// arguments and addresses say nothing to a reader of a stack.
var stackNoise = regexp.MustCompile(`\([^()\n]*\)$|\(0x[^\n]*$|\{0x[^\n]*$| \+0x[0-9a-f]+|\t`)

// brief is the goroutine's state, where it stands and who started it.
func (g goroutine) brief() string {
	lines := strings.Split(g.text, "\n")
	state := strings.TrimSuffix(strings.TrimPrefix(lines[0], "goroutine "+g.number+" "), ":")
	var at []string
	for _, line := range lines[1:] {
		if line = strings.TrimSpace(stackNoise.ReplaceAllString(line, "")); line != "" && !strings.Contains(line, "runtime/") && !strings.Contains(line, "/src/internal/") && len(at) < 12 {
			at = append(at, line)
		}
	}
	return state + "\n\t\t" + strings.Join(at, "\n\t\t")
}

// files below directories that are watched whole.
func (s stock) files(dirs []string) {
	for _, dir := range dirs {
		_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err == nil && path != dir {
				s.add(kindFile, path)
			}
			return nil // what cannot be read went away meanwhile
		})
	}
}

// transient are the places below an Engine's root, and below a run directory, of
// what dies with an Engine or a call. All else there, images and layers above
// all, stays as long as the root does.
var transient = []string{
	"engines/*", "engines/*/layers/*", "images/fetching/*", "images/claims/*", "images/holds/*", "images/.tmp-*", "layers/tmp/*", ".tmp-*",
	"run/containers/*/*", "run/names/*", "run/runtime/*", "containers/*/*", "names/*", "runtime/*",
}

// roots are the Engines' roots, with what belongs to Engines and calls.
func (s stock) roots(roots []string) {
	for _, root := range roots {
		for _, pattern := range transient {
			found, _ := filepath.Glob(filepath.Join(root, pattern))
			for _, path := range found {
				s.add(kindFile, path)
			}
		}
	}
}

// describe says what a thing is, with more than its name where there is more.
func (t thing) describe() string {
	switch t.kind {
	case kindGoroutine:
		for _, g := range goroutines() {
			if g.number == t.name {
				return fmt.Sprintf("goroutine %s %s", g.number, g.brief())
			}
		}
	case kindFile:
		if info, err := os.Lstat(t.name); err == nil {
			return fmt.Sprintf("file %s (%v, %d bytes)", t.name, info.Mode(), info.Size())
		}
	}
	return detail(t)
}
