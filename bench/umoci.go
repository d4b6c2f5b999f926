//go:build linux

package main

import (
	"context"
	"os"
	"path/filepath"
	"time"
)

// umoci unpacks images into directories and does nothing else that is
// measured.
type umoci struct {
	room *room
	dir  string
}

func openUmoci(ctx context.Context, dir string, image *smallImage) (peer, error) {
	room, err := openRoom()
	if err != nil {
		return nil, err
	}
	return &umoci{room: room, dir: dir}, nil
}

func (u *umoci) Name() string { return "umoci" }

func (u *umoci) bundle() string { return filepath.Join(u.dir, "bundle") }

func (u *umoci) Unpack(ctx context.Context, image *unpackImage) (time.Duration, error) {
	return u.room.run(ctx, nil, "umoci", "unpack", "--image", image.layout+":"+image.tag, u.bundle())
}

func (u *umoci) Forget(ctx context.Context, image *unpackImage) error {
	return os.RemoveAll(u.bundle())
}

func (u *umoci) Close() error {
	u.room.close()
	return nil
}
