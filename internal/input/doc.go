// Package input reads files that are somebody else's too, as a program's
// standard input is, so that the reading can be stopped without a byte too many
// taken, and without a change to the file's mode.
package input
