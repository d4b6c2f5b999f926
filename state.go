package engine

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/inboard/engine/runtime"
)

// Status is how a container's or exec's process ended.
type Status = runtime.Status

// State is where a container is in its life.
type State string

const (
	// StateCreated: it was never started, or every start failed.
	StateCreated State = "created"
	// StateRunning: its process runs.
	StateRunning State = "running"
	// StatePaused: its processes are there, and stopped by Pause.
	StatePaused State = "paused"
	// StateExited: its process has ended, or its program has, and its
	// process with it.
	StateExited State = "exited"
)

// live tells whether there are processes.
func (s State) live() bool { return s == StateRunning || s == StatePaused }

// Owner says to which program a container belongs.
type Owner struct {
	// Engine is the ID of the Engine that created it.
	Engine string `json:"engine"`
	// PID is the process of that Engine.
	PID int `json:"pid"`
	// Self tells that it is the very Engine that was asked.
	Self bool `json:"-"`
	// Alive tells whether that Engine is still open.
	Alive bool `json:"-"`
}

// ContainerInfo is a snapshot of a container.
type ContainerInfo struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Owner Owner  `json:"owner"`
	// Image is the ID of its image, ImageName a name that image had.
	Image     digest.Digest `json:"image"`
	ImageName string        `json:"image_name,omitempty"`

	State State `json:"state"`
	// Status is how its last run ended; of use in StateExited.
	Status Status `json:"status"`
	// PID is its process on the host, 0 unless it is running or paused.
	PID int `json:"pid"`
	// Cgroup is its path below the root of each cgroup hierarchy, empty unless
	// it is running or paused.
	Cgroup string `json:"cgroup,omitempty"`
	// Runs counts its successful starts.
	Runs int `json:"runs"`
	// Created, Started and Finished are when Create was called, and when its
	// last run began and ended. Zero: not yet.
	Created  time.Time `json:"created"`
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"`

	// TTY and OpenStdin are those of its Config.
	TTY       bool `json:"tty,omitempty"`
	OpenStdin bool `json:"open_stdin,omitempty"`

	Process   Process   `json:"process"`
	Resources Resources `json:"resources"`
	// CgroupParent is that of its Config.
	CgroupParent string   `json:"cgroup_parent,omitempty"`
	Rlimits      []Rlimit `json:"rlimits,omitempty"`
	Security     Security `json:"security"`
	Mounts       []Mount  `json:"mounts,omitempty"`
	Network      Network  `json:"network"`
	// PIDNamespace, IPCNamespace and UTSNamespace are PID, IPC and UTS of its
	// Config.
	PIDNamespace Namespace `json:"pid_namespace,omitempty"`
	IPCNamespace Namespace `json:"ipc_namespace,omitempty"`
	UTSNamespace Namespace `json:"uts_namespace,omitempty"`
	// Init tells that it has an init.
	Init bool `json:"init,omitempty"`
}

// recordVersion is the version of the members of a record.
const recordVersion = 1

// record is what the run directory says of a container. Members of a later
// version are kept, because nothing of a record is ever written again.
type record struct {
	Version int `json:"version"`
	ContainerInfo
	// Layer is the name of its writable layer among its engine's.
	Layer string `json:"layer,omitempty"`
	// Exposed tells that another program has been in its root filesystem, which
	// therefore can be no other container's.
	Exposed bool `json:"exposed,omitempty"`
	// Since and Until bracket the start of PID on CLOCK_BOOTTIME, in
	// nanoseconds, so that a process that got its number later is not taken
	// for it.
	Since int64 `json:"since,omitempty"`
	Until int64 `json:"until,omitempty"`
	// Log tells that there is a log; it is set before the first byte, for who
	// waits for that. Logged is how many bytes of output there have been until
	// the end of the last run.
	Log    bool  `json:"log,omitempty"`
	Logged int64 `json:"logged,omitempty"`
}

