package engine

import (
	"context"
	"errors"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// WindowSize is the size of a terminal in characters. The zero value, which a
// terminal has until it gets another, leaves it to programs what to think.
type WindowSize struct {
	Rows, Columns uint16
}

// Resize tells the terminal of the container's process a new size; the programs
// in its foreground get SIGWINCH if it differs. Without Config.TTY, and where
// the container does not run, the error is ErrFailedPrecondition. A terminal of
// another program's container is resized by that, which has it: see Pause.
func (c *Container) Resize(ctx context.Context, size WindowSize) error {
	const op = "resize terminal of container"
	ctx, leave, err := c.engine.enter(ctx)
	if err != nil {
		return failed(op, c.id, err)
	}
	defer leave()
	if c.own == nil {
		return failed(op, c.id, c.ask(ctx, request{Verb: verbResize, Size: &size}))
	}
	r, _, err := c.own.running()
	if err != nil {
		return failed(op, c.id, err)
	}
	return failed(op, c.id, ended(r.container.Resize(size.Rows, size.Columns)))
}

// Resize is Container.Resize for the terminal of ExecConfig.TTY.
func (x *Exec) Resize(ctx context.Context, size WindowSize) error {
	const op = "resize terminal of exec in container"
	_, leave, err := x.container.engine.enter(ctx)
	if err != nil {
		return failed(op, x.container.id, err)
	}
	defer leave()
	return failed(op, x.container.id, ended(x.process.Resize(size.Rows, size.Columns)))
}

// ended says of a process that the runtime finds gone that it does not run.
func ended(err error) error {
	if errors.Is(err, ErrNotFound) {
		return notRunning(StateExited)
	}
	return err
}

func setTerminal(p *specs.Process, tty bool, size WindowSize) {
	p.Terminal = tty
	if tty && size != (WindowSize{}) {
		p.ConsoleSize = &specs.Box{Height: uint(size.Rows), Width: uint(size.Columns)}
	}
}
