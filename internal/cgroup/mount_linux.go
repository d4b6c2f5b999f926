package cgroup

import (
	"cmp"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A mount is one line of mountinfo that shows a cgroup hierarchy.
type mount struct {
	root        string // directory of the hierarchy that is mounted
	point       string
	dev         uint64 // device number, the same for all mounts of one hierarchy
	v2          bool
	controllers []string // v1 only; none for a named hierarchy
}

// v1Flags are the words among a v1 mount's super options that name no
// controller (kernel/cgroup/cgroup-v1.c, cgroup1_show_options).
var v1Flags = []string{
	"rw", "ro", "none", "all", "noprefix", "xattr", "clone_children",
	"cpuset_v2_mode", "favordynmods",
}

// parseMountinfo picks the cgroup mounts out of the text of
// /proc/self/mountinfo (proc_pid_mountinfo(5)). Lines that it cannot read are
// left out: a strange line of another filesystem is no reason to fail.
func parseMountinfo(text string) []mount {
	var mounts []mount
	for line := range strings.Lines(text) {
		// Skips the fields of the many lines that are of no interest.
		before, after, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - cgroup")
		if !ok {
			continue
		}
		fields, tail := strings.Fields(before), strings.Fields("cgroup"+after)
		if len(fields) < 6 || len(tail) < 3 {
			continue
		}
		m := mount{root: unescape(fields[3]), point: unescape(fields[4])}
		major, minor, ok := strings.Cut(fields[2], ":")
		a, err1 := strconv.ParseUint(major, 10, 32)
		b, err2 := strconv.ParseUint(minor, 10, 32)
		if !ok || err1 != nil || err2 != nil || !path.IsAbs(m.point) {
			continue
		}
		m.dev = unix.Mkdev(uint32(a), uint32(b))
		switch tail[0] {
		case "cgroup2":
			m.v2 = true
		case "cgroup":
			options := strings.Split(tail[2], ",")
			if slices.Contains(options, "noprefix") {
				continue // its files have other names; only old Android has it
			}
			for _, o := range options {
				if o != "" && !strings.Contains(o, "=") && !slices.Contains(v1Flags, o) {
					m.controllers = append(m.controllers, o)
				}
			}
		default:
			continue
		}
		mounts = append(mounts, m)
	}
	return mounts
}

// byHierarchy sorts mounts so that those of one hierarchy stand together, the
// best to use first: the one that shows most of the hierarchy, then the one
// with the shortest path. Hierarchies keep the order of mountinfo.
func byHierarchy(mounts []mount) [][]mount {
	var groups [][]mount
	for _, m := range mounts {
		i := slices.IndexFunc(groups, func(g []mount) bool { return g[0].dev == m.dev })
		if i < 0 {
			groups = append(groups, []mount{m})
		} else {
			groups[i] = append(groups[i], m)
		}
	}
	for _, g := range groups {
		slices.SortStableFunc(g, func(a, b mount) int {
			return cmp.Or(cmp.Compare(depth(a.root), depth(b.root)), cmp.Compare(len(a.point), len(b.point)))
		})
	}
	return groups
}

// depth counts the components of a mount's root. A root above the caller's
// cgroup namespace is shown as "/..", so that each .. counts as one less.
func depth(root string) int {
	n := 0
	for c := range strings.SplitSeq(root, "/") {
		switch c {
		case "":
		case "..":
			n--
		default:
			n++
		}
	}
	return n
}

// unescape undoes the octal escapes of mountinfo (\040 for a space).
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
