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
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// docker is a dockerd of our own, on its own socket, data and state.
type docker struct {
	room   *room
	dir    string
	env    []string
	parent string
	daemon *exec.Cmd
	ended  chan error
}

func openDocker(ctx context.Context, dir string, image *smallImage) (peer, error) {
	room, err := openRoom()
	if err != nil {
		return nil, err
	}
	d := &docker{room: room, dir: dir, parent: fmt.Sprintf("inboard-bench-docker-%d", os.Getpid()), ended: make(chan error, 1)}
	d.env = []string{"DOCKER_HOST=unix://" + filepath.Join(dir, "socket"), "DOCKER_CONFIG=" + filepath.Join(dir, "config")}
	d.daemon = exec.Command("dockerd",
		"--host", "unix://"+filepath.Join(dir, "socket"),
		"--data-root", filepath.Join(dir, "data"),
		"--exec-root", filepath.Join(dir, "exec"),
		"--pidfile", filepath.Join(dir, "pid"),
		"--config-file", filepath.Join(dir, "none.json"),
		"--storage-driver", "overlay2",
		"--exec-opt", "native.cgroupdriver=cgroupfs",
		"--cgroup-parent", "/"+d.parent,
		// Containers have no network here: neither bridge nor rules are made.
		"--bridge", "none", "--iptables=false", "--ip6tables=false")
	if err := os.WriteFile(filepath.Join(dir, "none.json"), []byte("{}"), 0o600); err != nil {
		return nil, err
	}
	d.daemon.Env = append(os.Environ(), "TMPDIR="+dir) // where a containerd that is slow to end writes its stacks
	d.daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := d.start(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	if _, err := d.command(ctx, "load", "--input", image.archive); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// start waits until the daemon says that it listens.
func (d *docker) start() error {
	stderr, err := d.daemon.StderrPipe()
	if err != nil {
		return err
	}
	if err := d.room.start(d.daemon); err != nil {
		return err
	}
	listens := make(chan error, 2)
	go func() {
		last := ""
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			last = lines.Text()
			if strings.Contains(last, "API listen on") {
				listens <- nil
				break
			}
		}
		io.Copy(io.Discard, stderr)
		d.ended <- d.daemon.Wait()
		listens <- fmt.Errorf("dockerd ended: %s", last)
	}()
	return <-listens
}

func (d *docker) Name() string { return "docker" }

func (d *docker) command(ctx context.Context, args ...string) (string, error) {
	out, _, err := d.room.output(ctx, d.env, "docker", args...)
	return out, err
}

func (d *docker) timed(ctx context.Context, args ...string) (time.Duration, error) {
	return d.room.run(ctx, d.env, "docker", args...)
}

func (d *docker) Start(ctx context.Context) (time.Duration, error) {
	return d.timed(ctx, "run", "--rm", "--pull", "never", "--network", "none", smallName, "/bin/true")
}

func (d *docker) Sleeper(ctx context.Context) (string, func() error, error) {
	id, err := d.command(ctx, "run", "--detach", "--pull", "never", "--network", "none", smallName, "/bin/sleep", "3600")
	stop := func() error {
		_, err := d.command(context.WithoutCancel(ctx), "rm", "--force", id)
		return err
	}
	return id, stop, err
}

func (d *docker) Exec(ctx context.Context, id string) (time.Duration, error) {
	return d.timed(ctx, "exec", id, "/bin/true")
}

func (d *docker) Mounts() (int, error) { return d.room.mounts() }

func (d *docker) Unpack(ctx context.Context, image *unpackImage) (time.Duration, error) {
	return d.timed(ctx, "load", "--input", image.archive)
}

func (d *docker) Forget(ctx context.Context, image *unpackImage) error {
	_, err := d.command(ctx, "rmi", "--force", unpackName)
	return err
}

// Close lets dockerd stop its containerd.
func (d *docker) Close() error {
	defer d.room.close()
	if d.daemon.Process == nil {
		return nil
	}
	d.daemon.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.ended:
	case <-time.After(30 * time.Second):
		d.daemon.Process.Kill()
		<-d.ended
	}
	return removeCgroups(d.parent)
}
