package enginetest

import (
	"runtime"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/inboard/engine/internal/tools"
)

// Tools gives a static program for Linux on this machine's architecture that is
// a shell and the usual tools: it does what the name says by which it is called,
// or its first argument. There are
//
//	[ base64 basename cat chgrp chmod chown chroot cp cut date dd df dirname echo
//	env false find grep gunzip gzip head hostname id kill ln ls md5sum mkdir mkfifo
//	mknod mktemp mount mv nproc printenv printf ps pwd readlink realpath rev rm
//	rmdir seq setsid sh sha256sum sleep sort stat sync tail tar tee test timeout
//	touch tr true truncate tty umount uname uniq wc which whoami xargs yes zcat
//
// with the options that scripts of tests use. sh is mvdan.cc/sh's interpreter:
// pipes, loops, functions, traps, background jobs and wait are there; "$!" is no
// pid, exec waits for the program instead of becoming it, and only descriptors 0
// to 2 can be redirected.
//
// The go command builds it, once in a process, from the module cache, or with a
// network from where the go command gets modules. Between processes it is kept
// in the user's cache directory, and built again when the go command finds it
// out of date. Where it cannot be built, because there is no go command or a
// module cannot be had, the test is skipped, and says what is missing; a file
// that INBOARD_TOOLS names is taken instead. The bytes are shared.
func Tools(t testing.TB) []byte {
	t.Helper()
	program, err := tools.Build(runtime.GOARCH)
	if errdefs.IsUnavailable(err) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// ToolsLayer has the program of [Tools] as /bin/tools, a symbolic link to it for
// each name, users root and app (1000) and a group extra (2000) that app is in,
// and /tmp.
func ToolsLayer(t testing.TB) Layer {
	t.Helper()
	entries := []Entry{
		Dir("bin"), Program("bin/tools", Tools(t)),
		Dir("etc"),
		File("etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n"),
		File("etc/group", "root:x:0:\napp:x:1000:\nextra:x:2000:app\n"),
		Dir("root").WithMode(0o700), Dir("home"), Dir("home/app").WithOwner(1000, 1000), Dir("tmp").WithMode(0o1777),
	}
	for _, name := range tools.Names {
		entries = append(entries, Symlink("bin/"+name, "tools"))
	}
	return NewLayer(entries...)
}

// Shell is an image of [ToolsLayer], and of more layers above it, that runs sh.
// Its layers are not compressed: they lie in memory, and come from there.
func Shell(t testing.TB, more ...Layer) Image {
	t.Helper()
	lowest := ToolsLayer(t)
	lowest.Compression = Uncompressed
	return Image{
		Layers: append([]Layer{lowest}, more...),
		Config: ocispec.ImageConfig{Env: []string{"PATH=/bin"}, Cmd: []string{"sh"}},
	}
}
