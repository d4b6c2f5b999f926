package engine

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/inboard/engine/layer"
)

// dirTime is the time that directories have where a layer names them.
var dirTime = time.Unix(1_000_000_000, 123_456_789)

// dirMember names a directory, with a mode and further attributes.
func dirMember(name string, mode int64) tarFile {
	return tarFile{tar.Header{
		Name: name + "/", Typeflag: tar.TypeDir, Mode: mode, Uid: 5, Gid: 6, ModTime: dirTime, Format: tar.FormatPAX,
		PAXRecords: map[string]string{"SCHILY.xattr.user.x": name},
	}, ""}
}

// withACL adds ACLs, which directories that umoci makes in it would inherit.
func withACL(f tarFile) tarFile {
	f.PAXRecords["SCHILY.xattr.system.posix_acl_access"] = testACL
	f.PAXRecords["SCHILY.xattr.system.posix_acl_default"] = testACL
	return f
}

// testACL is of the owner, user 7, the group, the mask, and others (posix_acl_xattr.h).
var testACL = func() string {
	acl := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range [][3]uint32{{0x01, 7, 1<<32 - 1}, {0x02, 6, 7}, {0x04, 5, 1<<32 - 1}, {0x10, 7, 1<<32 - 1}, {0x20, 1, 1<<32 - 1}} {
		acl = binary.LittleEndian.AppendUint32(acl, e[0]|e[1]<<16)
		acl = binary.LittleEndian.AppendUint32(acl, e[2])
	}
	return string(acl)
}()

// A look is how a file looks, whatever is in it.
type look struct {
	mode     uint32
	uid, gid uint32
	mtime    time.Time
	xattrs   string
}

// lookAt leaves out what only the host's root sees.
func lookAt(path string) (look, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return look{}, err
	}
	l := look{st.Mode, st.Uid, st.Gid, time.Unix(st.Mtim.Unix()), ""}
	b := make([]byte, 4096)
	n, err := unix.Llistxattr(path, b)
	if err != nil {
		return l, err
	}
	names := strings.FieldsFunc(string(b[:n]), func(r rune) bool { return r == 0 })
	slices.Sort(names)
	for _, name := range names {
		if strings.HasPrefix(name, "trusted.") {
			continue
		}
		n, err := unix.Lgetxattr(path, name, b)
		if err != nil {
			return l, err
		}
		l.xattrs += fmt.Sprintf(" %s=%q", name, b[:n])
	}
	return l, nil
}

func (l look) String() string {
	return fmt.Sprintf("%o %d:%d %d.%09d%s", l.mode, l.uid, l.gid, l.mtime.Unix(), l.mtime.Nanosecond(), l.xattrs)
}

// named is the look of a dirMember, namedACL that of one withACL.
func named(name string, mode uint32) look {
	return look{unix.S_IFDIR | mode, 5, 6, dirTime, fmt.Sprintf(" user.x=%q", name)}
}

func namedACL(name string, mode uint32) look {
	l := named(name, mode)
	l.xattrs = fmt.Sprintf(" system.posix_acl_access=%q system.posix_acl_default=%[1]q%s", testACL, l.xattrs)
	return l
}

// implied is the look of a directory of which no layer says anything.
var implied = look{mode: unix.S_IFDIR | 0o755, mtime: time.Unix(0, 0)}

// An impliedCase has members of three layers, bottom first, above that of the
// program, and looks of what they leave.
type impliedCase struct {
	layers [3][]tarFile
	want   map[string]look
}

