package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

var _ = add(map[string]func(*call) error{
	"sh": shell, "echo": builtin, "printf": builtin, "test": builtin, "[": builtin, "pwd": builtin,
})

// shell is mvdan.cc/sh's interpreter. What it does not have is said here: "$!"
// is a name for wait, not a pid that kill takes, since background jobs of the
// shell are no processes of their own (what they run is); exec waits for the
// program instead of becoming it; only descriptors 0 to 2 can be redirected; there
// is no job control and no ulimit.
func shell(c *call) error {
	set, args, command, err := shellOptions(c)
	if err != nil {
		return err
	}
	if command && len(args) == 0 {
		return c.usage("-c needs a value")
	}
	var script io.Reader = os.Stdin
	name := c.name
	switch {
	case command:
		script = strings.NewReader(args[0])
		if args = args[1:]; len(args) > 0 {
			name, args = args[0], args[1:]
		}
	case len(args) > 0:
		text, err := os.ReadFile(args[0])
		if err != nil {
			c.failed(err)
			return status(127)
		}
		name, args = args[0], args[1:]
		script = bytes.NewReader(text)
	}
	r, t, err := newRunner(append(append(set, "--"), args...))
	if err != nil {
		return err
	}
	parser := syntax.NewParser()
	if script == os.Stdin {
		err = t.interactive(r, parser)
	} else {
		var file *syntax.File
		if file, err = parser.Parse(script, name); err == nil {
			err = r.Run(context.Background(), file)
		}
	}
	err = t.last(r, err)
	var code interp.ExitStatus
	switch {
	case err == nil:
		return nil
	case errors.As(err, &code):
		return status(code)
	case errors.As(err, new(syntax.ParseError)):
		fmt.Fprintln(os.Stderr, err)
		return status(2)
	}
	return err
}

// shellOptions gives the options of set(1) and whether -c is there.
func shellOptions(c *call) (set, args []string, command bool, err error) {
	args = c.args
	for len(args) > 0 && len(args[0]) > 1 && strings.ContainsRune("-+", rune(args[0][0])) && args[0] != "--" {
		word := args[0]
		args = args[1:]
		for _, letter := range word[1:] {
			switch letter {
			case 'c':
				command = true
			case 'i', 'l', 's':
			case 'o':
				if len(args) == 0 {
					return nil, nil, false, c.usage("option -o needs a value")
				}
				set, args = append(set, word[:1]+"o", args[0]), args[1:]
			default:
				set = append(set, word[:1]+string(letter))
			}
		}
	}
	if len(args) > 0 && (args[0] == "--" || args[0] == "-") {
		args = args[1:]
	}
	return set, args, command, nil
}

func newRunner(params []string) (*interp.Runner, *traps, error) {
	t := &traps{actions: map[os.Signal]string{}, came: make(chan os.Signal, 64)}
	r, err := interp.New(
		interp.StdIO(os.Stdin, os.Stdout, os.Stderr),
		interp.Params(params...),
		interp.CallHandler(t.call),
	)
	return r, t, err
}

// builtin has a program do what the shell of its name does itself.
func builtin(c *call) error {
	r, _, err := newRunner(append([]string{"--"}, c.args...))
	if err != nil {
		return err
	}
	file, err := syntax.NewParser().Parse(strings.NewReader(c.name+` "$@"`), c.name)
	if c.name == "[" && err == nil {
		file, err = syntax.NewParser().Parse(strings.NewReader(`command [ "$@"`), c.name)
	}
	if err != nil {
		return err
	}
	err = r.Run(context.Background(), file)
	var code interp.ExitStatus
	if errors.As(err, &code) {
		return status(code)
	}
	return err
}

// traps are the actions of trap for signals: the interpreter has those for EXIT
// and ERR alone. As in other shells an action runs when the command that runs
// has ended.
type traps struct {
	mu      sync.Mutex
	actions map[os.Signal]string
	came    chan os.Signal
}

// call sees each command before the interpreter does, and changes what it is.
func (t *traps) call(ctx context.Context, args []string) ([]string, error) {
	stderr := interp.HandlerCtx(ctx).Stderr
	switch args[0] {
	case "kill": // the interpreter takes the name for a builtin that it has not
		return append([]string{"env"}, args...), nil
	case "umask":
		return umask(ctx, args), nil
	case "trap":
		if len(args) > 2 {
			return t.trap(stderr, args[1], args[2:]), nil
		}
	}
	if action := t.pending(); action != "" {
		var command []string
		for _, a := range args {
			quoted, err := syntax.Quote(a, syntax.LangBash)
			if err != nil {
				return nil, err
			}
			command = append(command, quoted)
		}
		return []string{"eval", action + "\n" + strings.Join(command, " ")}, nil
	}
	return args, nil
}

