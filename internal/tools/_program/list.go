package main

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

var _ = add(map[string]func(*call) error{"ls": ls, "stat": stat, "df": df})

// unixStat is what os.FileInfo.Sys gives.
type unixStat = syscall.Stat_t

// listed is one line of ls.
type listed struct {
	name, path string
	info       fs.FileInfo
}

func ls(c *call) error {
	o, args, err := c.options("alA1dniRtrShLF")
	if err != nil {
		return err
	}
	if len(args) == 0 {
		args = []string{"."}
	}
	stat := os.Lstat
	if o.has("L") {
		stat = os.Stat
	}
	var files []listed
	var dirs []string
	for _, name := range args {
		info, err := stat(name)
		if err == nil && !o.has("ld") && info.Mode()&fs.ModeSymlink != 0 {
			if to, err := os.Stat(name); err == nil && to.IsDir() {
				info = to
			}
		}
		switch {
		case err != nil:
			c.failed(err)
			c.err = status(2)
		case info.IsDir() && !o.has("d"):
			dirs = append(dirs, name)
		default:
			files = append(files, listed{name, name, info})
		}
	}
	c.list(o, files)
	for i := 0; i < len(dirs); i++ {
		if len(args) > 1 || o.has("R") {
			if i > 0 || len(files) > 0 {
				fmt.Fprintln(c.out)
			}
			fmt.Fprintf(c.out, "%s:\n", dirs[i])
		}
		entries, err := os.ReadDir(dirs[i])
		c.failed(err)
		var here []listed
		var below []string
		if o.has("a") {
			for _, name := range []string{".", ".."} {
				if info, err := os.Lstat(filepath.Join(dirs[i], name)); err == nil {
					here = append(here, listed{name, filepath.Join(dirs[i], name), info})
				}
			}
		}
		for _, e := range entries {
			path := filepath.Join(dirs[i], e.Name())
			if strings.HasPrefix(e.Name(), ".") && !o.has("aA") {
				continue
			}
			info, err := stat(path)
			if err != nil {
				c.failed(err)
				continue
			}
			here = append(here, listed{e.Name(), path, info})
			if info.IsDir() {
				below = append(below, path)
			}
		}
		c.list(o, here)
		if o.has("R") {
			dirs = slices.Insert(dirs, i+1, below...)
		}
	}
	return nil
}

