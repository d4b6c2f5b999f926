package engine

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// Config says what a container runs, and how. Its zero value, but for Network,
// runs what the image says, with no input, the output going to the log alone.
//
// Entrypoint, Args, Env, User, WorkingDir, StopSignal and Labels combine with
// the image's configuration as Docker combines them.
type Config struct {
	// Name is unique in the root: 2 to 255 letters, digits, '_', '.' and '-',
	// the first a letter or digit. Empty: the first 12 digits of the ID.
	Name string

	// Entrypoint comes before Args on the command line. Nil: the image's.
	// Empty and not nil: none. If it is not empty, the image's Cmd is not used.
	Entrypoint []string
	// Args replaces the image's Cmd.
	Args []string
	// Env is added to the image's environment: "NAME=value" sets a variable,
	// "NAME" alone removes it. PATH and HOSTNAME are always set, HOME from the
	// container's /etc/passwd.
	Env []string
	// User is a name or number of the container's /etc/passwd, then
	// optionally ":" and a group's name or number of its /etc/group.
	// Empty: the image's, or root.
	User string
	// WorkingDir is an absolute path in the container, made if it is missing.
	// Empty: the image's, or "/".
	WorkingDir string
	// Hostname is empty for the first 12 digits of the ID, or with
	// NetworkHost for the host's own name. It cannot be set where the network
	// or the uts namespace is another container's, or the latter the host's.
	Hostname string
	// StopSignal is what Stop sends, as "SIGINT", "INT" or "2". Empty: the
	// image's, or SIGTERM.
	StopSignal string
	// Labels are kept with the container and mean nothing to the engine.
	Labels map[string]string

	// TTY gives the process a terminal: its standard streams, and /dev/console.
	// What it shows is the output of one stream, Stdout; Stderr is not used.
	// What comes from Stdin is typed, and its end is nothing to the process,
	// which is told of an end by a typed ^D. Files are copied as any Reader and
	// Writer, and logged; if one is a terminal itself, its mode is left alone:
	// making it raw is up to the program. TERM is set to xterm, unless the image
	// or Env sets it.
	TTY bool
	// WindowSize is what the terminal has at the beginning. See Container.Resize.
	WindowSize WindowSize

	// Stdin is copied to the process until it ends. An *os.File is handed
	// over as it is. Nil: /dev/null. Wait does not wait for a Reader that
	// never ends. A container that is started again goes on reading where the
	// first run ended.
	Stdin io.Reader
	// OpenStdin leaves standard input to those who attach, in place of Stdin:
	// see Container.Attach. It is open as long as the container runs.
	OpenStdin bool
	// StdinOnce closes it when the Stdin of one of them has ended. Of a terminal
	// it means nothing.
	StdinOnce bool
	// Stdout and Stderr get what the process writes, as it writes it; the log
	// gets it first. An *os.File is handed over as it is, and that stream is
	// not logged. Nil: the log alone. If both are the same comparable value,
	// one goroutine at a time calls Write, in the order of writing as far as
	// two pipes can tell it.
	//
	// A Writer that blocks holds up the process when it has written as much as
	// a pipe holds, and in the end Wait, for WaitDelay; it holds up no other
	// container, nor the other stream if that goes elsewhere, and the log gets
	// everything. After the delay the Writer may still be at work, but is not
	// called again. One that fails, writes less than it was given, panics (see
	// PanicError) or ends its goroutine is not called again either. Wait tells
	// of all this by its error.
	Stdout, Stderr io.Writer
	// WaitDelay bounds how long the end of the container's process waits for
	// output that others hold open, or that a Writer has not taken. Zero: no
	// bound, but see RemoveOptions.Force.
	WaitDelay time.Duration
	// LogSize is how many bytes the log takes on the disk at most, in LogFiles
	// files. When the last one is full, the oldest is dropped, so that seven
	// eighths of all files but one are kept at least. Zero: 8 MiB. Negative:
	// there is no log. Each file has 4 KiB at least.
	LogSize int64
	// LogFiles is 1 to 100. Zero: 4.
	LogFiles int

	Resources Resources
	// CgroupParent is the cgroup below which the container gets its own, as a
	// path from the root of each hierarchy, so that limits of it hold for all
	// that is in it. Without "..", and not in the form of systemd's slices. What
	// is missing of it is made at each start, and removed when no container is
	// in it any more, if it is empty. Empty: see WithCgroupParent.
	CgroupParent string
	// Rlimits are limits of each process (setrlimit(2)).
	Rlimits  []Rlimit
	Security Security
	// Mounts are what the container gets beside its image's files.
	Mounts []Mount
	// Network must be set: the zero value is kept for a bridge.
	Network Network
	// PID, IPC and UTS say whose processes, System V and POSIX IPC (with
	// /dev/shm), and host name it has. A container that shares the processes of
	// others ends with all that it has started when its first process does, and
	// dies with its program, but a kill -9 of the program and of its keeper
	// process in the same moment can leave some to the next Open.
	PID, IPC, UTS Namespace
	// Init runs an init as the container's first process, which starts the
	// command, hands on all signals that it gets, reaps the processes that
	// others have left, and ends as the command does: by a code, which is
	// 128+n after signal n. It is no file of the host or the image.
	Init bool
}

