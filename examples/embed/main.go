// Embed is an HTTP service that runs programs of one image, each request's in a
// container of its own:
//
//	embed [-root DIR] [-listen ADDRESS] [-deadline DURATION] IMAGE
//	curl --data-binary @text 'localhost:8080/?arg=tr&arg=a-z&arg=A-Z'
//
// The query is the command line; without one the image's own is run. The body
// is the program's input, and the response what it writes. Its status is 200 for
// exit status 0 and 422 for any other, 504 if the deadline passes, 507 if memory
// does not do, and 503 if too many others wait. It needs root.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/inboard/engine"
)

const (
	atOnce   = 100              // containers; other requests wait, for patience,
	patience = 10 * time.Second // and are then told to come again
	most     = 1 << 20          // bytes of input, and of output
)

// service is the handler.
type service struct {
	engine   *engine.Engine
	image    *engine.Image
	deadline time.Duration
	places   chan struct{} // has a value for each container
}

func main() {
	root := flag.String("root", "", "root `directory` of the engine (default /var/lib/inboard)")
	address := flag.String("listen", "localhost:8080", "`address` to listen on")
	deadline := flag.Duration("deadline", 10*time.Second, "what a program's start and run may take")
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := serve(*root, *address, flag.Arg(0), *deadline); err != nil {
		log.Fatal("embed: ", err)
	}
}

func serve(root, address, ref string, deadline time.Duration) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	e := engine.Default()
	if root != "" {
		if e, err = engine.Open(engine.WithRoot(root)); err != nil {
			return err
		}
	}
	// Close removes all that is left. Should the program end before, the kernel
	// ends its containers, and the next Open removes what they leave.
	defer func() { err = errors.Join(err, e.Close()) }()
	img, err := e.LookupImage(ctx, ref)
	if errors.Is(err, engine.ErrNotFound) {
		img, err = e.Pull(ctx, ref, engine.PullOptions{})
	}
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	log.Printf("listening on http://%s", listener.Addr())
	server := http.Server{Handler: &service{e, img, deadline, make(chan struct{}, atOnce)}}
	go func() {
		<-ctx.Done()
		stop() // so that a second signal ends the program at once
		_ = server.Shutdown(context.Background())
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	// Shutdown lets the requests that have come be answered, and each has a
	// deadline. A second call waits for them too.
	return server.Shutdown(context.Background())
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// All input is read before there is a container, so that a slow client holds
	// none. Only then does net/http watch whether the client goes away.
	connection := http.NewResponseController(w)
	_ = connection.SetReadDeadline(time.Now().Add(s.deadline))
	input, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	if err != nil {
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	_ = connection.SetReadDeadline(time.Time{}) // the watch reads, too
	select {
	case s.places <- struct{}{}:
		defer func() { <-s.places }()
	case <-time.After(patience):
		http.Error(w, "too many programs are running", http.StatusServiceUnavailable)
		return
	case <-r.Context().Done():
		return
	}
	output, status, err := s.run(r.Context(), r.URL.Query()["arg"], input)
	command := (*engine.CommandError)(nil)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		http.Error(w, "the program takes too long", http.StatusGatewayTimeout)
		return
	case errors.As(err, &command), errors.Is(err, engine.ErrInvalidArgument):
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	case err != nil: // most often the client has gone, and nobody gets this
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Exit-Status", strconv.Itoa(status.Code))
	switch {
	case status.OOMKilled:
		w.WriteHeader(http.StatusInsufficientStorage)
	case status.Code != 0:
		w.WriteHeader(http.StatusUnprocessableEntity)
	}
	_, _ = w.Write(output)
}

// run runs a program in a container of its own, which ends with ctx, when the
// client goes away, or with the deadline.
func (s *service) run(ctx context.Context, args []string, input []byte) (output []byte, status engine.Status, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.deadline)
	defer cancel()
	out := &bounded{full: cancel}
	c, err := s.engine.Create(ctx, s.image, engine.Config{
		Args:    args,
		User:    "65534:65534",
		Stdin:   bytes.NewReader(input),
		Stdout:  out,
		Stderr:  out, // the same Writer: its Write is called by one goroutine at a time
		LogSize: -1,  // the response is all that is kept of the output
		// With no swap, a program that wants too much is killed at once, and its
		// neighbours do not get slow. Pids is for one that multiplies.
		Resources: engine.Resources{Memory: 64 << 20, MemorySwap: 64 << 20, CPUs: 1, Pids: 64},
		Security:  engine.Security{CapDrop: []string{"ALL"}, NoNewPrivileges: true, ReadOnlyRoot: true},
		Network:   engine.NetworkNone,
	})
	if err != nil {
		return nil, status, err
	}
	// Force kills what runs still. Remove returns when nothing is left, and has
	// to do so whatever has happened to ctx.
	defer func() {
		err = errors.Join(err, c.Remove(context.WithoutCancel(ctx), engine.RemoveOptions{Force: true}))
	}()
	if err = c.Start(ctx); err == nil {
		status, err = c.Wait(ctx)
	}
	return out.data, status, err
}

// bounded keeps what a program writes, and ends one that writes too much.
type bounded struct {
	data []byte
	full context.CancelFunc
}

func (b *bounded) Write(p []byte) (int, error) {
	if len(b.data)+len(p) > most {
		b.full()
		return 0, errors.New("the program writes too much")
	}
	b.data = append(b.data, p...)
	return len(p), nil
}
