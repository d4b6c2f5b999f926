package layer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

func zstdOf(t testing.TB, b []byte) []byte {
	t.Helper()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return z.EncodeAll(b, nil)
}

// someTar is a tar of a few blocks.
func someTar() []byte { return textTar(3000) }

func textTar(words int) []byte {
	var members []member
	for i := range 300 {
		members = append(members, member{name: fmt.Sprintf("dir%d/file%d", i%7, i), data: strings.Repeat(fmt.Sprint(i, " "), words)})
	}
	return tarOf(members...)
}

// testForms are the forms that this system can make; mounting is not asked.
func testForms() []Form {
	if runtime.GOOS == "linux" && os.Geteuid() == 0 {
		return []Form{FormIndex, FormDirectory}
	}
	return []Form{FormIndex}
}

func TestAddCompressions(t *testing.T) {
	b := someTar()
	half := len(b) / 2 / 512 * 512
	skippable := append([]byte{0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0}, "abc"...)
	for what, stream := range map[string][]byte{
		"plain":                    b,
		"gzip":                     gzipOf(t, b),
		"gzip members":             append(gzipOf(t, b[:half]), gzipOf(t, b[half:])...),
		"empty gzip member":        append(gzipOf(t, nil), gzipOf(t, b)...),
		"gzip and garbage":         append(gzipOf(t, b), "garbage"...),
		"gzip and zeros":           append(gzipOf(t, b), make([]byte, 5000)...),
		"zstd":                     zstdOf(t, b),
		"zstd frames":              append(zstdOf(t, b[:half]), zstdOf(t, b[half:])...),
		"zstd and skippable frame": append(append(bytes.Clone(skippable), zstdOf(t, b)...), skippable...),
		"zstd and garbage":         append(zstdOf(t, b), "garbage"...),
		"zstd and much garbage":    append(zstdOf(t, b), bytes.Repeat([]byte("garbage"), 2*intakeBytes*intakeCount/7)...),
	} {
		for _, form := range testForms() {
			s := openStore(t, form)
			var tee bytes.Buffer
			var last int64
			l, err := s.Add(context.Background(), iotest.HalfReader(bytes.NewReader(stream)), AddOptions{
				Digest: digest.FromBytes(stream), Size: int64(len(stream)), DiffID: digest.FromBytes(b), Tee: &tee,
				Progress: func(n int64) {
					if n <= last {
						t.Errorf("%s: progress from %d to %d", what, last, n)
					}
					last = n
				},
			})
			if err != nil {
				t.Errorf("%s: %v", what, err)
				continue
			}
			if l.DiffID() != digest.FromBytes(b) || l.Size() != int64(len(b)) || l.Form() != form {
				t.Errorf("%s: %s of %d bytes as %v", what, l.DiffID(), l.Size(), l.Form())
			}
			if !bytes.Equal(tee.Bytes(), stream) || last != int64(len(stream)) {
				t.Errorf("%s: %d bytes copied, %d announced, of %d", what, tee.Len(), last, len(stream))
			}
			if form == FormIndex {
				got, err := os.ReadFile(filepath.Join(s.dir, "sha256", l.DiffID().Encoded(), "tar"))
				if err != nil || !bytes.Equal(got, b) {
					t.Errorf("%s: the tar is not what was packed: %v", what, err)
				}
			}
			noWorks(t, s)
		}
	}
}

// TestAddLarge has more than the stages hold at once.
func TestAddLarge(t *testing.T) {
	b := textTar(30000)
	if len(b) < blockBytes*blockCount {
		t.Fatalf("%d bytes are not enough", len(b))
	}
	for _, form := range testForms() {
		l := mustAdd(t, openStore(t, form), gzipOf(t, b))
		if l.DiffID() != digest.FromBytes(b) {
			t.Errorf("%v: %s", form, l.DiffID())
		}
	}
}

// noWorks checks that no unfinished work is there.
func noWorks(t testing.TB, s *Store) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.dir, "tmp"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		t.Errorf("left behind: %s", e.Name())
	}
}

