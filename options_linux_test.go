package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/inboard/engine/layer"
)

// ordinary is a user's ID that is not root's.
const ordinary = 65534

func init() {
	helpers["ordinary"] = helperOrdinary
	helpers["directories"] = func([]string) error {
		root, run := defaultDirs()
		fmt.Println(root, run)
		return nil
	}
}

// helperOrdinary is an ordinary user's program that gives no options: IMAGE. It
// prints where all is kept.
func helperOrdinary(args []string) error {
	ctx := context.Background()
	img, err := Pull(ctx, args[0], PullOptions{})
	if err != nil {
		return err
	}
	found, err := LookupImage(ctx, args[0])
	if err != nil || found.ID() != img.ID() {
		return fmt.Errorf("look up: %w", err)
	}
	list, err := Images(ctx)
	if err != nil || len(list) != 1 || list[0].ID() != img.ID() {
		return fmt.Errorf("images: %v, %w", list, err)
	}
	c, err := Create(ctx, img, Config{Name: "own", Network: NetworkNone})
	if err != nil {
		return err
	}
	if again, err := Lookup(ctx, "own"); err != nil || again != c {
		return fmt.Errorf("look up: %w", err)
	}
	infos, err := List(ctx, ListOptions{All: true})
	if err != nil || len(infos) != 1 || infos[0].ID != c.ID() {
		return fmt.Errorf("list: %v, %w", infos, err)
	}
	if err := c.Start(ctx); !errors.Is(err, ErrPermissionDenied) {
		return fmt.Errorf("start: %w, want permission denied", err)
	}
	if err := c.Remove(ctx, RemoveOptions{}); err != nil {
		return err
	}
	if _, err := img.Remove(ctx, RemoveImageOptions{}); err != nil {
		return err
	}
	// Directories of files with owners are root's to make.
	e, err := Open(WithRoot(Default().root.dir+"-directories"), WithLayerForm(layer.FormDirectory))
	if err != nil {
		return err
	}
	_, err = e.Pull(ctx, args[0], PullOptions{})
	if !errors.Is(err, ErrPermissionDenied) || !strings.Contains(err.Error(), `": chown: `) {
		return fmt.Errorf("pull into directories: %w, want permission denied", err)
	}
	fmt.Println(Default().root.dir, Default().root.run)
	return errors.Join(e.Close(), Default().Close())
}

// ordinaryUser gives a command of an ordinary user's, and his home.
func ordinaryUser(t *testing.T, helper string, args ...string) (run func(env ...string) string, home string) {
	t.Helper()
	needRoot(t)
	// The tests' own temporary directory is root's alone.
	home, err := os.MkdirTemp(filepath.Dir(os.TempDir()), "inboard-user-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	if err := os.Chown(home, ordinary, ordinary); err != nil {
		t.Fatal(err)
	}
	return func(env ...string) string {
		t.Helper()
		cmd := helperCommand(t, helper, args...)
		cmd.Env = append(cmd.Env, "TMPDIR="+home, "HOME="+home, "XDG_DATA_HOME=", "XDG_RUNTIME_DIR=", "INBOARD_TEST_CGROUP="+cgroupParent)
		cmd.Env = append(cmd.Env, env...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ordinary, Gid: ordinary}}
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("%v: %v: %s", env, err, out)
		}
		return strings.TrimSpace(string(out))
	}, home
}

// Without options an ordinary user's things lie below the XDG directories, a
// relative one of which does not count, and images work there.
func TestOrdinaryUser(t *testing.T) {
	run, home := ordinaryUser(t, "ordinary", pushImage(t, nil))
	for _, test := range []struct{ env, root, run string }{
		{"", ".local/share/inboard", ".local/share/inboard/run"},
		{"XDG_DATA_HOME=" + home + "/data", "data/inboard", "data/inboard/run"},
		{"XDG_RUNTIME_DIR=" + home + "/run", ".local/share/inboard", "run/inboard"},
		{"XDG_DATA_HOME=data XDG_RUNTIME_DIR=run", ".local/share/inboard", ".local/share/inboard/run"},
	} {
		if got, want := run(strings.Fields(test.env)...), filepath.Join(home, test.root)+" "+filepath.Join(home, test.run); got != want {
			t.Errorf("%s: %s, want %s", test.env, got, want)
		}
		if err := os.RemoveAll(filepath.Join(home, ".local/share/inboard")); err != nil { // it has one run directory
			t.Error(err)
		}
	}
}

// Root's are the system's, whatever the environment says.
func TestDefaultDirs(t *testing.T) {
	needRoot(t)
	cmd := helperCommand(t, "directories")
	cmd.Env = append(cmd.Env, "XDG_DATA_HOME=/x", "XDG_RUNTIME_DIR=/y", "HOME=/z")
	if out, err := cmd.Output(); err != nil || string(out) != "/var/lib/inboard /run/inboard\n" {
		t.Errorf("%s, %v", out, err)
	}
}
