package engine

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/inboard/engine/image"
	"github.com/inboard/engine/layer"
	"github.com/inboard/engine/runtime"
)

// Engine is a root directory opened by this process. Many processes, and many
// Engines of one process, may have the same root open at once.
//
// All methods may be called by several goroutines at once.
type Engine struct {
	options options
	opening opening

	root   *root // nil: not opened
	layers *layer.Store
	images *image.Store
	holds  holds
	spares writables
	ids    idRanges
	claims claims
	events eventLog
	drafts drafts

	control control
	running running

	mu         sync.Mutex
	closed     bool
	calls      map[*call]struct{}
	idle       *sync.Cond // of mu: calls is empty
	containers map[string]*Container
	runs       sync.WaitGroup

	runtimeMu sync.Mutex
	rt        *runtime.Runtime
}

var defaultEngine = new(Engine)

// Default is the Engine that package-level functions act on, with no options.
// It is opened by the first call that needs it, and its failure to open comes
// out of each call. After Close, calls fail.
func Default() *Engine { return defaultEngine }

// Open opens a root directory, making it if it is missing, and removes what
// Engines left there whose program has ended. Who opened it calls Close.
//
// Opening needs no privileges beyond the directories'; starting containers
// needs root's.
//
// Other programs that open or sweep the root at the same time are waited for, for
// 10 s at most: then one of them is stopped, and the error is ErrUnavailable.
func Open(opts ...Option) (*Engine, error) {
	return OpenContext(context.Background(), opts...)
}

// OpenContext is Open that waits for other programs until ctx ends. Once it has
// returned, the context means nothing to the Engine.
func OpenContext(ctx context.Context, opts ...Option) (*Engine, error) {
	e := new(Engine)
	for _, opt := range opts {
		opt(&e.options)
	}
	if err := e.opening.once(ctx, e.open); err != nil {
		return nil, failed("open engine", "", err)
	}
	return e, nil
}

func (e *Engine) open(ctx context.Context) error {
	e.options.complete()
	r, dead, gone, err := openRoot(ctx, e.options.root, e.options.run)
	if err != nil {
		return err
	}
	e.events.dir, e.events.engine = r.eventDir(), r.engine
	for _, x := range gone {
		e.publishSwept(x)
	}
	if err := e.openStores(ctx, r.dir); err != nil {
		for _, d := range dead {
			d.lock.Close()
		}
		e.events.close()
		return errors.Join(err, r.close())
	}
	e.root = r
	e.idle = sync.NewCond(&e.mu)
	e.calls = make(map[*call]struct{})
	e.containers = make(map[string]*Container)
	e.holds.images = e.images
	e.holds.holder = imageHolder(r.engine)
	e.holds.bottom = runtime.Lower{Path: r.skeleton()}
	e.holds.spares, e.holds.ids = &e.spares, &e.ids
	e.ids.path, e.ids.runtime = filepath.Join(r.run, "ids"), e.runtime
	e.claims.path = filepath.Join(r.run, "claims")
	e.holds.log, e.spares.log = e.log(), e.log()
	e.spares.dir, e.spares.idle = filepath.Join(r.engineDir(r.engine), "layers"), idleHold
	e.drafts.dir, e.drafts.engine = r.records(), r.engine
	e.running.path = r.runningOf(r.engine)
	e.sweep(dead)
	return nil
}

func (e *Engine) openStores(ctx context.Context, root string) (err error) {
	e.layers, err = layer.Open(filepath.Join(root, "layers"), layer.Options{Form: e.options.layerForm})
	if err != nil {
		return fmt.Errorf("open layers: %w", err)
	}
	e.images, err = image.Open(ctx, filepath.Join(root, "images"), e.layers)
	if err != nil {
		return errors.Join(fmt.Errorf("open images: %w", err), e.layers.Close())
	}
	return nil
}

// call is one call of the engine in flight.
type call struct{ cancel context.CancelFunc }

// enter begins a call that must not run beside Close, opening the engine if it
// is not yet. Close ends the context it gives; leave ends the call.
func (e *Engine) enter(ctx context.Context) (_ context.Context, leave func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	if err := e.opening.once(ctx, e.open); err != nil {
		return nil, nil, fmt.Errorf("open engine: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, nil, errClosed
	}
	ctx, cancel := context.WithCancel(ctx)
	c := &call{cancel}
	e.calls[c] = struct{}{}
	return ctx, func() {
		cancel()
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.calls, c)
		if len(e.calls) == 0 {
			e.idle.Broadcast()
		}
	}, nil
}

// runtime opens the runtime when it is first needed: it has a process of its
// own, which a program that only handles images can do without.
func (e *Engine) runtime() (*runtime.Runtime, error) {
	e.runtimeMu.Lock()
	defer e.runtimeMu.Unlock()
	if e.rt != nil {
		return e.rt, nil
	}
	rt, err := runtime.Open(runtime.Options{
		Dir:          filepath.Join(e.root.run, "runtime"),
		CgroupParent: e.options.cgroupParent,
	})
	if err != nil {
		return nil, fmt.Errorf("open runtime: %w", err)
	}
	e.rt = rt
	return rt, nil
}

// Close ends all calls in flight, kills and removes the Engine's containers,
// and lets go of the root. Further calls fail; a second Close does nothing.
func (e *Engine) Close() error {
	e.opening.end()
	if e.root == nil {
		return nil
	}
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil
	}
	e.closed = true
	for c := range e.calls {
		c.cancel()
	}
	for len(e.calls) > 0 {
		e.idle.Wait()
	}
	containers := make([]*Container, 0, len(e.containers))
	for _, c := range e.containers {
		containers = append(containers, c)
	}
	e.mu.Unlock()

	e.control.close()
	errs := []error{e.removeAll(containers), e.drafts.close()}
	e.runs.Wait()
	errs = append(errs, e.running.close())
	e.spares.close()
	e.events.close()
	if e.rt != nil {
		errs = append(errs, e.rt.Close())
	}
	errs = append(errs, e.holds.freeIdle(), e.ids.close(), e.claims.close(), e.layers.Close(), e.root.close())
	return failed("close engine", "", errors.Join(errs...))
}
