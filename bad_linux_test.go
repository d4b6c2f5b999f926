package engine

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/inboard/engine/layer"
)

func link(name, target string) tarFile {
	return tarFile{tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target}, ""}
}

func TestBadCreate(t *testing.T) {
	e, img := plainImage(t)
	bare := pulled(t, e, func(c *v1.ConfigFile) { c.Config.Entrypoint = nil })
	foreign, err := e.Pull(t.Context(), pushImage(t, func(c *v1.ConfigFile) { c.Architecture = "s390x" }), PullOptions{Platform: "linux/s390x"})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		img  *Image
		c    Config
		is   error
		text string
	}{
		{"no network", img, Config{}, ErrNotImplemented, "network is not set"},
		{"bad name", img, Config{Name: "-x", Network: NetworkNone}, ErrInvalidArgument, `"-x"`},
		{"no command", bare, Config{Network: NetworkNone}, ErrInvalidArgument, "no command"},
		{"other platform", foreign, Config{Network: NetworkNone}, ErrFailedPrecondition, "image is for linux/s390x"},
		{"little memory", img, Config{Network: NetworkNone, Resources: Resources{Memory: 1 << 20}}, ErrInvalidArgument, "memory 1048576"},
		{"unknown rlimit", img, Config{Network: NetworkNone, Rlimits: []Rlimit{{Name: "x"}}}, ErrInvalidArgument, `rlimit "x"`},
		{"no image", nil, Config{Network: NetworkNone}, ErrInvalidArgument, "not of this engine"},
		{"image of another engine", &Image{engine: new(Engine)}, Config{Network: NetworkNone}, ErrInvalidArgument, "not of this engine"},
	}
	for _, test := range tests {
		_, err := e.Create(t.Context(), test.img, test.c)
		var typed *Error
		if !errors.Is(err, test.is) || !errors.As(err, &typed) || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := e.Create(ctx, img, Config{Network: NetworkNone}); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if list, err := e.List(t.Context(), ListOptions{All: true}); err != nil || len(list) != 0 {
		t.Errorf("left: %v, %v", list, err)
	}
}

// What Start refuses leaves the container as it was, and nothing in its place.
func TestBadStart(t *testing.T) {
	e, plain := plainImage(t)
	tests := []struct {
		name  string
		layer []tarFile
		c     Config
		code  int
		text  string
	}{
		{"command not found", nil, Config{Entrypoint: []string{"/missing"}}, 127, `exec "/missing"`},
		{"command not in PATH", nil, Config{Entrypoint: []string{"missing"}}, 127, `exec "missing"`},
		{"command not executable", nil, Config{Entrypoint: []string{"/data/notexec"}}, 126, `exec "/data/notexec"`},
		{"command is a directory", nil, Config{Entrypoint: []string{"/data"}}, 126, `exec "/data"`},
		{"unknown user", nil, Config{User: "stranger"}, 0, `user "stranger"`},
		{"unknown group", nil, Config{User: "root:strangers"}, 0, `group "strangers"`},
		{"CVE-2016-3697 user", nil, Config{User: "1000:evil"}, 0, `group "evil"`},
		{"CVE-2024-40635 user 2^32", nil, Config{User: "4294967296"}, 0, `user "4294967296"`},
		{"user -1", nil, Config{User: "-1"}, 0, `user "-1"`},
		{"working directory is a file", nil, Config{WorkingDir: "/data/notexec"}, 0, "working directory /data/notexec"},
		{"CVE-2024-21626 working directory", nil, Config{WorkingDir: "/proc/self/fd/7"}, 0, "working directory /proc/self/fd/7"},
		{"CVE-2019-19921 /proc is a link", []tarFile{link("proc", "/tmp")}, Config{}, 0, "/proc"},
		{"/dev is a link", []tarFile{link("dev", "/tmp")}, Config{}, 0, "/dev"},
		{"/sys is a file", []tarFile{file("sys", "")}, Config{}, 0, "/sys"},
		{"passwd is a FIFO", []tarFile{{tar.Header{Name: "etc/passwd", Typeflag: tar.TypeFifo}, ""}}, Config{User: "app"}, 0, "/etc/passwd"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			img := plain
			if test.layer != nil {
				img = pulled(t, e, nil, tarLayer(t, test.layer...))
			}
			if test.c.Entrypoint == nil {
				test.c.Args = []string{"exit", "0"}
			}
			c := create(t, e, img, test.c)
			for range 2 {
				err := c.Start(t.Context())
				if err == nil {
					t.Fatal("it starts")
				}
				var command *CommandError
				if code := test.code; code != 0 && (!errors.As(err, &command) || command.Code != code) || !strings.Contains(err.Error(), test.text) {
					t.Errorf("%v", err)
				}
			}
			if info, err := c.Inspect(t.Context()); err != nil || info.State != StateCreated || info.Runs != 0 {
				t.Errorf("%+v, %v", info, err)
			}
		})
	}
}