func TestAddRefused(t *testing.T) {
	b := someTar()
	z := gzipOf(t, b)
	damaged := bytes.Clone(z)
	for i := range 100 {
		damaged[len(damaged)/2+i] ^= 0xff
	}
	crc := bytes.Clone(z)
	crc[len(crc)-6] ^= 1
	nonsense := gzipOf(t, bytes.Repeat([]byte("no tar "), 1<<20))
	other := digest.FromString("other")
	for _, c := range []struct {
		what, text string
		stream     []byte
		o          AddOptions
		class      error
	}{
		{"digest", other.String(), z, AddOptions{Digest: other}, errdefs.ErrDataLoss},
		{"diff ID", other.String(), z, AddOptions{DiffID: other}, errdefs.ErrDataLoss},
		{"too short", fmt.Sprint(len(z)), z, AddOptions{Size: int64(len(z)) + 1}, errdefs.ErrDataLoss},
		{"too long", "more than", z, AddOptions{Size: int64(len(z)) - 1}, errdefs.ErrDataLoss},
		{"cut gzip", "too early", z[:len(z)/2], AddOptions{}, errdefs.ErrDataLoss},
		{"cut gzip trailer", "too early", z[:len(z)-3], AddOptions{}, errdefs.ErrDataLoss},
		{"cut gzip header", "too early", z[:6], AddOptions{}, errdefs.ErrDataLoss},
		{"cut zstd", "too early", zstdOf(t, b)[:3000], AddOptions{}, errdefs.ErrDataLoss},
		{"cut tar", "EOF", b[:len(b)/2], AddOptions{}, errdefs.ErrDataLoss},
		{"cut tar in gzip", "EOF", gzipOf(t, b[:100000]), AddOptions{}, errdefs.ErrDataLoss},
		{"damaged gzip", "corrupt", damaged, AddOptions{}, errdefs.ErrDataLoss},
		{"gzip checksum", "corrupt", crc, AddOptions{}, errdefs.ErrDataLoss},
		{"damaged second member", "corrupt", append(bytes.Clone(z), crc...), AddOptions{}, errdefs.ErrDataLoss},
		{"xz", "xz", []byte("\xfd7zXZ\x00..."), AddOptions{}, errdefs.ErrInvalidArgument},
		{"bzip2", "bzip2", []byte("BZh9..."), AddOptions{}, errdefs.ErrInvalidArgument},
		{"no tar", "checksum", bytes.Repeat([]byte("no tar "), 1000), AddOptions{}, errdefs.ErrInvalidArgument},
		{"nonsense that ends early", "too early", nonsense[:len(nonsense)-3], AddOptions{}, errdefs.ErrDataLoss},
		{"nonsense instead of another", other.String(), nonsense, AddOptions{Digest: other}, errdefs.ErrDataLoss},
		{"hostile tar", `"a/b"`, tarOf(file("a"), file("a/b")), AddOptions{}, errdefs.ErrInvalidArgument},
		{"digest of another kind", "sha512", z, AddOptions{Digest: digest.Digest("sha512:" + strings.Repeat("0", 128))}, errdefs.ErrInvalidArgument},
		{"diff ID that leads out", "..", z, AddOptions{DiffID: "sha256:../../x"}, errdefs.ErrInvalidArgument},
	} {
		for _, form := range testForms() {
			s := openStore(t, form)
			l, err := s.Add(context.Background(), bytes.NewReader(c.stream), c.o)
			if !errors.Is(err, c.class) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%s: %v, %v; want %v and %q", c.what, l, err, c.class, c.text)
			}
			if all, err := s.List(); err != nil || len(all) != 0 {
				t.Errorf("%s: %v, %v", c.what, all, err)
			}
			noWorks(t, s)
		}
	}
}

type failing struct{ after int }

var errFailing = errors.New("on purpose")

func (f *failing) Write(b []byte) (int, error) {
	if f.after -= len(b); f.after < 0 {
		return 0, errFailing
	}
	return len(b), nil
}

func TestAddReaderAndTeeFail(t *testing.T) {
	z := gzipOf(t, someTar())
	for _, form := range testForms() {
		s := openStore(t, form)
		if _, err := s.Add(context.Background(), bytes.NewReader(z), AddOptions{Tee: &failing{len(z) / 2}}); !errors.Is(err, errFailing) {
			t.Errorf("tee: %v", err)
		}
		r := io.MultiReader(bytes.NewReader(z[:len(z)/2]), iotest.ErrReader(errFailing))
		if _, err := s.Add(context.Background(), r, AddOptions{}); !errors.Is(err, errFailing) {
			t.Errorf("reader: %v", err)
		}
		// What an HTTP body that is cut off ends with is no end of the stream.
		r = io.MultiReader(bytes.NewReader(z), iotest.ErrReader(io.ErrUnexpectedEOF))
		if _, err := s.Add(context.Background(), r, AddOptions{}); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut off: %v", err)
		}
		noWorks(t, s)
	}
}

