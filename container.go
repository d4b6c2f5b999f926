package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/inboard/engine/runtime"
)

// Container is a handle of a container. It stays usable when the container is
// gone: its methods then return ErrNotFound, but for Wait, which still tells
// the Engine that ran it how it ended.
//
// Its methods may be called by several goroutines at once.
type Container struct {
	engine *Engine
	id     string
	owner  Owner
	own    *own // nil: another Engine's
}

// own is what an Engine knows of a container of its own beyond the record.
type own struct {
	image        *Image
	imageName    string // for events
	hold         *hold
	config       Config
	process      Process
	capabilities []string
	resources    *specs.LinuxResources
	log          *logFile      // nil: none is kept
	turn         chan struct{} // holds a value while Start, Pause, Unpause, Update or Remove is at work
	exposed      atomic.Bool   // see confined
	claim        *claim        // keeps other programs from mounting its overlay

	changing chan struct{} // holds a value while become is at work

	mu       sync.Mutex
	name     string // as of when the record had recorded bytes: see learn
	recorded int64
	state    State
	runs     int
	run      *run // the last one
	layer    *writable
	copies   *copies // nil: no copy is at work
	removed  bool
	changed  chan struct{} // closed at a start and at removal, then replaced
}

// run is one run of a container's process.
type run struct {
	number    int // counts the container's runs, the first is 1
	container *runtime.Container
	ids       *idRange // nil: the host's
	output    output
	forced    chan struct{} // closed by force: Writers of the caller's are not waited for long
	force     func()

	done   chan struct{} // closed when status and err are set
	status Status
	err    error // of streams, of the log and of the record

	released chan struct{} // closed when nothing of the run is left
}

func newRun(number int) *run {
	r := &run{number: number, forced: make(chan struct{}), done: make(chan struct{}), released: make(chan struct{})}
	r.force = sync.OnceFunc(func() { close(r.forced) })
	return r
}

// Create is Default's Create.
func Create(ctx context.Context, img *Image, c Config) (*Container, error) {
	return Default().Create(ctx, img, c)
}

// Create makes a container of an image, and starts nothing. The image stays
// while the container is there.
func (e *Engine) Create(ctx context.Context, img *Image, c Config) (*Container, error) {
	const op = "create container"
	ctx, leave, err := e.enter(ctx)
	if err != nil {
		return nil, failed(op, c.Name, err)
	}
	defer leave()
	for {
		created, err := e.create(ctx, e.drafts.nextID(), img, c)
		if !errors.Is(err, errIDTaken) {
			return created, failed(op, c.Name, err)
		}
	}
}

func (e *Engine) create(ctx context.Context, id string, img *Image, c Config) (_ *Container, err error) {
	if err := supported(); err != nil {
		return nil, err
	}
	if img == nil || img.engine != e {
		return nil, fmt.Errorf("image is not of this engine: %w", ErrInvalidArgument)
	}
	o := &own{
		image:    img,
		config:   c,
		turn:     make(chan struct{}, 1),
		changing: make(chan struct{}, 1),
		state:    StateCreated,
		changed:  make(chan struct{}),
		claim:    newClaim(&e.claims, id),
	}
	o.config.Mounts = slices.Clone(c.Mounts) // the caller may change his
	o.config.Resources = c.Resources.clone()
	if err := o.prepare(e, id); err != nil {
		return nil, err
	}
	if o.hold, err = e.holds.take(ctx, img.ID()); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			e.holds.drop(img.ID(), o.hold)
		}
	}()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r := e.newRecord(id, img, &o.config, o.process)
	if err := e.claim(ctx, r); err != nil {
		return nil, err
	}
	o.name, o.imageName = r.Name, first(r.ImageName, string(r.Image))
	made := &Container{engine: e, id: id, owner: r.Owner, own: o}
	if c.LogSize >= 0 {
		o.log = newLogFile(e.root.logDir(e.root.engine, id), c.LogSize, c.LogFiles, func() error {
			return made.change(context.Background(), logChange{Log: true})
		})
	}
	// Who finds the record may ask for something at once.
	e.takeRequests()
	e.mu.Lock()
	e.containers[id] = made
	e.mu.Unlock()
	draft, err := e.drafts.take()
	var recorded int64
	if err == nil {
		recorded, err = e.root.records().create(r, draft)
	}
	if err != nil {
		e.mu.Lock()
		delete(e.containers, id)
		e.mu.Unlock()
		return nil, errors.Join(err, e.unclaim(r))
	}
	o.mu.Lock()
	o.recorded = recorded
	o.mu.Unlock()
	made.publish(EventCreate)
	return made, nil
}

// prepare checks the configuration and combines it with the image's.
func (o *own) prepare(e *Engine, id string) (err error) {
	if err := o.config.check(); err != nil {
		return err
	}
	if o.capabilities, err = o.config.Security.check(); err != nil {
		return err
	}
	image := o.image.image.Config()
	if err := checkPlatform(image.Platform); err != nil {
		return err
	}
	hostname, err := e.resolveShares(&o.config)
	if err != nil {
		return err
	}
	if o.process, err = merge(image.Config, &o.config, first(hostname, id[:shortID])); err != nil {
		return err
	}
	if err := checkRlimits(o.config.Rlimits); err != nil {
		return err
	}
	o.resources, err = linuxResources(o.config.Resources)
	return err
}

