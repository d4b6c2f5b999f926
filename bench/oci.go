//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/inboard/engine/runtime"
)

// oci is a runtime with runc's command line. It gets the specification that
// our own runtime gets, and a directory as root, which is less than the
// overlay that we make.
type oci struct {
	name   string
	room   *room
	dir    string
	parent string
	rootfs string
	serial atomic.Int64
}

func openCrun(ctx context.Context, dir string, image *smallImage) (peer, error) {
	return openOCI("crun", dir, image)
}

func openRunc(ctx context.Context, dir string, image *smallImage) (peer, error) {
	return openOCI("runc", dir, image)
}

func openOCI(name, dir string, image *smallImage) (peer, error) {
	room, err := openRoom()
	if err != nil {
		return nil, err
	}
	return &oci{name: name, room: room, dir: dir, rootfs: image.rootfs, parent: fmt.Sprintf("inboard-bench-%s-%d", name, os.Getpid())}, nil
}

func (o *oci) Name() string { return o.name }

// bundle writes a container's directory.
func (o *oci) bundle(args ...string) (id, dir string, err error) {
	id = fmt.Sprintf("%s-%d", o.name, o.serial.Add(1))
	dir = filepath.Join(o.dir, id)
	spec := runtime.DefaultSpec()
	if spec.Linux.Seccomp, err = runtime.DefaultSeccomp(spec.Process.Capabilities.Bounding); err != nil {
		return "", "", err
	}
	spec.Version = "1.0.2" // what Debian's versions of both accept
	spec.Process.Args = args
	spec.Process.Env = []string{"PATH=/bin"}
	for i := range spec.Linux.Resources.Devices {
		d := &spec.Linux.Resources.Devices[i]
		d.Major, d.Minor = wildcard(d.Major), wildcard(d.Minor)
	}
	spec.Root = &specs.Root{Path: o.rootfs}
	spec.Hostname = id
	spec.Linux.CgroupsPath = "/" + o.parent + "/" + id
	text, err := json.Marshal(spec)
	if err != nil {
		return "", "", err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", "", err
	}
	return id, dir, os.WriteFile(filepath.Join(dir, "config.json"), text, 0o600)
}

// wildcard leaves out a number that stands for any: crun takes no -1.
func wildcard(n *int64) *int64 {
	if n != nil && *n < 0 {
		return nil
	}
	return n
}

func (o *oci) timed(ctx context.Context, args ...string) (time.Duration, error) {
	return o.room.run(ctx, nil, o.name, append([]string{"--root", filepath.Join(o.dir, "state")}, args...)...)
}

func (o *oci) command(ctx context.Context, args ...string) error {
	_, err := o.timed(ctx, args...)
	return err
}

func (o *oci) Start(ctx context.Context) (time.Duration, error) {
	id, dir, err := o.bundle("/bin/true")
	if err != nil {
		return 0, err
	}
	return o.timed(ctx, "run", "--bundle", dir, id)
}

func (o *oci) Sleeper(ctx context.Context) (string, func() error, error) {
	id, dir, err := o.bundle("/bin/sleep", "3600")
	if err != nil {
		return "", nil, err
	}
	stop := func() error { return o.command(context.WithoutCancel(ctx), "delete", "--force", id) }
	return id, stop, o.command(ctx, "run", "--detach", "--bundle", dir, id)
}

func (o *oci) Exec(ctx context.Context, id string) (time.Duration, error) {
	return o.timed(ctx, "exec", id, "/bin/true")
}

func (o *oci) Mounts() (int, error) { return o.room.mounts() }

func (o *oci) Close() error {
	defer o.room.close()
	// What an interrupted run left.
	states, err := filepath.Glob(filepath.Join(o.dir, "state", "*"))
	errs := []error{err}
	for _, path := range states {
		errs = append(errs, o.command(context.Background(), "delete", "--force", filepath.Base(path)))
	}
	return errors.Join(append(errs, removeCgroups(o.parent))...)
}
