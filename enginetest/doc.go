// Package enginetest has what Go tests with containers need, and nothing else
// must be there for them: images without a network, a registry that can
// misbehave, and a check that nothing is left behind.
//
//	func TestGreeting(t *testing.T) {
//		root := t.TempDir()
//		enginetest.Leaks(t, root)
//		registry := enginetest.NewRegistry(t)
//		ref := registry.Push(t, "greeting:v1", enginetest.Shell(t))
//		e, err := engine.Open(engine.WithRoot(root))
//		...
//		img, err := e.Pull(t.Context(), ref, engine.PullOptions{})
//		...
//	}
//
// The package's example is the whole of such a test.
//
// # Images
//
// [Shell] is an image of a shell and the usual tools: one static program, which
// the go command builds from the module cache. [Image] and [Index] are literals of
// any shape: entries down to raw headers, compressions, media types, platforms.
// Built, they are bytes that a test may spoil, and go to a registry
// ([Registry.Push]), to an archive or a directory for engine.Load and
// engine.LoadLayout ([Archive], [Layout]), or to engine.Import ([Built.Image]).
// The same literal gives the same bytes on every machine; its digest with it.
//
// # A registry
//
// [Registry] answers every request rightly, until [Registry.Answer] gives some
// requests an [Answer]: one that comes late or never, breaks off, is too short,
// too long or corrupt, redirects, wants credentials. An Answer is a function, so
// that a test can write its own.
//
// # Leaks
//
// [Leaks] fails a test that leaves something in the kernel or in the process, and
// names it; [Main] does so for all tests of a package together.
//
// # Concurrency, privileges, systems
//
// Functions may be called by tests in parallel; literals are values, and what is
// built is not changed by this package any more. No privileges are needed: those
// that containers need, and tests that leak on purpose, are another matter. On
// other systems than Linux images and registries are the same, and [Leaks] watches
// goroutines and files.
//
// Nothing of the engine is imported here, so that each of its packages can be
// tested with this one, from within too.
package enginetest
