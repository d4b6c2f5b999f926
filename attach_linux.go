package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/inboard/engine/internal/input"
)

// read copies the caller's Stdin to the process. The error is nil at its end, or
// when the process takes nothing any more.
func (a *attachment) read(ctx context.Context) error {
	process, err := a.container.openInput(ctx, a.run)
	if err != nil {
		return err
	}
	defer process.leave()
	stdin := a.options.Stdin
	stop := func() {}
	if f, ok := stdin.(*os.File); ok {
		reader, err := input.New(f)
		if err != nil {
			return fmt.Errorf("standard input: %w", err)
		}
		defer reader.Stop()
		stdin, stop = reader, reader.Stop
	}
	defer context.AfterFunc(ctx, func() {
		stop()
		process.Close() // it may not be taking what is written to it
	})()
	err = a.copyInput(process, stdin)
	switch {
	case ctx.Err() != nil, errors.Is(err, unix.EPIPE), errors.Is(err, unix.EIO), errors.Is(err, os.ErrClosed):
		return nil
	case err == nil:
		return process.end(ctx)
	}
	return err
}

func (a *attachment) copyInput(process io.Writer, stdin io.Reader) error {
	b := make([]byte, 32<<10)
	for {
		n, err := stdin.Read(b)
		passed, detached := a.keys.pass(b[:n])
		if err == io.EOF {
			passed = append(passed[:len(passed):len(passed)], a.keys.rest()...)
		}
		if _, err := process.Write(passed); err != nil {
			return err
		}
		switch {
		case detached:
			return ErrDetached
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("read standard input: %w", err)
		}
	}
}
