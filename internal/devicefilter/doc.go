// Package devicefilter enforces the device rules of the runtime specification
// on cgroups v2, which has no device controller: an eBPF program of type
// BPF_PROG_TYPE_CGROUP_DEVICE that is attached to the cgroup's directory
// answers for each mknod and open of a device node by a process in the cgroup
// or below it.
//
// Rules are read in order, on top of a denial of everything. For each of the
// wanted accesses (r, w, m) the last rule that covers the device and that
// access decides; a request is granted if all of its accesses are. A request
// for no access at all (access(2) with X_OK asks for that) goes by the last
// rule that covers the device. A rule may take back part of an earlier one.
//
// Attached programs add up: what one of them denies, here or in a parent
// cgroup, is denied. An attached program belongs to the cgroup and goes with
// it. It needs no file descriptor and no process to stay: were the program held
// by a link's descriptor, the container would get all devices when its host
// program ends.
//
// Load and Attach need CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN, in the
// initial user namespace.
package devicefilter
