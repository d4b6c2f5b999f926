package engine

import (
	"errors"
	"io/fs"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Bounds of a weight, which are Docker's.
const minBlkioWeight, maxBlkioWeight = 10, 1000

// setBlockIO finds the devices.
func setBlockIO(s *specs.LinuxResources, r *Resources) error {
	b := new(specs.LinuxBlockIO)
	some := false
	if n := r.BlkioWeight; n != 0 {
		if n < minBlkioWeight || n > maxBlkioWeight {
			return invalid("blkio weight %d: not %d to %d", n, minBlkioWeight, maxBlkioWeight)
		}
		b.Weight, some = &r.BlkioWeight, true
	}
	seen := make(map[[2]int64]bool)
	for i := range r.BlkioWeightDevice {
		d := &r.BlkioWeightDevice[i]
		if d.Weight < minBlkioWeight || d.Weight > maxBlkioWeight {
			return invalid("blkio weight %d of device %s: not %d to %d", d.Weight, d.Path, minBlkioWeight, maxBlkioWeight)
		}
		major, minor, err := blockDevice("blkio weight device", d.Path)
		if err != nil {
			return err
		}
		if seen[[2]int64{major, minor}] {
			return invalid("blkio weight device %s: given twice", d.Path)
		}
		seen[[2]int64{major, minor}] = true
		w := specs.LinuxWeightDevice{Weight: &d.Weight}
		w.Major, w.Minor = major, minor
		b.WeightDevice, some = append(b.WeightDevice, w), true
	}
	to := []*[]specs.LinuxThrottleDevice{&b.ThrottleReadBpsDevice, &b.ThrottleWriteBpsDevice, &b.ThrottleReadIOPSDevice, &b.ThrottleWriteIOPSDevice}
	for i, list := range r.rates() {
		clear(seen)
		for _, d := range *list.devices {
			major, minor, err := blockDevice(list.field, d.Path)
			if err != nil {
				return err
			}
			if seen[[2]int64{major, minor}] {
				return invalid("%s of %s: given twice", list.field, d.Path)
			}
			seen[[2]int64{major, minor}] = true
			t := specs.LinuxThrottleDevice{Rate: d.Rate}
			t.Major, t.Minor = major, minor
			*to[i], some = append(*to[i], t), true
		}
	}
	if some {
		s.BlockIO = b
	}
	return nil
}

// blockDevice gives the numbers of the device at a path of the host.
func blockDevice(field, path string) (major, minor int64, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); errors.Is(err, fs.ErrNotExist) {
		return 0, 0, invalid("%s %q: there is none", field, path)
	} else if err != nil {
		return 0, 0, &os.PathError{Op: field, Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return 0, 0, invalid("%s %q: not a block device", field, path)
	}
	return int64(unix.Major(uint64(st.Rdev))), int64(unix.Minor(uint64(st.Rdev))), nil
}
