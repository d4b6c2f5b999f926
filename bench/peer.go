//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// peer is another engine. What it can do besides is told by starter, execer
// and unpacker.
type peer interface {
	Name() string
	// Close stops what runs and removes what would stay.
	Close() error
}

// starter runs containers of the small image.
type starter interface {
	peer
	// Start runs true in a container, from creating to removing it, and tells
	// how long the peer's command took. Several goroutines may call it.
	Start(ctx context.Context) (time.Duration, error)
	// Sleeper starts a container that sleeps and removes it at stop.
	Sleeper(ctx context.Context) (id string, stop func() error, err error)
	// Exec runs true in a container that Sleeper started, and tells the same.
	Exec(ctx context.Context, id string) (time.Duration, error)
	// Mounts counts the lines of the mount table that the peer sees.
	Mounts() (int, error)
}

// unpacker makes an image runnable.
type unpacker interface {
	peer
	Unpack(ctx context.Context, image *unpackImage) (time.Duration, error)
	// Forget removes what Unpack made.
	Forget(ctx context.Context, image *unpackImage) error
}

// kind is a peer that could be installed.
type kind struct {
	name string
	// programs that it consists of, without shared libraries.
	programs []string
	open     func(ctx context.Context, dir string, image *smallImage) (peer, error)
}

var kinds = []kind{
	{"docker", []string{"docker", "dockerd", "containerd", "containerd-shim-runc-v2", "runc"}, openDocker},
	{"podman", []string{"podman", "conmon", "crun"}, openPodman},
	{"crun", []string{"crun"}, openCrun},
	{"runc", []string{"runc"}, openRunc},
	{"umoci", []string{"umoci"}, openUmoci},
}

func peerNames() []string {
	var names []string
	for _, k := range kinds {
		names = append(names, k.name)
	}
	return names
}

// installed tells whether all programs of a peer are there.
func (k kind) installed() bool {
	return !slices.ContainsFunc(k.programs, func(program string) bool {
		_, err := exec.LookPath(program)
		return err != nil
	})
}

// wantedPeers gives those of a list that are installed, and names the others.
func wantedPeers(list string, log io.Writer) ([]string, error) {
	var wanted, missing []string
	for name := range strings.SplitSeq(list, ",") {
		if name == "" {
			continue
		}
		i := slices.IndexFunc(kinds, func(k kind) bool { return k.name == name })
		switch {
		case i < 0:
			return nil, fmt.Errorf("no peer %q: there are %s", name, strings.Join(peerNames(), ", "))
		case kinds[i].installed():
			wanted = append(wanted, name)
		default:
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		fmt.Fprintf(log, "peers left out because they are not installed: %s\n", strings.Join(missing, ", "))
	}
	return wanted, nil
}

func openPeer(ctx context.Context, name, dir string, image *smallImage) (peer, error) {
	i := slices.IndexFunc(kinds, func(k kind) bool { return k.name == name })
	return kinds[i].open(ctx, dir, image)
}

// only gives the peers that can do T's part.
func only[T peer](peers []peer) []T {
	var able []T
	for _, p := range peers {
		if t, ok := p.(T); ok {
			able = append(able, t)
		}
	}
	return able
}
