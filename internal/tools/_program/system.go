package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

var _ = add(map[string]func(*call) error{
	"true": func(*call) error { return nil }, "false": func(*call) error { return status(1) },
	"mount": mount, "umount": umount, "ps": ps, "kill": kill, "sleep": sleep, "timeout": timeout, "id": id, "whoami": whoami,
	"env": env, "printenv": printenv, "hostname": hostname, "uname": uname, "sync": syncAll, "dd": dd, "date": date,
	"nproc": nproc, "which": which, "chroot": chroot, "setsid": setsid, "tty": tty, "xargs": xargs,
})

// mountFlags are the options of mount that are flags of mount(2).
var mountFlags = map[string]struct {
	flag  uintptr
	clear bool
}{
	"rw": {unix.MS_RDONLY, true}, "ro": {unix.MS_RDONLY, false}, "defaults": {},
	"nosuid": {unix.MS_NOSUID, false}, "suid": {unix.MS_NOSUID, true}, "nodev": {unix.MS_NODEV, false}, "dev": {unix.MS_NODEV, true},
	"noexec": {unix.MS_NOEXEC, false}, "exec": {unix.MS_NOEXEC, true}, "noatime": {unix.MS_NOATIME, false}, "relatime": {unix.MS_RELATIME, false},
	"sync": {unix.MS_SYNCHRONOUS, false}, "remount": {unix.MS_REMOUNT, false}, "bind": {unix.MS_BIND, false}, "rbind": {unix.MS_BIND | unix.MS_REC, false},
	"move": {unix.MS_MOVE, false}, "private": {unix.MS_PRIVATE, false}, "rprivate": {unix.MS_PRIVATE | unix.MS_REC, false},
	"slave": {unix.MS_SLAVE, false}, "rslave": {unix.MS_SLAVE | unix.MS_REC, false}, "shared": {unix.MS_SHARED, false},
	"rshared": {unix.MS_SHARED | unix.MS_REC, false}, "unbindable": {unix.MS_UNBINDABLE, false},
}

func mount(c *call) error {
	// "--bind" and the like are options of -o.
	for i, a := range c.args {
		if name, ok := strings.CutPrefix(a, "--"); ok && len(name) > 1 {
			name = strings.TrimPrefix(name, "make-")
			c.args[i] = "-o" + name
		}
	}
	o, args, err := c.options("t:o:rn")
	if err != nil {
		return err
	}
	if len(args) == 0 {
		list, err := mounts()
		for _, m := range list {
			fmt.Fprintf(c.out, "%s on %s type %s (%s)\n", m.source, m.on, m.kind, m.options)
		}
		return err
	}
	var flags uintptr
	var data []string
	if o.has("r") {
		flags |= unix.MS_RDONLY
	}
	for word := range strings.SplitSeq(strings.Join(o['o'], ","), ",") {
		f, known := mountFlags[word]
		switch {
		case word == "":
		case !known:
			data = append(data, word)
		case f.clear:
			flags &^= f.flag
		default:
			flags |= f.flag
		}
	}
	source, target := args[0], args[len(args)-1]
	const propagation = unix.MS_PRIVATE | unix.MS_SLAVE | unix.MS_SHARED | unix.MS_UNBINDABLE
	if len(args) == 1 && flags&(unix.MS_REMOUNT|propagation) == 0 {
		return c.usage("needs a source and a target")
	}
	// A bind mount has no flags of its own until it is remounted.
	later := uintptr(0)
	if flags&unix.MS_BIND != 0 && flags&unix.MS_REMOUNT == 0 {
		if later = flags &^ (unix.MS_BIND | unix.MS_REC); later != 0 {
			flags &= unix.MS_BIND | unix.MS_REC
		}
	}
	err = unix.Mount(source, target, o.value('t', ""), flags, strings.Join(data, ","))
	if err == nil && later != 0 {
		err = unix.Mount("", target, "", later|unix.MS_BIND|unix.MS_REMOUNT, "")
	}
	if err != nil {
		return fmt.Errorf("%s on %s: %w", source, target, err)
	}
	return nil
}

