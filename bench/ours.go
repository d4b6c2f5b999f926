//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/inboard/engine"
)

// ours is our engine on a root of its own, with the small image.
type ours struct {
	engine *engine.Engine
	image  *engine.Image
}

// openOurs opens the engine on dir. The small image is pulled unless the root
// has it.
func openOurs(ctx context.Context, dir string, small *smallImage) (*ours, error) {
	e, err := openEngine(dir)
	if err != nil {
		return nil, err
	}
	o := &ours{engine: e}
	if small == nil {
		o.image, err = e.LookupImage(ctx, smallID(dir))
	} else {
		o.image, err = o.pull(ctx, dir, small)
	}
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return o, nil
}

func openEngine(dir string, options ...engine.Option) (*engine.Engine, error) {
	options = append(options, engine.WithRoot(filepath.Join(dir, "root")), engine.WithRunDir(filepath.Join(dir, "run")))
	return engine.Open(options...)
}

// pull takes the image the way that any image comes: from a registry.
func (o *ours) pull(ctx context.Context, dir string, small *smallImage) (*engine.Image, error) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	text := strings.TrimPrefix(server.URL, "http://") + "/busybox:latest"
	ref, err := name.ParseReference(text)
	if err != nil {
		return nil, err
	}
	if err := remote.Write(ref, small.image, remote.WithContext(ctx)); err != nil {
		return nil, err
	}
	img, err := o.engine.Pull(ctx, text, engine.PullOptions{})
	if err != nil {
		return nil, err
	}
	return img, os.WriteFile(filepath.Join(dir, "image"), []byte(img.ID()), 0o600)
}

// smallID is what pull has left for a later process.
func smallID(dir string) string {
	id, _ := os.ReadFile(filepath.Join(dir, "image"))
	return string(id)
}

// phases of a start, in order.
var phases = []string{"create", "start", "wait", "remove"}

// start runs true from create to remove.
func (o *ours) start(ctx context.Context) error {
	_, err := o.startPhases(ctx)
	return err
}

// startPhases is start, and tells how long each of the phases took.
func (o *ours) startPhases(ctx context.Context) (took [4]time.Duration, err error) {
	return o.startOf(ctx, engine.Config{})
}

// startOf is startPhases with what a configuration says of it.
func (o *ours) startOf(ctx context.Context, config engine.Config) (took [4]time.Duration, err error) {
	config.Args, config.Network = []string{"/bin/true"}, engine.NetworkNone
	last := time.Now()
	done := func(phase int) {
		now := time.Now()
		took[phase], last = now.Sub(last), now
	}
	c, err := o.engine.Create(ctx, o.image, config)
	if err != nil {
		return took, err
	}
	done(0)
	if err := c.Start(ctx); err != nil {
		return took, errors.Join(err, c.Remove(context.WithoutCancel(ctx), engine.RemoveOptions{Force: true}))
	}
	done(1)
	status, err := c.Wait(ctx)
	if err == nil && (!status.Known || status.Code != 0) {
		err = fmt.Errorf("true: %v", status)
	}
	if err != nil {
		return took, errors.Join(err, c.Remove(context.WithoutCancel(ctx), engine.RemoveOptions{Force: true}))
	}
	done(2)
	err = c.Remove(ctx, engine.RemoveOptions{})
	done(3)
	return took, err
}

// sleeper starts a container that sleeps.
func (o *ours) sleeper(ctx context.Context) (*engine.Container, error) {
	c, err := o.engine.Create(ctx, o.image, engine.Config{Args: []string{"/bin/sleep", "3600"}, Network: engine.NetworkNone})
	if err != nil {
		return nil, err
	}
	return c, c.Start(ctx)
}

func (o *ours) exec(ctx context.Context, c *engine.Container) error {
	x, err := c.Exec(ctx, engine.ExecConfig{Args: []string{"/bin/true"}})
	if err != nil {
		return err
	}
	status, err := x.Wait(ctx)
	if err == nil && (!status.Known || status.Code != 0) {
		err = fmt.Errorf("true: %v", status)
	}
	return err
}

func (o *ours) close() error { return o.engine.Close() }

// bare starts a program without any engine, and waits for it.
func bare(program string) func(context.Context) error {
	return func(context.Context) error {
		p, err := os.StartProcess(program, []string{"true"}, &os.ProcAttr{Files: []*os.File{nil, nil, nil}})
		if err != nil {
			return err
		}
		state, err := p.Wait()
		if err == nil && !state.Success() {
			err = fmt.Errorf("%s: %v", program, state)
		}
		return err
	}
}

// idle waits as long as the user of a quiet machine does between two starts.
func idle(ctx context.Context) error { return pause(ctx, 300*time.Millisecond) }

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
