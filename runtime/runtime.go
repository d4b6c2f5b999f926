// Package runtime is an OCI runtime inside the calling process: a
// specs.Spec goes in, a process in its own namespaces comes out. There is no
// helper binary, and nothing that main must call first.
//
// # Model
//
// A Runtime owns a keeper, a process of two pages that is pid 1 of a pid
// namespace in which its containers are nested, one more for every 256
// containers, and when it is needed one outside, for containers that share the
// pid namespace of the host or of others, and for processes in other Runtimes'
// containers. A container's spec is compiled into a program: a flat list of
// system calls with the memory that they point to, in a memfd. The keeper clones a
// child, the child maps the program and runs it, and its last call is execve. When
// a call fails, the error names it (see StepError).
//
// # Namespaces
//
// Namespaces that a spec lists are the container's own, or with a path joined:
// the path is opened once, and must be of a namespace of that kind. Those that it
// does not list are the caller's. A mount namespace of its own is a must. What
// shares its pid namespace with others comes into it last, when it has nothing
// left to do but to execute its command; it ends with that namespace, and when its
// first process ends all that is in its cgroup is killed, as no kernel does it.
//
// # Lifecycle
//
// Create makes the container's process and everything that it lives in, and
// stops before the user's program is executed; Container.Start executes it;
// Container.Wait gives its exit status; Container.Delete kills what is left
// and frees what the container had. Start, the function, is Create and
// Container.Start in one, and faster. Meanwhile Container.Exec runs more
// processes, Stats tells what it uses, Update changes its limits, and Pause and
// Resume stop it and let it go on.
//
// Containers live with the Runtime: when it is closed, or when the calling
// process ends in whatever way (kill -9 included), the keeper ends, and the
// kernel kills all that lives in its pid namespace; what is outside, the keeper
// outside kills. No mount is ever attached to the caller's mount namespace, so
// none is left behind. Cgroups are; the next Open with the same Options.Dir kills
// what is left in those of its own naming, and removes them.
//
// # User namespaces
//
// With a user namespace in the spec, and mappings, the ids of a container are
// others on the host: its root is nobody there, and its capabilities are worth
// something in its own namespaces alone. All of these belong to its user
// namespace but that of pids, so that no other procfs of it can be mounted. What
// Create has mounted is locked: nobody inside, whatever his capabilities, can
// unmount it or make it writable. Files have the container's ids on the disk
// where Rootfs.IDMap says so, in Overlay.MountIn, and on a bind mount with the
// option "idmap"; else the host's, which nearly all are nobody's inside.
// User.UID, CreateOptions.User, File.UID, the owners of devices and the options
// of tmpfs and devpts are ids of the container.
//
// # Privileges
//
// The calling process needs CAP_SYS_ADMIN and the rest of root's usual
// capabilities in the initial user namespace. Linux 5.14 or newer.
//
// All methods may be called by several goroutines at once.
package runtime

