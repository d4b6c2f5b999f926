package runtime

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// restRoot is an overlay for a test of what has no process.
func restRoot(t *testing.T) *Overlay {
	t.Helper()
	base, err := os.MkdirTemp(testBase, "rest-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	o := &Overlay{Volatile: true, Upper: filepath.Join(base, "w/upper"), Work: filepath.Join(base, "w/work")}
	for _, dir := range []string{o.Upper, o.Work} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	layers := overlayLayers(t, base, 3)
	for i := range layers {
		o.Lower = append(o.Lower, Lower{Path: layers[len(layers)-1-i]})
	}
	return o
}

func at(t *testing.T, tree *os.File, name string) (st unix.Stat_t) {
	t.Helper()
	if err := unix.Fstatat(int(tree.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		t.Errorf("%s: %v", name, err)
	}
	return st
}

// Both ways to open an overlay for a user namespace show its ids; binds are
// where a start has them, and what is made for them is the namespace's root's.
func TestWithBinds(t *testing.T) {
	r := openTest(t)
	user, err := r.NewUserNamespace(background, testMappings(), testMappings())
	if err != nil {
		t.Fatal(err)
	}
	defer user.Close()
	root, _ := user.ids.root()
	for way, byDescriptor := range map[string]bool{"descriptors": true, "mount(2)": false} {
		for name, u := range map[string]*UserNamespace{"host's ids": nil, "user namespace": user} {
			t.Run(way+", "+name, func(t *testing.T) {
				forceOverlay(t, byDescriptor)
				o := restRoot(t)
				before, _ := os.ReadFile("/proc/self/mountinfo")
				open := o.Open
				if u != nil {
					open = func() (*os.File, error) { return o.OpenIn(u) }
				}
				overlay, err := open()
				if err != nil {
					t.Fatal(err)
				}
				rootID, owner := uint32(0), uint32(2)
				if u != nil {
					rootID, owner = root, root+2
				}
				if st := at(t, overlay, "data/of2"); st.Uid != owner {
					t.Errorf("the owner is %d, want %d", st.Uid, owner)
				}
				source := t.TempDir()
				writeFile(t, filepath.Join(source, "there"), "x", 0o600)
				binds := []specs.Mount{
					{Destination: "/new/deep", Source: source, Options: []string{"rbind", "rro"}},
					{Destination: "/new/file", Source: filepath.Join(source, "there"), Options: []string{"bind", "rshared"}},
				}
				if u != nil {
					binds[1].Options = []string{"bind", "idmap"}
				}
				tree, err := WithBinds(overlay, binds, true, u)
				if err != nil {
					t.Fatal(err)
				}
				defer tree.Close()
				if after, _ := os.ReadFile("/proc/self/mountinfo"); string(after) != string(before) {
					t.Errorf("mounts: %s", after)
				}
				at(t, tree, "new/deep/there")
				if st := at(t, tree, "new"); st.Uid != rootID || st.Gid != rootID {
					t.Errorf("what was made is of %d:%d, want %d", st.Uid, st.Gid, rootID)
				}
				if st := at(t, tree, "new/file"); st.Size != 1 || st.Uid != rootID {
					t.Errorf("file of %d bytes, of %d", st.Size, st.Uid)
				}
				for _, name := range []string{"x", "new/deep/x"} { // root and bind are read-only
					if err := unix.Mkdirat(int(tree.Fd()), name, 0o755); err != unix.EROFS {
						t.Errorf("%s: %v", name, err)
					}
				}
				var st unix.Stat_t
				if err := unix.Stat(filepath.Join(o.Upper, "new"), &st); err != nil || st.Uid != 0 {
					t.Errorf("on the disk it is of %d, %v", st.Uid, err)
				}
			})
		}
	}
}

func TestWithBindsRefused(t *testing.T) {
	needRoot(t)
	for what, m := range map[string]specs.Mount{
		"relative": {Destination: "x", Source: "/", Options: []string{"bind"}},
		"root":     {Destination: "/", Source: "/", Options: []string{"bind"}},
		"tmpfs":    {Destination: "/x", Type: "tmpfs"},
		"missing":  {Destination: "/x", Source: "/nothing/there", Options: []string{"bind"}},
		"idmap":    {Destination: "/x", Source: "/", Options: []string{"bind", "idmap"}},
		"kind":     {Destination: "/bin", Source: "/proc/self/exe", Options: []string{"bind"}},
	} {
		overlay, err := restRoot(t).Open()
		if err != nil {
			t.Fatal(err)
		}
		tree, err := WithBinds(overlay, []specs.Mount{m}, false, nil)
		if err == nil {
			tree.Close()
			t.Errorf("%s: no error", what)
		} else if what != "kind" && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", what, err)
		}
		if !strings.Contains(fmt.Sprint(err), m.Destination) {
			t.Errorf("%s: %v", what, err)
		}
		if overlay.Close() == nil {
			t.Errorf("%s: the root is open still", what)
		}
	}
}
