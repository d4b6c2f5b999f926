package engine

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// headersFrom reads what CopyFrom gives: headers by name.
func headersFrom(t testing.TB, c *Container, path string) map[string]*tar.Header {
	t.Helper()
	var out bytes.Buffer
	if err := c.CopyFrom(t.Context(), path, &out, CopyFromOptions{}); err != nil {
		t.Fatalf("copy from %s: %v", path, err)
	}
	all := make(map[string]*tar.Header)
	for r := tar.NewReader(&out); ; {
		h, err := r.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all[h.Name] = h
	}
}

const xattrCaps = "security.capability"

// capsOf are capabilities as a container's own setcap writes them.
func capsOf() string {
	b := binary.LittleEndian.AppendUint32(nil, 0x02000001)
	return string(append(b, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0))
}

func ownedFile(name string, uid, gid int) tarFile {
	f := file(name, "x")
	f.Uid, f.Gid = uid, gid
	f.PAXRecords = map[string]string{"SCHILY.xattr." + xattrCaps: capsOf()}
	return f
}

// isOwned tells what is wrong with what ownedFile has become.
func isOwned(t *testing.T, when string, h *tar.Header, uid, gid int) {
	t.Helper()
	if h == nil || h.Uid != uid || h.Gid != gid || h.PAXRecords["SCHILY.xattr."+xattrCaps] != capsOf() {
		t.Errorf("%s: %+v, want %d:%d", when, h, uid, gid)
	}
}