// list prints files in the order and form that the options say.
func (c *call) list(o options, files []listed) {
	slices.SortStableFunc(files, func(a, b listed) int {
		order := 0
		switch {
		case o.has("t"):
			order = b.info.ModTime().Compare(a.info.ModTime())
		case o.has("S"):
			order = cmp.Compare(b.info.Size(), a.info.Size())
		}
		order = cmp.Or(order, strings.Compare(a.name, b.name))
		if o.has("r") {
			order = -order
		}
		return order
	})
	for _, f := range files {
		st := f.info.Sys().(*unixStat)
		name := f.name
		if o.has("i") {
			name = fmt.Sprint(st.Ino, " ", name)
		}
		if o.has("F") && f.info.IsDir() {
			name += "/"
		}
		if !o.has("ln") {
			fmt.Fprintln(c.out, name)
			continue
		}
		if target, err := os.Readlink(f.path); err == nil && f.info.Mode()&fs.ModeSymlink != 0 {
			name += " -> " + target
		}
		owner, group := nameOf("/etc/passwd", int(st.Uid)), nameOf("/etc/group", int(st.Gid))
		if o.has("n") {
			owner, group = strconv.Itoa(int(st.Uid)), strconv.Itoa(int(st.Gid))
		}
		length := strconv.FormatInt(st.Size, 10)
		if kind := st.Mode & unix.S_IFMT; kind == unix.S_IFCHR || kind == unix.S_IFBLK {
			length = fmt.Sprintf("%d, %d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		fmt.Fprintf(c.out, "%s %4d %-8s %-8s %9s %s %s\n", modeText(st.Mode), st.Nlink, owner, group, length,
			f.info.ModTime().Format("Jan _2 2006 15:04"), name)
	}
}

// modeText is a mode as "drwxr-sr-x".
func modeText(mode uint32) string {
	kinds := map[uint32]byte{unix.S_IFREG: '-', unix.S_IFDIR: 'd', unix.S_IFLNK: 'l', unix.S_IFCHR: 'c', unix.S_IFBLK: 'b', unix.S_IFIFO: 'p', unix.S_IFSOCK: 's'}
	text := []byte{kinds[mode&unix.S_IFMT]}
	for i, letter := range []byte("rwxrwxrwx") {
		if mode>>(8-i)&1 == 0 {
			letter = '-'
		}
		text = append(text, letter)
	}
	for _, special := range []struct {
		bit, at int
		letter  byte
	}{{0o4000, 3, 's'}, {0o2000, 6, 's'}, {0o1000, 9, 't'}} {
		if mode&uint32(special.bit) == 0 {
			continue
		}
		if text[special.at] == '-' {
			special.letter -= 'a' - 'A'
		}
		text[special.at] = special.letter
	}
	return string(text)
}

func stat(c *call) error {
	o, args, err := c.options("c:L")
	if err != nil {
		return err
	}
	format := o.value('c', "%n %F %s bytes, mode %a, owner %u:%g, inode %i, links %h, modified %Y")
	for _, name := range args {
		var st unix.Stat_t
		get := unix.Lstat
		if o.has("L") {
			get = unix.Stat
		}
		if err := get(name, &st); err != nil {
			c.failed(&fs.PathError{Op: "stat", Path: name, Err: err})
			continue
		}
		fmt.Fprintln(c.out, statText(format, name, &st))
	}
	return nil
}

var kindNames = map[uint32]string{
	unix.S_IFREG: "regular file", unix.S_IFDIR: "directory", unix.S_IFLNK: "symbolic link", unix.S_IFCHR: "character special file",
	unix.S_IFBLK: "block special file", unix.S_IFIFO: "fifo", unix.S_IFSOCK: "socket",
}

// statText fills in a format of stat -c.
func statText(format, name string, st *unix.Stat_t) string {
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		switch format[i] {
		case 'a':
			fmt.Fprintf(&b, "%o", st.Mode&0o7777)
		case 'A':
			b.WriteString(modeText(st.Mode))
		case 'b':
			fmt.Fprint(&b, st.Blocks)
		case 'B':
			b.WriteString("512")
		case 'd':
			fmt.Fprint(&b, st.Dev)
		case 'f':
			fmt.Fprintf(&b, "%x", st.Mode)
		case 'F':
			kind := kindNames[st.Mode&unix.S_IFMT]
			if st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size == 0 {
				kind = "regular empty file"
			}
			b.WriteString(kind)
		case 'g':
			fmt.Fprint(&b, st.Gid)
		case 'G':
			b.WriteString(nameOf("/etc/group", int(st.Gid)))
		case 'h':
			fmt.Fprint(&b, st.Nlink)
		case 'i':
			fmt.Fprint(&b, st.Ino)
		case 'n':
			b.WriteString(name)
		case 'N':
			b.WriteString("'" + name + "'")
			if target, err := os.Readlink(name); err == nil {
				b.WriteString(" -> '" + target + "'")
			}
		case 's':
			fmt.Fprint(&b, st.Size)
		case 't':
			fmt.Fprintf(&b, "%x", unix.Major(st.Rdev))
		case 'T':
			fmt.Fprintf(&b, "%x", unix.Minor(st.Rdev))
		case 'u':
			fmt.Fprint(&b, st.Uid)
		case 'U':
			b.WriteString(nameOf("/etc/passwd", int(st.Uid)))
		case 'X':
			fmt.Fprint(&b, st.Atim.Sec)
		case 'Y':
			fmt.Fprint(&b, st.Mtim.Sec)
		case 'y':
			b.WriteString(time.Unix(st.Mtim.Unix()).Format("2006-01-02 15:04:05.000000000 -0700"))
		case 'Z':
			fmt.Fprint(&b, st.Ctim.Sec)
		case '%':
			b.WriteByte('%')
		default:
			b.WriteString("%" + string(format[i]))
		}
	}
	return b.String()
}

// mounted is one line of /proc/self/mounts.
type mounted struct{ source, on, kind, options string }

func mounts() (list []mounted, err error) {
	text, err := os.ReadFile("/proc/self/mounts")
	spaces := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 3 {
			list = append(list, mounted{spaces.Replace(f[0]), spaces.Replace(f[1]), f[2], f[3]})
		}
	}
	return list, err
}

func df(c *call) error {
	o, args, err := c.options("khTPi")
	if err != nil {
		return err
	}
	all, err := mounts()
	if err != nil {
		return err
	}
	chosen := all
	if len(args) > 0 {
		chosen = nil
		for _, name := range args {
			path, err := filepath.Abs(name)
			if err == nil {
				path, err = filepath.EvalSymlinks(path)
			}
			if err != nil {
				c.failed(err)
				continue
			}
			best := -1
			for i, m := range all {
				under := path == m.on || strings.HasPrefix(path, strings.TrimSuffix(m.on, "/")+"/")
				if under && (best < 0 || len(m.on) >= len(all[best].on)) {
					best = i
				}
			}
			if best >= 0 {
				chosen = append(chosen, all[best])
			}
		}
	}
	fmt.Fprintln(c.out, "Filesystem Type 1K-blocks Used Available Use% Mounted on")
	for _, m := range chosen {
		var st unix.Statfs_t
		if err := unix.Statfs(m.on, &st); err != nil || st.Blocks == 0 && len(args) == 0 {
			continue
		}
		unit := uint64(st.Bsize)
		used := st.Blocks - st.Bfree
		percent := uint64(0)
		if used+st.Bavail > 0 {
			percent = (used*100 + used + st.Bavail - 1) / (used + st.Bavail)
		}
		show := func(blocks uint64) string {
			if o.has("h") {
				return fmt.Sprintf("%.1fM", float64(blocks*unit)/(1<<20))
			}
			return strconv.FormatUint(blocks*unit/1024, 10)
		}
		fmt.Fprintln(c.out, m.source, m.kind, show(st.Blocks), show(used), show(st.Bavail), fmt.Sprintf("%d%%", percent), m.on)
	}
	return nil
}