import (
	"context"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Options are those of Open. The zero value is right.
type Options struct {
	// Dir holds the Runtime's lock file. An Open of the same Dir removes the
	// cgroups of Runtimes whose process is gone. Empty: /run/inboard/runtime,
	// or for an ordinary user inboard/runtime in XDG_RUNTIME_DIR.
	Dir string

	// CgroupParent is the path below the root of each cgroup hierarchy under
	// which containers whose spec names no cgroupsPath get their cgroup.
	// Empty: "inboard".
	CgroupParent string
}

// CreateOptions say what a runtime-spec cannot. The zero value runs the
// process of the spec on the rootfs of the spec with no input and its output
// discarded.
type CreateOptions struct {
	// ID names the container in errors. Empty: a random one.
	ID string

	// Rootfs replaces spec.Root.Path.
	Rootfs Rootfs

	// CgroupParent is the path below the root of each cgroup hierarchy under
	// which the container gets its cgroup, where the spec names none; its limits
	// hold for all that is in it. What is missing of it is made, and removed
	// when it is empty again. Empty: Options.CgroupParent.
	CgroupParent string

	// Shm, if it is set, is attached in place of a new tmpfs on /dev/shm: a
	// detached mount, as from OpenShm. The caller keeps it open until Create or
	// Start has returned.
	Shm *os.File

	// Init runs an init as the first process: the keeper's own code, which
	// starts the command in a session of its own, reaps what loses its parent,
	// and hands on each signal that it gets. It ends with the command's exit
	// code, or 128+n after signal n, and what is left in the container's pid
	// namespace ends with it.
	Init bool

	// UserNamespace, with the mappings of the spec, was made ahead by
	// Runtime.NewUserNamespace. Create and Start take it over and close it,
	// also when they fail. Nil: a spec with a user namespace gets one made by
	// them, which takes about as long as to start a process.
	UserNamespace *UserNamespace

	// Files are put into the container from memory, over what the rootfs has
	// at their paths. They live as long as the container and are writable in it.
	Files []File

	// Process options of the container's first process.
	ProcessOptions
}

// ProcessOptions are those of any process, the container's first or an exec'd one.
type ProcessOptions struct {
	// User, when set, is looked up in the container's /etc/passwd and
	// /etc/group and replaces Process.User: a name or number, then optionally
	// ":" and a group's name or number. Supplementary groups are the process's
	// own one and, unless a group is named, those that /etc/group gives the
	// user. HOME is set from passwd where the environment has none.
	User string

	// Stdin is read until it ends and copied to the process. An *os.File is
	// handed over as it is. Nil: /dev/null. Wait does not wait for a Reader
	// that never ends.
	//
	// With a terminal (Process.Terminal of the spec), what is read is typed.
	// The end of it is nothing to the process, which is told of an end by a
	// typed ^D; nil: nothing is typed. A file is copied as any Reader, with
	// its own mode left alone, if it is a terminal too, and nothing is read
	// any more when Wait returns.
	Stdin io.Reader

	// Stdout and Stderr get what the process writes. An *os.File is handed
	// over as it is. Nil: /dev/null. If both are the same comparable value,
	// at most one goroutine at a time calls Write.
	//
	// With a terminal, Stdout gets what it shows, and Stderr nothing; a file is
	// written to as any Writer. When the process has ended, what it has
	// written is copied, and the terminal hung up: unlike a pipe it is not
	// waited for while others have it open.
	Stdout, Stderr io.Writer

	// TakeTerminal, if it is not nil, gets a descriptor of the host's end of a
	// terminal, non-blocking, from which the caller reads the output, in place of
	// Stdout; at the end that is EIO. It is called once, before there is a
	// process, which is not made if it fails; the file is its own to close.
	TakeTerminal func(*os.File) error

	// WaitDelay bounds the time that Wait waits, after the process has
	// ended, for output that its descendants hold open, or that a Writer has
	// not taken: that one may then still be at work, but is not called again,
	// and Wait returns an error. Zero: no bound.
	WaitDelay time.Duration
}

// Foreign is a container that another Runtime has started, of this program or of
// another one, as far as Runtime.ExecIn has to know it.
type Foreign struct {
	// Process is a pidfd of the container's first process. The caller has made
	// sure that it is no other's, and closes it.
	Process *os.File
	// CgroupPath is what Container.CgroupPath says there.
	CgroupPath string
	// Spec is the container's. Its namespaces and its seccomp profile count.
	Spec *specs.Spec
}

// Rootfs is where a container's root directory comes from. At most one field is set.
type Rootfs struct {
	// Path is a directory on the host, or:
	Path string
	// Overlay is put together from layers, or:
	Overlay *Overlay
	// Mount is a detached mount, as from Overlay.Mount. Create and Start take
	// it over and close it, also when they fail.
	Mount *os.File

	// IDMap says, for a container with a user namespace, that the files in Path
	// or the layers of Overlay have the ids on the disk that they are to have in
	// the container: they are mounted id-mapped (Linux 5.12, for Overlay 5.19;
	// mount_setattr(2)), which their file system has to allow, else the error
	// is errdefs.ErrNotImplemented. Without it they have the host's. A Mount is
	// as it was made, see Overlay.MountIn.
	IDMap bool
}

// Overlay describes an overlayfs whose top is one container's writable layer.
type Overlay struct {
	// Lower are the read-only layers, topmost first; at least one.
	Lower []Lower
	// Upper and Work are directories on one filesystem. Both empty: the root
	// is read-only.
	Upper, Work string
	// Volatile leaves out every sync: for a writable layer that is worth
	// nothing once its container is gone.
	Volatile bool
}

// Lower is one read-only layer: a directory on the host by its path, or a
// descriptor of one (a detached mount, or a directory). The caller keeps File
// open until Create or Start has returned.
type Lower struct {
	Path string
	File *os.File
}

// File is a file that a container gets from memory.
type File struct {
	Path     string // absolute, in the container; made where it is missing
	Data     []byte
	Mode     os.FileMode // permission bits; zero: 0644
	UID, GID uint32
	ReadOnly bool
}

// Status is how a process ended. The zero value says that nothing is known.
type Status struct {
	// Code is the exit code, or 128+Signal for a process that a signal ended.
	Code int
	// Signal is the signal that ended the process, or 0.
	Signal syscall.Signal
	// OOMKilled tells that the kernel killed a process of the container
	// because the container was at its memory limit.
	OOMKilled bool
	// Known is false when the process is gone and nobody saw its status: its
	// Runtime was killed. The other fields are then zero.
	Known bool
}

// String gives the status as a shell user would: "exit status 1",
// "signal: killed (out of memory)", "unknown".
func (s Status) String() string {
	var text string
	switch {
	case !s.Known:
		return "unknown"
	case s.Signal != 0:
		text = "signal: " + s.Signal.String()
	default:
		text = fmt.Sprintf("exit status %d", s.Code)
	}
	if s.OOMKilled {
		text += " (out of memory)"
	}
	return text
}

// StepError tells which call of a container's program failed.
type StepError struct {
	// Step is what the call was for, as "mount proc on /proc".
	Step string
	Err  error // a syscall.Errno
}

func (e *StepError) Error() string { return e.Step + ": " + e.Err.Error() }
func (e *StepError) Unwrap() error { return e.Err }

// CommandError tells that a process's program could not be executed. It comes
// from Container.Start, Start and Exec.
type CommandError struct {
	// Path is the first argument of the process.
	Path string
	// Code is what a shell gives: 127 for a command that was not found, 126
	// for one that cannot be executed.
	Code int
	Err  error
}

func (e *CommandError) Error() string { return fmt.Sprintf("exec %q: %v", e.Path, e.Err) }
func (e *CommandError) Unwrap() error { return e.Err }

// PanicError tells that a Reader or Writer of the caller's has panicked. It is
// inside of the error that Wait returns: a panic of one stream must not end the
// program, and what others do in it.
type PanicError struct {
	Value any    // what was given to panic
	Stack []byte // of the goroutine, as from debug.Stack
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// Unwrap gives Value, if that is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// Create is Runtime.Create of Default.
func Create(ctx context.Context, spec *specs.Spec, o CreateOptions) (*Container, error) {
	r, err := Default()
	if err != nil {
		return nil, err
	}
	return r.Create(ctx, spec, o)
}

// Start is Runtime.Start of Default.
func Start(ctx context.Context, spec *specs.Spec, o CreateOptions) (*Container, error) {
	r, err := Default()
	if err != nil {
		return nil, err
	}
	return r.Start(ctx, spec, o)
}
