//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// podman runs with storage, state and configuration of our own.
type podman struct {
	room   *room
	dir    string
	env    []string
	parent string
}

func openPodman(ctx context.Context, dir string, image *smallImage) (peer, error) {
	// Its default limits are above what a root without CAP_SYS_RESOURCE may
	// set, and "--ulimit host" sets them nevertheless.
	config := filepath.Join(dir, "containers.conf")
	text := "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	room, err := openRoom()
	if err != nil {
		return nil, err
	}
	room.dir = dir
	p := &podman{room: room, dir: dir, env: []string{"CONTAINERS_CONF=" + config}}
	p.parent = fmt.Sprintf("inboard-bench-podman-%d", os.Getpid())
	if _, err := p.command(ctx, "load", "--quiet", "--input", image.archive); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *podman) Name() string { return "podman" }

// global is what comes before each command.
func (p *podman) global(args []string) []string {
	return append([]string{
		"--root", filepath.Join(p.dir, "root"),
		"--runroot", filepath.Join(p.dir, "run"),
		"--tmpdir", filepath.Join(p.dir, "tmp"),
		"--storage-driver", "overlay",
		"--cgroup-manager", "cgroupfs",
		"--events-backend", "none",
	}, args...)
}

func (p *podman) command(ctx context.Context, args ...string) (string, error) {
	out, _, err := p.room.output(ctx, p.env, "podman", p.global(args)...)
	return out, err
}

func (p *podman) timed(ctx context.Context, args ...string) (time.Duration, error) {
	return p.room.run(ctx, p.env, "podman", p.global(args)...)
}

func (p *podman) Start(ctx context.Context) (time.Duration, error) {
	return p.timed(ctx, "run", "--rm", "--pull", "never", "--network", "none", "--cgroup-parent", "/"+p.parent, smallName, "/bin/true")
}

func (p *podman) Sleeper(ctx context.Context) (string, func() error, error) {
	id, err := p.command(ctx, "run", "--detach", "--pull", "never", "--network", "none", "--cgroup-parent", "/"+p.parent, "--log-driver", "none", smallName, "/bin/sleep", "3600")
	stop := func() error {
		_, err := p.command(context.WithoutCancel(ctx), "rm", "--force", "--time", "0", id)
		return err
	}
	return id, stop, err
}

func (p *podman) Exec(ctx context.Context, id string) (time.Duration, error) {
	return p.timed(ctx, "exec", id, "/bin/true")
}

func (p *podman) Mounts() (int, error) { return p.room.mounts() }

func (p *podman) Unpack(ctx context.Context, image *unpackImage) (time.Duration, error) {
	// The path becomes the image's name, and not every path is one.
	link := filepath.Join(p.dir, "layout")
	if err := os.Symlink(image.layout, link); err != nil && !errors.Is(err, os.ErrExist) {
		return 0, err
	}
	return p.timed(ctx, "pull", "--quiet", "oci:layout:"+image.tag)
}

func (p *podman) Forget(ctx context.Context, image *unpackImage) error {
	_, err := p.command(ctx, "rmi", "--force", image.id)
	return err
}

func (p *podman) Close() error {
	defer p.room.close()
	_, err := p.command(context.Background(), "rm", "--all", "--force", "--time", "0")
	return errors.Join(err, removeCgroups(p.parent))
}