// The ids of a stream are those that the container sees, whether it was started,
// runs or has ended, and on the disk too, whatever range a run has had. Ids that
// it does not have are refused.
func TestCopyMapped(t *testing.T) {
	for name, clone := range map[string]bool{"clones": true, "no clones": false} {
		t.Run(name, func(t *testing.T) {
			if !clone {
				withoutClones(t)
			}
			root := filepath.Join(t.TempDir(), "root")
			needRoot(t)
			e, other := testEngine(t, root), testEngine(t, root)
			img := pulled(t, e, nil)
			var out bytes.Buffer
			c := create(t, e, img, Config{Args: []string{"stat", "/data/created"}, Security: private, Stdout: &out})
			refuses := func(when string, c *Container) {
				t.Helper()
				for _, f := range []tarFile{ownedFile("x", 65536, 0), ownedFile("x", 0, 65536)} {
					err := c.CopyTo(t.Context(), "/tmp", bytes.NewReader(tarBytes(t, f)), CopyToOptions{})
					if !errors.Is(err, ErrInvalidArgument) || !strings.Contains(err.Error(), "id 65536 is not one of") {
						t.Errorf("%s: %v", when, err)
					}
				}
			}
			copyTo(t, c, "/data", ownedFile("created", 5, 6), ownedFile("new/dir/file", 7, 8))
			refuses("created", c)
			all := headersFrom(t, c, "/")
			isOwned(t, "created", all["./data/created"], 5, 6)
			isOwned(t, "created", all["./data/new/dir/file"], 7, 8)
			if h := all["./data/new/dir/"]; h == nil || h.Uid != 0 || h.Gid != 0 {
				t.Errorf("directory that is in no archive: %+v", h)
			}
			for range 2 {
				out.Reset()
				if err := c.Start(t.Context()); err != nil {
					t.Fatal(err)
				}
				exits(t, c, Status{Known: true})
				if !strings.HasPrefix(out.String(), "644 5 6 ") {
					t.Errorf("the container sees %s", &out)
				}
				isOwned(t, "exited", headersFrom(t, c, "/data")["data/created"], 5, 6)
			}
			copyTo(t, c, "/data", ownedFile("exited", 65535, 1))
			refuses("exited", c)
			var st unix.Stat_t
			caps := make([]byte, 64)
			onDisk := filepath.Join(c.own.layer.upper(), "data/exited")
			n, err := unix.Lgetxattr(onDisk, xattrCaps, caps)
			if err := errors.Join(err, unix.Lstat(onDisk, &st)); err != nil || st.Uid != 65535 || st.Gid != 1 || string(caps[:n]) != capsOf() {
				t.Errorf("on the disk: %d:%d, %x, %v", st.Uid, st.Gid, caps[:max(n, 0)], err)
			}

			running := started(t, e, img, Config{Args: []string{"wait"}, Security: private, User: "app"})
			theirs, err := other.Lookup(t.Context(), running.ID())
			if err != nil {
				t.Fatal(err)
			}
			readyFor(t, running)
			for when, c := range map[string]*Container{"running": running, "another's": theirs} {
				copyTo(t, c, "/tmp", ownedFile(when, 5, 6))
				refuses(when, c)
				for name, h := range headersFrom(t, c, "/") {
					if h.Uid >= firstID || h.Gid >= firstID {
						t.Errorf("%s: %s is of %d:%d", when, name, h.Uid, h.Gid)
					}
				}
				isOwned(t, when, headersFrom(t, c, "/tmp")["tmp/"+when], 5, 6)
				err := c.CopyTo(t.Context(), "/tmp", bytes.NewReader(tarBytes(t, ownedFile("given", 7, 8))), CopyToOptions{CopyUIDGID: true})
				if err != nil {
					t.Fatal(err)
				}
				isOwned(t, when, headersFrom(t, c, "/tmp/given")["given"], 1000, 1000)
			}
			if got := execHere(t, running, ExecConfig{User: "0"}, "stat", "/tmp/another's"); !strings.HasPrefix(got, "644 5 6 ") {
				t.Errorf("the container sees %s", got)
			}
			if err := running.Kill(t.Context(), syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if _, err := running.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			for when, c := range map[string]*Container{"exited": running, "another's, exited": theirs} {
				isOwned(t, when, headersFrom(t, c, "/tmp")["tmp/running"], 5, 6)
				copyTo(t, c, "/tmp", ownedFile(when, 9, 9))
				isOwned(t, when, headersFrom(t, c, "/tmp")["tmp/"+when], 9, 9)
				refuses(when, c)
			}
		})
	}
}

// Binds of the host's files have the ids that the container sees there: with
// "idmap" those on the host, and else nobody's.
func TestCopyMappedBinds(t *testing.T) {
	e, img := plainImage(t)
	for _, running := range []bool{true, false} {
		plain, mapped := t.TempDir(), t.TempDir()
		c := create(t, e, img, Config{Args: []string{"wait"}, Security: private, Mounts: []Mount{
			{Type: MountBind, Source: plain, Target: "/plain"},
			{Type: MountBind, Source: mapped, Target: "/mapped", Options: []string{"idmap"}},
		}})
		if running {
			if err := c.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			readyFor(t, c)
		}
		for dir, want := range map[string]int{"/plain": 65534, "/mapped": 0} {
			if h := headersFrom(t, c, dir)[dir[1:]+"/"]; h == nil || h.Uid != want {
				t.Errorf("running %v: %s: %+v, want %d", running, dir, h, want)
			}
			copyTo(t, c, dir, ownedFile("x", 5, 6))
		}
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(plain, "x"), &st); err != nil || st.Uid < firstID || (st.Uid-firstID)%rangeSize != 5 {
			t.Errorf("running %v: on the host: %d:%d, %v", running, st.Uid, st.Gid, err)
		}
		if err := unix.Stat(filepath.Join(mapped, "x"), &st); err != nil || st.Uid != 5 || st.Gid != 6 {
			t.Errorf("running %v: on the host, mapped: %d:%d, %v", running, st.Uid, st.Gid, err)
		}
		isOwned(t, "mapped", headersFrom(t, c, "/mapped")["mapped/x"], 5, 6)
	}
}

