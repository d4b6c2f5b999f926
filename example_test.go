package engine_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/inboard/engine"
)

// Run a program and get its output.
func Example() {
	ctx := context.Background()
	img, err := engine.Pull(ctx, "alpine:3.22", engine.PullOptions{})
	if err != nil {
		log.Fatal(err)
	}
	var out bytes.Buffer
	c, err := engine.Create(ctx, img, engine.Config{
		Args:    []string{"uname", "-a"},
		Stdout:  &out,
		Network: engine.NetworkNone,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Remove(ctx, engine.RemoveOptions{Force: true})
	if err := c.Start(ctx); err != nil {
		log.Fatal(err)
	}
	status, err := c.Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(status, out.String())
}

// What docker load does: an archive of images from standard input.
func ExampleLoad() {
	images, err := engine.Load(context.Background(), os.Stdin, engine.LoadOptions{})
	if err != nil {
		log.Fatal(err)
	}
	for _, img := range images {
		if img.Reference() != "" {
			fmt.Println("Loaded image:", img.Reference())
		} else {
			fmt.Println("Loaded image ID:", img.ID())
		}
	}
}

// A root directory of one's own, with limits for what runs in it.
func ExampleOpen() {
	ctx := context.Background()
	e, err := engine.Open(engine.WithRoot("/srv/jobs"), engine.WithRunDir("/run/jobs"))
	if err != nil {
		log.Fatal(err)
	}
	defer e.Close() // ends and removes its containers
	img, err := e.Pull(ctx, "debian:stable-slim", engine.PullOptions{
		Progress: func(p engine.Progress) { fmt.Println(p.Layer, p.Done, "of", p.Total) },
	})
	if err != nil {
		log.Fatal(err)
	}
	c, err := e.Create(ctx, img, engine.Config{
		Args:      []string{"sh", "-c", "make test"},
		User:      "nobody",
		Resources: engine.Resources{Memory: 512 << 20, CPUs: 0.5, Pids: 100},
		Security:  engine.Security{NoNewPrivileges: true},
		Network:   engine.NetworkNone,
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(c.ID())
}

// Tell a command that is not there from other failures.
func ExampleContainer_Start() {
	ctx := context.Background()
	c, err := engine.Lookup(ctx, "job")
	if err != nil {
		log.Fatal(err)
	}
	var command *engine.CommandError
	switch err := c.Start(ctx); {
	case errors.As(err, &command):
		os.Exit(command.Code) // 127 or 126, as a shell has it
	case errors.Is(err, engine.ErrFailedPrecondition):
		fmt.Println("it runs already")
	case err != nil:
		log.Fatal(err)
	}
}

// Tell what all programs on a root do, since an hour ago and from now on.
func ExampleEvents() {
	options := engine.EventOptions{
		Since:   time.Now().Add(-time.Hour),
		Actions: []engine.EventAction{engine.EventStart, engine.EventDie},
	}
	for ev, err := range engine.Events(context.Background(), options) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(ev.Time.Format(time.TimeOnly), ev.Action, ev.Attributes["name"], ev.Attributes["exitCode"])
	}
}

// Let a new container take over the name of the old one.
func ExampleContainer_Rename() {
	ctx := context.Background()
	old, err := engine.Lookup(ctx, "web")
	if err != nil {
		log.Fatal(err)
	}
	if err := old.Rename(ctx, "web-old"); err != nil {
		log.Fatal(err)
	}
}

// Make room: containers that have ended, and images that none uses.
func ExamplePruneImages() {
	ctx := context.Background()
	containers, err := engine.PruneContainers(ctx, engine.PruneContainersOptions{Until: time.Now().Add(-24 * time.Hour)})
	if err != nil {
		log.Fatal(err)
	}
	images, err := engine.PruneImages(ctx, engine.PruneImagesOptions{All: true})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(containers.Reclaimed+images.Reclaimed, "bytes")
}

// Give a container a file before it starts, and fetch what it has made: both as
// tar streams.
func ExampleContainer_CopyTo() {
	ctx := context.Background()
	c, err := engine.Lookup(ctx, "job")
	if err != nil {
		log.Fatal(err)
	}
	var input bytes.Buffer
	w := tar.NewWriter(&input)
	if err := w.WriteHeader(&tar.Header{Name: "input.txt", Mode: 0o644, Size: 5}); err != nil {
		log.Fatal(err)
	}
	fmt.Fprint(w, "hello")
	if err := w.Close(); err != nil {
		log.Fatal(err)
	}
	if err := c.CopyTo(ctx, "/work", &input, engine.CopyToOptions{}); err != nil {
		log.Fatal(err)
	}
	// ... it runs ...
	out, err := os.Create("result.tar")
	if err != nil {
		log.Fatal(err)
	}
	defer out.Close()
	if err := c.CopyFrom(ctx, "/work/result", out, engine.CopyFromOptions{}); err != nil {
		log.Fatal(err)
	}
}

// Stop a container that some other program runs.
func ExampleContainer_Stop() {
	ctx := context.Background()
	c, err := engine.Lookup(ctx, "web")
	if err != nil {
		log.Fatal(err)
	}
	if err := c.Stop(ctx, engine.StopOptions{Grace: new(30 * time.Second)}); err != nil {
		log.Fatal(err)
	}
	for entry, err := range c.Logs(ctx, engine.LogsOptions{}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s %s %s", entry.Time.Format(time.TimeOnly), entry.Stream, entry.Data)
	}
}
