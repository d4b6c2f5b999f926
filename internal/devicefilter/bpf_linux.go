package devicefilter

import (
	"fmt"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// The attributes of bpf(2) for the commands used here, each a start of union
// bpf_attr in include/uapi/linux/bpf.h. Pointers have 64 bits there, so these
// are right for machines of 64 bits.
type (
	loadAttr struct {
		progType     uint32
		instructions uint32
		code         unsafe.Pointer
		license      unsafe.Pointer
		logLevel     uint32
		logSize      uint32
		log          unsafe.Pointer
		kernel       uint32
		flags        uint32
		name         [unix.BPF_OBJ_NAME_LEN]byte
	}
	attachAttr struct {
		target     uint32
		prog       uint32
		attachType uint32
		flags      uint32
		replace    uint32
	}
	queryAttr struct {
		target      uint32
		attachType  uint32
		queryFlags  uint32
		attachFlags uint32
		ids         unsafe.Pointer
		count       uint32
		_           uint32
		// The kernel writes to some of these without looking at the size.
		_ [4]uint64
	}
	idAttr struct {
		id    uint32
		next  uint32
		flags uint32
	}
	infoAttr struct {
		fd   uint32
		size uint32
		info unsafe.Pointer
	}
)

// programInfo is the start of struct bpf_prog_info.
type programInfo struct {
	progType uint32
	id       uint32
	_        [56]byte
	name     [unix.BPF_OBJ_NAME_LEN]byte
}

// bpf calls bpf(2). Its error wraps that of the kernel, and a sentinel of
// errdefs where there is one.
func bpf(command uintptr, what string, attr unsafe.Pointer, size uintptr) (int, error) {
	for {
		n, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(attr), size)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EAGAIN:
			// The verifier gave way to a signal.
			if command == unix.BPF_PROG_LOAD {
				continue
			}
		}
		return 0, fmt.Errorf("%s: %w", what, classify(errno))
	}
}

// classify leaves out EACCES, by which the verifier refuses a program.
func classify(errno unix.Errno) error {
	var kind error
	switch errno {
	case unix.EPERM:
		kind = errdefs.ErrPermissionDenied
	case unix.ENOSYS:
		kind = errdefs.ErrNotImplemented
	case unix.ENOENT:
		kind = errdefs.ErrNotFound
	default:
		return errno
	}
	return fmt.Errorf("%w: %w", kind, errno)
}
