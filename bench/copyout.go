//go:build linux

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"

	"github.com/inboard/engine"
)

// benchCopyOut copies a tree out of a running container through a pipe to cat,
// as GNU tar does with the same files, which it sees through /proc.
func benchCopyOut(ctx context.Context, b *bench) (_ []Result, err error) {
	o, err := b.open(ctx, "copyout")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, o.close()) }()
	c, err := o.sleeper(ctx)
	if err != nil {
		return nil, err
	}
	size := int64(1 << 30)
	if b.short {
		size = 8 << 20
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(writeTree(w, size)) }()
	if err := c.CopyTo(ctx, "/", r, engine.CopyToOptions{}); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	info, err := c.Inspect(ctx)
	if err != nil {
		return nil, err
	}
	ours := &subject{name: "ours", every: 1, measure: timed(func(ctx context.Context) error {
		return toCat(ctx, func(w *os.File) error { return c.CopyFrom(ctx, "/tree", w, engine.CopyFromOptions{}) })
	})}
	limit := &subject{name: "limit", every: 1, measure: timed(func(ctx context.Context) error {
		return toCat(ctx, func(w *os.File) error {
			cmd := exec.CommandContext(ctx, "tar", "-C", fmt.Sprintf("/proc/%d/root", info.PID), "-cf", "-", "tree")
			cmd.Stdout = w
			return cmd.Run()
		})
	})}
	if err := interleave(ctx, b.rounds(20), true, limit, ours); err != nil {
		return nil, err
	}
	return []Result{compare("copyout", "s", (*subject).seconds, ours, limit, nil)}, nil
}

// writeTree writes an archive of so many bytes: one half in files of 8 MiB, the
// other in files of 32 KiB, 100 in a directory.
func writeTree(w io.Writer, size int64) error {
	t := tar.NewWriter(w)
	data := make([]byte, 8<<20)
	rand.NewChaCha8([32]byte{}).Read(data)
	for _, length := range []int64{8 << 20, 32 << 10} {
		for i := range size / 2 / length {
			h := tar.Header{Name: fmt.Sprintf("tree/%d/%d/%d", length, i/100, i), Typeflag: tar.TypeReg, Mode: 0o644, Size: length}
			err := t.WriteHeader(&h)
			if err == nil {
				_, err = io.Copy(t, bytes.NewReader(data[:length]))
			}
			if err != nil {
				return err
			}
		}
	}
	return t.Close()
}

// toCat has f write to a pipe that cat reads to its end.
func toCat(ctx context.Context, f func(w *os.File) error) error {
	theirs, ours, err := os.Pipe()
	if err != nil {
		return err
	}
	cat := exec.CommandContext(ctx, "cat")
	cat.Stdin = theirs // and its output goes to /dev/null
	if err := errors.Join(cat.Start(), theirs.Close()); err != nil {
		return errors.Join(err, ours.Close())
	}
	return errors.Join(f(ours), ours.Close(), cat.Wait())
}
