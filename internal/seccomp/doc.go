// Package seccomp compiles a runtime-spec seccomp profile into the classic BPF
// program that seccomp(2) takes.
//
// # Shape of the program
//
// The program loads the architecture, then the system call number, and finds
// the number's range in a balanced tree, so that a call passes about eight
// comparisons where a list has hundreds. Ranges with one outcome are one leaf;
// arguments are looked at only where a rule asks for them, and by the same
// kind of tree. The native architecture comes first. Equal profiles give equal
// programs.
//
// A short program matters twice: installing it costs time for each instruction
// (the kernel checks and translates it and, since 5.11, runs it for every call
// number to learn which calls are always allowed: seccomp_is_const_allow in
// kernel/seccomp.c), and calls that are not among those run it each time.
//
// # Meaning of a profile
//
// It is the one that runc with libseccomp gives it:
//
//   - A name that no ABI here knows is ignored.
//   - A rule whose action is the default action is ignored.
//   - A rule without conditions decides, wherever it stands; of two, the first.
//     After them the first rule whose conditions hold decides. (libseccomp
//     orders overlapping conditional rules by their arguments; profiles whose
//     outcome depends on it are not known.)
//   - Conditions of a rule must all hold, except where two of them look at the
//     same argument: then each is a rule of its own.
//   - Where the ABI has 32 bits (386, arm, and x32 too), the low halves of
//     arguments and values are compared.
//   - On 386 a rule for a socket or System V IPC call stands for the same call
//     through socketcall(2) and ipc(2) too.
//   - With a default action that refuses, a number above the largest that the
//     profile names gets ENOSYS: C libraries fall back to older calls on that
//     error, and only on that one. ARM's private calls, from 0xf0000, are
//     counted apart.
//   - The native architecture is always part of the profile. A call through an
//     ABI that is not part of it kills the process.
package seccomp

//go:generate go run syscalls_generate.go -o syscalls_linux.go
