package engine

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestOpenClose(t *testing.T) {
	root := filepath.Join(t.TempDir(), "a", "root")
	e, err := Open(WithRoot(root))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"format", "run/containers", "run/names", "run/running", "skeleton/etc/hosts", "skeleton/proc"} {
		if _, err := os.Stat(filepath.Join(root, path)); err != nil {
			t.Error(err)
		}
	}
	if st, err := os.Stat(root); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("mode of the root: %v", st.Mode())
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if _, err := e.List(t.Context(), ListOptions{}); !errors.Is(err, ErrFailedPrecondition) {
		t.Errorf("List after Close: %v", err)
	}
	if entries, _ := os.ReadDir(filepath.Join(root, "engines")); len(entries) != 0 {
		t.Errorf("left: %v", entries)
	}
}

func TestOpenFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var e *Error
	if _, err := Open(WithRoot(filepath.Join(file, "root"))); !errors.As(err, &e) || !strings.Contains(err.Error(), file) {
		t.Errorf("%v", err)
	}
}

// The default engine's failure to open comes out of each call.
func TestDefaultFails(t *testing.T) {
	broken := new(Engine)
	broken.options.root = "/dev/null/root"
	for range 2 {
		if _, err := broken.List(t.Context(), ListOptions{}); err == nil || !strings.Contains(err.Error(), "/dev/null") {
			t.Errorf("%v", err)
		}
		if _, err := broken.Images(t.Context()); err == nil || !strings.Contains(err.Error(), "/dev/null") {
			t.Errorf("%v", err)
		}
	}
	if err := broken.Close(); err != nil {
		t.Error(err)
	}
	unused := new(Engine)
	if err := unused.Close(); err != nil {
		t.Error(err)
	}
	if _, err := unused.List(t.Context(), ListOptions{}); !errors.Is(err, ErrFailedPrecondition) {
		t.Errorf("call after Close: %v", err)
	}
}

func TestRunDir(t *testing.T) {
	dir := t.TempDir()
	root, run1, run2 := filepath.Join(dir, "root"), filepath.Join(dir, "run1"), filepath.Join(dir, "run2")
	e, err := Open(WithRoot(root), WithRunDir(run1))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	_, err = Open(WithRoot(root), WithRunDir(run2))
	if !errors.Is(err, ErrFailedPrecondition) || !strings.Contains(err.Error(), run1) || !strings.Contains(err.Error(), run2) {
		t.Errorf("second run directory: %v", err)
	}
	if _, err := os.Stat(run2); !errors.Is(err, os.ErrNotExist) {
		t.Error("the refused run directory was made")
	}
	_, err = Open(WithRoot(filepath.Join(dir, "root2")), WithRunDir(run1))
	if !errors.Is(err, ErrFailedPrecondition) || !strings.Contains(err.Error(), root) {
		t.Errorf("second root: %v", err)
	}
	// The same by other names.
	link := filepath.Join(dir, "link")
	if err := os.Symlink(run1, link); err != nil {
		t.Fatal(err)
	}
	same, err := Open(WithRoot(root+"/../root"), WithRunDir(link))
	if err != nil {
		t.Fatal(err)
	}
	if err := same.Close(); err != nil {
		t.Error(err)
	}
	// After a boot, another may take its place.
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(run1); err != nil {
		t.Fatal(err)
	}
	if e, err = Open(WithRoot(root), WithRunDir(run2)); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}

func TestFormat(t *testing.T) {
	root := t.TempDir()
	path := filepath.Join(root, "format")
	if err := checkFormat(root, "/run/a"); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		data string
		is   error
	}{
		{`{"version":1,"oldest":1,"run_dir":"/run/a"}`, nil},
		{`{"version":9,"oldest":1,"run_dir":"/run/a","new":{"x":1}}`, nil},
		{`{"version":2,"oldest":2,"run_dir":"/run/a"}`, ErrFailedPrecondition},
		{`{"version":1,"oldest":1,"run_dir":"/"}`, ErrFailedPrecondition},
		{`{"version":1}`, ErrDataLoss},
		{`{"version":"x"}`, ErrDataLoss},
		{`[]`, ErrDataLoss},
		{``, ErrDataLoss},
		{`{"version":1,"ol`, ErrDataLoss},
	}
	for _, test := range tests {
		if err := os.WriteFile(path, []byte(test.data), 0o600); err != nil {
			t.Fatal(err)
		}
		err := checkFormat(root, "/run/a")
		if !errors.Is(err, test.is) || err != nil && !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", test.data, err)
		}
	}
	// What a newer program has written survives.
	const newer = `{"version":9,"oldest":1,"run_dir":"/no/such/dir","new":{"x":1}}`
	if err := os.WriteFile(path, []byte(newer), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := checkFormat(root, "/run/b"); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	data, _ := os.ReadFile(path)
	if err := json.Unmarshal(data, &got); err != nil || got["version"] != 9.0 || got["run_dir"] != "/run/b" || got["new"] == nil {
		t.Errorf("%s, %v", data, err)
	}
}

func TestOpenRace(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	keep := testEngine(t, root)
	id := newID()
	if err := createRecord(keep.root.records(), testRecord(keep.root.engine, id)); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				e, err := Open(WithRoot(root))
				if err != nil {
					t.Error(err)
					return
				}
				if c, err := e.Lookup(t.Context(), id[:20]); err != nil || c.ID() != id {
					t.Errorf("a live engine's container: %v", err)
				}
				if err := e.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if entries, _ := os.ReadDir(filepath.Join(root, "engines")); len(entries) != 1 {
		t.Errorf("engines: %v", entries)
	}
	if err := os.Remove(keep.root.records().path(id)); err != nil {
		t.Error(err)
	}
}