func umount(c *call) error {
	o, args, err := c.options("lfn")
	if err != nil {
		return err
	}
	flags := 0
	if o.has("l") {
		flags |= unix.MNT_DETACH
	}
	if o.has("f") {
		flags |= unix.MNT_FORCE
	}
	for _, name := range args {
		if err := unix.Unmount(name, flags); err != nil {
			c.failed(&fs.PathError{Op: "umount", Path: name, Err: err})
		}
	}
	return nil
}

// ps shows all processes that /proc has.
func ps(c *call) error {
	o, _, err := c.options("aefAwxo:")
	if err != nil {
		return err
	}
	columns := strings.FieldsFunc(o.value('o', "pid,user,args"), func(r rune) bool { return r == ',' || r == ' ' })
	fmt.Fprintln(c.out, strings.ToUpper(strings.Join(columns, "\t")))
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	for _, pid := range pids {
		dir := fmt.Sprint("/proc/", pid)
		stat, err := os.ReadFile(dir + "/stat")
		info, err2 := os.Stat(dir)
		if err != nil || err2 != nil {
			continue // it has ended
		}
		begin, end := strings.IndexByte(string(stat), '('), strings.LastIndexByte(string(stat), ')')
		comm, rest := string(stat[begin+1:end]), strings.Fields(string(stat[end+1:]))
		args, _ := os.ReadFile(dir + "/cmdline")
		command := strings.ReplaceAll(strings.TrimRight(string(args), "\x00"), "\x00", " ")
		if command == "" {
			command = "[" + comm + "]"
		}
		values := map[string]string{
			"pid": strconv.Itoa(pid), "ppid": rest[1], "pgid": rest[2], "sid": rest[3], "stat": rest[0], "comm": comm, "args": command, "command": command,
			"user": nameOf("/etc/passwd", int(info.Sys().(*unixStat).Uid)), "uid": strconv.Itoa(int(info.Sys().(*unixStat).Uid)),
		}
		var line []string
		for _, name := range columns {
			value, ok := values[name]
			if !ok {
				return c.usage("no column " + name)
			}
			line = append(line, value)
		}
		fmt.Fprintln(c.out, strings.Join(line, "\t"))
	}
	return nil
}

func kill(c *call) error {
	sig, args := syscall.SIGTERM, c.args
	if len(args) > 0 && args[0] == "-l" {
		fmt.Fprintln(c.out, strings.Join(signalNames(), " "))
		return nil
	}
	if len(args) > 1 && strings.HasPrefix(args[0], "-") && args[0] != "--" {
		name := args[0][1:]
		args = args[1:]
		if name == "s" || name == "n" {
			name, args = args[0], args[1:]
		}
		var ok bool
		if sig, ok = signalOf(name); !ok {
			return c.usage("no signal " + name)
		}
	}
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		return c.usage("needs a pid")
	}
	for _, a := range args {
		pid, err := strconv.Atoi(a)
		if err == nil {
			err = syscall.Kill(pid, sig)
		}
		if err != nil {
			c.failed(fmt.Errorf("%s: %w", a, err))
		}
	}
	return nil
}

// duration reads seconds with a fraction, or with a suffix s, m, h or d.
func duration(text string) (time.Duration, error) {
	if text == "infinity" {
		return 1<<63 - 1, nil
	}
	unit := time.Second
	if n := len(text) - 1; n > 0 {
		if u, ok := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour}[text[n]]; ok {
			unit, text = u, text[:n]
		}
	}
	seconds, err := strconv.ParseFloat(text, 64)
	return time.Duration(seconds * float64(unit)), err
}

func sleep(c *call) error {
	var total time.Duration
	if len(c.args) == 0 {
		return c.usage("needs a number of seconds")
	}
	for _, a := range c.args {
		d, err := duration(a)
		if err != nil {
			return c.usage(a + ": not a number of seconds")
		}
		total += d
	}
	time.Sleep(total)
	return nil
}

