package devicefilter

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// programName is how Attach finds what it attached before.
const programName = "inboard_device"

// Load gives a program to the kernel, which checks and translates it. The file
// is close-on-exec; the program lives while the file is open or it is attached
// to a cgroup. Errors wrap those of the kernel, and errdefs.ErrPermissionDenied
// or errdefs.ErrNotImplemented (the kernel was built without) where these are
// the reason.
func Load(program []Instruction) (*os.File, error) {
	return load(program, programName)
}

func load(program []Instruction, name string) (*os.File, error) {
	if len(program) == 0 {
		return nil, fmt.Errorf("load device filter: empty program: %w", errdefs.ErrInvalidArgument)
	}
	// The program calls no kernel function, so any license will do.
	license := []byte("Apache-2.0\x00")
	attr := loadAttr{
		progType:     unix.BPF_PROG_TYPE_CGROUP_DEVICE,
		instructions: uint32(len(program)),
		code:         unsafe.Pointer(&program[0]),
		license:      unsafe.Pointer(&license[0]),
	}
	copy(attr.name[:len(attr.name)-1], name)
	fd, err := bpf(unix.BPF_PROG_LOAD, "load device filter", unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EINVAL) {
		// The verifier can say why.
		log := make([]byte, 1<<16)
		attr.logLevel, attr.log, attr.logSize = 1, unsafe.Pointer(&log[0]), uint32(len(log))
		fd, err = bpf(unix.BPF_PROG_LOAD, "load device filter", unsafe.Pointer(&attr), unsafe.Sizeof(attr))
		if text := strings.TrimSpace(unix.ByteSliceToString(log)); err != nil && text != "" {
			err = fmt.Errorf("%w: %s", err, text)
		} else if errors.Is(err, unix.EINVAL) {
			err = fmt.Errorf("%w: the kernel lacks CONFIG_CGROUP_BPF: %w", errdefs.ErrNotImplemented, err)
		}
	}
	runtime.KeepAlive(program)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "bpf-prog "+name), nil
}

// Attach makes a loaded program the one that decides for the cgroup, a
// directory of cgroups v2 (an O_PATH file will not do). A program that Attach
// put there before, from this process or another, is replaced in one step, so
// that at no time there is none; programs of others stay, and what they deny
// stays denied. Both files may be closed afterwards. Two calls for one cgroup
// must not run at the same time.
//
// An error that wraps errdefs.ErrPermissionDenied comes from missing
// privileges, or from a parent cgroup whose own program forbids others below
// it (attached without BPF_F_ALLOW_MULTI).
func Attach(cgroup, program *os.File) error {
	old, err := attached(cgroup)
	if err != nil {
		return err
	}
	defer func() {
		for _, f := range old {
			f.Close()
		}
	}()
	if len(old) > 0 {
		return attach(cgroup, program, old[0])
	}
	return attach(cgroup, program, nil)
}

func attach(cgroup, program, old *os.File) error {
	attr := attachAttr{
		target:     uint32(cgroup.Fd()),
		prog:       uint32(program.Fd()),
		attachType: unix.BPF_CGROUP_DEVICE,
		flags:      unix.BPF_F_ALLOW_MULTI,
	}
	if old != nil {
		attr.flags |= unix.BPF_F_REPLACE
		attr.replace = uint32(old.Fd())
	}
	_, err := bpf(unix.BPF_PROG_ATTACH, "attach device filter", unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	runtime.KeepAlive(cgroup)
	runtime.KeepAlive(program)
	runtime.KeepAlive(old)
	return err
}

// attached opens the programs of Attach that are on a cgroup.
func attached(cgroup *os.File) (files []*os.File, err error) {
	defer func() {
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			files = nil
		}
	}()
	ids, err := programs(cgroup)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		f, name, err := openProgram(id)
		if errors.Is(err, errdefs.ErrNotFound) {
			continue // gone since
		}
		if err != nil {
			return files, err
		}
		if name != programName {
			f.Close()
			continue
		}
		files = append(files, f)
	}
	return files, nil
}

// programs gives the IDs of the device filters on a cgroup itself.
func programs(cgroup *os.File) ([]uint32, error) {
	var ids [64]uint32 // BPF_CGROUP_MAX_PROGS
	attr := queryAttr{
		target:     uint32(cgroup.Fd()),
		attachType: unix.BPF_CGROUP_DEVICE,
		ids:        unsafe.Pointer(&ids),
		count:      uint32(len(ids)),
	}
	_, err := bpf(unix.BPF_PROG_QUERY, "query device filters", unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	runtime.KeepAlive(cgroup)
	if err != nil {
		return nil, err
	}
	return ids[:min(int(attr.count), len(ids))], nil
}

// openProgram opens a program by its ID and tells its name.
func openProgram(id uint32) (*os.File, string, error) {
	attr := idAttr{id: id}
	fd, err := bpf(unix.BPF_PROG_GET_FD_BY_ID, "open device filter", unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err != nil {
		return nil, "", err
	}
	f := os.NewFile(uintptr(fd), "bpf-prog")
	var info programInfo
	query := infoAttr{fd: uint32(fd), size: uint32(unsafe.Sizeof(info)), info: unsafe.Pointer(&info)}
	if _, err := bpf(unix.BPF_OBJ_GET_INFO_BY_FD, "name device filter", unsafe.Pointer(&query), unsafe.Sizeof(query)); err != nil {
		f.Close()
		return nil, "", err
	}
	return f, unix.ByteSliceToString(info.name[:]), nil
}
