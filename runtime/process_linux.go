package runtime

import (
	"encoding/binary"
	"fmt"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// defaultPath is searched for a command when the environment has no PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// A command is the last part of a program, as far as it has to be asked about
// afterwards: which file was executed, and why others were not.
type command struct {
	path    string    // args[0]
	reached uintptr   // slot: not 0 when the program has come to the first execve
	tried   []uintptr // slots: result of each execve but the last
	last    int       // index of the last execve among the steps
}

// A credential is what a process runs as.
type credential struct {
	uid, gid uint32
	groups   []uint32
	home     string
}

// limitNames are the resource limits by their name in a spec.
var limitNames = map[string]int{
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_CPU": unix.RLIMIT_CPU,
	"RLIMIT_DATA": unix.RLIMIT_DATA, "RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS,
	"RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK, "RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE,
	"RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_RSS": unix.RLIMIT_RSS,
	"RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO, "RLIMIT_RTTIME": unix.RLIMIT_RTTIME,
	"RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING, "RLIMIT_STACK": unix.RLIMIT_STACK,
}

// checkProcess refuses what no kernel would run, and what is not built.
func checkProcess(p *specs.Process) error {
	no := func(sentinel error, format string, args ...any) error {
		return fmt.Errorf("process: %s: %w", fmt.Sprintf(format, args...), sentinel)
	}
	switch {
	case p == nil:
		return no(errdefs.ErrInvalidArgument, "none given")
	case len(p.Args) == 0 || p.Args[0] == "":
		return no(errdefs.ErrInvalidArgument, "no command")
	case !strings.HasPrefix(p.Cwd, "/"):
		return no(errdefs.ErrInvalidArgument, "working directory %q is not absolute", p.Cwd)
	case p.ConsoleSize != nil && max(p.ConsoleSize.Height, p.ConsoleSize.Width) > math.MaxUint16:
		return no(errdefs.ErrInvalidArgument, "terminal of %d rows and %d columns", p.ConsoleSize.Height, p.ConsoleSize.Width)
	case p.ApparmorProfile != "" || p.SelinuxLabel != "":
		return no(errdefs.ErrNotImplemented, "security label")
	case p.Scheduler != nil || p.IOPriority != nil || p.ExecCPUAffinity != nil:
		return no(errdefs.ErrNotImplemented, "scheduling attributes")
	}
	for _, s := range slices.Concat(p.Args, p.Env, []string{p.Cwd}) {
		if strings.IndexByte(s, 0) >= 0 {
			return no(errdefs.ErrInvalidArgument, "%q has a zero byte", s)
		}
	}
	for _, l := range p.Rlimits {
		if _, ok := limitNames[l.Type]; !ok {
			return no(errdefs.ErrInvalidArgument, "unknown resource limit %q", l.Type)
		}
		if l.Soft > l.Hard {
			return no(errdefs.ErrInvalidArgument, "%s: soft limit %d above hard limit %d", l.Type, l.Soft, l.Hard)
		}
	}
	return nil
}

// limits sets the resource limits.
func (b *builder) limits(p *specs.Process) {
	for _, l := range p.Rlimits {
		what := fmt.Sprintf("set %s to %d:%d", l.Type, l.Soft, l.Hard)
		b.add(what, unix.SYS_PRLIMIT64, 0, uintptr(limitNames[l.Type]), b.words(l.Soft, l.Hard), 0)
	}
}

// setOOMScore begins the name of the step that oomScore adds.
const setOOMScore = "set oom_score_adj to "

// oomScore writes the process's oom_score_adj through the procfs that the
// program has mounted. Where the spec is silent, it is the keeper's.
func (b *builder) oomScore(p *specs.Process) {
	if p.OOMScoreAdj == nil {
		return
	}
	dir, rel, ok := b.below("/proc/self/oom_score_adj")
	if !ok {
		b.invalid(errdefs.ErrInvalidArgument, "oomScoreAdj without a proc mount")
		return
	}
	value := strconv.Itoa(*p.OOMScoreAdj)
	what := setOOMScore + value
	fd := b.openSafe(what, dir, rel, unix.O_WRONLY, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_MAGICLINKS|unix.RESOLVE_NO_XDEV)
	b.add(what, unix.SYS_WRITE, fd, b.string(value), uintptr(len(value))).with(flagArg0)
}

// workingDirectory enters a directory inside the root: a magic link, which
// could lead out through a descriptor, is refused. If create is set, what is
// missing is made.
func (b *builder) workingDirectory(cwd string, create bool) {
	cwd = path.Clean(cwd)
	if cwd == "/" {
		b.add("enter /", unix.SYS_CHDIR, b.string("/"))
		return
	}
	what := "working directory " + cwd
	fd := b.slot()
	how := b.openHow(unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
	name := b.string(cwd)
	open := func() lookup { return b.lookup(what, atCwd, name, how, fd, 0) }
	if create {
		n := strings.Count(cwd, "/") + lookupAttempts // what makes it, and looks again
		if n > maxSkip-lookupAttempts {
			n = 0 // making what is there does nothing
		}
		open().missing().found(n)
		for i := range len(cwd) + 1 {
			if i > 0 && (i == len(cwd) || cwd[i] == '/') {
				b.add(what, unix.SYS_MKDIRAT, atCwd, b.string(cwd[:i]), 0o755).orSkip(anyErrno, 0)
			}
		}
	}
	open().found(0)
	b.add(what, unix.SYS_FCHDIR, fd).with(flagArg0)
	b.add(what, unix.SYS_CLOSE, fd).with(flagArg0)
}

// lastCapability is the highest capability that the kernel knows, probed once:
// PR_CAPBSET_READ fails with EINVAL above it.
var lastCapability = sync.OnceValue(func() int {
	last := 0
	for c := range 64 {
		if _, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0); err != nil {
			break
		}
		last = c
	}
	return last
})

// Capabilities are those that the calling process is permitted, the most that it
// can give a container; a new list each time.
func Capabilities() (names []string) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return nil // never fails for the caller itself
	}
	permitted := uint64(data[1].Permitted)<<32 | uint64(data[0].Permitted)
	for i, name := range capabilityNames {
		if permitted&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return names
}

