package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// control is where an Engine takes requests of other programs: a socket in the
// run directory, with a connection for each request. It is made with the first
// container, and costs the others nothing. Whoever comes to it is served: he
// could change the records as well.
type control struct {
	accepting chan struct{}  // closed when no connection is accepted any more
	work      sync.WaitGroup // goroutines of connections

	mu       sync.Mutex
	listener *net.UnixListener // nil: not made yet
	conns    map[*net.UnixConn]bool
}

const (
	// packets are of sockets that keep messages apart (unix(7)).
	packets = "unixpacket"
	// maxMessage is less than what such a socket sends at once, in bytes.
	maxMessage = 64 << 10
	// acceptAgain is how long an Engine waits that can accept no connection, as
	// for want of descriptors.
	acceptAgain = 50 * time.Millisecond
)

// atControl calls f with the address of an Engine's socket. Those of sockets are
// short, unlike paths: this one goes by a descriptor of the directory.
func (r *root) atControl(engine string, f func(*net.UnixAddr) error) error {
	dir, err := os.OpenFile(r.controlDir(), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	return f(&net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), engine), Net: packets})
}

// takeRequests makes the socket, if it is not there. A container can do without.
func (e *Engine) takeRequests() {
	c := &e.control
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.listener != nil {
		return
	}
	err := e.root.atControl(e.root.engine, func(at *net.UnixAddr) (err error) {
		c.listener, err = net.ListenUnix(packets, at)
		return err
	})
	if err != nil {
		e.log().Warn("other programs cannot pause, update, resize or type into containers of this one", "error", err)
		return
	}
	c.listener.SetUnlinkOnClose(false) // its address does not last
	c.accepting, c.conns = make(chan struct{}), make(map[*net.UnixConn]bool)
	go e.accept(c.listener)
}

func (e *Engine) accept(listener *net.UnixListener) {
	c := &e.control
	defer close(c.accepting)
	for {
		conn, err := listener.AcceptUnix()
		switch {
		case err == nil:
			c.mu.Lock()
			c.conns[conn] = true
			c.mu.Unlock()
			c.work.Go(func() { e.serve(conn) })
		case errors.Is(err, net.ErrClosed):
			return
		default:
			time.Sleep(acceptAgain)
		}
	}
}

// close ends all connections. No call of the Engine is at work any more.
func (c *control) close() {
	c.mu.Lock()
	listener := c.listener
	c.mu.Unlock()
	if listener == nil {
		return
	}
	listener.Close()
	<-c.accepting
	c.mu.Lock()
	for conn := range c.conns {
		conn.Close()
	}
	c.mu.Unlock()
	c.work.Wait()
}

// serve answers the request of one connection.
func (e *Engine) serve(conn *net.UnixConn) {
	c := &e.control
	defer func() {
		c.mu.Lock()
		delete(c.conns, conn)
		c.mu.Unlock()
		conn.Close()
	}()
	b := make([]byte, maxMessage)
	n, err := conn.Read(b)
	if err != nil || hungUp(conn) {
		return // when this program was stopped, they had time to give up
	}
	var q request
	if err := json.Unmarshal(b[:n], &q); err != nil {
		_ = answer(conn, fmt.Errorf("request: %w: %w", err, ErrInvalidArgument), nil)
		return
	}
	// Nothing more comes than the end, which ends what is at work.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c.work.Go(func() {
		defer cancel()
		_, _ = conn.Read(make([]byte, 1))
	})
	if q.Verb == verbInput {
		e.serveInput(ctx, conn, &q)
		return
	}
	err = e.obey(ctx, &q)
	if closed := e.isOpen(); err != nil && closed != nil {
		err = closed // which has ended what was at work
	}
	_ = answer(conn, err, nil) // who has gone does not want it
}

// hungUp tells whether the other side sends no more.
func hungUp(conn *net.UnixConn) (gone bool) {
	socket, err := conn.SyscallConn()
	if err != nil {
		return true
	}
	err = socket.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(p, 0)
		gone = err == nil && n > 0
	})
	return gone || err != nil
}

// answer replies to a request, with a descriptor if one is given.
func answer(conn *net.UnixConn, err error, f *os.File) error {
	r := replyWith(err)
	if len(r.Error) > maxMessage/8 { // JSON makes six bytes of one at most
		r.Error = r.Error[:maxMessage/8]
	}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if f == nil {
		_, err = conn.Write(data)
		return err
	}
	from, err := f.SyscallConn() // Fd would make it blocking, for others too
	if err != nil {
		return err
	}
	var sent error
	err = from.Control(func(fd uintptr) { _, _, sent = conn.WriteMsgUnix(data, unix.UnixRights(int(fd)), nil) })
	return errors.Join(err, sent)
}

// owned gives a container of this Engine, which a request is about.
func (e *Engine) owned(q *request) (*Container, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c := e.containers[q.ID]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("no such container: %w", ErrNotFound)
}

// obey does what a request asks for, as for a caller of this program.
func (e *Engine) obey(ctx context.Context, q *request) error {
	c, err := e.owned(q)
	if err != nil {
		return err
	}
	switch {
	case q.Verb == verbPause:
		return c.Pause(ctx)
	case q.Verb == verbUnpause:
		return c.Unpause(ctx)
	case q.Verb == verbResume:
		r, err := c.own.runOf(ctx, q.Run)
		if err == nil {
			err = c.resume(ctx, r)
		}
		return err
	case q.Verb == verbUpdate && q.Resources != nil:
		return c.Update(ctx, UpdateOptions{Resources: *q.Resources})
	case q.Verb == verbResize && q.Size != nil:
		return c.Resize(ctx, *q.Size)
	case q.Verb == verbInputEnd:
		r, err := c.own.runOf(ctx, q.Run)
		if err == nil {
			c.own.inputEnded(r)
		}
		return err
	}
	return fmt.Errorf("%q is not known to the container's program, process %d: %w", q.Verb, os.Getpid(), ErrNotImplemented)
}

// serveInput gives a descriptor of the input of a run. The connection ends with
// that, so that who writes to it learns of it.
func (e *Engine) serveInput(ctx context.Context, conn *net.UnixConn, q *request) {
	r, f, err := e.openInput(ctx, q)
	if err != nil {
		_ = answer(conn, err, nil)
		return
	}
	err = answer(conn, nil, f)
	r.output.stdin.detach(f)
	if err != nil {
		return
	}
	select {
	case <-ctx.Done():
	case <-r.output.stdin.closed:
	case <-r.done:
	}
}

func (e *Engine) openInput(ctx context.Context, q *request) (*run, *os.File, error) {
	ctx, leave, err := e.enter(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer leave()
	c, err := e.owned(q)
	if err != nil {
		return nil, nil, err
	}
	r, err := c.own.runOf(ctx, q.Run)
	if err != nil {
		return nil, nil, err
	}
	f, err := c.own.openInput(r)
	return r, f, err
}
