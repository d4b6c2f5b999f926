package engine

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/inboard/engine/layer"
)

// cut does to an ext4 what the loss of power does: nothing more is written, not
// what is dirty in memory, nor the journal's open transaction
// (EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH, fs/ext4/ioctl.c).
func (d *disk) cut() error {
	const shutdown, noLogFlush = 0x8004587d, 2
	dir, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	return unix.IoctlSetPointerInt(int(dir.Fd()), shutdown, noLogFlush)
}

// again mounts the disk as it is found after the cut.
func (d *disk) again() {
	d.t.Helper()
	if err := unix.Unmount(d.dir, 0); err != nil {
		d.t.Fatalf("unmount: %v", err)
	}
	if err := unix.Mount(d.source, d.dir, "ext4", 0, ""); err != nil {
		d.t.Fatalf("mount again: %v", err)
	}
}

// cutter is a transport that cuts the power at a moment of a pull.
type cutter struct {
	cut     func()
	request int64         // at this one, in the middle of its answer; 0: at none
	delay   time.Duration // after the last byte of the last layer, otherwise
	seen    atomic.Int64
	left    atomic.Int64 // layers whose last byte has not come
}

func (c *cutter) RoundTrip(r *http.Request) (*http.Response, error) {
	n := c.seen.Add(1)
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil || resp.StatusCode != http.StatusOK {
		return resp, err
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	switch {
	case n == c.request:
		half := bytes.NewReader(body[:len(body)/2])
		resp.Body = io.NopCloser(io.MultiReader(half, &hook{f: c.cut}, bytes.NewReader(body[len(body)/2:])))
	case c.request == 0 && len(body) > 4096 && c.left.Add(-1) == 0:
		late := c.cut
		if c.delay > 0 {
			late = func() { time.AfterFunc(c.delay, c.cut) }
		}
		resp.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body), &hook{f: late}))
	}
	return resp, nil
}

// hook is an empty Reader that does something.
type hook struct{ f func() }

func (h *hook) Read([]byte) (int, error) { h.f(); return 0, io.EOF }

// powerTest is a root on a disk whose power goes, and an image of two layers.
type powerTest struct {
	*testing.T
	disk *disk
	form layer.Form
	ref  string
	want map[string]string // all files of the image
}

func newPowerTest(t *testing.T, form layer.Form) *powerTest {
	noise := make([]byte, 300_000)
	rand.NewChaCha8([32]byte{}).Read(noise)
	p := &powerTest{T: t, disk: smallDisk(t, "ext4", 128<<20), form: form}
	p.want = map[string]string{"a": string(noise), "d/b": "b", "c": string(noise[:100_000])}
	p.ref = pushLayers(t, nil, tarLayer(t, file("a", p.want["a"]), file("d/b", p.want["d/b"])), tarLayer(t, file("c", p.want["c"])))
	return p
}

func (t *powerTest) open() *Engine {
	t.Helper()
	e, err := Open(WithRoot(filepath.Join(t.disk.dir, "root")), WithLayerForm(t.form))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (t *powerTest) close(e *Engine) {
	t.Helper()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

// whole tells whether the image is there, and checks all of it.
func (t *powerTest) whole(e *Engine) bool {
	t.Helper()
	img, err := e.LookupImage(t.Context(), t.ref)
	if errors.Is(err, ErrNotFound) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.image.Layers()
	if err != nil {
		t.Error(err)
	}
	got := map[string]string{}
	for _, l := range layers {
		m, err := l.Mount(t.Context())
		if err != nil {
			t.Error(err)
			continue
		}
		for name := range t.want {
			if data, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d/%s", m.File().Fd(), name)); err == nil {
				got[name] = string(data)
			}
		}
		m.Close()
	}
	for name := range t.want {
		if got[name] != t.want[name] {
			t.Errorf("%s has %d bytes", name, len(got[name]))
		}
	}
	return true
}

// pull pulls the image, removes it, and gives how long that took after the last
// byte had come.
func (t *powerTest) pull(e *Engine) time.Duration {
	t.Helper()
	var last time.Time
	c := &cutter{cut: func() { last = time.Now() }}
	c.left.Store(2)
	img, err := e.Pull(t.Context(), t.ref, PullOptions{Transport: c})
	if err != nil || !t.whole(e) {
		t.Fatal(err)
	}
	took := time.Since(last)
	if _, err := img.Remove(t.Context(), RemoveImageOptions{}); err != nil {
		t.Fatal(err)
	}
	return took
}

// pullCut cuts the power in the middle of a pull or shortly after it, looks at
// what is there, and pulls again.
func (t *powerTest) pullCut(what string, c *cutter) {
	t.Helper()
	e := t.open()
	cut := make(chan error, 1)
	c.cut = func() { cut <- t.disk.cut() }
	c.left.Store(2)
	_, err := e.Pull(t.Context(), t.ref, PullOptions{Transport: c})
	done := err == nil
	if c.request > c.seen.Load() {
		t.Fatalf("%s: there were %d requests", what, c.seen.Load())
	}
	if err := <-cut; err != nil {
		t.Fatalf("%s: cut: %v", what, err)
	}
	_ = e.Close() // of a disk that is gone
	t.disk.again()
	e = t.open()
	if !t.whole(e) && done {
		t.Errorf("%s: Pull had returned, and the image is not there", what)
	}
	t.pull(e)
	t.close(e)
}

// Whenever the power goes, an image is there whole or not at all, and once Pull
// has returned it is there.
func TestPowerLoss(t *testing.T) {
	if !inOwnMounts(t) {
		return
	}
	for _, form := range []layer.Form{layer.FormIndex, layer.FormDirectory} {
		t.Run(form.String(), func(t *testing.T) {
			p := newPowerTest(t, form)
			e := p.open()
			took := p.pull(e)
			p.close(e)
			for request := range int64(4) { // manifest, config, two layers
				p.pullCut(fmt.Sprint("request ", request+1), &cutter{request: request + 1})
			}
			cuts := time.Duration(20)
			if testing.Short() {
				cuts = 5
			}
			for n := range cuts {
				p.pullCut(fmt.Sprintf("cut %d of %d after the last byte", n, cuts), &cutter{delay: n * 3 * took / (2 * cuts)})
			}
			p.afterwards()
		})
	}
}

// afterwards cuts the power when Pull has returned. What nobody synced is lost
// by that, or this would show nothing.
func (t *powerTest) afterwards() {
	e := t.open()
	if _, err := e.Pull(t.Context(), t.ref, PullOptions{}); err != nil {
		t.Fatal(err)
	}
	dirty := filepath.Join(t.disk.dir, "dirty")
	if err := os.WriteFile(dirty, []byte(t.want["a"]), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := t.disk.cut(); err != nil {
		t.Fatal(err)
	}
	_ = e.Close()
	t.disk.again()
	if data, err := os.ReadFile(dirty); err == nil && string(data) == t.want["a"] {
		t.Error("the cut loses nothing")
	}
	e = t.open()
	if !t.whole(e) {
		t.Error("Pull had returned, and the image is not there")
	}
	t.close(e)
}