// lastCapability is the kernel's, or of an explained program the last there is.
func (b *builder) lastCapability() uintptr {
	if b.explained != nil {
		return uintptr(len(capabilityNames) - 1)
	}
	return uintptr(lastCapability())
}

// credentials makes the process what it runs as. If a seccomp filter follows
// that may not rely on no_new_privs, CAP_SYS_ADMIN stays until then: execve
// takes it away with all that the bounding set lacks.
func (b *builder) credentials(p *specs.Process, c *credential, keepAdmin bool) {
	umask := uintptr(0o022)
	if p.User.Umask != nil {
		umask = uintptr(*p.User.Umask)
	}
	b.add("set umask", unix.SYS_UMASK, umask)
	sets, err := capabilitySets(p.Capabilities)
	if err != nil {
		b.fail(err)
		return
	}
	for c := range b.lastCapability() + 1 {
		if sets.bounding&(1<<c) == 0 {
			b.add("drop "+capabilityName(int(c)), unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		}
	}
	if c.uid != 0 {
		b.add("keep capabilities", unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1, 0, 0, 0)
	}
	groups := make([]byte, 0, 4*len(c.groups)+1)
	for _, g := range c.groups {
		groups = binary.LittleEndian.AppendUint32(groups, g)
	}
	b.add("set supplementary groups", unix.SYS_SETGROUPS, uintptr(len(c.groups)), b.bytes(groups))
	gid, uid := uintptr(c.gid), uintptr(c.uid)
	b.add(fmt.Sprintf("set gid %d", gid), unix.SYS_SETRESGID, gid, gid, gid)
	b.add(fmt.Sprintf("set uid %d", uid), unix.SYS_SETRESUID, uid, uid, uid)
	now := sets
	if keepAdmin {
		now.permitted |= 1 << unix.CAP_SYS_ADMIN
		now.effective |= 1 << unix.CAP_SYS_ADMIN
	}
	b.capset(now)
	for c := range b.lastCapability() + 1 {
		if sets.ambient&(1<<c) != 0 {
			b.add("raise ambient "+capabilityName(int(c)), unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, c, 0, 0)
		}
	}
}

func (b *builder) capset(s capabilities) {
	header := b.words(unix.LINUX_CAPABILITY_VERSION_3) // version, and pid 0
	const low = 0xffffffff
	data := b.words(s.effective&low|s.permitted<<32, s.inheritable&low|s.effective&^low,
		s.permitted>>32|s.inheritable&^low)
	b.add("set capabilities", unix.SYS_CAPSET, header, data)
}

// signals sets the signal mask that the process starts with: nothing blocked.
// Every signal is at its default, as the keeper's are.
func (b *builder) signals() {
	b.add("unblock signals", unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, b.words(0), 0, 8)
}

// seccomp installs a filter.
func (b *builder) seccomp(filter []unix.SockFilter, flags uintptr) {
	if len(filter) == 0 {
		return
	}
	b.align()
	code := progBase + len(b.mem)
	b.mem = slices.Grow(b.mem, 8*len(filter))
	for _, f := range filter {
		b.mem = binary.LittleEndian.AppendUint16(b.mem, f.Code)
		b.mem = append(b.mem, f.Jt, f.Jf)
		b.mem = binary.LittleEndian.AppendUint32(b.mem, f.K)
	}
	prog := b.words(uint64(len(filter)), uint64(code)) // struct sock_fprog
	b.add("install seccomp filter", unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, prog)
}

// execute adds the execve of the first file in PATH that the kernel takes.
func (b *builder) execute(p *specs.Process, home string) *command {
	env := p.Env
	if _, ok := lookupEnv(env, "HOME"); !ok && home != "" {
		env = append(slices.Clip(env), "HOME="+home)
	}
	if b.outside {
		b.add("end with the keeper", unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0).orSkip(anyErrno, 0)
	}
	c := &command{path: p.Args[0], reached: b.slot()}
	argv, envp := b.strings(p.Args), b.strings(env)
	b.add("reach execve", unix.SYS_GETTID).into(c.reached)
	candidates := []string{p.Args[0]}
	if !strings.Contains(p.Args[0], "/") {
		search, ok := lookupEnv(env, "PATH")
		if !ok {
			search = defaultPath
		}
		candidates = candidates[:0]
		for dir := range strings.SplitSeq(search, ":") {
			candidates = append(candidates, path.Join(dir, p.Args[0]))
		}
	}
	for i, file := range candidates {
		s := b.add("execve "+file, unix.SYS_EXECVE, b.string(file), argv, envp)
		if i < len(candidates)-1 {
			c.tried = append(c.tried, b.slot())
			s.orSkip(anyErrno, 0).into(c.tried[i])
		}
	}
	c.last = len(b.steps) - 1
	return c
}

func lookupEnv(env []string, key string) (value string, ok bool) {
	for _, e := range env {
		if v, found := strings.CutPrefix(e, key+"="); found {
			value, ok = v, true
		}
	}
	return value, ok
}

// outcome tells how a program that is over ended: nil when a file was executed.
func (c *command) outcome(p *program) error {
	failed := p.failure()
	switch {
	case failed == nil && p.word(c.reached) != 0:
		return nil
	case failed == nil:
		return errNotReached
	case failed.Step != p.steps[c.last].what:
		return needsRoot(failed)
	}
	// As a shell does: a file that was found and not executable says more than
	// another that was not found.
	err := failed.Err
	for _, slot := range c.tried {
		e := syscall.Errno(-int64(p.word(slot)))
		if e != 0 && e != unix.ENOENT && e != unix.ENOTDIR {
			err = e
			break
		}
	}
	code := 126
	if err == unix.ENOENT || err == unix.ENOTDIR {
		code = 127
	}
	return &CommandError{Path: c.path, Code: code, Err: err}
}
