//go:build linux

// Command bench measures the engine side by side with what limits it and with
// other engines.
//
//	go run ./bench [-peers docker,podman,crun,runc,umoci] [-json] [-short] [NAME...]
//
// README.md beside this file says what each benchmark does and how the peers
// are started. It needs root.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strings"
	"syscall"
)

// benchmark is one line of the table, or a few that are measured together.
type benchmark struct {
	name  string
	about string
	run   func(context.Context, *bench) ([]Result, error)
}

var benchmarks = []benchmark{
	{"start", "create, start, wait for and remove a container of true", benchStart},
	{"start-idle", "the same, once every 300 ms", benchStartIdle},
	{"start-heap", "the same from a process with a heap of 3 GB; the limit is the same from a small one", benchStartHeap},
	{"userns", "the same with a user namespace for each container; the limit is without", benchUserns},
	{"exec", "true in a running container", benchExec},
	{"parallel", "containers of true, 16 at a time", benchParallel},
	{"mounts", "lines that 200 running containers add to the host's mount table", benchMounts},
	{"unpack", "from an image's compressed layers to a runnable image, synced", benchUnpack},
	{"unpack-dir", "the same, each layer as a directory", benchUnpackDir},
	{"logging", "processor time for each MB of output that is logged; the limit is cat to a file", benchLogging},
	{"layers100", "the same as start of an image with 100 layers; the limit is of one with a single layer", benchLayers},
	{"running2000", "the same while 1,999 others run; the limit is while none does", benchRunning},
	{"pagecache", "page cache after 20 containers have read a file of 200 MB; the limit is the file", benchPageCache},
	{"memory", "memory of the program and the keeper for each idle container of 200", benchMemory},
	{"threads", "threads of a program with 2,000 running containers", benchThreads},
	{"copyout", "1 GB out of a running container; the limit is GNU tar of the same files", benchCopyOut},
	{"weight", "size and modules of a program that pulls and runs", benchWeight},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: bench [flags] [name...]\n\nbenchmarks:")
		for _, m := range benchmarks {
			fmt.Fprintf(stderr, "  %-12s %s\n", m.name, m.about)
		}
		fmt.Fprintln(stderr, "\nflags:")
		flags.PrintDefaults()
	}
	peers := flags.String("peers", strings.Join(peerNames(), ","), "other engines to measure, those of them that are installed; empty: none")
	asJSON := flags.Bool("json", false, "print one JSON object a line")
	short := flags.Bool("short", false, "smallest inputs and fewest rounds: shows that the bench works, not how fast anything is")
	image := flags.String("image", "", "OCI image `layout` to unpack; empty: the Debian image with a Go toolchain, made with debootstrap if it is not in the cache; with -short a small one")
	dir := flags.String("dir", os.TempDir(), "`directory` under which all that the bench writes goes")
	profile := flags.String("cpuprofile", "", "write a CPU profile of this process to `file`")
	serve := flags.String("serve-start", "", "internal: be a host process of start-heap and others, with this root `directory`")
	heap := flags.Int64("serve-heap", 0, "internal: `bytes` of heap of that process")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("needs root")
	}
	if *serve != "" {
		return serveStart(ctx, *serve, *heap, os.Stdin, stdout)
	}
	selected, err := choose(flags.Args())
	if err != nil {
		return err
	}
	if *profile != "" {
		f, err := os.Create(*profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}

	temp, err := os.MkdirTemp(*dir, "inboard-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	b := &bench{dir: temp, short: *short, imagePath: *image, log: stderr}
	if b.wanted, err = wantedPeers(*peers, stderr); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()

	print := printTable(stdout, b.wanted)
	if *asJSON {
		print = printJSON(stdout)
	}
	for _, m := range selected {
		results, err := m.run(ctx, b)
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		for _, r := range results {
			if err := print(r); err != nil {
				return err
			}
		}
	}
	return nil
}

func choose(names []string) ([]benchmark, error) {
	if len(names) == 0 {
		return benchmarks, nil
	}
	var selected []benchmark
	for _, name := range names {
		i := slices.IndexFunc(benchmarks, func(m benchmark) bool { return m.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no benchmark %q (-h lists them)", name)
		}
		selected = append(selected, benchmarks[i])
	}
	return selected, nil
}

// bench is one run of the program: what its benchmarks share.
type bench struct {
	dir       string
	short     bool
	imagePath string
	log       io.Writer
	wanted    []string

	small   *smallImage
	opened  []peer
	started bool
	real    *unpackImage
}

// rounds gives how often to measure: n, or 2 with -short.
func (b *bench) rounds(n int) int {
	if b.short {
		return 2
	}
	return n
}

// path gives a new directory's path in the bench's own.
func (b *bench) mkdir(name string) (string, error) {
	path := filepath.Join(b.dir, name)
	return path, os.MkdirAll(path, 0o700)
}

// image gives the one-layer busybox image, made at the first call.
func (b *bench) image() (*smallImage, error) {
	if b.small == nil {
		dir, err := b.mkdir("busybox")
		if err != nil {
			return nil, err
		}
		small, err := makeSmallImage(dir)
		if err != nil {
			return nil, err
		}
		b.small = small
	}
	return b.small, nil
}

// peers starts the other engines at the first call.
func (b *bench) peers(ctx context.Context) ([]peer, error) {
	if b.started {
		return b.opened, nil
	}
	b.started = true
	image, err := b.image()
	if err != nil {
		return nil, err
	}
	for _, name := range b.wanted {
		dir, err := b.mkdir(name)
		if err != nil {
			return nil, err
		}
		p, err := openPeer(ctx, name, dir, image)
		if err != nil {
			return nil, fmt.Errorf("start %s: %w", name, err)
		}
		b.opened = append(b.opened, p)
	}
	return b.opened, nil
}

func (b *bench) close() error {
	var errs []error
	for _, p := range slices.Backward(b.opened) {
		if err := p.Close(); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", p.Name(), err))
		}
	}
	return errors.Join(errs...)
}
