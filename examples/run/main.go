//go:build linux

// Run runs the program of an image in a container, as docker run does:
//
//	run [-i] [-t] [--detach-keys KEYS] [-e NAME=VALUE]... [-w DIR] [-u USER] [-m BYTES]
//	    [-v SOURCE:TARGET[:ro]]...
//	    [--tmpfs TARGET[:OPTIONS]]... [--read-only] [--cap-add NAME]... [--cap-drop NAME]...
//	    [--device PATH[:TARGET[:ACCESS]]]... [--privileged] [--name NAME] [--rm] IMAGE [ARG...]
//
// Signals go to the container. With -t the program has a terminal of its own, as
// large as the one that run is in, and with -i too that one is raw: what is typed
// goes to the program, but for the detach keys. They stop run as ^Z stops a
// program; the container runs on, and fg attaches to it again. The exit status is the program's: 128+n if
// signal n ended it, 126 if it cannot be executed, 127 if it was not found,
// and 125 if the container could not be made. The container has no network,
// and is gone when run ends, with or without --rm. It needs root.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/inboard/engine"
)

// units of sizes, as powers of two.
var units = map[string]int{"": 0, "b": 0, "k": 10, "kb": 10, "m": 20, "mb": 20, "g": 30, "gb": 30}

func main() {
	c := engine.Config{Stdout: os.Stdout, Stderr: os.Stderr, Network: engine.NetworkNone}
	flags := flag.NewFlagSet("run", flag.ContinueOnError)
	root := flags.String("root", "", "root `directory` of the engine (default /var/lib/inboard)")
	input := flags.Bool("i", false, "pass standard input on")
	keys := flags.String("detach-keys", "", "`keys` that stop run, with -i and -t (default ctrl-p,ctrl-q)")
	flags.BoolVar(&c.TTY, "t", false, "give the program a terminal")
	remove := flags.Bool("rm", false, "remove the container when it has ended")
	flags.StringVar(&c.Name, "name", "", "`name` of the container")
	flags.StringVar(&c.WorkingDir, "w", "", "working `directory`")
	flags.StringVar(&c.User, "u", "", "`user`[:group], names or numbers")
	flags.Func("e", "environment variable `NAME=VALUE`", func(v string) error { c.Env = append(c.Env, v); return nil })
	flags.Func("m", "memory limit in `bytes`, or 512k, 64m, 2g", func(v string) (err error) {
		number := strings.TrimRight(v, "bkmg")
		shift, known := units[v[len(number):]]
		if c.Resources.Memory, err = strconv.ParseInt(number, 10, 64-shift); !known {
			err = strconv.ErrSyntax
		}
		c.Resources.Memory <<= shift
		return err
	})
	flags.Func("v", "mount `SOURCE:TARGET[:OPTIONS]` of the host; options are ro, private, slave, shared and those of mount(8)", func(v string) error {
		source, rest, _ := strings.Cut(v, ":")
		return mount(&c, engine.Mount{Type: engine.MountBind, Source: source}, rest)
	})
	flags.Func("tmpfs", "mount an empty filesystem in memory on `TARGET[:OPTIONS]`", func(v string) error {
		return mount(&c, engine.Mount{Type: engine.MountTmpfs}, v)
	})
	flags.Func("cap-add", "capability to add, or ALL", func(v string) error { c.Security.CapAdd = append(c.Security.CapAdd, v); return nil })
	flags.Func("cap-drop", "capability to drop, or ALL", func(v string) error { c.Security.CapDrop = append(c.Security.CapDrop, v); return nil })
	flags.Func("device", "`PATH[:TARGET[:ACCESS]]` of a device of the host", func(v string) error {
		f := append(strings.SplitN(v, ":", 3), "", "")
		c.Security.Devices = append(c.Security.Devices, engine.Device{Path: f[0], Target: f[1], Access: f[2]})
		return nil
	})
	flags.BoolVar(&c.Security.Privileged, "privileged", false, "take nearly all confinement away")
	flags.BoolVar(&c.Security.ReadOnlyRoot, "read-only", false, "make all but mounts read-only")
	code, err := 125, flags.Parse(os.Args[1:])
	if err == nil && flags.NArg() == 0 {
		flags.Usage()
	} else if err == nil {
		if c.OpenStdin = *input && c.TTY; *input && !c.TTY {
			c.Stdin = os.Stdin
		}
		c.Args = flags.Args()[1:]
		if code, err = run(context.Background(), *root, flags.Arg(0), c, *keys, *remove); err != nil {
			fmt.Fprintln(os.Stderr, "run:", err)
		}
	}
	os.Exit(code)
}

// mount adds a mount from "TARGET[:OPTION,...]".
func mount(c *engine.Config, m engine.Mount, spec string) error {
	target, options, _ := strings.Cut(spec, ":")
	if m.Target = target; target == "" {
		return errors.New("no target")
	}
	for option := range strings.SplitSeq(options, ",") {
		switch strings.TrimPrefix(option, "r") {
		case "o":
			m.ReadOnly = true
		case "private", "slave", "shared":
			m.Propagation = option
		case "", "w":
		default:
			m.Options = append(m.Options, option)
		}
	}
	c.Mounts = append(c.Mounts, m)
	return nil
}

func run(ctx context.Context, root, ref string, config engine.Config, keys string, remove bool) (code int, err error) {
	e := engine.Default()
	if root != "" {
		if e, err = engine.Open(engine.WithRoot(root)); err != nil {
			return 125, err
		}
	}
	defer e.Close()
	img, err := e.LookupImage(ctx, ref)
	if errors.Is(err, engine.ErrNotFound) {
		img, err = e.Pull(ctx, ref, engine.PullOptions{})
	}
	if err != nil {
		return 125, err
	}
	var screen terminal
	if config.TTY {
		config.Stdout, config.WindowSize = nil, screen.size()
	}
	c, err := e.Create(ctx, img, config)
	if err != nil {
		return 125, err
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals)
	signal.Reset(syscall.SIGCHLD, syscall.SIGPIPE, syscall.SIGURG)
	if config.TTY {
		signal.Reset(syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGCONT)
	}
	if err := c.Start(ctx); err != nil {
		if command := (*engine.CommandError)(nil); errors.As(err, &command) {
			return command.Code, err
		}
		return 125, err
	}
	go func() {
		for sig := range signals {
			if sig == syscall.SIGWINCH && config.TTY {
				_ = c.Resize(ctx, screen.size())
				continue
			}
			_ = c.Kill(ctx, sig.(syscall.Signal)) // fails once the container has ended
		}
	}()
	if config.TTY {
		if err := screen.attach(ctx, c, config.OpenStdin, keys); err != nil {
			return 125, err
		}
	}
	status, err := c.Wait(ctx)
	if err == nil && remove {
		err = c.Remove(ctx, engine.RemoveOptions{})
	}
	if !status.Known {
		return 125, errors.Join(err, errors.New("nobody saw the container end"))
	}
	return status.Code, err
}
