package runtime

import (
	"errors"
	"fmt"
	"os"
	goruntime "runtime"

	"golang.org/x/sys/unix"
)

// newNetworkNS makes a network namespace with its loopback up. A thread of the
// calling process makes it and comes back; one that cannot come back ends with
// its goroutine.
func newNetworkNS() (*os.File, error) {
	type result struct {
		ns  *os.File
		err error
	}
	made := make(chan result)
	go func() {
		goruntime.LockOSThread()
		ns, back, err := visitNetworkNS()
		if back {
			goruntime.UnlockOSThread()
		}
		made <- result{ns, err}
	}()
	r := <-made
	return r.ns, r.err
}

// visitNetworkNS makes a namespace on the calling thread; back tells whether
// the thread is in its old one again.
func visitNetworkNS() (ns *os.File, back bool, err error) {
	const own = "/proc/thread-self/ns/net"
	old, err := os.Open(own)
	if err != nil {
		return nil, true, err
	}
	defer old.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, true, os.NewSyscallError("unshare", err)
	}
	ns, err = os.Open(own)
	err = errors.Join(err, loopbackUp())
	if e := unix.Setns(int(old.Fd()), unix.CLONE_NEWNET); e != nil {
		err = errors.Join(err, os.NewSyscallError("setns", e))
	} else {
		back = true
	}
	if err != nil && ns != nil {
		ns.Close()
	}
	return ns, back, err
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	return nil
}

// enterNetwork gives the child its network namespace: one that was made ahead,
// or if there is none, one that the child makes, so that containers which start
// in parallel do not wait for each other. It returns the flags that are left to
// unshare.
func (b *builder) enterNetwork(created uintptr) (left uintptr) {
	left = created &^ unix.CLONE_NEWPID
	if created&unix.CLONE_NEWNET == 0 {
		return left
	}
	if b.explained != nil {
		return left
	}
	ns := b.rt.spares.takeReady("network namespace", newNetworkNS)
	if ns == nil {
		return left
	}
	b.add("enter the network namespace", unix.SYS_SETNS, b.sendOwned(ns), unix.CLONE_NEWNET)
	b.loopbackIsUp = true
	return left &^ unix.CLONE_NEWNET
}

// loopback brings up lo, which is down in a new network namespace.
func (b *builder) loopback() {
	if b.loopbackIsUp {
		return
	}
	ifreq := make([]byte, 40) // struct ifreq: name, flags
	copy(ifreq, "lo")
	ifreq[16] = unix.IFF_UP
	socket := b.slot()
	b.add("open a socket", unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0).into(socket)
	b.add("bring up lo", unix.SYS_IOCTL, socket, unix.SIOCSIFFLAGS, b.bytes(ifreq)).with(flagArg0)
}