// check finds what is wrong with what was read as the record of an ID, or of its
// first digits.
func (r *record) check(path, id string) error {
	switch {
	case r.Version > recordVersion:
		return fmt.Errorf("%s: written by a newer program: version %d, this program has %d: %w", path, r.Version, recordVersion, ErrFailedPrecondition)
	case isID(r.ID) && !strings.HasPrefix(r.ID, id) && r.ID[:shortID] == id[:shortID]:
		return errNoContainer // but one whose ID begins the same
	case r.Version < 1 || !isID(r.ID) || !strings.HasPrefix(r.ID, id) || r.Name == "" || !isHex(r.Owner.Engine):
		return fmt.Errorf("%s: damaged: not the record of container %s: %w", path, id, ErrDataLoss)
	case r.State != StateCreated && !r.State.live() && r.State != StateExited:
		return fmt.Errorf("%s: damaged: state %q: %w", path, r.State, ErrDataLoss)
	case r.Logged < 0:
		return fmt.Errorf("%s: damaged: %d bytes of output: %w", path, r.Logged, ErrDataLoss)
	case r.Layer != "" && !isHex(r.Layer):
		return fmt.Errorf("%s: damaged: layer %q: %w", path, r.Layer, ErrDataLoss)
	}
	return nil
}

// Changes of state, as records keep them.
type (
	startChange struct {
		State   State     `json:"state"`
		PID     int       `json:"pid"`
		Cgroup  string    `json:"cgroup"`
		Runs    int       `json:"runs"`
		Started time.Time `json:"started"`
		Layer   string    `json:"layer"`
		Since   int64     `json:"since"`
		Until   int64     `json:"until"`
	}
	exitChange struct {
		State    State     `json:"state"`
		Status   Status    `json:"status"`
		PID      int       `json:"pid"`
		Cgroup   string    `json:"cgroup"`
		Finished time.Time `json:"finished"`
		Logged   int64     `json:"logged,omitempty"`
	}
	pauseChange struct {
		State State `json:"state"`
	}
	resourcesChange struct {
		Resources Resources `json:"resources"`
	}
	logChange struct {
		Log bool `json:"log"`
	}
	nameChange struct {
		Name string `json:"name"`
	}
	layerChange struct {
		Layer string `json:"layer"`
	}
	exposedChange struct {
		Exposed bool `json:"exposed"`
	}
)

// snapshot fills in what a record cannot know: whether its owner lives. A
// container whose owner does not has exited, how nobody knows.
func (e *Engine) snapshot(r *record, alive bool) ContainerInfo {
	info := r.ContainerInfo
	info.Owner.Alive = alive
	info.Owner.Self = info.Owner.Engine == e.root.engine
	if !alive && info.State.live() {
		info.State, info.PID, info.Cgroup, info.Status = StateExited, 0, "", Status{}
	}
	return info
}

// newRecord is the record of a container at its creation.
func (e *Engine) newRecord(id string, img *Image, c *Config, p Process) *record {
	r := &record{Version: recordVersion}
	r.ContainerInfo = ContainerInfo{
		ID:        id,
		Name:      first(c.Name, defaultName(id)),
		Owner:     Owner{Engine: e.root.engine, PID: os.Getpid()},
		Image:     img.ID(),
		State:     StateCreated,
		Created:   time.Now(),
		TTY:       c.TTY,
		OpenStdin: c.OpenStdin,
		Process:   p,
		Resources: c.Resources,
		Rlimits:   c.Rlimits,
		Security:  c.Security,
		Mounts:    c.Mounts,
		Network:   c.Network,

		CgroupParent: c.CgroupParent,
		PIDNamespace: c.PID,
		IPCNamespace: c.IPC,
		UTSNamespace: c.UTS,
		Init:         c.Init,
	}
	if names := img.Names(); len(names) > 0 {
		r.ImageName = names[0]
	}
	return r
}
