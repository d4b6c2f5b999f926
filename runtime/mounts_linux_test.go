package runtime

import (
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestSplitOptions(t *testing.T) {
	for _, c := range []struct {
		options string
		attrs   uint64
		data    []string
	}{
		{"", 0, nil},
		{"nosuid,noexec,nodev,ro", unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_RDONLY, nil},
		{"ro,rw", 0, nil},
		{"rw,ro", unix.MOUNT_ATTR_RDONLY, nil},
		{"nosuid,strictatime,mode=755,size=65536k", unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_STRICTATIME, []string{"mode", "755", "size", "65536k"}},
		{"newinstance,ptmxmode=0666,gid=5,relatime,defaults", 0, []string{"ptmxmode", "0666", "gid", "5"}},
		{"noatime,nosymfollow,nodiratime", unix.MOUNT_ATTR_NOATIME | unix.MOUNT_ATTR_NOSYMFOLLOW | unix.MOUNT_ATTR_NODIRATIME, nil},
		{"key=a=b,flag", 0, []string{"key", "a=b", "flag", ""}},
	} {
		var options []string
		if c.options != "" {
			options = strings.Split(c.options, ",")
		}
		if attrs, data := splitOptions(options); attrs != c.attrs || !slices.Equal(data, c.data) {
			t.Errorf("%s: %#x, %q, want %#x, %q", c.options, attrs, data, c.attrs, c.data)
		}
	}
}

func TestBelow(t *testing.T) {
	b := testBuilder()
	b.made = []madeMount{{"/proc", 1}, {"/dev", 2}, {"/dev/shm", 3}}
	for p, want := range map[string]uintptr{"/proc/x": 1, "/dev/pts/1": 2, "/dev/shm/a/b": 3, "/dev": 0, "/device/x": 0, "/dev/shmx": 2, "/": 0} {
		slot, rel, ok := b.below(p)
		if slot != want || ok != (want != 0) || ok && !strings.HasSuffix(p, "/"+rel) {
			t.Errorf("%s: %d, %q, %v", p, slot, rel, ok)
		}
	}
}

func TestNamespacedSysctl(t *testing.T) {
	all := uintptr(unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS)
	for name, needs := range map[string]uintptr{
		"net.ipv4.ip_forward": unix.CLONE_NEWNET, "fs.mqueue.msg_max": unix.CLONE_NEWIPC, "kernel.shmmax": unix.CLONE_NEWIPC,
		"kernel.sem": unix.CLONE_NEWIPC, "kernel.domainname": unix.CLONE_NEWUTS,
	} {
		if !namespacedSysctl(name, all) || !namespacedSysctl(name, needs) || namespacedSysctl(name, all&^needs) {
			t.Error(name)
		}
	}
	for _, name := range []string{"kernel.core_pattern", "kernel.hostname", "vm.overcommit_memory", "kernel/shmmax", "net/ipv4", "fs.file-max", "network.x", "", "net"} {
		if namespacedSysctl(name, all) {
			t.Error(name)
		}
	}
}

// A spare mount serves only who wants the same.
func TestMountRecipeKey(t *testing.T) {
	base := mountRecipe{destination: "/dev", fstype: "tmpfs", attrs: 2, data: []string{"mode", "755"}, dirs: []string{"pts", "shm"}, devices: []specs.LinuxDevice{{Path: "/dev/x", Type: "c", Major: 1}}}
	keys := map[string]bool{base.key(): true}
	for _, change := range []func(*mountRecipe){
		func(r *mountRecipe) { r.destination = "/tmp" }, func(r *mountRecipe) { r.fstype = "devpts" }, func(r *mountRecipe) { r.attrs = 3 },
		func(r *mountRecipe) { r.data = []string{"mode 755"} }, func(r *mountRecipe) { r.data = []string{"mode", "755", "x", ""} },
		func(r *mountRecipe) { r.dirs = []string{"pts"} }, func(r *mountRecipe) { r.dirs = []string{"pts shm"} },
		func(r *mountRecipe) { r.devices = nil }, func(r *mountRecipe) { r.devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "c", Major: 2}} },
		func(r *mountRecipe) {
			r.devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "c", Major: 1, UID: ptr(uint32(0))}}
		},
		func(r *mountRecipe) {
			r.devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "c", Major: 1, GID: ptr(uint32(0))}}
		},
	} {
		r := base
		change(&r)
		if keys[r.key()] {
			t.Errorf("%+v has a key that is taken", r)
		}
		keys[r.key()] = true
	}
}
