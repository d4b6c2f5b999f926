package layer

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

// The bounds that the package's documentation gives.
const (
	indexPerName    = 256
	indexPerHeader  = 3
	memory          = 64 << 20
	memoryPerName   = 800
	memoryPerHeader = 10
)

// wideArchives give the members of archives that have much beside their data.
var wideArchives = map[string]func(i int) []member{
	"tree": func(i int) []member {
		return []member{{name: fmt.Sprintf("usr/share/doc/package%d/examples/file-number-%d.txt", i/50, i), time: 1_700_000_000}}
	},
	"one directory":   func(i int) []member { return []member{{name: fmt.Sprint("d/", i)}} },
	"own directories": func(i int) []member { return []member{{name: fmt.Sprint(i, "/f")}} },
	"long names":      func(i int) []member { return []member{{name: fmt.Sprintf("%0255d", i), long: true}} },
	"symlinks that fit": func(i int) []member {
		return []member{{name: fmt.Sprint(i), kind: kindSymlink, link: strings.Repeat("l", blockSize*3/4), long: true}}
	},
	"symlinks that do not": func(i int) []member {
		return []member{{name: fmt.Sprint(i), kind: kindSymlink, link: strings.Repeat("l", blockSize*3/4+1), long: true}}
	},
	"xattrs": func(i int) []member {
		return []member{{name: fmt.Sprint(i), pax: []string{fmt.Sprint("SCHILY.xattr.user.a=", i)}}}
	},
	"sparse": func(i int) []member {
		return []member{{name: fmt.Sprint(i), data: "12345", pax: []string{"GNU.sparse.size=1000000", "GNU.sparse.map=0,1,2000,1,4000,1,6000,1,8000,1"}}}
	},
	"duplicates": func(i int) []member {
		return []member{dir(fmt.Sprint(i%100, "/")), file(fmt.Sprint(i%100, "/f")), file(fmt.Sprint(i % 100))}
	},
}

// bounds is what childBounds says.
type bounds struct{ Memory, Index, Names, Headers int64 }

// childBounds makes the index of an archive, and says what it took.
func childBounds() {
	n, err := strconv.Atoi(os.Args[3])
	if err != nil {
		panic(err)
	}
	s, err := Open(os.Args[1], Options{Form: FormIndex})
	if err != nil {
		panic(err)
	}
	var said bounds
	r, w := io.Pipe()
	go func() {
		out := bufio.NewWriterSize(w, 1<<20)
		var b bytes.Buffer
		for i := range n {
			b.Reset()
			for _, m := range wideArchives[os.Args[2]](i) {
				said.Headers += int64(len(m.name) + len(m.link) + len(strings.Join(m.pax, "")))
				m.append(&b)
			}
			if _, err := out.Write(b.Bytes()); err != nil {
				panic(err)
			}
		}
		w.CloseWithError(out.Flush())
	}()
	l, err := s.Add(context.Background(), r, AddOptions{})
	if err != nil {
		panic(err)
	}
	index, err := os.ReadFile(filepath.Join(s.dir, "sha256", l.DiffID().Encoded(), indexName))
	if err != nil {
		panic(err)
	}
	said.Index = int64(len(index))
	said.Names = int64(binary.LittleEndian.Uint64(index[superAt+16:])) // there are no hard links
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	said.Memory = int64(m.Sys) - said.Index // never given back, so the most that was used
	json.NewEncoder(os.Stdout).Encode(said)
}

func measure(t *testing.T, archive string, n int) (said bounds) {
	t.Helper()
	c := exec.Command(os.Args[0])
	c.Args = []string{os.Args[0], t.TempDir(), archive, strconv.Itoa(n)}
	c.Env = append(os.Environ(), childEnv+"=bounds")
	c.Stderr = os.Stderr
	out, err := c.Output()
	if err == nil {
		err = json.Unmarshal(out, &said)
	}
	if err != nil {
		t.Fatal(err)
	}
	if most := indexPerName*said.Names + indexPerHeader*said.Headers + 4096; said.Index > most {
		t.Errorf("%s: an index of %d bytes for %d names and %d bytes of headers: more than %d", archive, said.Index, said.Names, said.Headers, most)
	}
	if most := memory + memoryPerName*said.Names + memoryPerHeader*said.Headers; said.Memory > most {
		t.Errorf("%s: %d bytes of memory for %d names and %d bytes of headers: more than %d", archive, said.Memory, said.Names, said.Headers, most)
	}
	t.Logf("%s: %d KiB of memory, %d of index, %d names, %d KiB of headers", archive, said.Memory>>10, said.Index>>10, said.Names, said.Headers>>10)
	return said
}

// TestBounds has many names, in each way that makes much of them.
func TestBounds(t *testing.T) {
	n := 50_000
	if testing.Short() {
		n = 5000
	}
	for archive := range wideArchives {
		if archive == "sparse" { // each of which takes five blocks of the disk
			measure(t, archive, n/5)
			continue
		}
		measure(t, archive, n)
	}
}

// TestMillion has a million.
func TestMillion(t *testing.T) {
	if testing.Short() {
		t.Skip("needs five seconds")
	}
	if said := measure(t, "tree", 1_000_000); said.Names < 1_000_000 {
		t.Errorf("%d names", said.Names)
	}
}

// TestBytesCostNothing: an archive of the same names with a thousand times the
// data has the same index.
func TestBytesCostNothing(t *testing.T) {
	sizes := map[int]int64{}
	for _, size := range []int{1000, 1_000_000} {
		s := openStore(t, FormIndex)
		var members []member
		for i := range 50 {
			members = append(members, member{name: fmt.Sprint("d/", i), data: strings.Repeat("x", size)})
		}
		sizes[size] = mustAdd(t, s, tarOf(members...)).rec.IndexSize
	}
	if sizes[1000] != sizes[1_000_000] {
		t.Errorf("%v", sizes)
	}
}
