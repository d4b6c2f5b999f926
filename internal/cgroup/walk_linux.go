package cgroup

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// A visitor says what walk does with each directory.
type visitor struct {
	// skip is asked before a directory is opened, with the one that it stands in.
	skip func(parent int, name string) bool
	// visit is called in each directory, after it has been for those below.
	visit func(dir int) error
	// leave is called after visit, with the directory that it stands in.
	leave func(parent int, name string) error
}

// walk goes through the directory name in parent and all that are below it,
// the deepest first. It holds two descriptors however deep they are nested,
// since a container that may write its cgroups can nest them at will; climbing
// by ".." is safe, for cgroups cannot be moved to another parent. A directory
// that vanishes is left out.
func walk(parent int, name string, v visitor) error {
	type level struct {
		name string
		rest []string // of its children, those still to be seen
	}
	var stack []level
	cur, err := openAt(parent, ".", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer func() { unix.Close(cur) }()
	down := []string{name}
	for {
		if len(stack) > 0 {
			down = stack[len(stack)-1].rest
		}
		if len(down) > 0 {
			name, down = down[0], down[1:]
			if len(stack) > 0 {
				stack[len(stack)-1].rest = down
			}
			if v.skip != nil && v.skip(cur, name) {
				continue
			}
			dir, err := openAt(cur, name, unix.O_RDONLY|unix.O_DIRECTORY)
			if gone(err) {
				continue
			}
			if err != nil {
				return err
			}
			unix.Close(cur)
			cur = dir
			rest, err := subdirs(dir)
			if err != nil && !gone(err) {
				return err
			}
			stack = append(stack, level{name, rest})
			continue
		}
		if len(stack) == 0 {
			return nil
		}
		top := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if v.visit != nil {
			if err := v.visit(cur); err != nil {
				return err
			}
		}
		up, err := openAt(cur, "..", unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		unix.Close(cur)
		cur = up
		if v.leave != nil {
			if err := v.leave(cur, top.name); err != nil {
				return err
			}
		}
	}
}

// subdirs lists the directories in dir, which was opened for reading.
func subdirs(dir int) ([]string, error) {
	var names []string
	var st unix.Stat_t
	// kernfs counts them as links; most have none.
	if err := unix.Fstat(dir, &st); err != nil || st.Nlink == 2 {
		return nil, err
	}
	buf := make([]byte, 8192)
	for {
		n, err := unix.Getdents(dir, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return names, err
		}
		// struct linux_dirent64, getdents64(2): inode and offset of 8 bytes,
		// the record's length of 2, the type of 1, the name.
		for b := buf[:n]; len(b) >= 19; {
			size := int(binary.NativeEndian.Uint16(b[16:]))
			if size < 19 || size > len(b) {
				break
			}
			name, _, _ := bytes.Cut(b[19:size], []byte{0})
			if b[18] == unix.DT_DIR && string(name) != "." && string(name) != ".." {
				names = append(names, string(name))
			}
			b = b[size:]
		}
	}
}
