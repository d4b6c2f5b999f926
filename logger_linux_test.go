package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
)

func init() { helpers["quiet"] = helperQuiet }

// helperQuiet is a program that goes through much of the engine, and through
// much that goes wrong: ROOT IMAGE.
func helperQuiet(args []string) error {
	ctx := context.Background()
	e, err := Open(WithRoot(args[0]), WithCgroupParent(os.Getenv("INBOARD_TEST_CGROUP")))
	if err != nil {
		return err
	}
	img, err := e.LookupImage(ctx, args[1])
	if err != nil {
		return err
	}
	fails := errors.New("full")
	for _, command := range [][]string{{"exit", "3"}, {"count", "100"}, {"pause"}} {
		c, err := e.Create(ctx, img, Config{
			Args:    command,
			Stdout:  writerFunc(func([]byte) (int, error) { return 0, fails }),
			Stderr:  writerFunc(func([]byte) (int, error) { panic(fails) }),
			Network: NetworkNone,
		})
		if err != nil {
			return err
		}
		if err := c.Start(ctx); err != nil {
			return err
		}
		if command[0] != "pause" {
			_, _ = c.Wait(ctx)
		}
		if err := c.CopyFrom(ctx, "/data", io.Discard, CopyFromOptions{}); err != nil {
			return err
		}
		if err := c.Remove(ctx, RemoveOptions{Force: true}); err != nil {
			return err
		}
	}
	if _, err := e.Pull(ctx, "127.0.0.1:1/none", PullOptions{}); err == nil {
		return errors.New("pull from nowhere")
	}
	return e.Close()
}

// Without a logger nothing is printed, whatever happens.
func TestQuiet(t *testing.T) {
	_, root, ref := foreignRoot(t, nil)
	killed := newOtherProgram(t, root, ref, "killed", "wait") // for the next to sweep
	killed.kill()
	cmd := helperCommand(t, "quiet", root, ref)
	cmd.Env = append(cmd.Env, "INBOARD_TEST_CGROUP="+cgroupParent)
	cmd.Stderr = nil
	out, err := cmd.CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("%v, and it says %q", err, out)
	}
}

// lockedBuffer is a log that several goroutines write.
type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) has(text string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Contains(b.Buffer.String(), text)
}

// The logger is told of output that was lost, and of what was swept, with IDs.
func TestLogger(t *testing.T) {
	_, root, ref := foreignRoot(t, nil)
	killed := newOtherProgram(t, root, ref, "killed", "wait")
	killed.kill()
	var out lockedBuffer
	e, err := Open(WithRoot(root), WithCgroupParent(cgroupParent), WithLogger(slog.New(slog.NewTextHandler(&out, nil))))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if !out.has(`msg="swept what a program left that has ended" engine=`) {
		t.Errorf("sweep: %s", &out.Buffer)
	}
	img, err := e.LookupImage(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	fails := errors.New("no room")
	c := started(t, e, img, Config{Args: []string{"count", "3"}, Stdout: writerFunc(func([]byte) (int, error) { return 0, fails })})
	if _, err := c.Wait(t.Context()); !errors.Is(err, fails) {
		t.Errorf("wait: %v", err)
	}
	if !out.has(fmt.Sprintf(`level=WARN msg="output or status is lost" container=%s`, c.ID())) {
		t.Errorf("output: %s", &out.Buffer)
	}
}
