package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// Lookup is Default's Lookup.
func Lookup(ctx context.Context, ref string) (*Container, error) { return Default().Lookup(ctx, ref) }

// List is Default's List.
func List(ctx context.Context, o ListOptions) ([]ContainerInfo, error) {
	return Default().List(ctx, o)
}

// Lookup finds a container of any program by its ID, its name, or the first
// digits of an ID that no other has; in that order, as Docker does.
func (e *Engine) Lookup(ctx context.Context, ref string) (*Container, error) {
	const op = "look up container"
	_, leave, err := e.enter(ctx)
	if err != nil {
		return nil, failed(op, ref, err)
	}
	defer leave()
	id, err := e.resolve(ref)
	if err != nil {
		return nil, failed(op, ref, err)
	}
	e.mu.Lock()
	c := e.containers[id]
	e.mu.Unlock()
	if c != nil {
		return c, nil
	}
	r, err := e.root.records().read(id)
	if err != nil {
		return nil, failed(op, ref, err)
	}
	return &Container{engine: e, id: id, owner: r.Owner}, nil
}

// resolve gives the ID that a reference means.
func (e *Engine) resolve(ref string) (string, error) {
	if isID(ref) {
		return ref, nil
	}
	if namePattern.MatchString(ref) {
		_, id, err := e.root.names().owner(ref)
		if err == nil {
			return id, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrDataLoss) {
			return "", err
		}
	}
	if !isHex(ref) || len(ref) > 64 {
		return "", fmt.Errorf("no such container: %w", ErrNotFound)
	}
	ids, err := e.root.records().list()
	if err != nil {
		return "", err
	}
	ids = slices.DeleteFunc(ids, func(id string) bool { return !strings.HasPrefix(id, ref) })
	switch len(ids) {
	case 0:
		return "", fmt.Errorf("no such container: %w", ErrNotFound)
	case 1:
		return ids[0], nil
	}
	return "", fmt.Errorf("%d containers have IDs that begin so: %w", len(ids), ErrInvalidArgument)
}

// ListOptions are those of List.
type ListOptions struct {
	// All lists containers that are neither running nor paused, too.
	All bool
}

// List gives snapshots of the containers of all programs, the newest first.
// Records that cannot be read are named by the error, beside the others.
func (e *Engine) List(ctx context.Context, o ListOptions) ([]ContainerInfo, error) {
	const op = "list containers"
	_, leave, err := e.enter(ctx)
	if err != nil {
		return nil, failed(op, "", err)
	}
	defer leave()
	ids, err := e.root.records().list()
	if err != nil {
		return nil, failed(op, "", err)
	}
	alive := make(map[string]bool)
	infos := make([]ContainerInfo, 0, len(ids))
	var errs []error
	for _, id := range ids {
		r, err := e.root.records().read(id)
		if errors.Is(err, ErrNotFound) {
			continue // removed meanwhile
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		lives, asked := alive[r.Owner.Engine]
		if !asked {
			if lives, err = e.root.alive(r.Owner.Engine); err != nil {
				errs = append(errs, err)
			}
			alive[r.Owner.Engine] = lives
		}
		if info := e.snapshot(r, lives); o.All || info.State.live() {
			infos = append(infos, info)
		}
	}
	slices.SortFunc(infos, func(a, b ContainerInfo) int { return b.Created.Compare(a.Created) })
	return infos, failed(op, "", errors.Join(errs...))
}

// Inspect gives a snapshot of the container.
func (c *Container) Inspect(ctx context.Context) (ContainerInfo, error) {
	const op = "inspect container"
	_, leave, err := c.engine.enter(ctx)
	if err != nil {
		return ContainerInfo{}, failed(op, c.id, err)
	}
	defer leave()
	info, err := c.inspect()
	return info, failed(op, c.id, err)
}

func (c *Container) inspect() (ContainerInfo, error) {
	r, err := c.engine.root.records().read(c.id)
	if err != nil {
		return ContainerInfo{}, err
	}
	alive, err := c.engine.root.alive(r.Owner.Engine)
	if err != nil {
		return ContainerInfo{}, fmt.Errorf("look whether its engine lives: %w", err)
	}
	return c.engine.snapshot(r, alive), nil
}
