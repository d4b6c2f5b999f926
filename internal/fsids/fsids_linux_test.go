package fsids

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Many at a time make files that each belong to whom they should, where only
// root may make any; and what goes on afterwards on the same threads is root's.
func TestAs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to make files of others")
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	make := func(name string) error { return os.WriteFile(filepath.Join(dir, name), nil, 0o600) }
	owner := func(name string, want uint32) {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, name), &st); err != nil || st.Uid != want || st.Gid != want {
			t.Errorf("%s belongs to %d:%d, want %d; %v", name, st.Uid, st.Gid, want, err)
		}
	}
	var work sync.WaitGroup
	for i := range 8 {
		work.Go(func() {
			for n := range 50 {
				id := uint32(1000*i + n + 1)
				name := strconv.Itoa(int(id))
				if err := As(id, id, func() error { return make(name) }); err != nil {
					t.Error(err)
				}
				owner(name, id)
				if err := make("root" + name); err != nil {
					t.Error(err)
				}
				owner("root"+name, 0)
			}
		})
	}
	work.Wait()
	failure := errors.New("failure")
	if err := As(1, 1, func() error { return failure }); err != failure {
		t.Error(err)
	}
	bits, err := unix.PrctlRetInt(unix.PR_GET_SECUREBITS, 0, 0, 0, 0)
	if err != nil || bits&NoSetuidFixup != 0 {
		t.Errorf("secure bits %#x, %v", bits, err)
	}
}
