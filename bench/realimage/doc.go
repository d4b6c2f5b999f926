// Package realimage makes the image that the bench unpacks and that the
// end-to-end test of examples/run runs: a Debian system made by debootstrap
// as its first layer, and a second one with a Go toolchain and with
// everything that the archives of images hold and most of them lack: file
// capabilities, set-uid files, hard links, devices, sparse files, whiteouts.
//
// It needs root, Linux, and the programs that Missing names. An image that was
// made is kept in a cache directory, since debootstrap takes from half a
// minute to several.
package realimage
