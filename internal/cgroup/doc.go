// Package cgroup makes, limits, measures, freezes, kills and removes control
// groups on hosts with cgroups v1, v2 or both (hybrid). It works on Linux only.
//
// # Model
//
// A [Host] is what the machine has mounted: one v2 hierarchy, or several v1
// hierarchies with the controllers spread over them, or v1 hierarchies and a
// v2 one beside them. A [Parent] is one directory in all of them, such as
// "inboard/r1", made where it is missing. A [Cgroup] is a leaf of it, with the
// same name in every hierarchy.
//
// Paths are below the root of each hierarchy as it is mounted, not below the
// caller's own cgroup; so does Docker with its cgroupfs driver. Inside a
// container or a cgroup namespace that root is the container's own cgroup. On
// v2 the kernel refuses to hand controllers to the children of a cgroup that
// has processes of its own, unless it is the machine's real root
// (cgroup-v2.rst, "No Internal Process Constraint"): containers can then be
// made, and a limit that needs such a controller gives an error that says so.
// This package never moves a process that its caller did not hand to it.
//
// # Lifecycle
//
// [Parent.New] makes the directories, [Cgroup.Set] writes limits and device
// rules, [Cgroup.Join] and [Cgroup.Dir] are what a process needs to enter,
// [Cgroup.Tree] what it is to see. Once it is inside, [Cgroup.Release] closes
// those files, so that a running container costs no descriptor. [Cgroup.Stats]
// tells what the processes use, [Cgroup.Update] changes limits under them,
// [Cgroup.Freeze] and [Cgroup.Thaw] stop them and let them go on. [Cgroup.Kill]
// ends what is left, frozen or not, [Cgroup.Remove] removes the directories.
//
// A hierarchy whose controllers every container needs (cpu, cpuacct, cpuset,
// memory, devices, blkio, pids, any v2 one, and freezer where there is no v2)
// has a directory for each Cgroup. The others (hugetlb, net_cls, rdma ...) get
// one when Set is given a limit of theirs. name=systemd is never used.
//
// After kill -9 of the caller, directories and processes stay;
// [Host.RemoveAll] of their parent sweeps them.
//
// # Concurrency and privileges
//
// A Host and a Parent may be used by several goroutines at once, and so may
// the methods of a Cgroup. The caller needs to be root in the initial user
// namespace; CAP_SYS_RESOURCE is not needed.
package cgroup
