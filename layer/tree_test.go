package layer

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func file(name string) member          { return member{name: name, data: name} }
func dir(name string) member           { return member{name: name, kind: kindDir, mode: 0o750, uid: 5} }
func symlink(name, link string) member { return member{name: name, kind: kindSymlink, link: link} }
func hardlink(name, to string) member  { return member{name: name, kind: kindHardlink, link: to} }

const (
	rootLine = " 40755"
	// what a directory gets that holds whiteouts, and an opaque one
	holdsLine  = ` trusted.overlay.origin=""`
	opaqueLine = ` trusted.overlay.opaque="y"`
)

func TestTree(t *testing.T) {
	for _, c := range []struct {
		what    string
		members []member
		want    []string
	}{
		{"nothing", nil, []string{rootLine}},
		{"the root itself", []member{dir("./")}, []string{" 40750 5:0"}},
		{"names nobody made", []member{file("a/b/c")}, []string{rootLine, "/a 40755", "/a/b 40755", "/a/b/c 100644"}},
		{"a directory updated", []member{dir("a/"), file("a/f"), {name: "a", kind: kindDir, mode: 0o700}},
			[]string{rootLine, "/a 40700", "/a/f 100644"}},
		{"a parent named after its names", []member{file("a/f"), dir("a")}, []string{rootLine, "/a 40750 5:0", "/a/f 100644"}},
		{"the last one wins", []member{file("a"), symlink("a", "b"), {name: "a", mode: 0o600}}, []string{rootLine, "/a 100600"}},
		{"a file for a directory", []member{file("a/b/c"), file("a")}, []string{rootLine, "/a 100644"}},
		{"a directory for a file", []member{file("a"), dir("a")}, []string{rootLine, "/a 40750 5:0"}},
		{"a directory for a symlink", []member{dir("d"), symlink("a", "d"), dir("a"), file("a/f")},
			[]string{rootLine, "/a 40750 5:0", "/a/f 100644", "/d 40750 5:0"}},
		{"hard links", []member{file("a"), hardlink("b", "a"), hardlink("c/d", "./b")},
			[]string{rootLine, "/a 100644 inode 1", "/b 100644 inode 1", "/c 40755", "/c/d 100644 inode 1"}},
		{"absolute hard link", []member{file("a"), hardlink("b", "/a")}, []string{rootLine, "/a 100644 inode 1", "/b 100644 inode 1"}},
		{"hard link to a symlink", []member{symlink("a", "/etc/passwd"), hardlink("b", "a")},
			[]string{rootLine, "/a 120777 -> /etc/passwd inode 1", "/b 120777 -> /etc/passwd inode 1"}},
		{"hard link whose first name goes", []member{file("a"), hardlink("b", "a"), dir("a")},
			[]string{rootLine, "/a 40750 5:0", "/b 100644"}},
		{"hard link to itself", []member{file("a"), hardlink("a", "a")}, []string{rootLine, "/a 100644"}},
		{"through a symlink", []member{dir("usr/bin"), symlink("bin", "usr/bin"), file("bin/sh")},
			[]string{rootLine, "/bin 120777 -> usr/bin", "/usr 40755", "/usr/bin 40750 5:0", "/usr/bin/sh 100644"}},
		{"through a symlink to nothing", []member{symlink("bin", "usr/bin"), file("bin/sh")},
			[]string{rootLine, "/bin 120777 -> usr/bin", "/usr 40755", "/usr/bin 40755", "/usr/bin/sh 100644"}},
		{"a symlink replaced between members", []member{dir("x"), dir("y"), symlink("l", "x"), file("l/1"), symlink("l", "y"), file("l/2")},
			[]string{rootLine, "/l 120777 -> y", "/x 40750 5:0", "/x/1 100644", "/y 40750 5:0", "/y/2 100644"}},
		{"a directory replaced between members", []member{file("d/1"), file("d"), dir("d"), file("d/2")},
			[]string{rootLine, "/d 40750 5:0", "/d/2 100644"}},
		{"set-uid and sticky", []member{{name: "su", mode: 0o104755}, {name: "tmp", kind: kindDir, mode: 0o41777}},
			[]string{rootLine, "/su 104755", "/tmp 41777"}},
		{"names among the dots", []member{file("-"), file("!"), file("0"), file("..."), file(".a")},
			[]string{rootLine, "/! 100644", "/- 100644", "/... 100644", "/.a 100644", "/0 100644"}},
	} {
		check(t, c.what, c.members, c.want)
	}
}

