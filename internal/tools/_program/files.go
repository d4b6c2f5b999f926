package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

var _ = add(map[string]func(*call) error{
	"cp": cp, "mv": mv, "rm": rm, "rmdir": rmdir, "mkdir": mkdir, "ln": ln, "chmod": chmod, "chown": chown, "chgrp": chown,
	"touch": touch, "mknod": mknod, "mkfifo": mkfifo, "mktemp": mktemp, "truncate": truncate, "readlink": readlink,
	"realpath": readlink, "basename": basename, "dirname": dirname, "find": find,
})

// target gives where each source of cp, mv and ln goes: the last argument, or
// below it if it is a directory.
func (c *call) target(args []string, do func(from, to string) error) error {
	if len(args) < 2 {
		return c.usage("needs a source and a target")
	}
	last := args[len(args)-1]
	info, err := os.Stat(last)
	below := err == nil && info.IsDir()
	if len(args) > 2 && !below {
		return fmt.Errorf("%s: not a directory", last)
	}
	for _, from := range args[:len(args)-1] {
		to := last
		if below {
			to = filepath.Join(last, filepath.Base(from))
		}
		c.failed(do(from, to))
	}
	return nil
}

func cp(c *call) error {
	o, args, err := c.options("rRapfdPL")
	if err != nil {
		return err
	}
	if o.has("a") {
		o['r'], o['p'], o['P'] = nil, nil, nil
	}
	return c.target(args, func(from, to string) error { return copyTree(o, from, to, true) })
}

// copyTree copies what is at from, and if it is a directory what is below it.
func copyTree(o options, from, to string, top bool) error {
	stat := os.Lstat
	if !o.has("Pd") && (top || o.has("L")) && !(o.has("rR") && !o.has("L") && !top) {
		stat = os.Stat
	}
	info, err := stat(from)
	if err != nil {
		return err
	}
	st := info.Sys().(*unixStat)
	switch mode := info.Mode(); {
	case mode.IsDir():
		if !o.has("rR") {
			return fmt.Errorf("%s: is a directory, and there is no -r", from)
		}
		if err := os.Mkdir(to, 0o700|mode.Perm()); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		entries, err := os.ReadDir(from)
		errs := []error{err}
		for _, e := range entries {
			errs = append(errs, copyTree(o, filepath.Join(from, e.Name()), filepath.Join(to, e.Name()), false))
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
	case mode&fs.ModeSymlink != 0:
		target, err := os.Readlink(from)
		if err == nil {
			if o.has("f") || !top {
				os.Remove(to)
			}
			err = os.Symlink(target, to)
		}
		if err != nil {
			return err
		}
		if o.has("p") {
			return os.Lchown(to, int(st.Uid), int(st.Gid))
		}
		return nil
	case mode.IsRegular() || !o.has("rR"):
		if err := copyContent(o, from, to, mode.Perm()); err != nil {
			return err
		}
	default:
		if err := unix.Mknod(to, st.Mode, int(st.Rdev)); err != nil {
			return &fs.PathError{Op: "mknod", Path: to, Err: err}
		}
	}
	if !o.has("p") {
		return nil
	}
	return errors.Join(
		os.Lchown(to, int(st.Uid), int(st.Gid)),
		unix.Chmod(to, st.Mode&0o7777),
		copyXattrs(from, to),
		os.Chtimes(to, time.Unix(st.Atim.Unix()), info.ModTime()),
	)
}

func copyContent(o options, from, to string, mode fs.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil && o.has("f") {
		os.Remove(to)
		out, err = os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	}
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func copyXattrs(from, to string) error {
	list := make([]byte, 1<<16)
	n, err := unix.Llistxattr(from, list)
	if err != nil {
		return nil // there are none on this filesystem
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(list[:n]), "\x00"), "\x00") {
		value := make([]byte, 1<<16)
		if n, err := unix.Lgetxattr(from, name, value); err == nil && name != "" {
			if err := unix.Lsetxattr(to, name, value[:n], 0); err != nil {
				return &fs.PathError{Op: "setxattr", Path: to, Err: err}
			}
		}
	}
	return nil
}

func mv(c *call) error {
	_, args, err := c.options("fn")
	if err != nil {
		return err
	}
	return c.target(args, func(from, to string) error {
		err := os.Rename(from, to)
		if errors.Is(err, unix.EXDEV) {
			if err = copyTree(options{'r': nil, 'p': nil, 'P': nil, 'f': nil}, from, to, true); err == nil {
				err = os.RemoveAll(from)
			}
		}
		return err
	})
}

func rm(c *call) error {
	o, args, err := c.options("rRfd")
	if err != nil {
		return err
	}
	for _, name := range args {
		info, err := os.Lstat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist) && o.has("f"):
			continue
		case err != nil:
		case info.IsDir() && !o.has("rRd"):
			err = fmt.Errorf("%s: is a directory", name)
		case o.has("rR"):
			err = os.RemoveAll(name)
		default:
			err = os.Remove(name)
		}
		c.failed(err)
	}
	return nil
}

