// Command walker prints one line for each file below a directory, with all
// that an image says about a file.
//
//	walker DIR [SKIP...]
//
// Directories named by SKIP, as they are seen from DIR ("/proc"), are printed
// by nobody, nor is what they hold.
package main

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

type inode struct{ device, number uint64 }

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: walker DIR [SKIP...]")
		os.Exit(2)
	}
	out := bufio.NewWriter(os.Stdout)
	if err := walk(out, filepath.Clean(os.Args[1]), os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "walker:", err)
		os.Exit(1)
	}
	if err := out.Flush(); err != nil {
		fmt.Fprintln(os.Stderr, "walker:", err)
		os.Exit(1)
	}
}

func walk(out io.Writer, root string, skip []string) error {
	first := map[inode]string{}
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := "/" + strings.TrimPrefix(strings.TrimPrefix(path, root), "/")
		if slices.Contains(skip, name) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		line, err := describe(path, name, first)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		_, err = fmt.Fprintln(out, line)
		return err
	})
}

// describe also notes the first name of each inode that has several.
func describe(path, name string, first map[inode]string) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return "", err
	}
	var line strings.Builder
	fmt.Fprintf(&line, "%q mode %o owner %d:%d mtime %d.%09d", name, st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFDIR {
		fmt.Fprintf(&line, " size %d links %d", st.Size, st.Nlink)
	}
	if kind != unix.S_IFDIR && st.Nlink > 1 {
		key := inode{st.Dev, st.Ino}
		if _, ok := first[key]; !ok {
			first[key] = name
		}
		fmt.Fprintf(&line, " first %q", first[key])
	}
	switch kind {
	case unix.S_IFREG:
		sum, err := content(path)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&line, " sha256 %x", sum)
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&line, " target %q", target)
	case unix.S_IFCHR, unix.S_IFBLK:
		fmt.Fprintf(&line, " device %d:%d", unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)))
	}
	attrs, err := xattrs(path)
	if err != nil {
		return "", err
	}
	return line.String() + attrs, nil
}

func content(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, err
	}
	return h.Sum(nil), nil
}

func xattrs(path string) (string, error) {
	list := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Llistxattr(path, list)
	if err != nil {
		return "", fmt.Errorf("list extended attributes: %w", err)
	}
	names := strings.FieldsFunc(string(list[:n]), func(r rune) bool { return r == 0 })
	sort.Strings(names)
	var text strings.Builder
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX
	for _, name := range names {
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return "", fmt.Errorf("extended attribute %s: %w", name, err)
		}
		fmt.Fprintf(&text, " xattr %s=%x", name, value[:n])
	}
	return text.String(), nil
}
