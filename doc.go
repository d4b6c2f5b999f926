// Package engine is a container engine inside your program: it pulls images
// and runs them, with no daemon, no helper binary, no cgo, and no call that
// main must make first.
//
//	img, err := engine.Pull(ctx, "alpine:3.22", engine.PullOptions{})
//	c, err := engine.Create(ctx, img, engine.Config{
//		Args:    []string{"echo", "hello"},
//		Stdout:  os.Stdout,
//		Network: engine.NetworkNone,
//	})
//	err = c.Start(ctx)
//	status, err := c.Wait(ctx)
//	err = c.Remove(ctx, engine.RemoveOptions{})
//
// # Model
//
// An [Engine] is a root directory, opened by this process: images, their
// layers, and containers. Many processes may have one root open at once; they
// share its images, and see each other's containers. Package-level functions
// act on [Default]; each is also a method of Engine.
//
// An [Image] comes from a registry ([Pull]), from an archive or a directory
// ([Load], [LoadLayout]), or from go-containerregistry ([Import]).
//
// A [Container] is an image, a [Config] and a writable layer. Its process runs
// in namespaces of its own (pid, mount, uts, ipc, cgroup, and with
// [NetworkNone] network; Config can share some with the host or with another
// container), with Docker's default capabilities, seccomp profile, device rules,
// masked and read-only paths. Image and Config combine as Docker
// combines them; of an image nothing counts but what the OCI image
// specification says of its process.
//
// With [Config].TTY the process has a terminal. [Container.Attach] connects more
// streams with a running container's, as often as one likes.
//
// # Lifecycle
//
// Create makes a container; Start runs it, and again when it has exited, on
// the writable layer that the last run left; Remove removes it. Its states are
// [StateCreated], [StateRunning], [StatePaused] and [StateExited]. A Start that
// fails leaves it as it was. Meanwhile [Container.Stats] tells what it uses, and
// [Container.Update] changes its limits.
//
// A container belongs to the Engine that created it, and ends with it: Close
// kills and removes the Engine's containers. When the program ends without
// Close, by kill -9 too, the kernel kills them, whatever user they run as.
// Contexts bound calls: one that ends after Start has returned means nothing to
// the container.
//
// [Container.Wait] gives everyone who asks, in any program, the same answer.
// What nobody saw is said to be unknown: see Status.Known. [Events] tells of all
// changes as they come; [Container.CopyTo] and [Container.CopyFrom] bring files
// in and out, also before a start and after an exit.
//
// # Concurrency
//
// All functions and methods may be called by several goroutines, and by
// several programs on one root, at once. Names are claimed atomically. Close
// ends what else goes on. Containers of other programs can be looked up,
// listed, inspected, measured, waited for, killed, stopped, renamed and removed,
// their logs read, files copied to and from them, their namespaces joined, and
// while they run, more processes run in them. Their program need not take part in
// that; but it does in their being paused, updated, resized and given input, for
// which it is asked through a socket in the run directory. Only a container's own
// program starts it. What a program has run in another's container ends with
// either.
//
// The program may run processes of its own, wait for any child (Wait4 with -1),
// and change its signal handling: the engine's processes are no children that
// such a call finds.
//
// # Privileges
//
// Opening a root, listing, pulling, loading and importing need access to its
// directories alone: an ordinary user's are below the XDG base directories, and
// his layers are kept as an index. Starting containers needs root's
// capabilities in the initial user namespace, and Linux 5.14 or newer. On other
// systems images work, and Create returns [ErrUnsupported].
//
// # What is left after kill -9
//
// No process and no mount: mounts are never attached where the program could
// leave them. (Processes of a container that shares those of the host may be
// left if the engine's keeper process is killed at the same time; the next Open
// kills them.) Of the killed Engine's containers the cgroups, writable layers,
// logs, records and names stay, and its holds of images and its socket, until the
// next Open of the root sweeps them. It sweeps what belongs to Engines whose lock file the
// kernel has unlocked, and touches nothing of others.
//
// # Errors
//
// Errors are of type *[Error], and wrap the sentinels of
// github.com/containerd/errdefs, which are here by names of this package. What
// no call can return goes to the logger that [WithLogger] gives; nothing is ever
// printed.
package engine