func check(t *testing.T, what string, members []member, want []string) {
	t.Helper()
	tree, err := readTree(tarOf(members...))
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	if got := list(tree); !slices.Equal(got, want) {
		t.Errorf("%s:\n got %s\nwant %s", what, strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
}

func TestWhiteouts(t *testing.T) {
	for _, c := range []struct {
		what    string
		members []member
		want    []string
	}{
		{"a name", []member{file("d/.wh.x")}, []string{rootLine, "/d 40755" + holdsLine, "/d/x 20000"}},
		{"of what the layer has, before or after", []member{file(".wh.a"), file("a"), file("b"), file(".wh.b")},
			[]string{rootLine, "/a 100644", "/b 100644"}},
		{"of a directory that the layer has", []member{file(".wh.d"), file("d/f")}, []string{rootLine, "/d 40755" + opaqueLine, "/d/f 100644"}},
		{"opaque", []member{file("d/f"), file("d/.wh..wh..opq"), dir("d")}, []string{rootLine, "/d 40750 5:0" + opaqueLine, "/d/f 100644"}},
		{"opaque root", []member{file(".wh..wh..opq")}, []string{rootLine + opaqueLine}},
		{"twice", []member{file(".wh.a"), file(".wh.a")}, []string{rootLine + holdsLine, "/a 20000"}},
		{"opaque directory that goes", []member{file("d/.wh..wh..opq"), file("d")}, []string{rootLine, "/d 100644"}},
		{"AUFS's own files", []member{dir(".wh..wh.plnk"), file(".wh..wh.plnk/1.2"), hardlink("a", ".wh..wh.plnk/1.2"), file(".wh..wh.aufs")},
			[]string{rootLine, "/a 100644"}},
		{"a device 0:0 acts as one", []member{{name: "d/gone", kind: kindChar}}, []string{rootLine, "/d 40755" + holdsLine, "/d/gone 20644"}},
		{"a block device 0:0 does not", []member{{name: "gone", kind: kindBlock}}, []string{rootLine, "/gone 60644"}},
	} {
		check(t, c.what, c.members, c.want)
	}
}

func TestOverlayXattrsAreDropped(t *testing.T) {
	check(t, "overlay", []member{
		{name: "d", kind: kindDir, mode: 0o755, pax: []string{
			"SCHILY.xattr.trusted.overlay.redirect=/etc", "SCHILY.xattr.trusted.overlay.opaque=y", "SCHILY.xattr.user.overlay.metacopy=",
			"SCHILY.xattr.trusted.overlay.overlay.opaque=y", "LIBARCHIVE.xattr.trusted.overlay.origin=eA", "SCHILY.xattr.trusted.overlayed=1"}},
	}, []string{rootLine, `/d 40755 trusted.overlayed="1"`})
}

func TestXattrs(t *testing.T) {
	caps := string(binary.LittleEndian.AppendUint32(nil, 0x02000001)) + strings.Repeat("\x00", 16)
	acl := encodeACL([]aclEntry{{aclUserObj, 6, 0}, {aclUser, 7, 1000}, {aclGroupObj, 4, 0}, {aclMask, 5, 0}, {aclOther, 1, 0}})
	few := encodeACL([]aclEntry{{aclUserObj, 7, 0}, {aclGroupObj, 5, 0}, {aclOther, 1, 0}})
	text := func(s string) []string { return []string{"SCHILY.acl.access=" + s} }
	for _, c := range []struct {
		what string
		m    member
		want string
	}{
		{"plain", member{pax: []string{"SCHILY.xattr.user.b=2", "SCHILY.xattr.user.a=1", "SCHILY.xattr.trusted.c="}},
			`/x 100644 trusted.c="" user.a="1" user.b="2"`},
		{"both forms", member{pax: []string{"SCHILY.xattr.user.a=1", "LIBARCHIVE.xattr.user.a=Mg", "LIBARCHIVE.xattr.user.%62=Mw=="}},
			`/x 100644 user.a="1" user.b="3"`},
		{"an escaped name", member{pax: []string{"SCHILY.xattr.user.a%3Db%25=1"}}, `/x 100644 user.a=b%="1"`},
		{"other namespaces", member{pax: []string{"SCHILY.xattr.com.apple.x=1", "SCHILY.xattr.system.nfs4_acl=1", "SCHILY.xattr.user.=1"}}, `/x 100644`},
		{"of a symlink", member{kind: kindSymlink, link: "y", pax: []string{"SCHILY.xattr.user.a=1", "SCHILY.xattr.trusted.a=1"}},
			`/x 120777 -> y trusted.a="1"`},
		{"capability", member{pax: []string{"SCHILY.xattr.security.capability=" + caps}}, `/x 100644 security.capability=` + quote(caps)},
		{"ACL gives the mode", member{pax: []string{"SCHILY.xattr.system.posix_acl_access=" + acl}}, `/x 100651 system.posix_acl_access=` + quote(acl)},
		{"ACL that is a mode", member{pax: []string{"SCHILY.xattr.system.posix_acl_access=" + few}}, `/x 100751`},
		{"ACL of no entries", member{pax: []string{"SCHILY.xattr.system.posix_acl_access=" + encodeACL(nil)}}, `/x 100644`},
		{"default ACL of a file", member{pax: []string{"SCHILY.xattr.system.posix_acl_default=" + few}}, `/x 100644`},
		{"ACL as text", member{pax: text("user::rwx,group::r-x,other::--x")}, `/x 100751`},
		{"ACL with numbers at the end", member{pax: text("user::rw-\nuser:joe:rwx:1000\ngroup::r--\nmask::r-x\nother::--x\n")},
			`/x 100651 system.posix_acl_access=` + quote((encodeACL([]aclEntry{
				{aclUserObj, 6, maxID + 1}, {aclUser, 7, 1000}, {aclGroupObj, 4, maxID + 1}, {aclMask, 5, maxID + 1}, {aclOther, 1, maxID + 1}})))},
		{"ACL with a name", member{pax: text("user::rw-,user:joe:rwx,group::r--,mask::r-x,other::--x")}, `/x 100644`},
		{"ACL of nonsense", member{pax: text("user::rw-,,:,group::rwz")}, `/x 100644`},
	} {
		c.m.name = "x"
		check(t, c.what, []member{c.m}, []string{rootLine, c.want})
	}
	bad := encodeACL([]aclEntry{{aclUserObj, 7, 0}, {aclOther, 1, 0}, {aclGroupObj, 5, 0}})
	for _, record := range []string{
		"SCHILY.xattr.security.capability=x", "SCHILY.xattr.system.posix_acl_access=x", "SCHILY.xattr.system.posix_acl_access=" + bad,
		"SCHILY.xattr.user." + strings.Repeat("n", 256) + "=1", "SCHILY.xattr.user.a=" + strings.Repeat("v", 1<<16),
		"SCHILY.xattr.user.\x00=1", "LIBARCHIVE.xattr.user.a=*", "LIBARCHIVE.xattr.%zz=",
	} {
		_, err := readTree(tarOf(member{name: "x", pax: []string{record}}))
		if !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), `"x"`) && !strings.Contains(err.Error(), "LIBARCHIVE") {
			t.Errorf("%.60q: %v", record, err)
		}
	}
}

