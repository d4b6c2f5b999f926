//go:build linux

package main

import (
	"context"
	"errors"

	"github.com/inboard/engine"
)

// benchUserns measures starts with a user namespace and without. Each comes
// right after an uncounted one of its own kind, so that what an engine does in
// the background after a start meets one of the same kind.
func benchUserns(ctx context.Context, b *bench) (_ []Result, err error) {
	o, err := b.open(ctx, "userns")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, o.close()) }()
	kind := func(name string, security engine.Security) *subject {
		start := func(ctx context.Context) error {
			_, err := o.startOf(ctx, engine.Config{Security: security})
			return err
		}
		return &subject{name: name, every: 1, before: start, measure: timed(start)}
	}
	ours := kind("with", engine.Security{UserNamespace: engine.UserNamespacePrivate})
	limit := kind("without", engine.Security{})
	if err := interleave(ctx, b.rounds(400), true, limit, ours); err != nil {
		return nil, err
	}
	return []Result{compare("userns", "ms", (*subject).milliseconds, ours, limit, nil)}, nil
}
