//go:build linux

package main

import (
	"errors"
	"flag"
	"os"
	"strconv"
	"strings"

	"github.com/inboard/engine"
)

// options are what the command line says.
type options struct {
	engine.Config
	root, image, keys string
	remove            bool
}

// parse reads a command line. What is wrong with it has been said.
func parse(args []string) (*options, error) {
	o := &options{Config: engine.Config{Stdout: os.Stdout, Stderr: os.Stderr}}
	c := &o.Config
	flags := flag.NewFlagSet("run", flag.ContinueOnError)
	text := func(to *string, name, preset, usage string) { flags.StringVar(to, name, preset, usage) }
	list := func(to *[]string, name, usage string) {
		flags.Func(name, usage, func(v string) error { *to = append(*to, v); return nil })
	}
	text(&o.root, "root", "", "root `directory` of the engine (default /var/lib/inboard)")
	text(&c.Name, "name", "", "`name` of the container")
	flags.BoolVar(&o.remove, "rm", false, "remove the container when it has ended")
	flags.BoolVar(&c.OpenStdin, "i", false, "pass standard input on")
	flags.BoolVar(&c.TTY, "t", false, "give the program a terminal")
	text(&o.keys, "detach-keys", "", "`keys` that stop run, with -i and -t (default ctrl-p,ctrl-q)")
	list(&c.Env, "e", "environment variable `NAME=VALUE`")
	text(&c.WorkingDir, "w", "", "working `directory`")
	text(&c.User, "u", "", "`user`[:group], names or numbers")
	flags.Func("m", "memory limit in `bytes`, or 512k, 64m, 2g", func(v string) (err error) {
		c.Resources.Memory, err = size(v)
		return err
	})
	flags.Func("v", "mount `SOURCE:TARGET[:OPTIONS]` of the host; options are ro, private, slave, shared and those of mount(8)", func(v string) error {
		source, rest, _ := strings.Cut(v, ":")
		return mount(c, engine.Mount{Type: engine.MountBind, Source: source}, rest)
	})
	flags.Func("tmpfs", "mount an empty filesystem in memory on `TARGET[:OPTIONS]`", func(v string) error {
		return mount(c, engine.Mount{Type: engine.MountTmpfs}, v)
	})
	flags.Func("device", "`PATH[:TARGET[:ACCESS]]` of a device of the host", func(v string) error {
		f := append(strings.SplitN(v, ":", 3), "", "")
		c.Security.Devices = append(c.Security.Devices, engine.Device{Path: f[0], Target: f[1], Access: f[2]})
		return nil
	})
	flags.BoolVar(&c.Security.ReadOnlyRoot, "read-only", false, "make all but mounts read-only")
	list(&c.Security.CapAdd, "cap-add", "capability to add, or ALL")
	list(&c.Security.CapDrop, "cap-drop", "capability to drop, or ALL")
	flags.BoolVar(&c.Security.Privileged, "privileged", false, "take nearly all confinement away")
	const whose = "`whose` it has: host, or container:NAME (default its own)"
	text((*string)(&c.PID), "pid", "", "processes: "+whose)
	text((*string)(&c.IPC), "ipc", "", "shared memory, semaphores and message queues: "+whose)
	text((*string)(&c.UTS), "uts", "", "host name: "+whose)
	text((*string)(&c.Network), "network", string(engine.NetworkNone), "`network`: none, host, or container:NAME")
	text((*string)(&c.Security.UserNamespace), "userns", "", "user ids: private, or the host's (default)")
	flags.BoolVar(&c.Init, "init", false, "run an init that reaps processes and forwards signals")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if flags.NArg() == 0 {
		flags.Usage()
		return nil, flag.ErrHelp
	}
	o.image, c.Args = flags.Arg(0), flags.Args()[1:]
	switch {
	case c.TTY: // it is attached to
		c.Stdout, c.WindowSize = nil, terminal{}.size()
	case c.OpenStdin: // the program gets the very file
		c.Stdin, c.OpenStdin = os.Stdin, false
	}
	return o, nil
}

// size reads a number of bytes.
func size(v string) (int64, error) {
	units := map[string]int{"": 0, "b": 0, "k": 10, "kb": 10, "m": 20, "mb": 20, "g": 30, "gb": 30}
	number := strings.TrimRight(v, "bkmg")
	shift, known := units[v[len(number):]]
	if !known {
		return 0, strconv.ErrSyntax
	}
	n, err := strconv.ParseInt(number, 10, 64-shift)
	return n << shift, err
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
