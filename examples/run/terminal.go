//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/inboard/engine"
)

// terminal is the one that run itself is in, if there is one: standard input.
type terminal struct{}

func (terminal) size() (s engine.WindowSize) {
	if size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ); err == nil {
		s.Rows, s.Columns = size.Row, size.Col
	}
	return s
}

// attach shows the container's terminal in this one, until it has ended.
func (t terminal) attach(ctx context.Context, c *engine.Container, input bool, keys string) error {
	o := engine.AttachOptions{Stdout: os.Stdout, Replay: true, DetachKeys: keys}
	if !input {
		return c.Attach(ctx, o)
	}
	o.Stdin = os.Stdin
	continued, ended := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(continued, syscall.SIGCONT)
	go func() {
		_, _ = c.Wait(ctx)
		close(ended)
	}()
	for {
		err := t.raw(func() error { return c.Attach(ctx, o) })
		if !errors.Is(err, engine.ErrDetached) {
			return err
		}
		// The shell takes over. When run goes on in the background, it has no
		// terminal, and waits to be continued in the foreground.
		fmt.Fprintln(os.Stderr)
		_ = syscall.Kill(0, syscall.SIGSTOP)
		for <-continued; !t.foreground(); {
			select {
			case <-continued:
			case <-ended:
				return nil
			}
		}
		select {
		case <-ended:
			return nil
		default:
		}
		o.Replay, o.Attached = false, func() { // programs draw anew when the size changes
			size := t.size()
			_ = c.Resize(ctx, engine.WindowSize{Rows: size.Rows + 1, Columns: size.Columns})
			_ = c.Resize(ctx, size)
		}
	}
}

func (terminal) foreground() bool {
	group, err := unix.IoctlGetInt(0, unix.TIOCGPGRP)
	return err != nil || group == syscall.Getpgrp()
}

// raw has the terminal pass on all that is typed, also ^C, while f runs.
func (terminal) raw(f func() error) error {
	old, err := unix.IoctlGetTermios(0, unix.TCGETS)
	if err != nil { // it is no terminal
		return f()
	}
	raw := *old
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	raw.Oflag &^= unix.OPOST
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cflag = raw.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(0, unix.TCSETS, &raw); err != nil {
		return err
	}
	defer unix.IoctlSetTermios(0, unix.TCSETS, old)
	return f()
}