func init() { helpers["claim"] = helperClaim }

// helperClaim opens a root, makes what a container has, tells so and waits to
// be killed.
func helperClaim(args []string) error {
	e, err := Open(WithRoot(args[0]))
	if err != nil {
		return err
	}
	id := newID()
	r := testRecord(e.root.engine, id)
	r.Name = args[1]
	if err := e.claim(context.Background(), r); err != nil {
		return err
	}
	if err := createRecord(e.root.records(), r); err != nil {
		return err
	}
	deep := filepath.Join(e.root.layerDir(e.root.engine, "1"), "upper", "deep")
	if err := errors.Join(os.MkdirAll(deep, 0o700), os.Symlink(args[0]+"-outside", filepath.Join(deep, "out"))); err != nil {
		return err
	}
	fmt.Println(id)
	select {}
}

// claimed starts a helper that has a container of the given name.
func claimed(t *testing.T, root, name string) (id string, kill func()) {
	t.Helper()
	cmd := helperCommand(t, "claim", root, name)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	t.Cleanup(kill)
	scanner := bufio.NewScanner(out)
	if !scanner.Scan() {
		t.Fatal("helper said nothing")
	}
	return scanner.Text(), kill
}

func TestSweep(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	outside := filepath.Join(root+"-outside", "file")
	if err := errors.Join(os.Mkdir(filepath.Dir(outside), 0o700), os.WriteFile(outside, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	e := testEngine(t, root)
	deadID, kill := claimed(t, root, "dead")
	liveID, _ := claimed(t, root, "live")
	infos, err := e.List(t.Context(), ListOptions{All: true})
	if err != nil || len(infos) != 2 {
		t.Fatalf("%v, %v", infos, err)
	}
	for _, info := range infos {
		if !info.Owner.Alive || info.Owner.Self || info.Owner.PID != 1 {
			t.Errorf("owner %+v", info.Owner)
		}
	}
	dead, err := e.Lookup(t.Context(), "dead")
	if err != nil || dead.ID() != deadID {
		t.Fatalf("%v", err)
	}
	kill()
	if info, err := dead.Inspect(t.Context()); err != nil || info.Owner.Alive {
		t.Errorf("after the kill: %+v, %v", info, err)
	}

	other := testEngine(t, root) // sweeps
	if _, err := other.Lookup(t.Context(), "dead"); !errors.Is(err, ErrNotFound) {
		t.Errorf("after the sweep: %v", err)
	}
	if _, err := dead.Inspect(t.Context()); !errors.Is(err, ErrNotFound) {
		t.Errorf("after the sweep: %v", err)
	}
	if c, err := other.Lookup(t.Context(), "live"); err != nil || c.ID() != liveID {
		t.Errorf("the live one: %v", err)
	}
	if entries, _ := os.ReadDir(filepath.Join(root, "engines")); len(entries) != 3 {
		t.Errorf("engines: %v", entries)
	}
	if _, err := os.Stat(outside); err != nil {
		t.Errorf("the sweep followed a link that a container has made: %v", err)
	}
}

// Whoever wants the name of a container whose program has ended gets it
// without another Open.
func TestClaimFromDead(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	e := testEngine(t, root)
	id, kill := claimed(t, root, "box")
	r := testRecord(e.root.engine, newID())
	r.Name = "box"
	if err := e.claim(t.Context(), r); !errors.Is(err, ErrAlreadyExists) {
		t.Errorf("name of a live container: %v", err)
	}
	r.Name = id[:12]
	if err := e.claim(t.Context(), r); err != nil {
		t.Errorf("%v: the first digits of an ID whose container has a name are free", err)
	}
	kill()
	r.Name = "box"
	if err := e.claim(t.Context(), r); err != nil {
		t.Errorf("name of a dead container: %v", err)
	}
	if _, err := e.root.records().read(id); !errors.Is(err, ErrNotFound) {
		t.Errorf("the dead container: %v", err)
	}
}

// Once no engine lives, damaged files of the run directory are swept too.
func TestSweepDamaged(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	e := testEngine(t, root)
	id := newID()
	path := e.root.records().path(id)
	if err := errors.Join(os.Mkdir(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("{"), 0o600)); err != nil {
		t.Fatal(err)
	}
	infos, err := e.List(context.Background(), ListOptions{All: true})
	if len(infos) != 0 || !errors.Is(err, ErrDataLoss) || !strings.Contains(err.Error(), path) {
		t.Errorf("%v, %v", infos, err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := testEngine(t, root).List(t.Context(), ListOptions{All: true}); err != nil {
		t.Error(err)
	}
}

func TestOptions(t *testing.T) {
	root, run := defaultDirs()
	for _, test := range []struct{ in, want options }{
		{options{}, options{root: root, run: run}},
		{options{root: root + "/"}, options{root: root + "/", run: run}},
		{options{root: "/x"}, options{root: "/x", run: "/x/run"}},
		{options{root: "/x", run: "/y"}, options{root: "/x", run: "/y"}},
		{options{run: "/y"}, options{root: root, run: "/y"}},
	} {
		got := test.in
		if got.complete(); got != test.want {
			t.Errorf("%+v: %+v, want %+v", test.in, got, test.want)
		}
	}
}
