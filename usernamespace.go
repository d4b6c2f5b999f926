package engine

import "fmt"

// UserNamespace says what a container's user and group ids are on the host.
type UserNamespace string

// UserNamespacePrivate gives each run of a container 65,536 ids of the host's
// that nobody else has, for its ids 0 to 65535: its root is nobody outside, with
// no right to anything but the container's own. Capabilities are then those of
// the container's own user namespace. The ids are above 524287, and neither in
// /etc/subuid, /etc/subgid, /etc/passwd nor /etc/group; no other container
// whose Engine has the same root opened has them at that time.
//
// The files of the image and of the writable layer have, on the disk, the ids
// that they have in the container; one whose owner is above 65535 belongs to
// nobody in there and cannot be changed. A Mount of the host's files shows them
// as they are, so that nearly all belong to nobody too, unless its Options have
// "idmap". Nothing propagates out of the container, and what the engine has
// mounted or masked cannot be unmounted in it, not even with CAP_SYS_ADMIN.
//
// Privileged, NetworkHost and namespaces shared with others exclude it. It needs Linux 5.19 and layers on a
// file system that can be id-mapped: ext4, XFS, Btrfs, and from Linux 6.3 on
// tmpfs. Else Start gives ErrNotImplemented.
const UserNamespacePrivate UserNamespace = "private"

// check finds what is wrong with it, in a configuration.
func (u UserNamespace) check(c *Config) error {
	no := func(what string) error {
		return fmt.Errorf("a user namespace of its own, and %s: %w", what, ErrInvalidArgument)
	}
	switch {
	case u == "":
		return nil
	case u != UserNamespacePrivate:
		return fmt.Errorf("user namespace %q: neither empty nor %q: %w", u, UserNamespacePrivate, ErrInvalidArgument)
	case c.Security.Privileged:
		return no("privileged")
	case c.Network == NetworkHost:
		return no("the host's network")
	case c.Network != NetworkNone || c.PID != "" || c.IPC != "" || c.UTS != "":
		return no("another's network, pid, ipc or uts namespace")
	}
	return nil
}
