package layer

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/gzip"
)

// benchArchive is up to 64 MiB of real files, compressed.
func benchArchive(b *testing.B) (stream []byte, size int64) {
	b.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	n := &counter{w: z}
	w := tar.NewWriter(n)
	err := filepath.WalkDir("/usr/share", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if n.n > 64<<20 {
			return filepath.SkipAll
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		h := &tar.Header{Typeflag: tar.TypeReg, Name: path[1:], Mode: 0o644, Size: int64(len(data))}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	})
	if err == nil {
		err = w.Close()
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		b.Fatal(err)
	}
	return out.Bytes(), n.n
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	c.n += int64(len(b))
	return c.w.Write(b)
}

// BenchmarkAdd compares both forms with the limit: decompression and both
// digests by one goroutine.
func BenchmarkAdd(b *testing.B) {
	stream, size := benchArchive(b)
	b.Run("limit", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			sha256.Sum256(stream)
			z, err := gzip.NewReader(bufio.NewReader(bytes.NewReader(stream)))
			if err != nil {
				b.Fatal(err)
			}
			if _, err := io.CopyBuffer(struct{ io.Writer }{sha256.New()}, struct{ io.Reader }{z}, make([]byte, 1<<20)); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, form := range testForms() {
		b.Run(form.String(), func(b *testing.B) {
			b.SetBytes(size)
			s := openStore(b, form)
			for b.Loop() {
				l, err := s.Add(context.Background(), bytes.NewReader(stream), AddOptions{})
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := s.Remove(l.DiffID()); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// BenchmarkIndex is the index alone: headers parsed, names sorted, written.
func BenchmarkIndex(b *testing.B) {
	var buf bytes.Buffer
	for i := range 100_000 {
		member{name: fmt.Sprintf("usr/share/doc/package%d/file-%d", i/50, i)}.append(&buf)
	}
	out, err := os.Create(filepath.Join(b.TempDir(), "index"))
	if err != nil {
		b.Fatal(err)
	}
	defer out.Close()
	b.ReportAllocs()
	for b.Loop() {
		t, err := readTree(buf.Bytes())
		if err != nil {
			b.Fatal(err)
		}
		x := &indexer{tar: bytes.NewReader(buf.Bytes()), tarSize: int64(buf.Len())}
		if _, err := x.write(out, t.finish(func(change) {})); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100_000, "ns/member")
}
