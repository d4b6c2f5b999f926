package layer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func tmpfs(t *testing.T, size int64) string {
	t.Helper()
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Skipf("needs tmpfs: %v", err)
	}
	defer unix.Close(fs)
	err = unix.FsconfigSetString(fs, "size", fmt.Sprint(size))
	if err == nil {
		err = unix.FsconfigCreate(fs)
	}
	if err != nil {
		t.Skipf("needs a tmpfs: %v", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		t.Skipf("needs a tmpfs: %v", err)
	}
	f := os.NewFile(uintptr(fd), "tmpfs")
	t.Cleanup(func() { f.Close() })
	return fdPath(f)
}

// TestDiskFull: an error that says so, and nothing left, wherever it happens.
func TestDiskFull(t *testing.T) {
	needRoot(t)
	random := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 3<<20)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	var many, links []member
	for i := range 3000 {
		many = append(many, member{name: fmt.Sprint("d/", i), data: "x"})
		links = append(links, member{name: fmt.Sprint("l/", i), kind: kindSymlink, link: strings.Repeat("target/", 50), long: true})
	}
	for _, form := range []Form{FormDirectory, FormIndex} {
		for what, b := range map[string][]byte{
			"large file": tarOf(member{name: "large", data: string(noise)}, member{name: "after", data: string(noise)}),
			"many files": tarOf(many...),
			"many links": tarOf(links...),
		} {
			s := openTmpfs(t, 512<<10)
			s.form = func() (Form, error) { return form, nil }
			before := openFiles(t)
			l, err := s.Add(context.Background(), bytes.NewReader(b), AddOptions{})
			if !errors.Is(err, unix.ENOSPC) || !errors.Is(err, errdefs.ErrResourceExhausted) {
				t.Errorf("%v, %s: %v, %v", form, what, l, err)
			}
			if n := openFiles(t); n != before {
				t.Errorf("%v, %s: %d descriptors left", form, what, n-before)
			}
			noLeaks(t, s)
			if all, err := s.List(); len(all) != 0 || err != nil {
				t.Errorf("%v, %s: %v, %v", form, what, all, err)
			}
			if l := mustAdd(t, s, tarOf(file("small"))); l == nil {
				t.Errorf("%v, %s: nothing fits any more", form, what)
			}
		}
	}
}