// TestCVE_2021_29136 has the hostile names of umoci's CVE-2021-29136,
// containerd's CVE-2021-32760 and CVE-2026-17106, and podman's CVE-2025-11395.
// Nothing but the tree in memory resolves them, and none leads out of that.
func TestCVE_2021_29136(t *testing.T) {
	for _, c := range []struct {
		what    string
		members []member
		want    []string // nil: refused, with the name of the last member in the error
	}{
		{"..", []member{file("../../etc/passwd")}, []string{rootLine, "/etc 40755", "/etc/passwd 100644"}},
		{".. in the middle", []member{file("a/../../b")}, []string{rootLine, "/b 100644"}},
		{"absolute", []member{file("//etc/./passwd")}, []string{rootLine, "/etc 40755", "/etc/passwd 100644"}},
		{"symlink out", []member{symlink("out", "../../.."), file("out/f")}, []string{rootLine, "/f 100644", "/out 120777 -> ../../.."}},
		{"absolute symlink", []member{symlink("out", "/tmp"), file("out/f")},
			[]string{rootLine, "/out 120777 -> /tmp", "/tmp 40755", "/tmp/f 100644"}},
		{"links to links", []member{symlink("a", "/b"), symlink("b", "../c"), symlink("c", "d/../d"), file("a/f")},
			[]string{rootLine, "/a 120777 -> /b", "/b 120777 -> ../c", "/c 120777 -> d/../d", "/d 40755", "/d/f 100644"}},
		{"the root as a symlink", []member{symlink(".", "/tmp")}, nil},
		{"the root as a file", []member{file("a/..")}, nil},
		{"the root chmod'ed through ..", []member{dir("x/../..")}, []string{" 40750 5:0"}},
		{"directory over a symlink out", []member{symlink("d", "/etc"), dir("d/"), file("d/f")},
			[]string{rootLine, "/d 40750 5:0", "/d/f 100644"}},
		{"loop", []member{symlink("a", "b"), symlink("b", "a"), file("a/f")}, nil},
		{"loop with itself", []member{symlink("a", "a/a"), file("a/f")}, nil},
		{"bomb of links", []member{symlink("a", strings.Repeat("a/../", 800)), file("a/f")}, nil},
		{"through a file", []member{file("a"), file("a/b")}, nil},
		{"hard link out", []member{hardlink("a", "../../etc/shadow")}, nil},
		{"hard link to what comes later", []member{hardlink("a", "b"), file("b")}, nil},
		{"hard link to a directory", []member{dir("d"), hardlink("a", "d")}, nil},
		{"hard link to the root", []member{hardlink("a", "/")}, nil},
		{"hard link through a symlink", []member{dir("d"), file("d/f"), symlink("l", "/d"), hardlink("a", "l/f")},
			[]string{rootLine, "/a 100644 inode 1", "/d 40750 5:0", "/d/f 100644 inode 1", "/l 120777 -> /d"}},
		{"write through a hard link to a symlink", []member{symlink("s", "/etc"), hardlink("h", "s"), file("h/f")},
			[]string{rootLine, "/etc 40755", "/etc/f 100644", "/h 120777 -> /etc inode 2", "/s 120777 -> /etc inode 2"}},
		{"symlink to nothing", []member{{name: "a", kind: kindSymlink}}, nil},
		{"NUL", []member{{name: "a", pax: []string{"path=a\x00b"}}}, nil},
		{"NUL in a symlink", []member{{name: "a", kind: kindSymlink, pax: []string{"linkpath=a\x00b"}}}, nil},
		{"long name", []member{{name: "a/" + strings.Repeat("n", 256), long: true}}, nil},
		{"long name of a parent", []member{{name: strings.Repeat("n", 256) + "/a", long: true}}, nil},
		{"long path", []member{{name: strings.Repeat("n/", 2049), long: true}}, nil},
		{"long symlink", []member{{name: "a", kind: kindSymlink, link: strings.Repeat("n", 4096), long: true}}, nil},
		{"name of 255", []member{{name: strings.Repeat("n", 255), long: true}}, []string{rootLine, "/" + strings.Repeat("n", 255) + " 100644"}},
		{"whiteout of .", []member{file("d/.wh..")}, nil},
		{"whiteout of ..", []member{file("d/.wh...")}, nil},
		{"whiteout of nothing", []member{file("d/.wh.")}, nil},
		{"whiteout through a symlink", []member{symlink("l", "../../d"), file("l/.wh.x")},
			[]string{rootLine, "/d 40755" + holdsLine, "/d/x 20000", "/l 120777 -> ../../d"}},
		{"device number", []member{{name: "a", kind: kindChar, major: 1 << 12}}, nil},
	} {
		if c.want != nil {
			check(t, c.what, c.members, c.want)
			continue
		}
		tree, err := readTree(tarOf(c.members...))
		if !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: %v, %v", c.what, tree, err)
			continue
		}
		name := c.members[len(c.members)-1].name
		if c.what == "hard link to what comes later" {
			name = "a"
		}
		if c.what != "NUL" && !strings.Contains(err.Error(), quote(name)) {
			t.Errorf("%s: %v does not name the member", c.what, err)
		}
	}
}

// TestTreeMemory: what the tree may take is bounded, also by what no member
// is made for.
func TestTreeMemory(t *testing.T) {
	tree := newTree()
	tree.cost = maxTreeCost - 100*inodeCost
	var err error
	made := 0
	for err == nil && made < 1000 {
		_, err = tree.add(&entry{name: strings.Repeat("d/", made) + "f", kind: kindFile})
		made++
	}
	if !errors.Is(err, errdefs.ErrResourceExhausted) {
		t.Errorf("after %d members: %v", made, err)
	}
	tree = newTree()
	tree.cost = maxTreeCost - 100*inodeCost
	for made = 0; made < 1000; made++ {
		if _, err = tree.add(&entry{name: ".wh.x", kind: kindFile}); err != nil {
			break
		}
	}
	if !errors.Is(err, errdefs.ErrResourceExhausted) {
		t.Errorf("after %d whiteouts: %v", made, err)
	}
}
