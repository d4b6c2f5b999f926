// Command kernels runs the module's tests as root on other kernels and another
// processor: it boots Debian's kernels in qemu's software emulation, so it needs
// neither privileges nor virtualization, and sees cgroup v2 and 6.1 also from a
// machine that has neither.
//
//	go run ./internal/kernels [-arch amd64,arm64] [-kernel 6.1] [-run REGEXP] [-v] [packages[=REGEXP]...]
//
// Without packages it takes all of the module that have tests; with a regular
// expression behind a package, only those of its tests. It compiles each
// package's tests, boots one machine for each kernel and architecture, and runs
// them one after the other with -test.short, in a directory that has the
// package's testdata, with TMPDIR on ext4, busybox in PATH, and the program of
// internal/tools. There is no go command, no source, no network but loopback. A
// package fails when a test does, and also when it leaves a mount, cgroup, link,
// process or file behind.
//
// Kernels come from Debian's archive by apt-get, once, into inboard-kernels in
// the user's cache directory; remove it to get newer ones. Where a kernel or
// qemu cannot be had a line says what was left out, and that is no failure
// unless -must is given. Nothing else outlives the command.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := command(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// options are the command's flags.
type options struct {
	kernels    []kernel
	arches     []arch
	cache      *cache
	packages   []string
	run        string
	timeout    time.Duration
	must       bool
	verbose    bool
	processors int
	memory     int
}

// command is main with its surroundings as arguments. It gives the exit code: 1
// when something failed, 2 for wrong usage.
func command(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parseOptions(args, stderr)
	if err != nil {
		if err != flag.ErrHelp {
			fmt.Fprintln(stderr, "kernels:", err)
		}
		return 2
	}
	ok, err := o.all(ctx, &printer{w: stdout, verbose: o.verbose})
	if err != nil {
		fmt.Fprintln(stderr, "kernels:", err)
	}
	if !ok || err != nil {
		return 1
	}
	return 0
}

// parseOptions reads the command line.
func parseOptions(args []string, stderr io.Writer) (*options, error) {
	var o options
	f := flag.NewFlagSet("kernels", flag.ContinueOnError)
	f.SetOutput(stderr)
	archList := f.String("arch", "amd64,arm64", "architectures, separated by commas")
	kernelList := f.String("kernel", "6.1", "kernel versions, separated by commas")
	mirror := f.String("mirror", "http://deb.debian.org", "where Debian's archive is")
	f.StringVar(&o.run, "run", "", "run only tests that match this regular expression")
	f.DurationVar(&o.timeout, "timeout", 10*time.Minute, "how long one package's tests may take")
	f.BoolVar(&o.must, "must", false, "fail where qemu or a kernel cannot be had")
	f.BoolVar(&o.verbose, "v", false, "print all output as it comes")
	f.IntVar(&o.processors, "smp", 2, "processors of a machine")
	f.IntVar(&o.memory, "memory", 2048, "memory of a machine, in MiB")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	o.packages = f.Args()
	var err error
	if o.arches, err = pick("architecture", *archList, arches, func(a arch) string { return a.name }); err != nil {
		return nil, err
	}
	if o.kernels, err = pick("kernel", *kernelList, kernels, func(k kernel) string { return k.version }); err != nil {
		return nil, err
	}
	o.cache, err = openCache(*mirror)
	return &o, err
}

// all runs the tests on every kernel of every architecture and tells whether
// all that could be tried went well.
func (o *options) all(ctx context.Context, p *printer) (bool, error) {
	good := true
	for _, a := range o.arches {
		ok, err := o.onArch(ctx, a, p)
		if err != nil {
			return false, err
		}
		good = good && ok
	}
	return good, nil
}

// onArch compiles the tests once for an architecture and runs them on each
// kernel.
func (o *options) onArch(ctx context.Context, a arch, p *printer) (bool, error) {
	var systems []*system
	good := true
	for _, k := range o.kernels {
		s, err := o.system(ctx, k, a)
		if errdefs.IsUnavailable(err) {
			p.leftOut(err)
			good = good && !o.must
			continue
		}
		if err != nil {
			return false, err
		}
		systems = append(systems, s)
	}
	if len(systems) == 0 {
		return good, nil
	}
	work, err := os.MkdirTemp("", "inboard-kernels-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(work)
	packages, err := listTests(ctx, a, o.packages)
	if err != nil {
		return false, err
	}
	load, err := buildPayload(ctx, a, packages, o.testArgs(), filepath.Join(work, "disk"))
	if err != nil {
		return false, err
	}
	init := filepath.Join(work, "init")
	if err := buildInit(ctx, a, init); err != nil {
		return false, err
	}
	for _, s := range systems {
		ok, err := o.onSystem(ctx, s, init, load, filepath.Join(work, s.release), p)
		if err != nil {
			return false, err
		}
		good = good && ok
	}
	return good, nil
}

// system gives what is needed to boot a kernel, or errdefs.ErrUnavailable.
func (o *options) system(ctx context.Context, k kernel, a arch) (*system, error) {
	for _, tool := range []struct{ program, pkg string }{
		{a.qemu, a.pkg}, {"mkfs.ext4", "e2fsprogs"},
	} {
		if _, err := exec.LookPath(findTool(tool.program)); err != nil {
			return nil, fmt.Errorf("kernel %s for %s: no %s (Debian's package %s): %w",
				k.version, a.name, tool.program, tool.pkg, errdefs.ErrUnavailable)
		}
	}
	return o.cache.get(ctx, k, a)
}

// testArgs are the arguments of every test binary.
func (o *options) testArgs() []string {
	args := []string{"-test.v=test2json", "-test.short", "-test.paniconexit0", "-test.timeout=" + o.timeout.String()}
	if o.run != "" {
		args = append(args, "-test.run="+o.run)
	}
	return args
}

// onSystem boots one machine in work and prints what its tests came to.
func (o *options) onSystem(ctx context.Context, s *system, init string, load *payload, work string, p *printer) (bool, error) {
	if err := os.Mkdir(work, 0o755); err != nil {
		return false, err
	}
	defer os.RemoveAll(work)
	if err := writeInitramfs(filepath.Join(work, "initramfs"), s, init, load.tests); err != nil {
		return false, err
	}
	if err := makeDisk(ctx, filepath.Join(work, "disk"), load.dir); err != nil {
		return false, err
	}
	good := true
	for _, r := range load.broken {
		p.result(s, &r)
		good = false
	}
	if len(load.tests) == 0 {
		return good, nil
	}
	m := &machine{system: s, work: work, timeout: o.timeout, processors: o.processors, memory: o.memory}
	run := newRun(load.tests, p, s)
	start := time.Now()
	err := m.run(ctx, run.event)
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	ok := run.finish(err, m.console(200))
	p.machine(s, run.booted.Sub(start), time.Since(start))
	return good && ok, nil
}
