package image

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// TestShareChild is a program that pulls. It says how far it is, and ends early
// when its standard input does.
func TestShareChild(t *testing.T) {
	dir, ref := os.Getenv("INBOARD_TEST_SHARE_DIR"), os.Getenv("INBOARD_TEST_SHARE_REF")
	if dir == "" {
		t.Skip("run by other tests")
	}
	s := openStore(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	o := anonymous
	o.Progress = func(p Progress) { fmt.Printf("at %d of %d\n", p.Done, p.Total) }
	i, err := s.Pull(ctx, ref, o)
	if err != nil {
		fmt.Println("failed", errors.Is(err, context.Canceled), err)
		return
	}
	if _, err := i.Layers(); err != nil {
		t.Error(err)
	}
	fmt.Println("pulled", i.ID())
}

// puller is a running TestShareChild.
type puller struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.Closer
	lines chan string // closed at its end
	said  []string
}

func startPuller(t *testing.T, dir, ref string) *puller {
	t.Helper()
	p := &puller{t: t, lines: make(chan string, 10000)}
	p.cmd = exec.Command(os.Args[0], "-test.run=^TestShareChild$")
	p.cmd.Env = append(os.Environ(), "INBOARD_TEST_SHARE_DIR="+dir, "INBOARD_TEST_SHARE_REF="+ref)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdin = in
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.lines)
		for said := bufio.NewScanner(out); said.Scan(); {
			p.lines <- said.Text()
		}
	}()
	t.Cleanup(func() {
		p.signal(syscall.SIGKILL)
		p.end()
	})
	return p
}

func (p *puller) signal(s syscall.Signal) { p.cmd.Process.Signal(s) }

// until waits for a line that some f takes.
func (p *puller) until(what string, f func(line string) bool) string {
	p.t.Helper()
	for line := range p.lines {
		p.said = append(p.said, line)
		if f(line) {
			return line
		}
	}
	p.t.Fatalf("it ended before it was %s: %q", what, p.said)
	return ""
}

// underWay waits until it reports the half of a layer that a gate lets through,
// but for what is in buffers.
func (p *puller) underWay() {
	p.t.Helper()
	p.until("under way", func(line string) bool {
		var done, total int64
		n, _ := fmt.Sscanf(line, "at %d of %d", &done, &total)
		return n == 2 && isHalf(done, total)
	})
}

func isHalf(done, total int64) bool { return done >= total/2-512<<10 && done < total }

// pulls checks that it pulls an image, and reports no less than before.
func (p *puller) pulls(b *built) {
	p.t.Helper()
	p.until("done", func(line string) bool { return line == "pulled "+string(b.config) })
	last := int64(0)
	for _, line := range p.said {
		var done, total int64
		if n, _ := fmt.Sscanf(line, "at %d of %d", &done, &total); n == 2 && len(b.layers) == 1 {
			if done < last || done > total {
				p.t.Errorf("%d after %d of %d", done, last, total)
			}
			last = done
		}
	}
	p.end()
}

func (p *puller) end() {
	p.stdin.Close()
	for range p.lines { // to its end
	}
	p.cmd.Wait()
}

// gate is a registry's front that lets the first requests for a blob come to its
// middle only.
type gate struct {
	raw   []byte
	blob  digest.Digest
	spoil bool // the first half that the first one gets is wrong

	mu     sync.Mutex
	sent   int64
	asked  int
	middle chan struct{} // gets one for each request that is stopped
	open   chan struct{} // closed to let all go on
}

func newGate(f *fakeRegistry, l layerOf) *gate {
	g := &gate{raw: l.packed, blob: l.digest(), middle: make(chan struct{}, 100), open: make(chan struct{})}
	f.answer(g.serve)
	return g
}

func (g *gate) serve(w http.ResponseWriter, r *http.Request) bool {
	if !isBlob(r, g.blob) {
		return false
	}
	g.mu.Lock()
	g.asked++
	raw := g.raw
	if g.spoil && g.asked == 1 {
		raw = slices.Concat([]byte("spoiled"), raw[7:])
	}
	g.mu.Unlock()
	rest := ranged(w, r, raw)
	stop := max(0, len(rest)-len(raw)/2)
	g.send(w, rest[:stop])
	select {
	case <-g.open:
	default:
		g.middle <- struct{}{}
		select {
		case <-g.open:
		case <-r.Context().Done():
			hangUp()
		}
	}
	g.send(w, rest[stop:])
	return true
}

func (g *gate) send(w http.ResponseWriter, b []byte) {
	n, _ := w.Write(b)
	w.(http.Flusher).Flush()
	g.mu.Lock()
	g.sent += int64(n)
	g.mu.Unlock()
}

// served tells how many requests there were for the blob, and bytes of it.
func (g *gate) served() (int, int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.asked, g.sent
}

// nothingPending checks that a store has no unfinished things.
func nothingPending(t *testing.T, s testStore) {
	t.Helper()
	for _, name := range s.contents(t) {
		if strings.HasPrefix(name, "claims") || strings.HasPrefix(name, "fetching") {
			t.Errorf("left behind: %s", name)
		}
	}
}