func rmdir(c *call) error {
	_, args, err := c.options("")
	for _, name := range args {
		if err := unix.Rmdir(name); err != nil {
			c.failed(&fs.PathError{Op: "rmdir", Path: name, Err: err})
		}
	}
	return err
}

func mkdir(c *call) error {
	o, args, err := c.options("pm:")
	if err != nil {
		return err
	}
	for _, name := range args {
		if o.has("p") {
			err = os.MkdirAll(name, 0o777)
		} else {
			err = os.Mkdir(name, 0o777)
		}
		if err == nil && o.has("m") {
			err = changeMode(name, o.value('m', ""))
		}
		c.failed(err)
	}
	return nil
}

func ln(c *call) error {
	o, args, err := c.options("sfnT")
	if err != nil {
		return err
	}
	link := os.Link
	if o.has("s") {
		link = os.Symlink
	}
	if len(args) == 1 {
		args = append(args, ".")
	}
	do := func(from, to string) error {
		if o.has("f") {
			os.Remove(to)
		}
		return link(from, to)
	}
	if o.has("nT") && len(args) == 2 {
		return do(args[0], args[1])
	}
	return c.target(args, do)
}

// eachBelow calls do with a name and, with -R, all names below it.
func (c *call) eachBelow(o options, names []string, do func(name string) error) {
	for _, name := range names {
		if !o.has("R") {
			c.failed(do(name))
			continue
		}
		filepath.WalkDir(name, func(path string, _ fs.DirEntry, err error) error {
			if err == nil {
				err = do(path)
			}
			c.failed(err)
			return nil
		})
	}
}

func chmod(c *call) error {
	// A mode may begin as an option does: "-x".
	o := options{}
	args := c.args
	for len(args) > 0 && (args[0] == "-R" || args[0] == "--") {
		o[args[0][1]] = nil
		args = args[1:]
	}
	if len(args) < 2 {
		return c.usage("needs a mode and files")
	}
	c.eachBelow(o, args[1:], func(name string) error { return changeMode(name, args[0]) })
	return nil
}

// changeMode sets a mode as "4755" or "u+s,go-w,a=rX".
func changeMode(name, text string) error {
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	mode, err := newMode(st.Mode, text)
	if err == nil {
		if err = unix.Chmod(name, mode); err != nil {
			err = &fs.PathError{Op: "chmod", Path: name, Err: err}
		}
	}
	return err
}

func newMode(old uint32, text string) (uint32, error) {
	mode := old & 0o7777
	if n, err := strconv.ParseUint(text, 8, 12); err == nil {
		return uint32(n), nil
	}
	for clause := range strings.SplitSeq(text, ",") {
		at := strings.IndexAny(clause, "+-=")
		if at < 0 {
			return 0, fmt.Errorf("mode %q", text)
		}
		who, operation, letters := clause[:at], clause[at], clause[at+1:]
		if who == "" {
			who = "a"
		}
		var bits, all uint32
		for _, w := range who {
			shift, ok := map[rune][]int{'u': {6}, 'g': {3}, 'o': {0}, 'a': {6, 3, 0}}[w]
			if !ok {
				return 0, fmt.Errorf("mode %q", text)
			}
			for _, s := range shift {
				all |= 7 << s
				for _, l := range letters {
					switch l {
					case 'r':
						bits |= 4 << s
					case 'w':
						bits |= 2 << s
					case 'x':
						bits |= 1 << s
					case 'X':
						if old&unix.S_IFMT == unix.S_IFDIR || old&0o111 != 0 {
							bits |= 1 << s
						}
					case 's':
						bits |= map[int]uint32{6: 0o4000, 3: 0o2000}[s]
					case 't':
						bits |= 0o1000
					default:
						return 0, fmt.Errorf("mode %q", text)
					}
				}
			}
		}
		switch operation {
		case '+':
			mode |= bits
		case '-':
			mode &^= bits
		case '=':
			mode = mode&^all | bits
		}
	}
	return mode, nil
}

