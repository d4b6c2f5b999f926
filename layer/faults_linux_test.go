package layer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// TestUnpacksWhatArrives has a stream that stops in the middle until what came
// is on the disk.
func TestUnpacksWhatArrives(t *testing.T) {
	random := rand.NewChaCha8([32]byte{})
	var members []member
	for i := range 12 {
		noise := make([]byte, 1<<20)
		random.Read(noise)
		members = append(members, member{name: fmt.Sprint("file", i), data: string(noise)})
	}
	stream := gzipOf(t, tarOf(members...))
	for _, form := range testForms() {
		s := openStore(t, form)
		part := map[Form]string{FormIndex: tarName, FormDirectory: treeName + "/file1"}[form]
		arrived := readerFunc(func([]byte) (int, error) {
			for range 30_000 {
				found, _ := filepath.Glob(filepath.Join(s.dir, "tmp", "*", part))
				if len(found) == 1 {
					if st, err := os.Stat(found[0]); err == nil && st.Size() >= 1<<20 {
						return 0, io.EOF
					}
				}
				time.Sleep(time.Millisecond)
			}
			return 0, errors.New("nothing was unpacked before the end of the stream")
		})
		half := len(stream) / 2
		r := io.MultiReader(bytes.NewReader(stream[:half]), arrived, bytes.NewReader(stream[half:]))
		if _, err := s.Add(context.Background(), r, AddOptions{}); err != nil {
			t.Errorf("%v: %v", form, err)
		}
	}
}

// fill leaves a tmpfs so many free bytes.
func fill(t *testing.T, s *Store, free int64) (empty func()) {
	t.Helper()
	name := filepath.Join(filepath.Dir(s.dir), "filler")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(st.Bavail)*st.Bsize-free); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
}

// TestConvertDiskFull: an index that must become a directory for which there is
// no room stays what it is, until there is.
func TestConvertDiskFull(t *testing.T) {
	needRoot(t)
	s := openTmpfs(t, 4<<20)
	s.form = func() (Form, error) { return FormIndex, nil }
	noise := make([]byte, 600_000)
	rand.NewChaCha8([32]byte{}).Read(noise)
	l := mustAdd(t, s, tarOf(member{name: "d/noise", data: string(noise)}, file("small")))
	for _, free := range []int64{0, 4096, 16 << 10, 256 << 10} {
		empty := fill(t, s, free)
		before := openFiles(t)
		if m, err := l.Mount(t.Context()); !errors.Is(err, unix.ENOSPC) || !errors.Is(err, errdefs.ErrResourceExhausted) {
			t.Errorf("with %d bytes: %v, %v", free, m, err)
		}
		if n := openFiles(t); n != before {
			t.Errorf("with %d bytes: %d descriptors left", free, n-before)
		}
		noLeaks(t, s)
		if now, err := s.Get(l.DiffID()); err != nil || now.Form() != FormIndex {
			t.Errorf("with %d bytes: %+v, %v", free, now, err)
		}
		empty()
	}
	if data, err := os.ReadFile(mountPath(t, l) + "d/noise"); err != nil || !bytes.Equal(data, noise) {
		t.Errorf("%d bytes, %v", len(data), err)
	}
}

// TestRemoveFromFullDisk: what frees the disk needs none of it.
func TestRemoveFromFullDisk(t *testing.T) {
	needRoot(t)
	for _, form := range []Form{FormIndex, FormDirectory} {
		s := openTmpfs(t, 4<<20)
		s.form = func() (Form, error) { return form, nil }
		l := mustAdd(t, s, tarOf(file("a/b"), file("c")))
		fill(t, s, 0)
		if err := s.Remove(l.DiffID()); err != nil {
			t.Errorf("%v: %v", form, err)
		}
		if _, err := s.Get(l.DiffID()); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("%v: %v", form, err)
		}
		noLeaks(t, s)
	}
}

// TestLostTree: a directory that is gone, or something else, is named and is no
// layer. Whoever adds the layer again gets it.
func TestLostTree(t *testing.T) {
	needRoot(t)
	s := openStore(t, FormDirectory)
	b := tarOf(file("a"))
	for what, harm := range map[string]func(tree string) error{
		"gone": os.RemoveAll,
		"file": func(tree string) error { return errors.Join(os.RemoveAll(tree), os.WriteFile(tree, nil, 0o600)) },
		"link": func(tree string) error { return errors.Join(os.RemoveAll(tree), os.Symlink("/etc", tree)) },
	} {
		l := mustAdd(t, s, b)
		dir, err := s.path(l.DiffID())
		if err != nil {
			t.Fatal(err)
		}
		tree := filepath.Join(dir, treeName)
		if err := harm(tree); err != nil {
			t.Fatal(err)
		}
		if m, err := l.Mount(t.Context()); !errors.Is(err, errdefs.ErrDataLoss) || !strings.Contains(err.Error(), tree) {
			t.Errorf("%s: %v, %v", what, m, err)
		}
		if err := s.Remove(l.DiffID()); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	noLeaks(t, s)
}

// TestListDamaged: one damaged layer does not take the others along.
func TestListDamaged(t *testing.T) {
	s := openStore(t, FormIndex)
	good, bad := mustAdd(t, s, tarOf(file("a"))), mustAdd(t, s, tarOf(file("b")))
	dir, err := s.path(bad.DiffID())
	if err != nil {
		t.Fatal(err)
	}
	record := filepath.Join(dir, recordName)
	if err := os.Truncate(record, 10); err != nil {
		t.Fatal(err)
	}
	all, err := s.List()
	if !errors.Is(err, errdefs.ErrDataLoss) || !strings.Contains(err.Error(), record) || len(all) != 1 || all[0].DiffID() != good.DiffID() {
		t.Errorf("%v, %v", all, err)
	}
	if err := s.Remove(bad.DiffID()); err != nil {
		t.Error(err)
	}
	if all, err := s.List(); err != nil || len(all) != 1 {
		t.Errorf("%v, %v", all, err)
	}
}
