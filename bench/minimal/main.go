// Command minimal pulls an image and runs its program. It is here to be
// weighed: what it links is what a program gets with the engine.
package main

import (
	"context"
	"log"
	"os"

	"github.com/inboard/engine"
)

func main() {
	if len(os.Args) < 2 {
		log.Fatal("usage: minimal IMAGE [ARG...]")
	}
	if err := run(context.Background(), os.Args[1], os.Args[2:]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, ref string, args []string) error {
	img, err := engine.Pull(ctx, ref, engine.PullOptions{})
	if err != nil {
		return err
	}
	c, err := engine.Create(ctx, img, engine.Config{Args: args, Stdout: os.Stdout, Stderr: os.Stderr, Network: engine.NetworkNone})
	if err != nil {
		return err
	}
	defer c.Remove(ctx, engine.RemoveOptions{Force: true})
	if err := c.Start(ctx); err != nil {
		return err
	}
	_, err = c.Wait(ctx)
	return err
}