// A wrong start is no end: once what was missing is there, the container starts.
func TestStartAfterFailure(t *testing.T) {
	e, img := plainImage(t)
	dir := t.TempDir()
	never := writerFunc(func(p []byte) (int, error) { return len(p), nil })
	c := create(t, e, img, Config{Args: []string{"echo", "x"}, Stdout: never})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Start(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	closed, err := os.Create(filepath.Join(dir, "closed"))
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	c.own.config.Stdin = closed
	if err := c.Start(t.Context()); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("%v", err)
	}
	c.own.config.Stdin = nil
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if status, err := c.Wait(t.Context()); err != nil || status.Code != 0 {
		t.Errorf("%v, %v", status, err)
	}
}

// An image with every label and setting hostile starts as a plain one does
// (containerd CVE-2026-53488, podman CVE-2026-94603, cri-o CVE-2022-0811).
func TestHostileImage(t *testing.T) {
	e := sharedEngine(t)
	hostile := pulled(t, e, func(c *v1.ConfigFile) {
		c.Config.Labels = map[string]string{
			"io.containerd.runc.v2.binary": "/prog", "io.podman.annotations.privileged": "TRUE",
			"com.docker.network.driver": "host", "org.systemd.property.CPUQuota": "'1'",
			"run.oci.handler": "wasm", "../../escape": "../../escape",
		}
		c.Config.Volumes = map[string]struct{}{"/../../../etc": {}, "/proc": {}}
		c.Config.ExposedPorts = map[string]struct{}{"99999/evil": {}}
		c.Config.OnBuild = []string{"RUN evil"}
		c.Config.Healthcheck = &v1.HealthConfig{Test: []string{"CMD-SHELL", "evil"}}
		c.Config.MacAddress, c.Config.Domainname = "00:11:22:33:44:55", "evil"
		c.Config.Shell, c.Config.ArgsEscaped, c.Config.NetworkDisabled = []string{"/evil"}, true, true
	})
	look := func(img *Image) string {
		c := started(t, e, img, Config{Args: []string{"read", "/proc/self/status"}, Hostname: "h"})
		if status, err := c.Wait(t.Context()); err != nil || status.Code != 0 {
			t.Fatalf("%v, %v", status, err)
		}
		var kept []string
		for line := range strings.Lines(logOf(t, c)) {
			for _, field := range []string{"Cap", "Seccomp:", "NoNewPrivs:", "Uid:", "Gid:", "Groups:"} {
				if strings.HasPrefix(line, "stdout "+field) {
					kept = append(kept, line)
				}
			}
		}
		return strings.Join(kept, "")
	}
	_, plain := plainImage(t)
	if a, b := look(hostile), look(plain); a != b || !strings.Contains(b, "CapInh:\t0000000000000000") || !strings.Contains(b, "Seccomp:\t2") {
		t.Errorf("hostile:\n%s\nplain:\n%s", a, b)
	}
}

// The keeper's death ends its containers, which nobody sees; the next start
// has a new keeper.
func TestKeeperKilled(t *testing.T) {
	needRoot(t)
	e := testEngine(t)
	img := pulled(t, e, nil)
	c := started(t, e, img, Config{Args: []string{"pause"}})
	if err := syscall.Kill(parentOf(t, c.own.run.container.Pid()), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if status, err := c.Wait(t.Context()); err != nil || status.Known {
		t.Errorf("%v, %v", status, err)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Remove(t.Context(), RemoveOptions{Force: true}); err != nil {
		t.Error(err)
	}
}

func parentOf(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "PPid:"); ok {
			parent, err := strconv.Atoi(strings.TrimSpace(rest))
			if err != nil {
				t.Fatal(err)
			}
			return parent
		}
	}
	t.Fatal("no parent")
	return 0
}

