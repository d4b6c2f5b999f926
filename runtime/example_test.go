package runtime_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/inboard/engine/runtime"
)

// A directory with a root filesystem is all that the runtime needs.
func Example() {
	ctx := context.Background()
	r, err := runtime.Open(runtime.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()

	spec := runtime.DefaultSpec()
	spec.Root.Path = "/srv/rootfs"
	spec.Process.Args = []string{"/bin/sh", "-c", "echo $HOSTNAME"}
	spec.Process.Env = append(spec.Process.Env, "HOSTNAME=box")
	if spec.Linux.Seccomp, err = runtime.DefaultSeccomp(runtime.DefaultCapabilities()); err != nil {
		log.Fatal(err)
	}
	c, err := r.Start(ctx, spec, runtime.CreateOptions{ProcessOptions: runtime.ProcessOptions{Stdout: os.Stdout}})
	if err != nil {
		log.Fatal(err)
	}
	status, err := c.Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(status)
	if err := c.Delete(ctx); err != nil {
		log.Fatal(err)
	}
}
