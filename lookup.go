package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
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
	id, r, err := e.resolve(ref)
	if err != nil {
		return nil, failed(op, ref, err)
	}
	e.mu.Lock()
	c := e.containers[id]
	e.mu.Unlock()
	if c != nil {
		return c, nil
	}
	if r == nil {
		if r, err = e.root.records().read(id); err != nil {
			return nil, failed(op, ref, err)
		}
	}
	return &Container{engine: e, id: id, owner: r.Owner}, nil
}

// resolve gives the ID that a reference means, and the record if it was read.
// Whether there is a container of that ID is known only if it was.
func (e *Engine) resolve(ref string) (id string, r *record, err error) {
	if isID(ref) {
		return ref, nil, nil
	}
	if namePattern.MatchString(ref) {
		_, id, err := e.root.names().owner(ref)
		if err == nil {
			return id, nil, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrDataLoss) {
			return "", nil, err
		}
	}
	if !isHex(ref) || len(ref) > 64 {
		return "", nil, errNoContainer
	}
	if r, err = e.root.records().find(ref); err != nil {
		return "", nil, err
	}
	return r.ID, r, nil
}

// ListOptions are those of List.
type ListOptions struct {
	// All lists containers that are neither running nor paused, too.
	All bool
}

// List gives snapshots of the containers of all programs, the newest first.
// Records that cannot be read are named by the error, beside the others. Without
// All it reads no records but of containers that run, however many others there
// are.
func (e *Engine) List(ctx context.Context, o ListOptions) ([]ContainerInfo, error) {
	const op = "list containers"
	_, leave, err := e.enter(ctx)
	if err != nil {
		return nil, failed(op, "", err)
	}
	defer leave()
	infos, err := e.list(o)
	return infos, failed(op, "", err)
}

func (e *Engine) list(o ListOptions) ([]ContainerInfo, error) {
	var errs []error
	known := make(map[string]bool)
	alive := func(engine string) bool {
		lives, asked := known[engine]
		if !asked {
			var err error
			if lives, err = e.root.alive(engine); err != nil {
				errs = append(errs, err)
			}
			known[engine] = lives
		}
		return lives
	}
	var names []string
	var err error
	if o.All {
		names, err = e.root.records().list()
	} else {
		names, err = e.root.running(alive)
	}
	if err != nil {
		return nil, err
	}
	infos := make([]ContainerInfo, 0, len(names))
	for _, name := range names {
		r, err := e.root.records().read(name)
		if errors.Is(err, ErrNotFound) {
			continue // removed meanwhile
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if info := e.snapshot(r, alive(r.Owner.Engine)); o.All || info.State.live() {
			infos = append(infos, info)
		}
	}
	slices.SortFunc(infos, func(a, b ContainerInfo) int { return b.Created.Compare(a.Created) })
	return infos, errors.Join(errs...)
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
