package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/inboard/engine/internal/atomicfile"
)

// root is a root directory and its run directory, as one Engine holds them:
//
//	ROOT/format              version of what follows, and the run directory
//	ROOT/lock                held while engines come, and look who has gone
//	ROOT/images, layers      packages image and layer
//	ROOT/skeleton            lowest layer of every container
//	ROOT/engines/E/lock      held as long as engine E lives
//	ROOT/engines/E/layers/N  writable layers of its containers
//	ROOT/engines/E/logs/ID/N their logs
//	RUN/root                 whose run directory it is
//	RUN/containers/NN/ID     records: the first digits of their IDs
//	RUN/running/E            which containers of engine E have processes
//	RUN/names/NAME           claims of names
//	RUN/control/E            socket of engine E, see control
//	RUN/ids                  whose lock of a byte is a claim of user ids
//	RUN/claims               and of one here, of a container's writable layer
//	RUN/events/N             events
//	RUN/runtime              package runtime
type root struct {
	dir, run string
	engine   string   // ID of this engine, 16 hex digits
	lock     *os.File // held
}

func (r *root) engineDir(engine string) string { return filepath.Join(r.dir, "engines", engine) }
func (r *root) engineLock(engine string) string {
	return filepath.Join(r.engineDir(engine), "lock")
}
func (r *root) layerDir(engine, name string) string {
	return filepath.Join(r.engineDir(engine), "layers", name)
}
func (r *root) skeleton() string { return filepath.Join(r.dir, "skeleton") }
func (r *root) names() names     { return names(filepath.Join(r.run, "names")) }
func (r *root) eventDir() string { return filepath.Join(r.run, "events") }

// controlDir has the sockets of engines.
func (r *root) controlDir() string { return filepath.Join(r.run, "control") }

func (r *root) records() records { return records(filepath.Join(r.run, "containers")) }

// openRoot registers a new engine with a root. The engines that it found dead
// come back locked, for the caller to sweep; and the records that it has removed
// because no engine lives. The end of ctx ends the wait for others who open it.
func openRoot(ctx context.Context, dir, run string) (r *root, dead []deadEngine, gone []*record, err error) {
	r = &root{engine: newEngineID()}
	if r.dir, err = makeDir(dir); err != nil {
		return nil, nil, nil, fmt.Errorf("make root: %w", err)
	}
	global, err := lockFile(ctx, filepath.Join(r.dir, "lock"))
	if err != nil {
		return nil, nil, nil, err
	}
	defer global.Close()
	// The format is checked before the run directory is made: refusing one
	// leaves nothing behind.
	if r.run, err = canonical(run); err != nil {
		return nil, nil, nil, err
	}
	if err := checkFormat(r.dir, r.run); err != nil {
		return nil, nil, nil, err
	}
	for _, d := range []string{r.run, string(r.records()), string(r.names()), r.runningDir(), r.eventDir(), r.controlDir()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, nil, nil, fmt.Errorf("make run directory: %w", err)
		}
	}
	if err := claimRunDir(r.dir, r.run); err != nil {
		return nil, nil, nil, err
	}
	if err := makeSkeleton(r.skeleton()); err != nil {
		return nil, nil, nil, fmt.Errorf("make skeleton: %w", err)
	}
	dead, alive, err := findDead(r)
	if err == nil && alive == 0 {
		gone, err = r.sweepRun()
	}
	if err == nil {
		err = r.register(ctx)
	}
	if err != nil {
		for _, d := range dead {
			d.lock.Close()
		}
		return nil, nil, nil, err
	}
	return r, dead, gone, nil
}

func newEngineID() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// makeDir makes a directory and gives its one absolute name.
func makeDir(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	return canonical(dir)
}

// canonical gives the one absolute name of a directory, which need not exist,
// nor those above it.
func canonical(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	name, err := filepath.EvalSymlinks(dir)
	if parent := filepath.Dir(dir); errors.Is(err, fs.ErrNotExist) && parent != dir {
		if parent, err = canonical(parent); err == nil {
			return filepath.Join(parent, filepath.Base(dir)), nil
		}
	}
	return name, err
}

// register makes this engine's directory and takes its lock. The root's lock
// is held, so nobody takes the directory for a dead engine's meanwhile.
func (r *root) register(ctx context.Context) error {
	dir := r.engineDir(r.engine)
	if err := os.MkdirAll(filepath.Join(dir, "layers"), 0o700); err != nil {
		return errors.Join(fmt.Errorf("make engine directory: %w", err), os.RemoveAll(dir))
	}
	lock, err := lockFile(ctx, r.engineLock(r.engine))
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	// For people who wonder; no program reads it, and a full disk must not keep
	// anyone from opening the root to remove what fills it.
	about, _ := json.Marshal(map[string]any{"pid": os.Getpid(), "program": os.Args[0], "opened": time.Now()})
	_, _ = lock.Write(append(about, '\n'))
	r.lock = lock
	return nil
}

// close removes the engine's directory, and lets go of its lock last.
func (r *root) close() error {
	return errors.Join(r.removeSocket(r.engine), removeEngineDir(r.engineDir(r.engine)), r.lock.Close())
}

// removeSocket removes the socket of an engine that takes no requests any more.
func (r *root) removeSocket(engine string) error {
	err := os.Remove(filepath.Join(r.controlDir(), engine))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// alive tells whether the engine that owns something still lives.
func (r *root) alive(engine string) (bool, error) {
	if engine == r.engine {
		return true, nil
	}
	return lockHeld(r.engineLock(engine))
}

// makeSkeleton makes the lowest layer of every container: mount points that an
// image may lack, so that they need not be made for each container.
func makeSkeleton(dir string) error {
	if _, err := os.Lstat(dir); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	part := dir + ".part"
	err := os.RemoveAll(part)
	if err == nil {
		err = fillSkeleton(part)
	}
	if err == nil {
		err = os.Rename(part, dir)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(part))
	}
	return atomicfile.SyncDir(filepath.Dir(dir))
}

func fillSkeleton(dir string) error {
	for _, name := range []string{"", "dev", "etc", "proc", "sys"} {
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o755); err != nil {
			return err
		}
		if err := os.Chmod(path, 0o755); err != nil { // the process's umask is not the container's
			return err
		}
	}
	for _, name := range []string{"hosts", "hostname", "resolv.conf"} {
		path := filepath.Join(dir, "etc", name)
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			return err
		}
		if err := os.Chmod(path, 0o644); err != nil {
			return err
		}
	}
	return nil
}
