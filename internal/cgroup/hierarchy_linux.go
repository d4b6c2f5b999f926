package cgroup

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// baseControllers are those in whose v1 hierarchies every Cgroup has a
// directory. The JVM takes a machine to have no cgroups where one of cpu,
// cpuacct, cpuset and memory is missing from its view.
var baseControllers = []string{"cpu", "cpuacct", "cpuset", "memory", "devices", "blkio", "pids"}

// A hierarchy is one tree of cgroups that is mounted.
type hierarchy struct {
	v2          bool
	controllers []string
	name        string // directory in a container's view
	base        bool   // every Cgroup has a directory in it
	root        int    // the directory it is mounted on, O_PATH
}

func (h *hierarchy) has(controller string) bool { return slices.Contains(h.controllers, controller) }

// layout opens the hierarchies that the mounts show, and of each the best
// mount that can still be reached. open returns a descriptor of a mount's
// directory, or an error where the mount is hidden by another.
func layout(mounts []mount, open func(mount) (int, error)) []*hierarchy {
	var list []*hierarchy
	for _, group := range byHierarchy(mounts) {
		for _, m := range group {
			fd, err := open(m)
			if err != nil {
				continue
			}
			list = append(list, &hierarchy{
				v2: m.v2, controllers: m.controllers, name: path.Base(m.point), root: fd,
			})
			break
		}
	}
	hasV2 := slices.ContainsFunc(list, func(h *hierarchy) bool { return h.v2 })
	for i, h := range list {
		h.base = h.v2 || slices.ContainsFunc(h.controllers, func(c string) bool {
			return slices.Contains(baseControllers, c) || c == "freezer" && !hasV2
		})
		taken := func(o *hierarchy) bool { return o.name == h.name }
		if h.name == "/" || slices.ContainsFunc(list[:i], taken) {
			h.name = strings.Join(h.controllers, ",")
		}
	}
	return list
}

// openMount opens the directory of a mount and checks that the mount is what
// stands there: another one may hide it.
func openMount(m mount) (int, error) {
	fd, err := unix.Open(m.point, dirFlags, 0)
	if err != nil {
		return -1, err
	}
	var fs unix.Statfs_t
	var st unix.Stat_t
	if err = unix.Fstatfs(fd, &fs); err == nil {
		err = unix.Fstat(fd, &st)
	}
	want := int64(unix.CGROUP_SUPER_MAGIC)
	if m.v2 {
		want = unix.CGROUP2_SUPER_MAGIC
	}
	if err == nil && (int64(fs.Type) != want || st.Dev != m.dev) {
		err = fmt.Errorf("%s: hidden by another mount", m.point)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// descend opens the directory at components below h's root. With make it makes
// what is missing, and calls enter for each directory on the way, the root
// included, with the directory above it (-1 for the root) and whether it was
// made now. It returns -1 and no error where make is unset and a component is
// missing.
func (h *hierarchy) descend(components []string, make bool, enter func(above, dir int, path string, fresh bool)) (int, error) {
	// Another process's sweep may remove a parent between the steps.
	for range 16 {
		fd, err := h.descendOnce(components, make, enter)
		if err == nil {
			return fd, nil
		}
		if !gone(err) {
			return -1, err
		}
		if !make {
			return -1, nil
		}
	}
	return -1, fmt.Errorf("%s: removed again and again", strings.Join(components, "/"))
}

func (h *hierarchy) descendOnce(components []string, make bool, enter func(above, dir int, path string, fresh bool)) (int, error) {
	cur, err := openAt(h.root, ".", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return -1, err
	}
	if make {
		enter(-1, cur, "", false)
	}
	for i, name := range components {
		fresh := false
		if make {
			err = unix.Mkdirat(cur, name, 0o755)
			fresh = err == nil
		}
		next := -1
		if !make || err == nil || err == unix.EEXIST {
			next, err = openAt(cur, name, unix.O_PATH|unix.O_DIRECTORY)
		}
		if err == nil && make {
			enter(cur, next, strings.Join(components[:i+1], "/"), fresh)
		}
		unix.Close(cur)
		if err != nil {
			return -1, err
		}
		cur = next
	}
	return cur, nil
}