// sharing has one program in the middle of a layer and another one that waits for
// it, and sees that.
func sharing(t *testing.T, spoil bool) (g *gate, b *built, s testStore, one, two *puller) {
	t.Helper()
	f := newFakeRegistry(t)
	l := gzipLayer(t, "bulk", bulk(1, 4<<20))
	b = build(t, hostPlatform, l)
	ref := f.push("app", "v1", b)
	g = newGate(f, l)
	g.spoil = spoil
	dir := t.TempDir()
	s = openStore(t, dir)
	one = startPuller(t, dir, ref)
	<-g.middle
	one.underWay()
	two = startPuller(t, dir, ref)
	two.underWay()
	return g, b, s, one, two
}

// TestProgramsShareADownload: a program that wants the layer which another one is
// fetching waits for that, and says how far it is.
func TestProgramsShareADownload(t *testing.T) {
	g, b, s, one, two := sharing(t, false)
	close(g.open)
	one.pulls(b)
	two.pulls(b)
	if asked, sent := g.served(); asked != 1 || sent != b.layers[0].Size {
		t.Errorf("%d requests, %d bytes of %d", asked, sent, b.layers[0].Size)
	}
	nothingPending(t, s)
}

// TestSharedDownloadIsTakenOver: when the one that fetches dies or gives up, the
// other one fetches the rest.
func TestSharedDownloadIsTakenOver(t *testing.T) {
	for what, leave := range map[string]func(*puller){
		"killed":    func(p *puller) { p.signal(syscall.SIGKILL) },
		"cancelled": func(p *puller) { p.stdin.Close() },
	} {
		t.Run(what, func(t *testing.T) {
			g, b, s, one, two := sharing(t, false)
			leave(one)
			<-g.middle // the other one has asked
			close(g.open)
			two.pulls(b)
			one.end()
			asked, sent := g.served()
			// The half that came first, which is on the disk but for a buffer.
			if asked != 2 || sent > b.layers[0].Size+512<<10 {
				t.Errorf("%d requests, %d bytes of %d", asked, sent, b.layers[0].Size)
			}
			s = openStore(t, s.dir[:len(s.dir)-len("/images")]) // sweeps
			nothingPending(t, s)
			i, err := s.Lookup(t.Context(), string(b.config))
			if err != nil {
				t.Fatal(err)
			}
			if raw, err := os.ReadFile(s.blobPath(b.layers[0].Digest)); err != nil || digest.FromBytes(raw) != b.layers[0].Digest {
				t.Errorf("%d bytes, %v", len(raw), err)
			}
			b.sameAs(t, i)
		})
	}
}

// TestSharedDownloadIsNotTrusted: what a dead program has left is verified like
// anything else, and fetched anew when it is not right.
func TestSharedDownloadIsNotTrusted(t *testing.T) {
	g, b, s, one, two := sharing(t, true)
	one.signal(syscall.SIGKILL)
	<-g.middle
	close(g.open)
	two.pulls(b)
	if asked, _ := g.served(); asked != 3 { // the first, the rest, all of it
		t.Errorf("%d requests", asked)
	}
	raw, err := os.ReadFile(s.blobPath(b.layers[0].Digest))
	if err != nil || digest.FromBytes(raw) != b.layers[0].Digest {
		t.Errorf("%d bytes, %v", len(raw), err)
	}
}

// TestWaiterGivesUp: one that stops waiting harms nobody.
func TestWaiterGivesUp(t *testing.T) {
	for what, leave := range map[string]func(*puller){
		"killed":    func(p *puller) { p.signal(syscall.SIGKILL) },
		"cancelled": func(p *puller) { p.stdin.Close() },
	} {
		t.Run(what, func(t *testing.T) {
			g, b, s, one, two := sharing(t, false)
			leave(two)
			two.end()
			close(g.open)
			one.pulls(b)
			if asked, sent := g.served(); asked != 1 || sent != b.layers[0].Size {
				t.Errorf("%d requests, %d bytes", asked, sent)
			}
			nothingPending(t, openStore(t, s.dir[:len(s.dir)-len("/images")]))
		})
	}
}

// TestBothGiveUp, in both orders, and nothing is left.
func TestBothGiveUp(t *testing.T) {
	for _, firstFirst := range []bool{true, false} {
		_, _, s, one, two := sharing(t, false)
		first, second := one, two
		if !firstFirst {
			first, second = two, one
		}
		first.stdin.Close()
		second.stdin.Close()
		for _, p := range []*puller{one, two} {
			p.until("cancelled", func(line string) bool { return strings.HasPrefix(line, "failed true") })
			p.end()
		}
		s.mustBeEmpty(t)
	}
}

// TestStoppedProgram: one that is stopped in the middle of a layer keeps it, and
// the other one can give up. Then it goes on.
func TestStoppedProgram(t *testing.T) {
	g, b, s, one, two := sharing(t, false)
	one.signal(syscall.SIGSTOP)
	two.stdin.Close()
	two.until("cancelled", func(line string) bool { return strings.HasPrefix(line, "failed true") })
	two.end()
	one.signal(syscall.SIGCONT)
	close(g.open)
	one.pulls(b)
	nothingPending(t, s)
}

