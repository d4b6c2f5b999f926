package engine

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// leadsTo is what a name leads to, or "".
func leadsTo(t testing.TB, e *Engine, name string) string {
	t.Helper()
	c, err := e.Lookup(t.Context(), name)
	if errors.Is(err, ErrNotFound) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	return c.ID()
}

// A container is renamed in each state, to its default name and away from it.
func TestRename(t *testing.T) {
	e, img := plainImage(t)
	next := watched(t, e, EventOptions{Actions: []EventAction{EventRename, EventDie}, Labels: []string{"rename-test"}})
	c := create(t, e, img, Config{Args: []string{"wait"}, Labels: map[string]string{"rename-test": ""}})
	short := c.ID()[:shortID]
	for i, to := range []string{"rename-a", "rename-b", short, "rename-c"} {
		if i == 1 {
			if err := c.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			readyFor(t, c)
		}
		if i == 3 {
			if err := c.Stop(t.Context(), StopOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		before, err := c.Inspect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Rename(t.Context(), to); err != nil {
			t.Fatal(err)
		}
		after, err := c.Inspect(t.Context())
		if err != nil || after.Name != to || after.State != before.State {
			t.Errorf("%s: %+v, %v", to, after, err)
		}
		if leadsTo(t, e, to) != c.ID() {
			t.Errorf("%s does not lead to it", to)
		}
		if before.Name != short && leadsTo(t, e, before.Name) != "" {
			t.Errorf("%s leads to it still", before.Name)
		}
	}
	want := []string{"rename rename-a " + short, "rename rename-b rename-a", "rename " + short + " rename-b", "die " + short + " 15", "rename rename-c " + short}
	if got := awaited(t, next, want[len(want)-1]); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}

	other := create(t, e, img, Config{Name: "rename-taken", Args: []string{"exit", "0"}})
	for name, want := range map[string]error{
		"rename-taken":            ErrAlreadyExists,
		other.ID()[:shortID]:      nil, // which that container does not have
		"rename-c":                ErrAlreadyExists,
		"x y":                     ErrInvalidArgument,
		"":                        ErrInvalidArgument,
		strings.Repeat("x", 1000): ErrInvalidArgument,
	} {
		if name == "rename-c" {
			if err := other.Rename(t.Context(), name); !errors.Is(err, want) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		err := c.Rename(t.Context(), name)
		if want == nil && err == nil {
			// And now it cannot go back to it.
			if err := other.Rename(t.Context(), name); !errors.Is(err, ErrAlreadyExists) {
				t.Errorf("back to a default name that is taken: %v", err)
			}
			err = c.Rename(t.Context(), "rename-c")
		}
		if !errors.Is(err, want) {
			t.Errorf("%.20s: %v", name, err)
		}
	}
	if err := c.Rename(t.Context(), "rename-c"); !errors.Is(err, ErrInvalidArgument) {
		t.Errorf("to the same: %v", err)
	}
	if err := c.Remove(t.Context(), RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if leadsTo(t, e, "rename-c") != "" {
		t.Error("the name stays")
	}
	if err := c.Rename(t.Context(), "rename-d"); !errors.Is(err, ErrNotFound) || leadsTo(t, e, "rename-d") != "" {
		t.Errorf("removed: %v", err)
	}
}

// Of many who want a name, one gets it, be it a default name or not.
func TestRenameRace(t *testing.T) {
	e, img := plainImage(t)
	var all []*Container
	for range 8 {
		all = append(all, create(t, e, img, Config{Args: []string{"exit", "0"}}))
	}
	if err := all[0].Rename(t.Context(), "rename-away"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"rename-won", all[0].ID()[:shortID]} {
		var won atomic.Int32
		var work sync.WaitGroup
		for _, c := range all {
			work.Go(func() {
				err := c.Rename(t.Context(), name)
				if err == nil {
					won.Add(1)
				} else if !errors.Is(err, ErrAlreadyExists) {
					t.Error(err)
				}
			})
		}
		work.Wait()
		have := 0
		for _, c := range all {
			if info, err := c.Inspect(t.Context()); err != nil || info.Name == name {
				have++
			}
		}
		if n := int(won.Load()); n > 1 || have != n || name == "rename-won" && n != 1 {
			t.Errorf("%s: %d won, %d have it", name, n, have)
		}
	}
}

func TestRenameOfOtherPrograms(t *testing.T) {
	e, root, ref := foreignRoot(t, nil)
	other := newOtherProgram(t, root, ref, "theirs", "wait")
	c, err := e.Lookup(t.Context(), "theirs")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Rename(t.Context(), "ours"); err != nil {
		t.Fatal(err)
	}
	if leadsTo(t, e, "ours") != other.id || leadsTo(t, e, "theirs") != "" {
		t.Error("the names are wrong")
	}
	other.kill()
	if err := e.sweepNow(t.Context()); err != nil {
		t.Fatal(err)
	}
	create(t, e, pulled(t, e, nil), Config{Name: "ours", Args: []string{"exit", "0"}})
}
