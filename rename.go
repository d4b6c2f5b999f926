package engine

import (
	"context"
	"errors"
	"fmt"
)

// Rename gives the container, of any program and in every state, another name,
// by which Lookup finds it at once. ErrAlreadyExists tells that the name is
// taken: of several who want it, one gets it.
func (c *Container) Rename(ctx context.Context, name string) error {
	const op = "rename container"
	ctx, leave, err := c.engine.enter(ctx)
	if err != nil {
		return failed(op, c.id, err)
	}
	defer leave()
	return failed(op, c.id, c.rename(ctx, name))
}

func (c *Container) rename(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	e := c.engine
	d := e.root.records()
	f, err := d.open(ctx, c.id)
	if err != nil {
		return err
	}
	defer f.Close()
	before, err := decodeRecord(f, c.id)
	if err != nil {
		return err
	}
	if before.Name == name {
		return fmt.Errorf("name %q: it has that name: %w", name, ErrInvalidArgument)
	}
	after := *before
	after.Name = name
	if err := e.claim(ctx, &after); err != nil {
		return err
	}
	if _, err := d.append(f, c.id, nameChange{name}); err != nil {
		return errors.Join(err, e.unclaim(&after))
	}
	if name == defaultName(c.id) {
		// No file says that this name is claimed, so that another may have
		// claimed it meanwhile. He sees the record, or it is seen here.
		if err := e.claim(ctx, &after); err != nil {
			f.Close() // lets go of the lock
			return errors.Join(err, d.change(context.WithoutCancel(ctx), c.id, nameChange{before.Name}))
		}
	}
	e.publishRecord(&after, EventRename, "oldName", before.Name)
	return e.unclaim(before)
}