// A container whose memory limit is hit ends with OOMKilled, and the host's
// program goes on.
func TestOutOfMemory(t *testing.T) {
	_, status := runs(t, Config{Resources: Resources{Memory: 32 << 20, MemorySwap: 32 << 20}}, "eat")
	if status.Signal != syscall.SIGKILL || !status.OOMKilled {
		t.Errorf("%v", status)
	}
}

func TestImagesOfEngine(t *testing.T) {
	needRoot(t)
	e := testEngine(t)
	img := pulled(t, e, func(c *v1.ConfigFile) { c.Config.User = "app" })
	info, err := img.Inspect(t.Context())
	if err != nil || info.ID != img.ID() || info.Config.Config.User != "app" || info.Config.Architecture != runtime.GOARCH || len(info.Names) != 1 {
		t.Errorf("%+v, %v", info, err)
	}
	list, err := e.Images(t.Context())
	if err != nil || len(list) != 1 || list[0].ID() != img.ID() {
		t.Errorf("%v, %v", list, err)
	}
	if found, err := e.LookupImage(t.Context(), img.ID().Encoded()[:8]); err != nil || found.ID() != img.ID() {
		t.Errorf("%v", err)
	}
	if _, err := e.LookupImage(t.Context(), "nothing"); !errors.Is(err, ErrNotFound) {
		t.Errorf("%v", err)
	}
	c := create(t, e, img, Config{Args: []string{"exit", "0"}})
	if _, err := img.Remove(t.Context(), RemoveImageOptions{}); !errors.Is(err, ErrConflict) {
		t.Errorf("image in use: %v", err)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Remove(t.Context(), RemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	// At once: an idle hold of this engine's own is no hindrance.
	if removed, err := img.Remove(t.Context(), RemoveImageOptions{}); err != nil || len(removed.Deleted) == 0 {
		t.Errorf("%v, %v", removed, err)
	}
	if _, err := e.Create(t.Context(), img, Config{Network: NetworkNone}); !errors.Is(err, ErrNotFound) {
		t.Errorf("container of a removed image: %v", err)
	}
	for ref, is := range map[string]error{
		"127.0.0.1:1/nobody/there:x":                               nil,
		strings.Replace(pushImage(t, nil), ":latest", ":other", 1): ErrNotFound,
		"Not A Reference":                                          ErrInvalidArgument,
	} {
		_, err := e.Pull(t.Context(), ref, PullOptions{})
		var typed *Error
		if !errors.As(err, &typed) || typed.ID != ref || is != nil && !errors.Is(err, is) {
			t.Errorf("pull %s: %v", ref, err)
		}
	}
}

func init() { helpers["unprivileged"] = helperUnprivileged }

// helperUnprivileged does what an ordinary user can, ROOT IMAGE.
func helperUnprivileged(args []string) error {
	ctx := context.Background()
	e, err := Open(WithRoot(args[0]), WithLayerForm(layer.FormIndex), WithCgroupParent(os.Getenv("INBOARD_TEST_CGROUP")))
	if err != nil {
		return err
	}
	img, err := e.Pull(ctx, args[1], PullOptions{})
	if err != nil {
		return err
	}
	c, err := e.Create(ctx, img, Config{Args: []string{"exit", "0"}, Network: NetworkNone})
	if err != nil {
		return err
	}
	if err := c.Start(ctx); !errors.Is(err, ErrPermissionDenied) {
		return fmt.Errorf("start: %w, want permission denied", err)
	}
	if info, err := c.Inspect(ctx); err != nil || info.State != StateCreated {
		return fmt.Errorf("%+v, %w", info, err)
	}
	return e.Close()
}

// Without privileges images can be pulled, and Start says what is missing.
func TestUnprivileged(t *testing.T) {
	needRoot(t)
	ref := pushImage(t, nil)
	// The tests' own temporary directory is root's alone.
	dir, err := os.MkdirTemp(filepath.Dir(os.TempDir()), "inboard-user-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	const user = 65534
	if err := os.Chown(dir, user, user); err != nil {
		t.Fatal(err)
	}
	cmd := helperCommand(t, "unprivileged", filepath.Join(dir, "root"), ref)
	cmd.Env = append(cmd.Env, "INBOARD_TEST_CGROUP="+cgroupParent, "TMPDIR="+dir, "HOME="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
	if out, err := cmd.Output(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