// What a container that does not run shows of its Mounts is what docker cp
// does: binds, whether they were ever mounted or not.
func TestCopyOfStoppedMounts(t *testing.T) {
	needRoot(t)
	root := filepath.Join(t.TempDir(), "root")
	e, other := testEngine(t, root), testEngine(t, root)
	img := pulled(t, e, nil)
	host := t.TempDir()
	in := func(name string) string { return filepath.Join(host, name) }
	for name, data := range map[string]string{"dir/there": "bound", "dir/inner/hidden": "hidden", "inner/there": "inner", "file": "single", "fixed/sub/there": "fixed"} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(in(name)), 0o755), os.WriteFile(in(name), []byte(data), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	link := tarFile{Header: tar.Header{Name: "data/link", Linkname: "/" + strings.Repeat("../", 20) + "data/behind", Typeflag: tar.TypeSymlink}}
	for name, security := range map[string]Security{"host's ids": {}, "user namespace": private} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			c := create(t, e, img, Config{Args: []string{"read", "/bound/back"}, Stdout: &out, Security: security, Mounts: []Mount{
				{Type: MountBind, Source: in("inner"), Target: "/bound/inner"},
				{Type: MountBind, Source: in("dir"), Target: "/bound", Propagation: "rslave"},
				{Type: MountBind, Source: in("fixed"), Target: "/fixed/below", ReadOnly: true},
				{Type: MountBind, Source: in("file"), Target: "/etc/single"},
				{Type: MountBind, Source: in("dir"), Target: "/dev/mine"},
				{Type: MountTmpfs, Target: "/tmp"},
			}})
			theirs, err := other.Lookup(t.Context(), c.ID())
			if err != nil {
				t.Fatal(err)
			}
			look := func(when string, c *Container) {
				t.Helper()
				all := copiedFrom(t, c, "/")
				for name, want := range map[string]string{
					"./bound/there": "bound", "./bound/inner/there": "inner", "./fixed/below/sub/there": "fixed", "./etc/single": "single", "./dev/mine/there": "bound",
				} {
					if all[name] != want {
						t.Errorf("%s: %s is %q", when, name, all[name])
					}
				}
				if _, ok := all["./bound/inner/hidden"]; ok {
					t.Errorf("%s: the outer mount hides the inner", when)
				}
				if info, err := c.StatPath(t.Context(), "/etc/single"); err != nil || info.Size != 6 {
					t.Errorf("%s: %+v, %v", when, info, err)
				}
				copyTo(t, c, "/bound", file("back", when))
				copyTo(t, c, "/tmp", file("below", when)) // where a run does not see it
				if data, err := os.ReadFile(in("dir/back")); string(data) != when {
					t.Errorf("%s: the host has %q, %v", when, data, err)
				}
				for _, dir := range []string{"/fixed/below", "/fixed/below/sub"} {
					if err := c.CopyTo(t.Context(), dir, bytes.NewReader(tarBytes(t, file("x", ""))), CopyToOptions{}); !errors.Is(err, ErrPermissionDenied) {
						t.Errorf("%s: to what is read-only: %v", when, err)
					}
				}
				copyTo(t, c, "/fixed", file("beside", when))
			}
			look("created, another's", theirs)
			look("created", c)
			for _, when := range []string{"created", "exited"} {
				out.Reset()
				if err := c.Start(t.Context()); err != nil {
					t.Fatal(err)
				}
				exits(t, c, Status{Known: true})
				if out.String() != when {
					t.Errorf("it reads %q", &out)
				}
				look("exited, another's", theirs)
				look("exited", c)
			}
			if got := copiedFrom(t, c, "/tmp/below"); got["below"] != "exited" {
				t.Errorf("below the tmpfs: %q", got)
			}

			// A link on the way to a mount leads nowhere but inside.
			bare := create(t, e, img, Config{Args: []string{"exit", "0"}, Security: security})
			copyTo(t, bare, "/", link, file("data/behind/x", ""))
			bare.own.config.Mounts = []Mount{{Type: MountBind, Source: in("dir"), Target: "/data/link/deeper"}}
			if got := copiedFrom(t, bare, "/data/behind/deeper/there"); got["there"] != "bound" {
				t.Errorf("through a link: %q", got)
			}
		})
	}

	gone := create(t, e, img, Config{Args: []string{"exit", "0"}, Mounts: []Mount{{Type: MountBind, Source: in("gone"), Target: "/gone"}}})
	if _, err := gone.StatPath(t.Context(), "/prog"); !errors.Is(err, ErrInvalidArgument) || !strings.Contains(err.Error(), in("gone")) {
		t.Errorf("source is not there: %v", err)
	}
	fixed := create(t, e, img, Config{Args: []string{"exit", "0"}, Security: Security{ReadOnlyRoot: true}, Mounts: []Mount{{Type: MountBind, Source: in("dir"), Target: "/made/bound"}}})
	if err := fixed.CopyTo(t.Context(), "/data", bytes.NewReader(tarBytes(t, file("x", ""))), CopyToOptions{}); !errors.Is(err, ErrPermissionDenied) {
		t.Errorf("read-only root: %v", err)
	}
	copyTo(t, fixed, "/made/bound", file("x", ""))
	if got := copiedFrom(t, fixed, "/made/bound/there"); got["there"] != "bound" {
		t.Errorf("in a read-only root: %q", got)
	}
	// Nothing of all that has come to the host's mounts.
	if table, err := os.ReadFile("/proc/self/mountinfo"); err != nil || bytes.Contains(table, []byte(host)) {
		t.Errorf("%v, %s", err, table)
	}
}