func timeout(c *call) error {
	o, args, err := c.options("s:k:")
	if err != nil {
		return err
	}
	if len(args) < 2 {
		return c.usage("needs a number of seconds and a command")
	}
	d, err := duration(args[0])
	sig, ok := signalOf(o.value('s', "TERM"))
	if err != nil || !ok {
		return c.usage(args[0])
	}
	cmd := exec.Command(args[1], args[2:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return started(err)
	}
	late := make(chan bool, 1)
	timer := time.AfterFunc(d, func() {
		late <- true
		_ = cmd.Process.Signal(sig)
	})
	err = cmd.Wait()
	timer.Stop()
	if len(late) > 0 {
		return status(124)
	}
	return ended(err)
}

// started turns a failure to start a command into 127 or 126.
func started(err error) error {
	fmt.Fprintln(os.Stderr, text(err))
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return status(127)
	}
	return status(126)
}

// ended turns what Wait gives into an exit status.
func ended(err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if w := exit.Sys().(syscall.WaitStatus); w.Signaled() {
		return status(128 + int(w.Signal()))
	}
	return status(exit.ExitCode())
}

// become replaces the tool with a command.
func (c *call) become(args []string) error {
	path, err := exec.LookPath(args[0])
	if err == nil {
		c.out.Flush()
		err = &fs.PathError{Op: "exec", Path: args[0], Err: syscall.Exec(path, args, os.Environ())}
	}
	return started(err)
}

// account is a line of /etc/passwd or /etc/group, by name or by number.
func account(file string, is func(name, number string) bool) (name, number string) {
	data, _ := os.ReadFile(file)
	for line := range strings.Lines(string(data)) {
		if f := strings.Split(strings.TrimSpace(line), ":"); len(f) > 2 && is(f[0], f[2]) {
			return f[0], f[2]
		}
	}
	return "", ""
}

// nameOf is a user's or group's name, or its number if it has none.
func nameOf(file string, id int) string {
	number := strconv.Itoa(id)
	if name, _ := account(file, func(_, n string) bool { return n == number }); name != "" {
		return name
	}
	return number
}

// idOf is a user's or group's number; -1 for none.
func idOf(file, name string) (int, error) {
	if name == "" {
		return -1, nil
	}
	if _, number := account(file, func(n, _ string) bool { return n == name }); number != "" {
		return strconv.Atoi(number)
	}
	n, err := strconv.Atoi(name)
	if err != nil {
		err = fmt.Errorf("%s: not in %s", name, file)
	}
	return n, err
}

func id(c *call) error {
	o, _, err := c.options("ugGn")
	if err != nil {
		return err
	}
	uid, gid := os.Getuid(), os.Getgid()
	groups, err := os.Getgroups()
	if err != nil {
		return err
	}
	groups = append([]int{gid}, slices.DeleteFunc(groups, func(g int) bool { return g == gid })...)
	name := func(file string, id int) string {
		if o.has("n") {
			return nameOf(file, id)
		}
		return strconv.Itoa(id)
	}
	full := func(file string, id int) string {
		number, name := strconv.Itoa(id), nameOf(file, id)
		if name == number {
			return number
		}
		return number + "(" + name + ")"
	}
	var list, fulls []string
	for _, g := range groups {
		list, fulls = append(list, name("/etc/group", g)), append(fulls, full("/etc/group", g))
	}
	switch {
	case o.has("u"):
		fmt.Fprintln(c.out, name("/etc/passwd", uid))
	case o.has("g"):
		fmt.Fprintln(c.out, name("/etc/group", gid))
	case o.has("G"):
		fmt.Fprintln(c.out, strings.Join(list, " "))
	default:
		fmt.Fprintf(c.out, "uid=%s gid=%s groups=%s\n", full("/etc/passwd", uid), full("/etc/group", gid), strings.Join(fulls, ","))
	}
	return nil
}

func whoami(c *call) error {
	fmt.Fprintln(c.out, nameOf("/etc/passwd", os.Geteuid()))
	return nil
}

