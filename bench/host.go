//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/inboard/engine"
)

// host is this program once more, with an engine and nothing else that takes
// memory or threads: what is measured is that of a program with containers.
type host struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines *bufio.Scanner
}

// host starts one on a directory that has the small image.
func (b *bench) host(ctx context.Context, name string) (*host, error) {
	o, err := b.open(ctx, name)
	if err == nil {
		err = o.close()
	}
	if err != nil {
		return nil, err
	}
	dir, err := b.mkdir(name)
	if err != nil {
		return nil, err
	}
	return startHost(ctx, dir, 0)
}

// startHost starts one on the root in dir, with a heap.
func startHost(ctx context.Context, dir string, heap int64) (*host, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	h := &host{cmd: exec.CommandContext(ctx, self, "-serve-start", dir, "-serve-heap", strconv.FormatInt(heap, 10))}
	h.cmd.Stderr = os.Stderr
	// A key press of interrupt is for the first process only, which then ends
	// this one by closing its input.
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if h.in, err = h.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	h.cmd.Cancel = h.in.Close
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	h.lines = bufio.NewScanner(out)
	return h, h.cmd.Start()
}

// ask has the process do something, and gives its answer.
func (h *host) ask(what string) (string, error) {
	if _, err := fmt.Fprintln(h.in, what); err != nil {
		return "", err
	}
	if !h.lines.Scan() {
		return "", errors.Join(errors.New("host process ended"), h.lines.Err())
	}
	return h.lines.Text(), nil
}

// start starts a container of true, and tells how long it took until that was
// removed.
func (h *host) start(context.Context) (time.Duration, error) {
	answer, err := h.ask("start")
	if err != nil {
		return 0, err
	}
	return time.ParseDuration(answer)
}

// run starts or removes containers that sleep until there are n.
func (h *host) run(n int) error {
	_, err := h.ask("run " + strconv.Itoa(n))
	return err
}

// weigh tells what the process has now: threads, and with its keeper memory in
// KiB. There is a container.
func (h *host) weigh() (threads, memory int, err error) {
	answer, err := h.ask("weigh")
	if err == nil {
		_, err = fmt.Sscan(answer, &threads, &memory)
	}
	return threads, memory, err
}

func (h *host) stop() error {
	h.in.Close()
	return h.cmd.Wait()
}

// served is what that process has.
type served struct {
	*ours
	running []*engine.Container
}

// serveStart is that process: it does what the lines say that it reads, and
// prints a line for each.
func serveStart(ctx context.Context, dir string, heap int64, in io.Reader, out io.Writer) (err error) {
	memory := grow(heap)
	defer func() { _ = len(memory) }()
	o, err := openOurs(ctx, dir, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.close()) }()
	// The end of the input ends also what goes on.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lines := make(chan string)
	go func() {
		defer cancel()
		for scanner := bufio.NewScanner(in); scanner.Scan(); {
			lines <- scanner.Text()
		}
	}()
	s := &served{ours: o}
	for {
		select {
		case line := <-lines:
			answer, err := s.do(ctx, line)
			if err == nil {
				_, err = fmt.Fprintln(out, answer)
			}
			if err != nil && ctx.Err() == nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *served) do(ctx context.Context, line string) (answer any, err error) {
	switch what, n, _ := strings.Cut(line, " "); what {
	case "start":
		return timed(s.start)(ctx)
	case "run":
		count, err := strconv.Atoi(n)
		if err != nil {
			return nil, err
		}
		return count, s.run(ctx, count)
	case "weigh":
		threads, memory, err := s.weigh(ctx)
		return fmt.Sprint(threads, " ", memory), err
	}
	return nil, fmt.Errorf("cannot %q", line)
}

// run brings the number of containers that sleep to n, several at a time.
func (s *served) run(ctx context.Context, n int) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for len(s.running) > n {
		c := s.running[len(s.running)-1]
		s.running = s.running[:len(s.running)-1]
		group.Go(func() error { return c.Remove(ctx, engine.RemoveOptions{Force: true}) })
	}
	started := make(chan *engine.Container, max(n-len(s.running), 0))
	for range cap(started) {
		group.Go(func() error {
			c, err := s.sleeper(ctx)
			if err == nil {
				started <- c
			}
			return err
		})
	}
	err := group.Wait()
	close(started)
	for c := range started {
		s.running = append(s.running, c)
	}
	return err
}

// weigh counts this process's threads, and adds up its and its keeper's memory.
func (s *served) weigh(ctx context.Context) (threads, kib int, err error) {
	if len(s.running) == 0 {
		return 0, 0, errors.New("no container runs, so there may be no keeper")
	}
	info, err := s.running[0].Inspect(ctx)
	if err != nil {
		return 0, 0, err
	}
	keeper, err := statusField(info.PID, "PPid:")
	if err != nil {
		return 0, 0, err
	}
	for _, pid := range []int{os.Getpid(), keeper} {
		own, err := proportional(pid)
		if err != nil {
			return 0, 0, err
		}
		kib += own
	}
	threads, err = statusField(os.Getpid(), "Threads:")
	return threads, kib, err
}

// grow fills a heap, every page of it written.
func grow(size int64) []string {
	var memory []string
	for ; size > 0; size -= 1 << 20 {
		memory = append(memory, strings.Repeat("m", 1<<20))
	}
	return memory
}
