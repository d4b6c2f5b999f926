package archive

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The namespace of these tests.
const (
	hostBase = 600_000
	idCount  = 65536
)

func testMap() *IDMap {
	list := []specs.LinuxIDMapping{{ContainerID: 0, HostID: hostBase, Size: idCount}}
	return &IDMap{UIDs: list, GIDs: list}
}

// marked is a file with all that has ids.
type marked struct {
	Name     string
	Dir      bool
	UID, GID uint32
	Xattrs   map[string][]byte
	Err      string // of the first call that failed
}

// caps are capabilities of a revision, with a root if it has one.
func caps(revision uint32, root ...uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, revision|1) // and the effective bit
	for _, word := range append([]uint32{1 << 10, 0, 0, 0}, root...) {
		b = binary.LittleEndian.AppendUint32(b, word)
	}
	return b
}

// acl gives a user and a group rights.
func acl(uid, gid uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, aclVersion)
	const none = 1<<32 - 1
	for _, e := range [][3]uint32{{0x01, 7, none}, {aclUser, 5, uid}, {0x04, 5, none}, {aclGroup, 4, gid}, {0x10, 7, none}, {0x20, 0, none}} {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		b = binary.LittleEndian.AppendUint32(b, e[2])
	}
	return b
}

// mark makes it in the working directory.
func (m *marked) mark() error {
	if m.Dir {
		if err := os.Mkdir(m.Name, 0o755); err != nil {
			return err
		}
	} else if err := os.WriteFile(m.Name, nil, 0o755); err != nil {
		return err
	}
	if err := os.Lchown(m.Name, int(m.UID), int(m.GID)); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(m.Xattrs)) {
		if err := unix.Lsetxattr(m.Name, name, m.Xattrs[name], 0); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// look reads all of it. What cannot be read is not there.
func look(name string) (m marked) {
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		return marked{Err: err.Error()}
	}
	m = marked{UID: st.Uid, GID: st.Gid, Xattrs: make(map[string][]byte)}
	for _, xattr := range []string{xattrCapability, xattrACL, xattrDefaultACL} {
		b := make([]byte, 1024)
		if n, err := unix.Lgetxattr(name, xattr, b); err == nil {
			m.Xattrs[xattr] = b[:n]
		} else if err != unix.ENODATA {
			m.Err += fmt.Sprintf("%s: %v", xattr, err)
		}
	}
	return m
}

func (m marked) String() string { return fmt.Sprintf("%d:%d %x", m.UID, m.GID, m.Xattrs) }

// TestMain runs the tests, or what asMapped runs again in a user namespace.
func TestMain(m *testing.M) {
	what := os.Getenv("INBOARD_TEST_INSIDE")
	if what == "" {
		os.Exit(m.Run())
	}
	if err := inNamespace(what); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func inNamespace(what string) error {
	var files []marked
	if err := json.NewDecoder(os.Stdin).Decode(&files); err != nil {
		return err
	}
	if err := unix.Fchdir(3); err != nil {
		return err
	}
	for i := range files {
		if what == "look" {
			name := files[i].Name
			files[i] = look(name)
			files[i].Name = name
		} else if err := files[i].mark(); errors.Is(err, syscall.EINVAL) {
			files[i].Err = err.Error()
		} else if err != nil {
			return err
		}
	}
	return json.NewEncoder(os.NewFile(4, "answer")).Encode(files)
}

// asMapped marks files in a directory, or looks at them, as the root of a user
// namespace.
func asMapped(t *testing.T, what, dir string, files []marked) (answer []marked) {
	t.Helper()
	work, err := os.Open(dir)
	must(t, err)
	defer work.Close()
	out, err := os.Create(filepath.Join(t.TempDir(), "answer"))
	must(t, err)
	defer out.Close()
	in, err := json.Marshal(files)
	must(t, err)
	program, err := os.Open("/proc/self/exe") // its path may lead through directories that are root's alone
	must(t, err)
	defer program.Close()
	cmd := exec.Command("/proc/self/fd/5")
	cmd.Env = append(os.Environ(), "INBOARD_TEST_INSIDE="+what)
	cmd.Stdin, cmd.ExtraFiles = bytes.NewReader(in), []*os.File{work, out, program}
	list := []syscall.SysProcIDMap{{ContainerID: 0, HostID: hostBase, Size: idCount}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: list, GidMappings: list,
		GidMappingsEnableSetgroups: true, Credential: &syscall.Credential{}}
	text, err := cmd.CombinedOutput()
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EPERM) {
		t.Skipf("no user namespaces: %v", err)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	data, err := os.ReadFile(out.Name())
	must(t, err, json.Unmarshal(data, &answer))
	return answer
}

// workDir is a directory of the root's of the namespace.
func workDir(t *testing.T) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	must(t, os.Chown(dir, hostBase, hostBase), os.Chmod(dir, 0o755))
	return dir
}