func env(c *call) error {
	o, args, err := c.options("iu:")
	if err != nil {
		return err
	}
	path := os.Getenv("PATH")
	if o.has("i") {
		os.Clearenv()
	}
	for _, name := range o['u'] {
		os.Unsetenv(name)
	}
	for len(args) > 0 {
		name, value, ok := strings.Cut(args[0], "=")
		if !ok {
			break
		}
		os.Setenv(name, value)
		args = args[1:]
	}
	if len(args) == 0 {
		for _, e := range os.Environ() {
			fmt.Fprintln(c.out, e)
		}
		return nil
	}
	found, err := exec.LookPath(args[0])
	if err != nil && path != "" && o.has("i") {
		os.Setenv("PATH", path)
		found, err = exec.LookPath(args[0])
		os.Unsetenv("PATH")
	}
	if err != nil {
		return started(err)
	}
	return started(&fs.PathError{Op: "exec", Path: args[0], Err: syscall.Exec(found, args, os.Environ())})
}

func printenv(c *call) error {
	for _, name := range c.args {
		value, ok := os.LookupEnv(name)
		if !ok {
			c.err = status(1)
			continue
		}
		fmt.Fprintln(c.out, value)
	}
	if len(c.args) == 0 {
		for _, e := range os.Environ() {
			fmt.Fprintln(c.out, e)
		}
	}
	return nil
}

func hostname(c *call) error {
	_, args, err := c.options("s")
	if err != nil {
		return err
	}
	if len(args) > 0 {
		return unix.Sethostname([]byte(args[0]))
	}
	name, err := os.Hostname()
	fmt.Fprintln(c.out, name)
	return err
}

func uname(c *call) error {
	o, _, err := c.options("asnrvm")
	if err != nil {
		return err
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	if len(o) == 0 {
		o = options{'s': nil}
	}
	var words []string
	for _, field := range []struct {
		letters string
		text    [65]byte
	}{{"as", u.Sysname}, {"an", u.Nodename}, {"ar", u.Release}, {"av", u.Version}, {"am", u.Machine}} {
		if o.has(field.letters) {
			words = append(words, unix.ByteSliceToString(field.text[:]))
		}
	}
	fmt.Fprintln(c.out, strings.Join(words, " "))
	return nil
}

func syncAll(c *call) error {
	for _, name := range c.args {
		f, err := os.Open(name)
		if err == nil {
			err = errors.Join(f.Sync(), f.Close())
		}
		c.failed(err)
	}
	if len(c.args) == 0 {
		unix.Sync()
	}
	return nil
}

func dd(c *call) error {
	o := map[string]string{"bs": "512", "count": "-1", "skip": "0", "seek": "0", "status": "", "conv": "", "if": "", "of": ""}
	for _, a := range c.args {
		name, value, _ := strings.Cut(a, "=")
		if _, ok := o[name]; !ok {
			return c.usage("no operand " + a)
		}
		o[name] = value
	}
	numbers := make(map[string]int64)
	for _, name := range []string{"bs", "count", "skip", "seek"} {
		n, err := size(o[name])
		if err != nil {
			return c.usage(err.Error())
		}
		numbers[name] = n
	}
	in, out := os.Stdin, os.Stdout
	var err error
	if o["if"] != "" {
		if in, err = os.Open(o["if"]); err != nil {
			return err
		}
	}
	if o["of"] != "" {
		flags := os.O_WRONLY | os.O_CREATE
		if !strings.Contains(o["conv"], "notrunc") && numbers["seek"] == 0 {
			flags |= os.O_TRUNC
		}
		if out, err = os.OpenFile(o["of"], flags, 0o666); err != nil {
			return err
		}
	}
	if n := numbers["skip"] * numbers["bs"]; n > 0 {
		if _, err := in.Seek(n, io.SeekCurrent); err != nil {
			if _, err := io.CopyN(io.Discard, in, n); err != nil && err != io.EOF {
				return err
			}
		}
	}
	if n := numbers["seek"] * numbers["bs"]; n > 0 {
		if _, err := out.Seek(n, io.SeekStart); err != nil {
			return err
		}
	}
	block := make([]byte, numbers["bs"])
	total := int64(0)
	for blocks := int64(0); blocks != numbers["count"]; blocks++ {
		n, err := io.ReadFull(in, block)
		if n > 0 {
			if _, err := out.Write(block[:n]); err != nil {
				return err
			}
		}
		total += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if strings.Contains(o["conv"], "fsync") {
		err = out.Sync()
	}
	if o["of"] != "" {
		err = errors.Join(err, out.Close())
	}
	if o["status"] != "none" {
		fmt.Fprintf(os.Stderr, "%d bytes\n", total)
	}
	return err
}

// date prints the time in a format of strftime's letters.
func date(c *call) error {
	o, args, err := c.options("ud:")
	if err != nil {
		return err
	}
	now := time.Now()
	if o.has("d") {
		if now, err = parseTime(o.value('d', "")); err != nil {
			return err
		}
	}
	if o.has("u") {
		now = now.UTC()
	}
	format := "+%a %b %d %H:%M:%S %Z %Y"
	if len(args) > 0 {
		format = args[0]
	}
	layouts := map[byte]string{
		'a': "Mon", 'b': "Jan", 'd': "02", 'e': "_2", 'F': "2006-01-02", 'H': "15", 'j': "002", 'm': "01", 'M': "04", 'S': "05",
		'T': "15:04:05", 'y': "06", 'Y': "2006", 'Z': "MST", 'z': "-0700",
	}
	format = strings.TrimPrefix(format, "+")
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			c.out.WriteByte(format[i])
			continue
		}
		i++
		switch layout, ok := layouts[format[i]]; {
		case ok:
			c.out.WriteString(now.Format(layout))
		case format[i] == 's':
			fmt.Fprint(c.out, now.Unix())
		case format[i] == 'N':
			fmt.Fprintf(c.out, "%09d", now.Nanosecond())
		default:
			c.out.WriteByte(format[i])
		}
	}
	fmt.Fprintln(c.out)
	return nil
}

