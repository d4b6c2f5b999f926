package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lastWord is how long a program that is told to give up may take to say what
// has become of the request.
const lastWord = time.Second

// ask has the program of another Engine's container do something to it.
func (c *Container) ask(ctx context.Context, q request) error {
	conn, _, err := c.request(ctx, q)
	if err == nil {
		conn.Close()
	}
	return err
}

// request asks, and gives the connection after a reply that is no error, with
// the descriptor that has come with it.
func (c *Container) request(ctx context.Context, q request) (_ *net.UnixConn, _ *os.File, err error) {
	q.ID = c.id
	data, err := json.Marshal(q)
	if err != nil {
		return nil, nil, err
	}
	if len(data) > maxMessage {
		return nil, nil, fmt.Errorf("%d bytes to tell process %d, at most %d: %w", len(data), c.owner.PID, maxMessage, ErrInvalidArgument)
	}
	var conn *net.UnixConn
	err = c.engine.root.atControl(c.owner.Engine, func(at *net.UnixAddr) (err error) {
		conn, err = net.DialUnix(packets, nil, at)
		return err
	})
	if err != nil {
		return nil, nil, c.unanswered(err)
	}
	defer func() {
		if err != nil {
			conn.Close()
		}
	}()
	// The end of what we send is the end of what they do.
	stop := context.AfterFunc(ctx, func() {
		_ = conn.SetReadDeadline(time.Now().Add(lastWord))
		_ = conn.CloseWrite()
	})
	defer stop()
	var r reply
	var f *os.File
	if _, err = conn.Write(data); err == nil {
		f, err = receive(conn, &r)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		return nil, nil, c.unanswered(err)
	}
	if err = r.err(); err == nil {
		return conn, f, nil
	}
	if ctx.Err() != nil {
		return nil, nil, ctx.Err()
	}
	if _, gone := c.inspect(); errors.Is(gone, ErrNotFound) {
		err = gone // by the hand of a third, of which its program has not learned
	}
	return nil, nil, err
}

// receive takes a reply, and the descriptor that it may have.
func receive(conn *net.UnixConn, r *reply) (*os.File, error) {
	b, rights := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4))
	n, size, _, _, err := conn.ReadMsgUnix(b, rights)
	if err != nil {
		return nil, err
	}
	var f *os.File
	if messages, err := unix.ParseSocketControlMessage(rights[:size]); err == nil && len(messages) == 1 {
		if fds, err := unix.ParseUnixRights(&messages[0]); err == nil && len(fds) == 1 {
			f = os.NewFile(uintptr(fds[0]), "standard input")
		}
	}
	if err := json.Unmarshal(b[:n], r); err != nil {
		if f != nil {
			f.Close()
		}
		return nil, fmt.Errorf("reply: %w", err)
	}
	return f, nil
}

// unanswered says why the program of a container has not answered.
func (c *Container) unanswered(cause error) error {
	info, err := c.inspect()
	switch {
	case err != nil:
		return err
	case !info.Owner.Alive:
		return fmt.Errorf("its program has ended: %w", ErrFailedPrecondition)
	case errors.Is(cause, fs.ErrNotExist):
		return fmt.Errorf("its program, process %d, takes no requests: %w", c.owner.PID, ErrNotImplemented)
	case errors.Is(cause, unix.EAGAIN):
		return fmt.Errorf("its program, process %d, does not answer: %w", c.owner.PID, ErrUnavailable)
	}
	return fmt.Errorf("its program, process %d, takes no requests any more: %w: %w", c.owner.PID, cause, ErrFailedPrecondition)
}

// openForeignInput is the way to the input of a run of another Engine's
// container. It is closed when that is.
func (c *Container) openForeignInput(ctx context.Context, run int) (*inlet, error) {
	ctx, leave, err := c.engine.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	conn, f, err := c.request(ctx, request{Verb: verbInput, Run: run})
	if err != nil {
		return nil, err
	}
	if f == nil {
		conn.Close()
		return nil, fmt.Errorf("process %d has sent no descriptor of it: %w", c.owner.PID, ErrUnavailable)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		_, _ = conn.Read(make([]byte, 1))
		f.Close()
	}()
	return &inlet{
		File: f,
		leave: func() {
			conn.Close()
			<-over
		},
		end: func(ctx context.Context) error {
			err := c.ask(ctx, request{Verb: verbInputEnd, Run: run})
			if errors.Is(err, ErrFailedPrecondition) || errors.Is(err, ErrNotFound) {
				return nil // there is nothing left to end
			}
			return err
		},
	}, nil
}
