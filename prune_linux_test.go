package engine

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func TestPruneContainers(t *testing.T) {
	e, root, ref := foreignRoot(t, nil)
	img, err := e.LookupImage(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	labelled := map[string]string{"keep": "no"}
	ran := started(t, e, img, Config{Args: []string{"write", "/data/new", "0123456789"}, Labels: labelled})
	if status, err := ran.Wait(t.Context()); err != nil || status.Code != 0 {
		t.Fatalf("%+v, %v", status, err)
	}
	fresh := create(t, e, img, Config{Args: []string{"exit", "0"}, Labels: labelled})
	other := create(t, e, img, Config{Args: []string{"exit", "0"}})
	running := started(t, e, img, Config{Args: []string{"wait"}, Labels: labelled})
	theirs := newOtherProgram(t, root, ref, "theirs", "exit", "0")
	if theirs.line() != "0" {
		t.Fatal("it did not exit")
	}
	dead := newOtherProgram(t, root, ref, "dead", "wait")
	dead.kill()

	got, err := e.PruneContainers(t.Context(), PruneContainersOptions{Until: time.Now().Add(-time.Hour)})
	if err != nil || !slices.Equal(got.Deleted, []string{dead.id}) {
		t.Errorf("old ones: %+v, %v", got, err)
	}
	got, err = e.PruneContainers(t.Context(), PruneContainersOptions{Labels: []string{"keep=no"}})
	want := []string{ran.ID(), fresh.ID()}
	slices.Sort(want)
	slices.Sort(got.Deleted)
	if err != nil || !slices.Equal(got.Deleted, want) || got.Reclaimed < 10 {
		t.Errorf("with a label: %+v, %v", got, err)
	}
	got, err = e.PruneContainers(t.Context(), PruneContainersOptions{WithoutLabels: []string{"keep"}})
	if err != nil || !slices.Equal(got.Deleted, []string{other.ID()}) {
		t.Errorf("without: %+v, %v", got, err)
	}
	list, err := e.List(t.Context(), ListOptions{All: true})
	if err != nil || len(list) != 2 {
		t.Errorf("%+v, %v", list, err)
	}
	for _, info := range list {
		if info.ID != running.ID() && info.ID != theirs.id {
			t.Errorf("%s stays", info.ID)
		}
	}
	theirs.kill()
	testEngine(t, root) // sweeps what both have left
}

// A container that is started while others are pruned runs, or is gone before.
func TestPruneRace(t *testing.T) {
	needRoot(t)
	e := testEngine(t)
	img := pulled(t, e, nil)
	for range 20 {
		c := create(t, e, img, Config{Args: []string{"wait"}})
		var work sync.WaitGroup
		var startErr error
		work.Go(func() { startErr = c.Start(t.Context()) })
		pruned, err := e.PruneContainers(t.Context(), PruneContainersOptions{})
		work.Wait()
		gone := slices.Contains(pruned.Deleted, c.ID())
		if err != nil || gone != errors.Is(startErr, ErrNotFound) || !gone && startErr != nil {
			t.Errorf("pruned %v, %v; start: %v", pruned, err, startErr)
		}
		if !gone {
			if err := c.Remove(t.Context(), RemoveOptions{Force: true}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestPruneImages(t *testing.T) {
	needRoot(t)
	e := testEngine(t)
	label := func(v string) func(*v1.ConfigFile) {
		return func(c *v1.ConfigFile) {
			c.Author = v
			c.Config.Labels = map[string]string{"which": v}
		}
	}
	own := tarLayer(t, file("own", "a layer of its own"))
	used := pulled(t, e, label("used"))
	tagged := pulled(t, e, label("tagged"), own)
	dangling := pulled(t, e, label("dangling"), own)
	c := create(t, e, used, Config{Args: []string{"exit", "0"}})
	untag(t, e, dangling)
	got, err := e.PruneImages(t.Context(), PruneImagesOptions{Labels: []string{"which=dangling"}})
	if err != nil || !slices.Contains(got.Deleted, dangling.ID()) || len(got.Deleted) != 1 || got.Reclaimed != 0 {
		t.Errorf("dangling, whose layers another image has: %+v, %v", got, err)
	}
	got, err = e.PruneImages(t.Context(), PruneImagesOptions{})
	if err != nil || len(got.Deleted) != 0 {
		t.Errorf("dangling again: %+v, %v", got, err)
	}
	got, err = e.PruneImages(t.Context(), PruneImagesOptions{All: true})
	if err != nil || !slices.Contains(got.Deleted, tagged.ID()) || slices.Contains(got.Deleted, used.ID()) || got.Reclaimed == 0 || len(got.Untagged) != 1 {
		t.Errorf("all: %+v, %v", got, err)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Errorf("the image that was used: %v", err)
	}
	if _, err := c.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Remove(t.Context(), RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	got, err = e.PruneImages(t.Context(), PruneImagesOptions{All: true})
	if err != nil || !slices.Contains(got.Deleted, used.ID()) || len(got.Deleted) != 2 {
		t.Errorf("at the end: %+v, %v", got, err)
	}
	if left, err := e.Images(t.Context()); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
}

// untag takes all names from an image, which a hold keeps.
func untag(t testing.TB, e *Engine, img *Image) {
	t.Helper()
	release, err := e.images.Hold(t.Context(), img.ID(), "test")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range img.Names() {
		if _, err := e.images.Remove(t.Context(), name, RemoveImageOptions{Force: true}); err != nil {
			t.Fatal(err)
		}
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
}