// trap sets the action for signals, and leaves the rest to the interpreter.
func (t *traps) trap(stderr io.Writer, action string, conditions []string) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var rest []string
	for _, name := range conditions {
		if name == "0" {
			name = "EXIT"
		}
		sig, ok := signalOf(name)
		if !ok || sig == 0 {
			rest = append(rest, name)
			continue
		}
		delete(t.actions, sig)
		switch action {
		case "-":
			signal.Reset(sig)
		case "":
			signal.Ignore(sig)
		default:
			t.actions[sig] = action
			signal.Notify(t.came, sig)
		}
	}
	if len(rest) == 0 {
		return []string{"true"}
	}
	return append([]string{"trap", action}, rest...)
}

// pending are the actions for the signals that have come.
func (t *traps) pending() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var actions []string
	for {
		select {
		case sig := <-t.came:
			actions = append(actions, t.actions[sig])
		default:
			return strings.Join(actions, "\n")
		}
	}
}

// last runs the actions for the signals that came during the last command.
func (t *traps) last(r *interp.Runner, result error) error {
	action := t.pending()
	if action == "" || r.Exited() {
		return result
	}
	file, err := syntax.NewParser().Parse(strings.NewReader(action), "trap")
	if err != nil {
		return err
	}
	if err := r.Run(context.Background(), file); r.Exited() {
		return err
	}
	return result
}

// interactive runs standard input a line at a time, since what runs may read
// the next.
func (t *traps) interactive(r *interp.Runner, parser *syntax.Parser) error {
	_, err := unix.IoctlGetTermios(0, unix.TCGETS)
	prompt := func(string) {}
	if err == nil {
		prompt = func(text string) { fmt.Fprint(os.Stderr, text) }
	}
	mark := "$ "
	if os.Getuid() == 0 {
		mark = "# "
	}
	prompt(mark)
	var last error
	for statements, err := range parser.InteractiveSeq(bytewise{os.Stdin}) {
		if err != nil {
			return err
		}
		if parser.Incomplete() {
			prompt("> ")
			continue
		}
		for _, s := range statements {
			if last = r.Run(context.Background(), s); r.Exited() {
				return last
			}
		}
		prompt(mark)
	}
	var code interp.ExitStatus
	if last != nil && !errors.As(last, &code) {
		return last
	}
	// The end of the input is the end of the shell, for the trap on EXIT.
	file, err := parser.Parse(strings.NewReader(fmt.Sprint("exit ", int(code))), "")
	if err != nil {
		return err
	}
	return r.Run(context.Background(), file)
}

// bytewise reads no further than the parser needs: what is behind a line may be
// for the command on it.
type bytewise struct{ from io.Reader }

func (b bytewise) Read(p []byte) (int, error) { return b.from.Read(p[:min(len(p), 1)]) }

// umask shows or sets the file mode creation mask of the shell's process.
func umask(ctx context.Context, args []string) []string {
	if len(args) == 1 {
		old := syscall.Umask(0)
		syscall.Umask(old)
		return []string{"printf", "%04o\\n", strconv.Itoa(old)}
	}
	mask, err := strconv.ParseUint(args[1], 8, 12)
	if err != nil {
		fmt.Fprintf(interp.HandlerCtx(ctx).Stderr, "umask: %s: not an octal number\n", args[1])
		return []string{"false"}
	}
	syscall.Umask(int(mask))
	return []string{"true"}
}

// signalOf reads a signal as "9", "KILL" or "SIGKILL"; 0 is none.
func signalOf(name string) (syscall.Signal, bool) {
	if n, err := strconv.Atoi(name); err == nil {
		return syscall.Signal(n), n >= 0 && n <= 64
	}
	name = strings.ToUpper(name)
	sig := unix.SignalNum("SIG" + strings.TrimPrefix(name, "SIG"))
	return sig, sig != 0
}

// signalNames are those of the first 31 signals.
func signalNames() (list []string) {
	for n := syscall.Signal(1); n < 32; n++ {
		list = append(list, strings.TrimPrefix(unix.SignalName(n), "SIG"))
	}
	return slices.DeleteFunc(list, func(s string) bool { return s == "" })
}
