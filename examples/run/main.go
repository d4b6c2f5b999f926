//go:build linux

// Run runs the program of an image in a container, as docker run does:
//
//	run [-i] [-t] [--detach-keys KEYS] [-e NAME=VALUE]... [-w DIR] [-u USER] [-m BYTES]
//	    [-v SOURCE:TARGET[:ro]]... [--tmpfs TARGET[:OPTIONS]]... [--read-only]
//	    [--device PATH[:TARGET[:ACCESS]]]... [--cap-add NAME]... [--cap-drop NAME]... [--privileged]
//	    [--pid WHOSE] [--ipc WHOSE] [--uts WHOSE] [--network none|WHOSE] [--userns private] [--init]
//	    [--name NAME] [--rm] IMAGE [ARG...]
//
// WHOSE is host or container:NAME. Signals go to the container. With -t the
// program has a terminal of its own, as large as the one that run is in, and with
// -i too that one is raw: what is typed goes to the program, but for the detach
// keys. They stop run as ^Z stops a program; the container runs on, and fg
// attaches to it again. The exit status is the program's: 128+n if signal n ended
// it, 126 if it cannot be executed, 127 if it was not found, and 125 if the
// container could not be made. The container is gone when run ends, with or
// without --rm. It needs root.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/inboard/engine"
)

func main() {
	o, err := parse(os.Args[1:])
	if err != nil {
		os.Exit(125)
	}
	status, err := run(context.Background(), o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "run:", err)
	}
	command := (*engine.CommandError)(nil)
	switch {
	case errors.As(err, &command):
		os.Exit(command.Code)
	case !status.Known:
		os.Exit(125)
	}
	os.Exit(status.Code)
}

func run(ctx context.Context, o *options) (status engine.Status, err error) {
	e, err := engine.Open(engine.WithRoot(o.root))
	if err != nil {
		return status, err
	}
	defer e.Close()
	img, err := e.LookupImage(ctx, o.image)
	if errors.Is(err, engine.ErrNotFound) {
		img, err = e.Pull(ctx, o.image, engine.PullOptions{})
	}
	if err != nil {
		return status, err
	}
	c, err := e.Create(ctx, img, o.Config)
	if err != nil {
		return status, err
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals)
	signal.Reset(syscall.SIGCHLD, syscall.SIGPIPE, syscall.SIGURG)
	screen := terminal{}
	if o.TTY {
		signal.Reset(syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGCONT)
	}
	if err := c.Start(ctx); err != nil {
		return status, err
	}
	go func() { // both fail once the container has ended
		for sig := range signals {
			if sig == syscall.SIGWINCH && o.TTY {
				_ = c.Resize(ctx, screen.size())
			} else {
				_ = c.Kill(ctx, sig.(syscall.Signal))
			}
		}
	}()
	if o.TTY {
		if err := screen.attach(ctx, c, o.OpenStdin, o.keys); err != nil {
			return status, err
		}
	}
	status, err = c.Wait(ctx)
	switch {
	case err == nil && !status.Known:
		err = errors.New("nobody saw the container end")
	case err == nil && o.remove:
		err = c.Remove(ctx, engine.RemoveOptions{})
	}
	return status, err
}