// Rlimit is one limit of setrlimit(2).
type Rlimit struct {
	// Name is "nofile" or "RLIMIT_NOFILE".
	Name string `json:"name"`
	// Soft and Hard are in the unit of the limit; ^uint64(0) is no limit.
	Soft uint64 `json:"soft"`
	Hard uint64 `json:"hard"`
}

// Network says in which network a container is.
type Network string

const (
	// NetworkNone is a network namespace of its own with nothing but loopback.
	NetworkNone Network = "none"
	// NetworkHost is the host's network. The network of another container is
	// "container:" and what Lookup takes, as in Namespace; its host name and
	// /etc/hosts come with it.
	NetworkHost Network = "host"
)

func (n Network) check() error {
	if strings.HasPrefix(string(n), ofContainer) {
		return nil // see checkShares
	}
	switch n {
	case NetworkNone, NetworkHost:
		return nil
	case "":
		return fmt.Errorf("network is not set: bridge networks, which it will mean, do not exist yet; say %q or %q: %w", NetworkNone, NetworkHost, ErrNotImplemented)
	}
	return fmt.Errorf("network %q: not %q, %q or %q and a container: %w", n, NetworkNone, NetworkHost, ofContainer, ErrInvalidArgument)
}

// check finds what is wrong with a Config by itself, without image or host.
func (c *Config) check() error {
	if c.Name != "" {
		if err := checkName(c.Name); err != nil {
			return err
		}
	}
	if err := checkHostname(c.Hostname); err != nil {
		return err
	}
	if c.WaitDelay < 0 {
		return fmt.Errorf("wait delay %v: negative: %w", c.WaitDelay, ErrInvalidArgument)
	}
	if c.OpenStdin && c.Stdin != nil {
		return fmt.Errorf("standard input is both given and left open: %w", ErrInvalidArgument)
	}
	for _, v := range c.Env {
		if err := checkVariable(v); err != nil {
			return err
		}
	}
	if err := checkLogSize(c.LogSize, c.LogFiles); err != nil {
		return err
	}
	if err := checkMounts(c.Mounts); err != nil {
		return err
	}
	if err := checkCgroupParent(c.CgroupParent); err != nil {
		return err
	}
	if err := c.Network.check(); err != nil {
		return err
	}
	if err := c.Security.UserNamespace.check(c); err != nil {
		return err
	}
	return c.checkShares()
}

// checkHostname allows what sethostname(2) and Docker allow: 63 letters,
// digits, '-', '_' and '.'; it also becomes a line of /etc/hosts.
func checkHostname(name string) error {
	if len(name) > 63 {
		return fmt.Errorf("hostname %q: %d bytes, at most 63: %w", name, len(name), ErrInvalidArgument)
	}
	for _, c := range []byte(name) {
		if !isWordByte(c) && c != '-' && c != '.' {
			return fmt.Errorf("hostname %q: has %q: %w", name, c, ErrInvalidArgument)
		}
	}
	return nil
}

func isWordByte(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

func checkVariable(v string) error {
	if v == "" || v[0] == '=' {
		return fmt.Errorf("environment variable %q: has no name: %w", v, ErrInvalidArgument)
	}
	return checkText("environment variable", v)
}

// checkText refuses a NUL byte, which would end the string in the kernel.
func checkText(what, s string) error {
	if strings.IndexByte(s, 0) >= 0 {
		return fmt.Errorf("%s %q: has a NUL byte: %w", what, s, ErrInvalidArgument)
	}
	return nil
}