var impliedCases = map[string]impliedCase{
	"the /tmp of a layer below": {
		[3][]tarFile{2: {file("tmp/x", "")}},
		map[string]look{"tmp": {mode: unix.S_IFDIR | 0o1777, mtime: time.Unix(0, 0)}},
	},
	"xattrs and ACLs": {
		[3][]tarFile{{withACL(dirMember("acl", 0o1771))}, 2: {file("acl/x", "")}},
		map[string]look{"acl": namedACL("acl", 0o1771)},
	},
	"no layer names it": {
		[3][]tarFile{1: {file("nowhere/b/1", "")}, 2: {file("nowhere/b/2", "")}},
		map[string]look{"nowhere": implied, "nowhere/b": implied},
	},
	"only the parent is named": {
		[3][]tarFile{{dirMember("parent", 0o711)}, 2: {file("parent/b/c/x", "")}},
		map[string]look{"parent": named("parent", 0o711), "parent/b": implied, "parent/b/c": implied},
	},
	"all parents are named": {
		[3][]tarFile{{dirMember("deep", 0o711), dirMember("deep/b", 0o1770)}, {dirMember("deep/b/c", 0o2777)}, {file("deep/b/c/x", "")}},
		map[string]look{"deep": named("deep", 0o711), "deep/b": named("deep/b", 0o1770), "deep/b/c": named("deep/b/c", 0o2777)},
	},
	"the topmost one that names it": {
		[3][]tarFile{{dirMember("twice", 0o1777)}, {dirMember("twice", 0o711)}, {file("twice/x", "")}},
		map[string]look{"twice": named("twice", 0o711)},
	},
	"named after what it holds": {
		[3][]tarFile{{dirMember("late", 0o1777)}, 2: {file("late/x", ""), dirMember("late", 0o711)}},
		map[string]look{"late": named("late", 0o711)},
	},
	"in the middle, below a parent named there": {
		[3][]tarFile{{dirMember("mid", 0o1777), dirMember("mid/b", 0o1777)}, {dirMember("mid", 0o711), file("mid/b/x", "")}},
		map[string]look{"mid": named("mid", 0o711), "mid/b": named("mid/b", 0o1777)},
	},
	"whited out between": {
		[3][]tarFile{{dirMember("gone", 0o1777), dirMember("gone/b", 0o1777)}, {file(".wh.gone", "")}, {file("gone/b/x", "")}},
		map[string]look{"gone": implied, "gone/b": implied},
	},
	"whited out and made anew": {
		[3][]tarFile{{dirMember("anew", 0o1777), dirMember("anew/b", 0o1777)}, 2: {file(".wh.anew", ""), file("anew/b/x", "")}},
		map[string]look{"anew": implied, "anew/b": implied},
	},
	"a layer above what was made anew": {
		[3][]tarFile{{dirMember("over", 0o1777)}, {file(".wh.over", ""), file("over/1", "")}, {file("over/2", "")}},
		map[string]look{"over": implied},
	},
	// An opaque whiteout is about what a directory holds.
	"opaque and implied": {
		[3][]tarFile{{dirMember("opaque", 0o1777), dirMember("opaque/b", 0o1777)}, {file("opaque/.wh..wh..opq", "")}, {file("opaque/b/x", "")}},
		map[string]look{"opaque": named("opaque", 0o1777), "opaque/b": implied},
	},
	"opaque and named": {
		[3][]tarFile{{dirMember("hides", 0o1777), dirMember("hides/b", 0o1777)}, {dirMember("hides", 0o711), file("hides/.wh..wh..opq", "")}, {file("hides/b/x", "")}},
		map[string]look{"hides": named("hides", 0o711), "hides/b": implied},
	},
	"through a symlink of its own layer": {
		[3][]tarFile{{dirMember("real", 0o1777)}, 2: {link("way", "real"), file("way/x", "")}},
		map[string]look{"real": named("real", 0o1777)},
	},
	"a name that is no text": {
		[3][]tarFile{{dirMember("\xff\n", 0o1777)}, 2: {file("\xff\n/x", "")}},
		map[string]look{"\xff\n": named("\xff\n", 0o1777)},
	},
}

// In these, umoci does something else. It finds no way where a file is replaced
// by a directory that no member names, and follows a link of a lower layer. An
// overlay of layers that were made apart from each other shows what the topmost
// one has, and that is a directory.
var impliedAlone = map[string]impliedCase{
	"a file between": {
		[3][]tarFile{{dirMember("file", 0o1777)}, {file("file", "")}, {file("file/x", "")}},
		map[string]look{"file": implied},
	},
	"a link below": {
		[3][]tarFile{{dirMember("target", 0o1777), link("link", "target")}, 2: {file("link/x", "")}},
		map[string]look{"link": implied, "target": named("target", 0o1777)},
	},
}

// pushImplied puts all cases into one image.
func pushImplied(t *testing.T, cases map[string]impliedCase) (ref string, want map[string]look) {
	t.Helper()
	var files [3][]tarFile
	want = map[string]look{}
	for _, c := range cases {
		for i := range files {
			files[i] = append(files[i], c.layers[i]...)
		}
		maps.Copy(want, c.want)
	}
	return pushImage(t, nil, tarLayer(t, files[0]...), tarLayer(t, files[1]...), tarLayer(t, files[2]...)), want
}