func nproc(c *call) error {
	fmt.Fprintln(c.out, runtime.NumCPU())
	return nil
}

func which(c *call) error {
	for _, name := range c.args {
		path, err := exec.LookPath(name)
		if err != nil {
			c.err = status(1)
			continue
		}
		fmt.Fprintln(c.out, path)
	}
	return nil
}

func chroot(c *call) error {
	if len(c.args) == 0 {
		return c.usage("needs a directory")
	}
	if err := unix.Chroot(c.args[0]); err != nil {
		return &fs.PathError{Op: "chroot", Path: c.args[0], Err: err}
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if len(c.args) == 1 {
		return c.become([]string{"sh"})
	}
	return c.become(c.args[1:])
}

func setsid(c *call) error {
	if len(c.args) == 0 {
		return c.usage("needs a command")
	}
	if _, err := unix.Setsid(); err != nil {
		return err
	}
	return c.become(c.args)
}

func tty(c *call) error {
	if _, err := unix.IoctlGetTermios(0, unix.TCGETS); err != nil {
		fmt.Fprintln(c.out, "not a tty")
		return status(1)
	}
	name, err := os.Readlink("/proc/self/fd/0")
	fmt.Fprintln(c.out, name)
	return err
}

func xargs(c *call) error {
	o, args, err := c.options("0n:rI:")
	if err != nil {
		return err
	}
	if len(args) == 0 {
		args = []string{"echo"}
	}
	data, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	var words []string
	switch {
	case o.has("0"):
		words = strings.FieldsFunc(string(data), func(r rune) bool { return r == 0 })
	case o.has("I"):
		words = strings.FieldsFunc(string(data), func(r rune) bool { return r == '\n' })
	default:
		words = strings.Fields(string(data))
	}
	most, err := strconv.Atoi(o.value('n', "1000"))
	if err != nil || most < 1 {
		return c.usage("-n " + o.value('n', ""))
	}
	run := func(args []string) error {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Start(); err != nil {
			return started(err)
		}
		if err := ended(cmd.Wait()); err != nil {
			c.err = status(123)
		}
		return nil
	}
	if o.has("I") {
		for _, w := range words {
			var filled []string
			for _, a := range args {
				filled = append(filled, strings.ReplaceAll(a, o.value('I', ""), w))
			}
			if err := run(filled); err != nil {
				return err
			}
		}
		return nil
	}
	if len(words) == 0 && !o.has("r") {
		return run(args)
	}
	for chunk := range slices.Chunk(words, most) {
		if err := run(append(slices.Clone(args), chunk...)); err != nil {
			return err
		}
	}
	return nil
}
