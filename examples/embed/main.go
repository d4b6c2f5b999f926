// Embed is an HTTP service that runs programs of one image, each request's in a
// container of its own:
//
//	embed [-root DIR] [-listen ADDRESS] [-deadline DURATION] IMAGE
//	curl --data-binary @text 'localhost:8080/?arg=tr&arg=a-z&arg=A-Z'
//
// The query is the command line; without one the image's own is run. The body
// is the program's input, and the response what it writes. Its status is 200 for
// exit status 0 and 422 for any other, 504 if the deadline passes, 507 if memory
// does not do, and 503 if too many others run. It needs root.
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
	atOnce = 100     // containers; other requests wait
	most   = 1 << 20 // bytes of input, and of output
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
	deadline := flag.Duration("deadline", 10*time.Second, "what a program may take, with its wait for others")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	e, err := engine.Open(engine.WithRoot(*root))
	check(err)
	image, err := e.Pull(ctx, flag.Arg(0), engine.PullOptions{})
	check(err)
	listener, err := net.Listen("tcp", *address)
	check(err)
	log.Printf("listening on http://%s", listener.Addr())
	server := http.Server{Handler: &service{e, image, *deadline, make(chan struct{}, atOnce)}}
	context.AfterFunc(ctx, func() {
		stop() // a second signal ends the program at once
		_ = server.Shutdown(context.Background())
	})
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		check(err)
	}
	check(server.Shutdown(context.Background())) // when all who had come are served
	check(e.Close())
}

// check ends the program after an error, without Close: the kernel ends what
// containers there are, and the next Open removes what they leave.
func check(err error) {
	if err != nil {
		log.Fatal("embed: ", err)
	}
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// A slow client holds no container: all input is read before there is one.
	// Only then does net/http watch whether the client goes, by reading on.
	connection := http.NewResponseController(w)
	_ = connection.SetReadDeadline(time.Now().Add(s.deadline))
	input, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	if err != nil {
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	_ = connection.SetReadDeadline(time.Time{})
	ctx, cancel := context.WithTimeout(r.Context(), s.deadline)
	defer cancel()
	select {
	case s.places <- struct{}{}:
		defer func() { <-s.places }()
	case <-ctx.Done():
		http.Error(w, "too many programs are running", http.StatusServiceUnavailable)
		return
	}
	out := &output{full: cancel}
	status, err := s.run(ctx, r.URL.Query()["arg"], bytes.NewReader(input), out)
	if err != nil {
		http.Error(w, err.Error(), code(status, err))
		return
	}
	w.Header().Set("Exit-Status", strconv.Itoa(status.Code))
	w.WriteHeader(code(status, nil))
	_, _ = w.Write(out.Bytes())
}

// code is the status of a response.
func code(status engine.Status, err error) int {
	command := (*engine.CommandError)(nil)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout
	case errors.As(err, &command), errors.Is(err, engine.ErrInvalidArgument):
		return http.StatusBadRequest
	case err != nil: // most often the client has gone, and nobody gets this
		return http.StatusInternalServerError
	case status.OOMKilled:
		return http.StatusInsufficientStorage
	case status.Code != 0:
		return http.StatusUnprocessableEntity
	}
	return http.StatusOK
}

// run runs a program in a container of its own, which is gone when ctx ends.
func (s *service) run(ctx context.Context, args []string, in io.Reader, out io.Writer) (status engine.Status, err error) {
	c, err := s.engine.Create(ctx, s.image, engine.Config{
		Args:    args,
		User:    "65534:65534",
		Stdin:   in,
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
		return status, err
	}
	defer func() { // kills what runs still, whatever has happened to ctx
		err = errors.Join(err, c.Remove(context.WithoutCancel(ctx), engine.RemoveOptions{Force: true}))
	}()
	if err = c.Start(ctx); err == nil {
		status, err = c.Wait(ctx)
	}
	return status, err
}

// output keeps what a program writes, and ends one that writes too much.
type output struct {
	bytes.Buffer
	full func()
}

func (o *output) Write(p []byte) (int, error) {
	if o.Len()+len(p) > most {
		o.full()
		return 0, errors.New("the program writes too much")
	}
	return o.Buffer.Write(p)
}