func chown(c *call) error {
	o, args, err := c.options("Rh")
	if err != nil {
		return err
	}
	if len(args) < 2 {
		return c.usage("needs an owner and files")
	}
	user, group, _ := strings.Cut(args[0], ":")
	if c.name == "chgrp" {
		user, group = "", args[0]
	}
	uid, err := idOf("/etc/passwd", user)
	gid, err2 := idOf("/etc/group", group)
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	change := os.Chown
	if o.has("h") || o.has("R") {
		change = os.Lchown
	}
	c.eachBelow(o, args[1:], func(name string) error { return change(name, uid, gid) })
	return nil
}

func touch(c *call) error {
	o, args, err := c.options("cd:r:amh")
	if err != nil {
		return err
	}
	when := time.Now()
	if o.has("d") {
		if when, err = parseTime(o.value('d', "")); err != nil {
			return err
		}
	}
	if o.has("r") {
		info, err := os.Stat(o.value('r', ""))
		if err != nil {
			return err
		}
		when = info.ModTime()
	}
	atime, mtime := when, when
	if o.has("m") && !o.has("a") {
		atime = time.Time{}
	}
	if o.has("a") && !o.has("m") {
		mtime = time.Time{}
	}
	for _, name := range args {
		if !o.has("c") {
			f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|unix.O_NONBLOCK, 0o666)
			if err == nil {
				f.Close()
			} else if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.ENXIO) {
				c.failed(err)
				continue
			}
		}
		err := os.Chtimes(name, atime, mtime)
		if errors.Is(err, fs.ErrNotExist) && o.has("c") {
			err = nil
		}
		c.failed(err)
	}
	return nil
}

// parseTime reads "@SECONDS" and the forms of ISO 8601.
func parseTime(text string) (time.Time, error) {
	if seconds, ok := strings.CutPrefix(text, "@"); ok {
		n, err := strconv.ParseInt(seconds, 10, 64)
		return time.Unix(n, 0), err
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02 15:04:05", "2006-01-02T15:04:05", "2006-01-02 15:04", "2006-01-02"} {
		if when, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return when, nil
		}
	}
	return time.Time{}, fmt.Errorf("time %q", text)
}

func mknod(c *call) error {
	o, args, err := c.options("m:")
	if err != nil {
		return err
	}
	if len(args) < 2 {
		return c.usage("needs a name and a type")
	}
	kinds := map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}
	kind, ok := kinds[args[1]]
	if !ok || (kind == unix.S_IFIFO) != (len(args) == 2) || kind != unix.S_IFIFO && len(args) != 4 {
		return c.usage("NAME p, or NAME c|b MAJOR MINOR")
	}
	var device uint64
	if len(args) == 4 {
		major, err := strconv.ParseUint(args[2], 0, 32)
		minor, err2 := strconv.ParseUint(args[3], 0, 32)
		if err := errors.Join(err, err2); err != nil {
			return c.usage(err.Error())
		}
		device = unix.Mkdev(uint32(major), uint32(minor))
	}
	if err := unix.Mknod(args[0], kind|0o666, int(device)); err != nil {
		return &fs.PathError{Op: "mknod", Path: args[0], Err: err}
	}
	if o.has("m") {
		return changeMode(args[0], o.value('m', ""))
	}
	return nil
}

func mkfifo(c *call) error {
	o, args, err := c.options("m:")
	for _, name := range args {
		if err := unix.Mkfifo(name, 0o666); err != nil {
			c.failed(&fs.PathError{Op: "mkfifo", Path: name, Err: err})
		} else if o.has("m") {
			c.failed(changeMode(name, o.value('m', "")))
		}
	}
	return err
}

func mktemp(c *call) error {
	o, args, err := c.options("dp:q")
	if err != nil {
		return err
	}
	dir, pattern := o.value('p', os.TempDir()), "tmp.*"
	if len(args) > 0 {
		pattern = strings.TrimRight(args[0], "X") + "*"
		if d := filepath.Dir(args[0]); !o.has("p") {
			dir, pattern = d, filepath.Base(pattern)
		}
	}
	var name string
	if o.has("d") {
		name, err = os.MkdirTemp(dir, pattern)
	} else {
		var f *os.File
		if f, err = os.CreateTemp(dir, pattern); err == nil {
			name = f.Name()
			err = f.Close()
		}
	}
	if err == nil {
		fmt.Fprintln(c.out, name)
	}
	return err
}

func truncate(c *call) error {
	o, args, err := c.options("cs:")
	if err != nil {
		return err
	}
	n, err := size(o.value('s', ""))
	if err != nil {
		return err
	}
	for _, name := range args {
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o666)
		if err == nil {
			err = errors.Join(f.Truncate(n), f.Close())
		}
		c.failed(err)
	}
	return nil
}