// claim claims the name of a record that is to be written. If its owner's
// program has ended, it is swept first.
func (e *Engine) claim(ctx context.Context, r *record) error {
	n := e.root.names()
	if r.Name == defaultName(r.ID) {
		if _, _, err := n.owner(r.Name); err == nil {
			return n.taken(r.Name)
		}
		return nil
	}
	err := n.claim(r.Name, r.Owner.Engine, r.ID)
	if err == nil {
		// Default names are claimed by the ID alone.
		if err = e.checkDefaultNames(r); err != nil {
			err = errors.Join(err, n.release(r.Name, r.ID))
		}
		return err
	}
	if !errors.Is(err, ErrAlreadyExists) {
		return err
	}
	owner, _, _ := n.owner(r.Name)
	if alive, aliveErr := e.root.alive(owner); owner == "" || alive || aliveErr != nil {
		return err
	}
	if sweepErr := e.sweepNow(ctx); sweepErr != nil {
		return errors.Join(err, sweepErr)
	}
	return n.claim(r.Name, r.Owner.Engine, r.ID)
}

// checkDefaultNames tells whether the name of a record is the default name of
// another container, which has it.
func (e *Engine) checkDefaultNames(r *record) error {
	if !isShortID(r.Name) {
		return nil
	}
	other, err := e.root.records().read(r.Name)
	if err == nil && other.Name == r.Name {
		return fmt.Errorf("name %q: taken by container %s: %w", r.Name, other.ID, ErrAlreadyExists)
	}
	return nil
}

func (e *Engine) unclaim(r *record) error {
	if r.Name == defaultName(r.ID) {
		return nil
	}
	return e.root.names().release(r.Name, r.ID)
}

// ID is the container's 64 hexadecimal digits.
func (c *Container) ID() string { return c.id }

// become writes down a change of the container's state by a run, and makes it.
// Nothing else changes the state. A run that has ended stays so.
func (c *Container) become(ctx context.Context, state State, r *run, change any) error {
	o := c.own
	select {
	case o.changing <- struct{}{}:
		defer func() { <-o.changing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	o.mu.Lock()
	from, begins := o.state, o.run != r
	o.mu.Unlock()
	if !begins && !from.live() {
		return notRunning(from)
	}
	var claimed error
	if state == StateExited {
		claimed = o.claim.ending()
	}
	err := c.change(ctx, change)
	if err != nil && state != StateExited { // the end is no matter of what can be written
		return err
	}
	if begins {
		o.claim.started()
	}
	err = errors.Join(claimed, err)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.state = state
	if begins {
		o.runs = r.number
		o.run = r
		o.announce()
	}
	return err
}

// change adds a line with the members of v to the record of a container of this
// Engine.
func (c *Container) change(ctx context.Context, v any) error {
	d := c.engine.root.records()
	f, err := d.open(ctx, c.id)
	if err != nil {
		return err
	}
	defer f.Close()
	before, err := d.append(f, c.id, v)
	if err == nil {
		c.own.learn(f, c.id, before)
	}
	return err
}

// learn takes notice of what other programs have added to a record, which is open
// and locked, and had a size before this Engine changed it. Every change makes it
// longer.
func (o *own) learn(f *os.File, id string, before int64) {
	o.mu.Lock()
	name, known := o.name, o.recorded == before
	o.mu.Unlock()
	if !known {
		r, err := decodeRecord(f, id)
		if err != nil {
			return
		}
		name = r.Name
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return
	}
	o.mu.Lock()
	o.name, o.recorded = name, size
	o.mu.Unlock()
}

// takeTurn keeps others from starting, changing or removing the container until
// the function it returns is called.
func (o *own) takeTurn(ctx context.Context) (func(), error) {
	select {
	case o.turn <- struct{}{}:
		return func() { <-o.turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// inTurn does what only the Engine that created a container can do to it, and
// not while it is started or removed. Another program's is asked to do it, if q
// is not nil.
func (c *Container) inTurn(ctx context.Context, op string, q *request, do func(context.Context) error) error {
	ctx, leave, err := c.engine.enter(ctx)
	if err != nil {
		return failed(op, c.id, err)
	}
	defer leave()
	switch {
	case c.own == nil && q != nil:
		return failed(op, c.id, c.ask(ctx, *q))
	case c.own == nil:
		return failed(op, c.id, fmt.Errorf("container belongs to process %d: %w", c.owner.PID, ErrNotImplemented))
	}
	done, err := c.own.takeTurn(ctx)
	if err != nil {
		return failed(op, c.id, err)
	}
	defer done()
	return failed(op, c.id, do(ctx))
}

// announce wakes those who wait for a start or removal. The caller holds o.mu.
func (o *own) announce() {
	close(o.changed)
	o.changed = make(chan struct{})
}

// running gives the run of a container that is running or paused, and which of
// the two.
func (o *own) running() (*run, State, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.removed {
		return nil, o.state, errNoContainer
	}
	if !o.state.live() {
		return nil, o.state, notRunning(o.state)
	}
	return o.run, o.state, nil
}

func notRunning(s State) error {
	return fmt.Errorf("container is not running, but %s: %w", s, ErrFailedPrecondition)
}