// What a stream gives a file, with mapped ids, is what a process in the
// namespace gives it; what the kernel refuses to that is refused.
func TestExtractMapped(t *testing.T) {
	files := []marked{
		{Name: "owner", UID: 5, GID: 6},
		{Name: "last", UID: idCount - 1, GID: idCount - 1},
		{Name: "uid", UID: idCount, GID: 1},
		{Name: "gid", UID: 1, GID: idCount},
		{Name: "hosts", UID: hostBase, GID: hostBase},
		{Name: "cap2", Xattrs: map[string][]byte{xattrCapability: caps(capRevision2)}},
		{Name: "cap2 of another", UID: 9, Xattrs: map[string][]byte{xattrCapability: caps(capRevision2)}},
		{Name: "cap3", Xattrs: map[string][]byte{xattrCapability: caps(capRevision3, 0)}},
		{Name: "cap3 nested", Xattrs: map[string][]byte{xattrCapability: caps(capRevision3, 7)}},
		{Name: "cap3 unmapped", Xattrs: map[string][]byte{xattrCapability: caps(capRevision3, idCount)}},
		{Name: "acl", UID: 3, GID: 3, Xattrs: map[string][]byte{xattrACL: acl(5, 6)}},
		{Name: "acl uid", Xattrs: map[string][]byte{xattrACL: acl(idCount, 6)}},
		{Name: "acl gid", Xattrs: map[string][]byte{xattrACL: acl(5, idCount)}},
		{Name: "acl dir", Dir: true, Xattrs: map[string][]byte{xattrACL: acl(0, 0), xattrDefaultACL: acl(8, 9)}},
	}
	theirs, ours := workDir(t), workDir(t)
	root := openRoot(t, ours)
	for i, m := range asMapped(t, "mark", theirs, files) {
		h := tar.Header{Typeflag: tar.TypeReg, Name: "made/" + m.Name, Uid: int(m.UID), Gid: int(m.GID), Mode: 0o755, PAXRecords: make(map[string]string)}
		if m.Dir {
			h.Typeflag = tar.TypeDir
		}
		for name, value := range files[i].Xattrs {
			h.PAXRecords[schilyXattr+name] = string(value)
		}
		err := Extract(t.Context(), root, "/", bytes.NewReader(tarOf(t, h)), ExtractOptions{IDs: testMap()})
		if m.Err != "" {
			if !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), "user namespace") {
				t.Errorf("%s: %v, and inside: %s", m.Name, err, m.Err)
			}
			continue
		}
		must(t, err)
		want, got := look(filepath.Join(theirs, m.Name)), look(filepath.Join(ours, "made", m.Name))
		if got.String() != want.String() {
			t.Errorf("%s: %v, made inside %v", m.Name, got, want)
		}
	}
	if m := look(filepath.Join(ours, "made")); m.UID != hostBase || m.GID != hostBase {
		t.Errorf("directory that no member names: %v", m)
	}
	// What is refused takes nothing away.
	must(t, os.WriteFile(filepath.Join(ours, "there"), []byte("x"), 0o600))
	refused := tarOf(t, tar.Header{Name: "there", Typeflag: tar.TypeDir, Uid: idCount})
	if err := Extract(t.Context(), root, "/", bytes.NewReader(refused), ExtractOptions{IDs: testMap()}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Error(err)
	}
	if data, err := os.ReadFile(filepath.Join(ours, "there")); string(data) != "x" {
		t.Errorf("%q, %v", data, err)
	}
}