// A directory looks in a container as the topmost layer has it that names it,
// as it does after umoci has unpacked the image.
func TestImplied(t *testing.T) {
	needRoot(t)
	ref, want := pushImplied(t, impliedCases)
	alone, wantAlone := pushImplied(t, impliedAlone)
	for _, form := range []layer.Form{layer.FormAuto, layer.FormDirectory} { // the former is an index where one works
		t.Run(form.String(), func(t *testing.T) {
			e, err := Open(WithRoot(filepath.Join(t.TempDir(), "root")), WithCgroupParent(cgroupParent), WithLayerForm(form))
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := e.Close(); err != nil {
					t.Error(err)
				}
			}()
			looksInside(t, e, ref, want)
			looksInside(t, e, alone, wantAlone)
		})
	}
	t.Run("umoci", func(t *testing.T) {
		start := time.Now()
		rootfs := unpackedByUmoci(t, ref)
		for name, l := range want {
			got, err := lookAt(filepath.Join(rootfs, name))
			if err != nil {
				t.Error(err)
			}
			if got.mtime.After(start.Add(-time.Second)) {
				got.mtime = l.mtime // it does not keep the time of where it makes a directory
			}
			if got.String() != l.String() {
				t.Errorf("%q:\n in a container %v\n   umoci has it %v", name, l, got)
			}
		}
	})
}

// looksInside runs two containers: the second one has a root that was made
// ahead.
func looksInside(t *testing.T, e *Engine, ref string, want map[string]look) {
	t.Helper()
	img, err := e.Pull(t.Context(), ref, PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	names := slices.Sorted(maps.Keys(want))
	for range 2 {
		var out bytes.Buffer
		c := started(t, e, img, Config{Args: append([]string{"look"}, names...), Stdout: &out, Stderr: &out})
		if status, err := c.Wait(t.Context()); err != nil || status.Code != 0 {
			t.Fatalf("%v, %v: %s", status, err, out.String())
		}
		got := strings.Split(out.String(), "\n")
		for i, name := range names {
			if got[i] != want[name].String() {
				t.Errorf("%q:\n got %s\nwant %v", name, got[i], want[name])
			}
		}
		c.own.hold.ready.work.Wait()
	}
}

// unpackedByUmoci gives the directory into which umoci has unpacked an image.
func unpackedByUmoci(t *testing.T, ref string) string {
	t.Helper()
	if _, err := exec.LookPath("umoci"); err != nil {
		t.Skipf("needs umoci: %v", err)
	}
	tag, err := name.NewTag(ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(tag, remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	images, err := layout.Write(filepath.Join(dir, "layout"), empty.Index)
	if err == nil {
		err = images.AppendImage(mutate.ConfigMediaType(img, types.OCIConfigJSON), layout.WithAnnotations(map[string]string{ocispec.AnnotationRefName: "test"}))
	}
	if err != nil {
		t.Fatal(err)
	}
	// What it makes itself has the mode that the umask leaves.
	unpack := exec.CommandContext(t.Context(), "sh", "-c", "umask 022 && umoci unpack --image layout:test bundle")
	unpack.Dir = dir
	if out, err := unpack.CombinedOutput(); err != nil {
		t.Fatalf("umoci: %v\n%s", err, out)
	}
	return filepath.Join(dir, "bundle/rootfs")
}

// covers lists what a root holds of covers, and of other unfinished work.
func covers(t *testing.T, root string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(root, "layers/tmp/*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// What shows such directories is kept as long as the image's mounts are, or
// until the next Open after a kill -9.
func TestImpliedLeavesNothing(t *testing.T) {
	e, root, ref := foreignRoot(t, nil)
	if left := covers(t, root); len(left) > 0 {
		t.Errorf("there before: %v", left)
	}
	img := pulled(t, e, nil, tarLayer(t, file("tmp/x", "")))
	plain, err := e.LookupImage(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	started(t, e, plain, Config{Args: []string{"pause"}})
	if left := covers(t, root); len(left) > 0 {
		t.Errorf("made for nothing: %v", left)
	}
	started(t, e, img, Config{Args: []string{"pause"}})
	started(t, e, img, Config{Args: []string{"pause"}})
	if made := covers(t, root); len(made) != 2 { // the directory, and its lock
		t.Errorf("made for one image: %v", made)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if left := covers(t, root); len(left) > 0 {
		t.Errorf("left after Close: %v", left)
	}

	other := newOtherProgram(t, root, img.Names()[0], "theirs", "pause")
	other.kill()
	if left := covers(t, root); len(left) != 2 {
		t.Errorf("left after a kill: %v", left)
	}
	testEngine(t, root)
	if left := covers(t, root); len(left) > 0 {
		t.Errorf("left after the next Open: %v", left)
	}
}