func TestAddCancel(t *testing.T) {
	z := gzipOf(t, someTar())
	for _, form := range testForms() {
		for _, part := range []int{0, len(z) / 2, len(z)} {
			s := openStore(t, form)
			cause := errors.New("enough")
			ctx, cancel := context.WithCancelCause(context.Background())
			r := io.MultiReader(bytes.NewReader(z[:part]), readerFunc(func([]byte) (int, error) {
				cancel(cause)
				return 0, io.EOF
			}))
			if part == 0 {
				cancel(cause)
			}
			if l, err := s.Add(ctx, r, AddOptions{}); !errors.Is(err, cause) && part != len(z) {
				t.Errorf("%v after %d: %v, %v", form, part, l, err)
			}
			noWorks(t, s)
		}
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// TestAddAgain: a layer that is there is found again, and the stream is still
// read and verified.
func TestAddAgain(t *testing.T) {
	b := someTar()
	z := gzipOf(t, b)
	s := openStore(t, FormIndex)
	first := mustAdd(t, s, z)
	var tee bytes.Buffer
	o := AddOptions{Digest: digest.FromBytes(z), DiffID: first.DiffID(), Tee: &tee}
	again, err := s.Add(context.Background(), bytes.NewReader(z), o)
	if err != nil || again.DiffID() != first.DiffID() || !bytes.Equal(tee.Bytes(), z) {
		t.Errorf("%v, %v, %d bytes", again, err, tee.Len())
	}
	if _, err := s.Add(context.Background(), bytes.NewReader(z[:len(z)-1]), o); !errors.Is(err, errdefs.ErrDataLoss) {
		t.Errorf("a wrong stream of a layer that is there: %v", err)
	}
	other := gzipOf(t, textTar(10))
	if _, err := s.Add(context.Background(), bytes.NewReader(other), AddOptions{Digest: digest.FromBytes(other), DiffID: first.DiffID()}); !errors.Is(err, errdefs.ErrDataLoss) {
		t.Errorf("another layer under the diff ID of one that is there: %v", err)
	}
	if again := mustAdd(t, s, zstdOf(t, b)); again.DiffID() != first.DiffID() {
		t.Errorf("the same tar is %s and %s", again.DiffID(), first.DiffID())
	}
	if all, err := s.List(); err != nil || len(all) != 1 {
		t.Errorf("%v, %v", all, err)
	}
	noWorks(t, s)
}

// TestAddAtOnce adds the same and other layers through several Stores of one
// directory.
func TestAddAtOnce(t *testing.T) {
	dir := t.TempDir()
	z := gzipOf(t, someTar())
	var wg sync.WaitGroup
	for i := range 8 {
		s, err := Open(dir, Options{Form: testForms()[i%len(testForms())]})
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			defer s.Close()
			for _, b := range [][]byte{z, tarOf(file(fmt.Sprint(i / 2)))} {
				l, err := s.Add(context.Background(), bytes.NewReader(b), AddOptions{})
				if err != nil {
					t.Errorf("%d: %v", i, err)
					continue
				}
				if _, err := s.Get(l.DiffID()); err != nil {
					t.Errorf("%d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	s, err := Open(dir, Options{Form: FormIndex})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if all, err := s.List(); err != nil || len(all) != 5 {
		t.Errorf("%d layers, %v", len(all), err)
	}
	noWorks(t, s)
}

func TestIndexIsDeterministic(t *testing.T) {
	b := tarOf(file("b/c"), member{name: "x", data: "x", pad: 1, pax: []string{"SCHILY.xattr.user.b=1", "SCHILY.xattr.user.a=2"}},
		file("a"), hardlink("b/d", "a"), file("b/.wh.e"), file("b/.wh.f"))
	var first map[string]string
	for range 5 {
		s := openStore(t, FormIndex)
		l := mustAdd(t, s, b)
		got := map[string]string{}
		for _, name := range []string{"index", "tar", "data", "layer.json"} {
			p, err := os.ReadFile(filepath.Join(s.dir, "sha256", l.DiffID().Encoded(), name))
			if err != nil {
				t.Fatal(err)
			}
			got[name] = string(p)
		}
		if first == nil {
			first = got
		}
		for name, p := range got {
			if p != first[name] {
				t.Errorf("%s differs from time to time", name)
			}
		}
	}
}
