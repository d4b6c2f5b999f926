//go:build linux

package main_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/inboard/engine"
)

// TestPostgres has a database server in a container: its files are made there,
// it is used, stopped, and started again where it left off, also after it was
// killed.
func TestPostgres(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	servers, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if len(servers) == 0 {
		t.Skip("postgresql is not installed")
	}
	e := openEngine(t)
	img := postgresImage(t, e, filepath.Dir(filepath.Dir(servers[len(servers)-1])))
	said := &transcript{more: make(chan struct{}, 1)}
	const data = "test -e PG_VERSION || initdb --pgdata=. --username=postgres --auth=trust --no-locale --encoding=UTF8; exec postgres -D . -k /tmp -c jit=off"
	c, err := e.Create(t.Context(), img, engine.Config{
		Args:       []string{"sh", "-ec", data},
		StopSignal: "SIGINT", // a fast shutdown: clients are sent away, and all is written
		Stdout:     said,
		Stderr:     said,
		Network:    engine.NetworkNone,
	})
	if err != nil {
		t.Fatal(err)
	}
	p := &postgres{t, c, said}
	p.start()
	scale, clients, transactions := 5, 4, 200
	if testing.Short() {
		scale, transactions = 1, 20
	}
	p.exec("pgbench", "-i", "-q", fmt.Sprint("--scale=", scale))
	out := p.exec("pgbench", fmt.Sprint("--client=", clients), fmt.Sprint("--transactions=", transactions))
	total := clients * transactions
	if want := fmt.Sprintf("number of transactions actually processed: %d/%d", total, total); !strings.Contains(out, want) {
		t.Errorf("pgbench says %q, not %q", out, want)
	}
	const question = "select (select count(*) from pgbench_accounts), (select count(*) from pgbench_history)," +
		" (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)"
	want := fmt.Sprintf("%d|%d|t\n", 100_000*scale, total)
	ask := func() {
		t.Helper()
		if out := p.exec("psql", "-tAc", question); out != want {
			t.Errorf("the database has %q, not %q", out, want)
		}
	}
	ask()
	p.stop()

	p.start()
	if strings.Contains(said.text(), "not properly shut down") {
		t.Errorf("the server found no clean end:\n%s", said.text())
	}
	ask()
	if err := c.Kill(t.Context(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if status, err := c.Wait(t.Context()); err != nil || status.Signal != syscall.SIGKILL {
		t.Errorf("killed: %v, %v", status, err)
	}

	p.start()
	if !strings.Contains(said.text(), "not properly shut down") {
		t.Errorf("the server found a clean end after it was killed:\n%s", said.text())
	}
	ask()
	p.stop()
}

// postgres is a server in a container.
type postgres struct {
	t    *testing.T
	c    *engine.Container
	said *transcript
}

// start returns when the server takes connections.
func (p *postgres) start() {
	p.t.Helper()
	p.said.clear()
	if err := p.c.Start(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
	p.said.await(p.t, "ready to accept connections")
}

func (p *postgres) stop() {
	p.t.Helper()
	if err := p.c.Stop(p.t.Context(), engine.StopOptions{Grace: new(time.Minute)}); err != nil {
		p.t.Fatal(err)
	}
	if status, err := p.c.Wait(p.t.Context()); err != nil || !status.Known || status.Code != 0 {
		p.t.Errorf("stopped: %v, %v", status, err)
	}
	for _, want := range []string{"received fast shutdown request", "database system is shut down"} {
		if !strings.Contains(p.said.text(), want) {
			p.t.Errorf("no %q in\n%s", want, p.said.text())
		}
	}
}

// exec runs a client beside the server and gives its output.
func (p *postgres) exec(args ...string) string {
	p.t.Helper()
	var out, errs bytes.Buffer
	x, err := p.c.Exec(p.t.Context(), engine.ExecConfig{Args: args, Stdout: &out, Stderr: &errs})
	if err != nil {
		p.t.Fatal(err)
	}
	status, err := x.Wait(p.t.Context())
	if err != nil || status.Code != 0 {
		p.t.Fatalf("%s: %v, %v\n%s%s\nserver:\n%s", args[0], status, err, out.Bytes(), errs.Bytes(), p.said.text())
	}
	return out.String()
}

// openEngine opens one for a test, on a root of its own.
func openEngine(t *testing.T) *engine.Engine {
	t.Helper()
	e, err := engine.Open(engine.WithRoot(filepath.Join(t.TempDir(), "root")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// postgresImage makes an image of this machine's server, of the libraries that
// its programs need, and of a shell.
func postgresImage(t *testing.T, e *engine.Engine, home string) *engine.Image {
	t.Helper()
	version := filepath.Base(home)
	path := filepath.Join(t.TempDir(), "layer.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l := &machineLayer{w: tar.NewWriter(f), have: map[string]bool{}}
	l.text("etc/passwd", "root:x:0:0::/root:/bin/sh\npostgres:x:26:26::/data:/bin/sh\n")
	l.text("etc/group", "root:x:0:\npostgres:x:26:\n")
	l.header(&tar.Header{Typeflag: tar.TypeDir, Name: "data/", Mode: 0o700, Uid: 26, Gid: 26})
	l.header(&tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777})
	l.tree(filepath.Join(home, "bin"))
	l.tree(filepath.Join(home, "lib"))
	l.tree("/usr/share/postgresql/" + version)
	l.tree("/usr/share/zoneinfo")
	for _, program := range []string{"postgres", "initdb", "pgbench", "psql"} {
		l.libraries(filepath.Join(home, "bin", program))
	}
	l.file("/bin/sh")
	l.libraries("/bin/sh")
	if err := errors.Join(l.err, l.w.Close()); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromFile(path, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		t.Fatal(err)
	}
	made, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), layer)
	if err != nil {
		t.Fatal(err)
	}
	config, err := made.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.User, config.Config.WorkingDir = "postgres", "/data"
	config.Config.Env = []string{"PATH=" + filepath.Join(home, "bin") + ":/bin", "PGHOST=/tmp"}
	if made, err = mutate.ConfigFile(made, config); err != nil {
		t.Fatal(err)
	}
	img, err := e.Import(t.Context(), made, engine.ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// machineLayer is a layer with files of this machine, at their paths. The first
// error stays.
type machineLayer struct {
	w    *tar.Writer
	have map[string]bool
	err  error
}

func (l *machineLayer) header(h *tar.Header) {
	if l.err == nil {
		l.err = l.w.WriteHeader(h)
	}
}

func (l *machineLayer) text(name, data string) {
	l.header(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data))})
	if l.err == nil {
		_, l.err = io.WriteString(l.w, data)
	}
}

// file adds one, with what it links to, through whatever links its path leads.
func (l *machineLayer) file(path string) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		l.err = errors.Join(l.err, err)
		return
	}
	if path != real && !l.have[path] {
		l.have[path] = true
		l.header(&tar.Header{Typeflag: tar.TypeSymlink, Name: path[1:], Linkname: real})
	}
	if info, err := os.Stat(real); l.have[real] || err == nil && info.IsDir() {
		return // a directory comes with the tree
	}
	l.have[real] = true
	data, err := os.ReadFile(real)
	if err != nil {
		l.err = errors.Join(l.err, err)
		return
	}
	l.header(&tar.Header{Typeflag: tar.TypeReg, Name: real[1:], Mode: 0o755, Size: int64(len(data))})
	if l.err == nil {
		_, l.err = l.w.Write(data)
	}
}

// tree adds what is below a directory. LLVM's part, which is large and for long
// queries, is left out.
func (l *machineLayer) tree(dir string) {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == "bitcode":
			return fs.SkipDir
		case d.IsDir(), strings.HasPrefix(d.Name(), "llvmjit"):
		default:
			l.file(path)
		}
		return nil
	})
	l.err = errors.Join(l.err, err)
}

var libraryPath = regexp.MustCompile(`/\S+`)

// libraries adds those of a program, and its loader.
func (l *machineLayer) libraries(program string) {
	out, err := exec.Command("ldd", program).Output()
	if err != nil {
		l.err = errors.Join(l.err, fmt.Errorf("ldd %s: %w", program, err))
		return
	}
	for line := range strings.Lines(string(out)) {
		if path := libraryPath.FindString(line); path != "" {
			l.file(path)
		}
	}
}

// transcript is what a program says, for who waits for it to say something.
type transcript struct {
	mu   sync.Mutex
	said strings.Builder
	more chan struct{}
}

func (s *transcript) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.more <- struct{}{}:
	default:
	}
	return s.said.Write(p)
}

func (s *transcript) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.said.String()
}

func (s *transcript) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said.Reset()
}

func (s *transcript) await(t *testing.T, text string) {
	t.Helper()
	within, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	for !strings.Contains(s.text(), text) {
		select {
		case <-s.more:
		case <-within.Done():
			t.Fatalf("no %q in\n%s", text, s.text())
		}
	}
}
