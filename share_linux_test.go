package engine

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// shareView is what a container says of its namespaces, name and shared memory.
func shareView(t *testing.T, e *Engine, img *Image, c Config) []string {
	t.Helper()
	var out bytes.Buffer
	c.Args, c.Stdout, c.Stderr = []string{"namespaces"}, &out, &out
	made := started(t, e, img, c)
	if status, err := made.Wait(t.Context()); err != nil || status.Code != 0 {
		t.Fatalf("%v, %v: %s", status, err, out.String())
	}
	return strings.Fields(out.String())
}

// Of each kind a container can have the namespace of another one, of this program
// or another, and the host's.
func TestSharedNamespaces(t *testing.T) {
	e, root, ref := foreignRoot(t, nil)
	img, err := e.LookupImage(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	ours := started(t, e, img, Config{Name: "ours", Args: []string{"pause"}})
	other := newOtherProgram(t, root, ref, "theirs", "pause")
	theirs, err := e.Lookup(t.Context(), "theirs")
	if err != nil {
		t.Fatal(err)
	}
	host, _ := os.Hostname()
	for name, c := range map[string]*Container{"ours": ours, "theirs": theirs, "": nil} {
		mode, pid, hostname := "host", os.Getpid(), host
		if c != nil {
			info, err := c.Inspect(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			mode, pid, hostname = "container:"+name, info.PID, info.Process.Hostname
		}
		for kind, config := range map[string]Config{
			"net": {Network: Network(mode)}, "pid": {PID: Namespace(mode)}, "ipc": {IPC: Namespace(mode)}, "uts": {UTS: Namespace(mode)},
		} {
			view := shareView(t, e, img, config)
			for _, each := range []string{"net", "pid", "ipc", "uts", "mnt"} {
				want, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, each))
				if err != nil {
					t.Fatal(err)
				}
				if shared := slices.Contains(view, want); shared != (each == kind) {
					t.Errorf("%s %s: %s namespace: shared: %v", kind, mode, each, shared)
				}
			}
			if named := slices.Contains(view, hostname); named != (kind == "net" || kind == "uts") {
				t.Errorf("%s %s: hostname %q: %v", kind, mode, hostname, view)
			}
		}
	}
	// POSIX shared memory comes with IPC.
	for _, c := range []*Container{ours, theirs} {
		x, err := c.Exec(t.Context(), ExecConfig{Args: []string{"/prog", programFlag, "write", "/dev/shm/file", c.ID()}})
		if err != nil {
			t.Fatal(err)
		}
		if status, err := x.Wait(t.Context()); err != nil || status.Code != 0 {
			t.Fatal(status, err)
		}
		var out bytes.Buffer
		made := started(t, e, img, Config{IPC: Namespace("container:" + c.ID()), Args: []string{"read", "/dev/shm/file"}, Stdout: &out})
		if status, err := made.Wait(t.Context()); err != nil || status.Code != 0 || out.String() != c.ID() {
			t.Errorf("%v, %v: %q", status, err, out.String())
		}
		info, err := made.Inspect(t.Context())
		if err != nil || info.IPCNamespace != Namespace("container:"+c.ID()) {
			t.Error(info.IPCNamespace, err)
		}
	}
	// What is joined has to mark it: a descriptor of the root may be out.
	if !ours.own.exposed.Load() {
		t.Error("joined, and not exposed")
	}
	if r, err := e.root.records().read(theirs.ID()); err != nil || !r.Exposed {
		t.Errorf("%+v, %v", r, err)
	}
	other.end()
}

// The files about names and networks are those of whose network it is.
func TestSharedNetworkFiles(t *testing.T) {
	e, img := plainImage(t)
	first := started(t, e, img, Config{Args: []string{"pause"}, Hostname: "first"})
	second := started(t, e, img, Config{Args: []string{"pause"}, Network: Network("container:" + first.ID())})
	for path, want := range map[string]string{"/etc/hostname": "first\n", "/etc/hosts": localHosts} {
		if got, _ := runs(t, Config{Network: Network("container:" + second.ID())}, "read", path); got != want {
			t.Errorf("%s: %q", path, got)
		}
	}
}