// All kinds of members are made, and belong to whom they are to.
func TestExtractMappedKinds(t *testing.T) {
	dir := workDir(t)
	kinds := map[string]byte{"file": tar.TypeReg, "dir": tar.TypeDir, "link": tar.TypeSymlink, "fifo": tar.TypeFifo, "char": tar.TypeChar}
	for _, owner := range []*Owner{nil, {1, 2}} {
		for name, kind := range kinds {
			h := tar.Header{Name: name, Typeflag: kind, Uid: 40, Gid: 50, Mode: 0o700}
			if kind == tar.TypeSymlink {
				h.Linkname = "file"
			}
			must(t, Extract(t.Context(), openRoot(t, dir), "/", bytes.NewReader(tarOf(t, h)), ExtractOptions{IDs: testMap(), Owner: owner}))
			want := Owner{hostBase + 40, hostBase + 50}
			if owner != nil {
				want = Owner{hostBase + owner.UID, hostBase + owner.GID}
			}
			if m := look(filepath.Join(dir, name)); (Owner{m.UID, m.GID}) != want {
				t.Errorf("%s: %v, want %v", name, m, want)
			}
		}
	}
}

// A stream with mapped ids has what a process in the namespace sees.
func TestWriteMapped(t *testing.T) {
	dir := workDir(t)
	files := []marked{
		{Name: "owner", UID: hostBase + 5, GID: hostBase + 6},
		{Name: "root", UID: hostBase, GID: hostBase},
		{Name: "host's"},
		{Name: "another's", UID: hostBase + idCount, GID: hostBase - 1},
		{Name: "cap2", Xattrs: map[string][]byte{xattrCapability: caps(capRevision2)}},
		{Name: "cap3", Xattrs: map[string][]byte{xattrCapability: caps(capRevision3, hostBase)}},
		{Name: "cap3 nested", Xattrs: map[string][]byte{xattrCapability: caps(capRevision3, hostBase+7)}},
		{Name: "cap3 unmapped", Xattrs: map[string][]byte{xattrCapability: caps(capRevision3, 12345)}},
		{Name: "acl", UID: hostBase, Xattrs: map[string][]byte{xattrACL: acl(hostBase+5, hostBase+6)}},
		{Name: "acl unmapped", Xattrs: map[string][]byte{xattrACL: acl(12345, 12345)}},
		{Name: "acl dir", Dir: true, Xattrs: map[string][]byte{xattrDefaultACL: acl(hostBase+8, hostBase+9)}},
	}
	for _, m := range files {
		m.Name = filepath.Join(dir, m.Name)
		must(t, m.mark())
	}
	stream := members(t, written(t, dir, "/.", WriteOptions{IDs: testMap()}))
	for _, want := range asMapped(t, "look", dir, files) {
		h := stream["./"+want.Name]
		if h == nil {
			h = stream["./"+want.Name+"/"]
		}
		if h == nil {
			t.Fatalf("%s is missing", want.Name)
		}
		got := marked{UID: uint32(h.Uid), GID: uint32(h.Gid), Xattrs: make(map[string][]byte)}
		for _, name := range []string{xattrCapability, xattrACL, xattrDefaultACL} {
			if value, ok := h.PAXRecords[schilyXattr+name]; ok {
				got.Xattrs[name] = []byte(value)
			}
		}
		if got.String() != want.String() {
			t.Errorf("%s: %v, seen inside %v %s", want.Name, got, want, want.Err)
		}
	}
}

// FuzzAttributes translates what no kernel has written.
func FuzzAttributes(f *testing.F) {
	for _, b := range [][]byte{nil, caps(capRevision2), caps(capRevision3, 7), caps(capRevision2, 1), acl(1, 2), acl(1, 2)[:13]} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := testMap()
		for _, name := range []string{xattrCapability, xattrACL, xattrDefaultACL, "user.x"} {
			host, err := m.write(name, bytes.Clone(b))
			if err != nil {
				continue
			}
			back, ok := m.read(name, bytes.Clone(host))
			if !ok {
				t.Errorf("%s: %x cannot be read back", name, host)
			}
			again, err := m.write(name, bytes.Clone(back))
			if err != nil || !bytes.Equal(again, host) {
				t.Errorf("%s: %x is %x on the host, and %x when it is read and written", name, b, host, again)
			}
		}
	})
}