// TestStoreLockIsHeld: a program that is stopped while it has the store's lock
// keeps nobody who has a deadline.
func TestStoreLockIsHeld(t *testing.T) {
	f := newFakeRegistry(t)
	b := build(t, hostPlatform, gzipLayer(t, "a", "b"))
	ref := f.push("app", "v1", b)
	s := newStore(t)
	l, err := s.lock(t.Context(), exclusive) // as another program has it: by a descriptor of its own
	if err != nil {
		t.Fatal(err)
	}
	for what, f := range map[string]func(context.Context) error{
		"pull":   func(ctx context.Context) error { _, err := s.Pull(ctx, ref, anonymous); return err },
		"remove": func(ctx context.Context) error { _, err := s.Remove(ctx, "app", RemoveOptions{}); return err },
		"load": func(ctx context.Context) error {
			_, err := s.Load(ctx, strings.NewReader("x"), LoadOptions{})
			return err
		},
		"hold": func(ctx context.Context) error { _, err := s.Hold(ctx, b.config, "x"); return err },
		"open": func(ctx context.Context) error {
			if err := os.WriteFile(s.path(".tmp-x"), nil, 0o600); err != nil { // to be swept
				return err
			}
			_, err := Open(ctx, s.dir, s.layers)
			return err
		},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if err := f(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", what, err)
		}
		cancel()
	}
	l.unlock()
	b.sameAs(t, s.mustPull(t, ref))
}

// TestProgramsWantEachOthersLayers: programs that fetch the same layers in other
// orders, some of which are killed, end, and fetch each layer once if none dies.
func TestProgramsWantEachOthersLayers(t *testing.T) {
	f := newFakeRegistry(t)
	var layers []layerOf
	for n := range 8 {
		layers = append(layers, gzipLayer(t, "bulk", bulk(n+1, 200<<10)))
	}
	back := slices.Clone(layers)
	slices.Reverse(back)
	images := []*built{build(t, hostPlatform, layers...), build(t, hostPlatform, back...), build(t, hostPlatform, layers[2:6]...)}
	var refs []string
	for n, b := range images {
		refs = append(refs, f.push(fmt.Sprint("app", n), "v1", b))
	}
	for _, kill := range []bool{false, true} {
		f.answer(nil)
		dir := t.TempDir()
		var all []*puller
		for n := range images {
			all = append(all, startPuller(t, dir, refs[n]))
		}
		if kill {
			victim := startPuller(t, dir, refs[0])
			victim.until("begun", func(line string) bool { return strings.HasPrefix(line, "at") })
			victim.signal(syscall.SIGKILL)
			victim.end()
		}
		for n, p := range all {
			p.pulls(images[n])
		}
		for _, l := range layers {
			if n := f.Count(string(l.digest())); n != 1 && !kill {
				t.Errorf("layer %s was fetched %d times", l.digest(), n)
			}
		}
		s := openStore(t, dir)
		nothingPending(t, s)
		for _, b := range images {
			i, err := s.Lookup(t.Context(), string(b.config))
			if err != nil {
				t.Fatal(err)
			}
			b.sameAs(t, i)
			if _, err := s.Remove(t.Context(), string(b.config), RemoveOptions{}); err != nil {
				t.Error(err)
			}
		}
		s.mustBeEmpty(t)
	}
}

// TestTakenOverInOneProgram is TestSharedDownloadIsTakenOver for two pulls of one
// store, by an error that only the first one gets.
func TestTakenOverInOneProgram(t *testing.T) {
	f := newFakeRegistry(t)
	shared := gzipLayer(t, "bulk", bulk(1, 4<<20))
	bad, good := build(t, hostPlatform, shared, gzipLayer(t, "bad", "x")), build(t, hostPlatform, shared)
	badRef, goodRef := f.push("bad", "v1", bad), f.push("good", "v1", good)
	g := newGate(f, shared)
	fail := make(chan struct{})
	f.answer(func(w http.ResponseWriter, r *http.Request) bool {
		if isBlob(r, bad.layers[1].Digest) {
			<-fail
			w.WriteHeader(http.StatusNotFound)
			return true
		}
		return g.serve(w, r)
	})
	s := newStore(t)
	var both sync.WaitGroup
	both.Go(func() {
		if _, err := s.Pull(t.Context(), badRef, anonymous); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("%v", err)
		}
	})
	<-g.middle
	seen := make(chan struct{})
	see := sync.OnceFunc(func() { close(seen) })
	both.Go(func() {
		o := anonymous
		o.Progress = func(p Progress) {
			if isHalf(p.Done, p.Total) {
				see()
			}
		}
		i, err := s.Pull(t.Context(), goodRef, o)
		if err != nil {
			t.Error(err)
			return
		}
		good.sameAs(t, i)
	})
	<-seen
	close(fail)
	<-g.middle
	close(g.open)
	both.Wait()
	if asked, sent := g.served(); asked != 2 || sent > good.layers[0].Size+512<<10 {
		t.Errorf("%d requests, %d bytes of %d", asked, sent, good.layers[0].Size)
	}
	nothingPending(t, s)
}