// What makes no sense is refused by Create, and a container that does not run by
// Start; neither leaves anything.
func TestShareErrors(t *testing.T) {
	e, img := plainImage(t)
	exits := started(t, e, img, Config{Name: "exits", Args: []string{"exit", "0"}})
	if _, err := exits.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := testEngine(t)
	elsewhere := create(t, other, pulled(t, other, nil), Config{Args: []string{"pause"}})
	sysctls := func(name string) Security { return Security{Sysctls: map[string]string{name: "1"}} }
	for what, test := range map[string]struct {
		config Config
		want   error
	}{
		"unknown mode":      {Config{PID: "private"}, ErrInvalidArgument},
		"no network mode":   {Config{Network: "bridge0"}, ErrInvalidArgument},
		"no name":           {Config{UTS: "container:"}, ErrInvalidArgument},
		"itself":            {Config{Name: "self", PID: "container:self"}, ErrInvalidArgument},
		"nothing there":     {Config{IPC: "container:nobody"}, ErrNotFound},
		"of another root":   {Config{Network: Network("container:" + elsewhere.ID())}, ErrNotFound},
		"hostname, host":    {Config{UTS: NamespaceHost, Hostname: "mine"}, ErrInvalidArgument},
		"hostname, uts":     {Config{UTS: "container:exits", Hostname: "mine"}, ErrInvalidArgument},
		"hostname, network": {Config{Network: "container:exits", Hostname: "mine"}, ErrInvalidArgument},
		"shm size":          {Config{IPC: NamespaceHost, Resources: Resources{ShmSize: 1 << 20}}, ErrInvalidArgument},
		"init":              {Config{PID: "container:exits", Init: true}, ErrInvalidArgument},
		"sysctl, network":   {Config{Network: NetworkHost, Security: sysctls("net.ipv4.ip_forward")}, ErrInvalidArgument},
		"sysctl, joined":    {Config{Network: "container:exits", Security: sysctls("net.ipv4.ip_forward")}, ErrInvalidArgument},
		"sysctl, ipc":       {Config{IPC: NamespaceHost, Security: sysctls("kernel.shmmax")}, ErrInvalidArgument},
		"sysctl, mqueue":    {Config{IPC: NamespaceHost, Security: sysctls("fs.mqueue.msg_max")}, ErrInvalidArgument},
		"sysctl, uts":       {Config{UTS: NamespaceHost, Security: sysctls("kernel.domainname")}, ErrInvalidArgument},
	} {
		if test.config.Network == "" {
			test.config.Network = NetworkNone
		}
		test.config.Args = []string{"exit", "0"}
		c, err := e.Create(t.Context(), img, test.config)
		if !errors.Is(err, test.want) {
			t.Errorf("%s: %v", what, err)
		}
		if err == nil {
			removed(t, c)
		}
	}
	for _, config := range []Config{{Network: "container:exits"}, {PID: "container:exits"}, {IPC: "container:exits"}, {UTS: "container:exits"}} {
		config.Args = []string{"exit", "0"}
		c := create(t, e, img, config)
		if err := c.Start(t.Context()); !errors.Is(err, ErrFailedPrecondition) || !strings.Contains(err.Error(), exits.ID()) {
			t.Errorf("not running: %v", err)
		}
		if info, err := c.Inspect(t.Context()); err != nil || info.State != StateCreated {
			t.Errorf("%+v, %v", info.State, err)
		}
	}
	gone := create(t, e, img, Config{Args: []string{"pause"}, IPC: "container:exits"})
	removed(t, exits)
	if err := gone.Start(t.Context()); !errors.Is(err, ErrNotFound) {
		t.Errorf("removed: %v", err)
	}
}

// A container whose processes are another one's ends with that one.
func TestSharedPidEnds(t *testing.T) {
	e, img := plainImage(t)
	first := started(t, e, img, Config{Args: []string{"pause"}})
	second := started(t, e, img, Config{Args: []string{"pause"}, PID: Namespace("container:" + first.ID())})
	if err := first.Kill(t.Context(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if status, err := second.Wait(t.Context()); err != nil || status.Signal != syscall.SIGKILL {
		t.Error(status, err)
	}
}

// A container in the host's pid namespace dies with its program.
func TestHostPidKillNine(t *testing.T) {
	e, root, ref := foreignRoot(t, nil)
	other := newOtherProgram(t, root, ref, "hostpid", "wait")
	c, err := e.Lookup(t.Context(), "hostpid")
	if err != nil {
		t.Fatal(err)
	}
	awaitLog(t, c, "ready\n")
	info, err := c.Inspect(t.Context())
	if err != nil || info.PIDNamespace != NamespaceHost {
		t.Fatal(info.PIDNamespace, err)
	}
	process, _, err := e.openRunning(c.ID())
	if err != nil {
		t.Fatal(err)
	}
	defer process.Close()
	other.kill()
	awaitProcess(t, process)
	testEngine(t, root) // sweeps the cgroup
}

func TestInit(t *testing.T) {
	out, status := runs(t, Config{Init: true, Hostname: "h"}, "read", "/proc/1/comm")
	if out != "inboard-init\n" || status != (Status{Known: true}) {
		t.Errorf("%q, %v", out, status)
	}
	e, img := plainImage(t)
	c := started(t, e, img, Config{Init: true, Args: []string{"stubborn"}})
	awaitLog(t, c, "ready\n")
	if err := c.Kill(t.Context(), syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	if status, err := c.Wait(t.Context()); err != nil || status != (Status{Code: 2, Known: true}) { // Go's way to die of it
		t.Error(status, err)
	}
	if info, err := c.Inspect(t.Context()); err != nil || !info.Init {
		t.Error(info.Init, err)
	}
}
