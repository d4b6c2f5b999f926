// Package archive writes trees of files as tar streams, and extracts such
// streams into trees, where the tree belongs to a container whose processes may
// change it meanwhile in every way that they can.
//
// A tree is a descriptor of its root directory. Each path is resolved by
// openat2(2) with RESOLVE_IN_ROOT and RESOLVE_NO_MAGICLINKS, as it would be for
// a process whose root that is; below what was found there is nothing but
// single names relative to descriptors, and no link is followed. So there is no
// moment at which a renamed directory or a new link could lead out (docker cp:
// CVE-2018-15664, CVE-2021-41089, CVE-2026-41567, 41568, 42306).
//
// The mount behind the root has to have "nodev": what has become a device after
// it was looked at then is not opened. Package runtime's Quieten gives it that.
// The filesystems in which the kernel shows itself (proc, sysfs, cgroups and so
// on) are neither read nor written.
package archive