func readlink(c *call) error {
	o, args, err := c.options("fen")
	if err != nil {
		return err
	}
	for _, name := range args {
		var target string
		if o.has("fe") || c.name == "realpath" {
			if target, err = filepath.Abs(name); err == nil {
				target, err = resolve(target, o.has("e"))
			}
		} else {
			target, err = os.Readlink(name)
		}
		if err != nil {
			c.failed(err)
			continue
		}
		fmt.Fprint(c.out, target)
		if !o.has("n") {
			fmt.Fprintln(c.out)
		}
	}
	return nil
}

// resolve follows all links; the last element may be missing.
func resolve(name string, must bool) (string, error) {
	target, err := filepath.EvalSymlinks(name)
	if errors.Is(err, fs.ErrNotExist) && !must {
		if target, err = filepath.EvalSymlinks(filepath.Dir(name)); err == nil {
			target = filepath.Join(target, filepath.Base(name))
		}
	}
	return target, err
}

func basename(c *call) error {
	if len(c.args) == 0 {
		return c.usage("needs a name")
	}
	name := filepath.Base(c.args[0])
	if len(c.args) > 1 && name != c.args[1] {
		name = strings.TrimSuffix(name, c.args[1])
	}
	fmt.Fprintln(c.out, name)
	return nil
}

func dirname(c *call) error {
	if len(c.args) == 0 {
		return c.usage("needs a name")
	}
	for _, name := range c.args {
		if short := strings.TrimRight(name, "/"); short != "" {
			name = short
		}
		fmt.Fprintln(c.out, filepath.Dir(name))
	}
	return nil
}

// filesBelow are the regular files below a name, sorted.
func filesBelow(c *call, name string) (list []string) {
	filepath.WalkDir(name, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			c.failed(err)
		} else if e.Type().IsRegular() {
			list = append(list, path)
		}
		return nil
	})
	return list
}

func find(c *call) error {
	var roots []string
	args := c.args
	for len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		roots, args = append(roots, args[0]), args[1:]
	}
	if len(roots) == 0 {
		roots = []string{"."}
	}
	least, most, end, remove, oneDevice := 0, 1<<30, "\n", false, false
	var tests []func(path string, st *unix.Stat_t) bool
	for len(args) > 0 {
		word := args[0]
		args = args[1:]
		switch word {
		case "-print":
			continue
		case "-print0":
			end = "\x00"
			continue
		case "-delete":
			remove = true
			continue
		case "-xdev":
			oneDevice = true
			continue
		}
		if len(args) == 0 {
			return c.usage(word + " needs a value")
		}
		value := args[0]
		args = args[1:]
		number, err := strconv.Atoi(value)
		switch word {
		case "-name":
			err = nil
			tests = append(tests, func(path string, _ *unix.Stat_t) bool {
				ok, _ := filepath.Match(value, filepath.Base(path))
				return ok
			})
		case "-type":
			kind, ok := map[string]uint32{"f": unix.S_IFREG, "d": unix.S_IFDIR, "l": unix.S_IFLNK, "c": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO, "s": unix.S_IFSOCK}[value]
			if err = nil; !ok {
				return c.usage("-type " + value)
			}
			tests = append(tests, func(_ string, st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == kind })
		case "-perm":
			all := strings.HasPrefix(value, "-")
			mode, e := strconv.ParseUint(strings.TrimPrefix(value, "-"), 8, 12)
			err = e
			tests = append(tests, func(_ string, st *unix.Stat_t) bool {
				return st.Mode&0o7777 == uint32(mode) || all && st.Mode&uint32(mode) == uint32(mode)
			})
		case "-maxdepth":
			most = number
		case "-mindepth":
			least = number
		default:
			return c.usage(word + ": not known here")
		}
		if err != nil {
			return c.usage(word + " " + value)
		}
	}
	for _, root := range roots {
		var device uint64
		var found []string
		filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			var st unix.Stat_t
			if err == nil {
				err = unix.Lstat(path, &st)
			}
			if err != nil {
				c.failed(err)
				return nil
			}
			depth := 0
			if path != root {
				depth = strings.Count(strings.TrimPrefix(path, strings.TrimSuffix(root, "/")), "/")
			} else {
				device = st.Dev
			}
			good := depth >= least
			for _, test := range tests {
				good = good && test(path, &st)
			}
			if good {
				found = append(found, path)
			}
			if e.IsDir() && (depth >= most || oneDevice && st.Dev != device) {
				return fs.SkipDir
			}
			return nil
		})
		for i := len(found) - 1; remove && i >= 0; i-- { // what is in a directory first
			c.failed(os.Remove(found[i]))
		}
		for _, path := range found {
			if !remove {
				fmt.Fprint(c.out, path, end)
			}
		}
	}
	return nil
}
