package cgroup

import (
	"fmt"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Bounds of a weight in the runtime-spec. Those of v1's BFQ begin at 1, and
// io.weight of v2 goes from 1 to 10000.
const minIOWeight, maxIOWeight = 10, 1000

func planBlockIO(p *plan, r *specs.LinuxResources) error {
	b := r.BlockIO
	if b == nil {
		return nil
	}
	version := p.version("blkio")
	if version == 0 {
		version = p.version("io")
	}
	if err := planIOWeights(p, version, b); err != nil {
		return err
	}
	for _, t := range []struct {
		what, v1, v2 string
		devices      []specs.LinuxThrottleDevice
	}{
		{"bytes read a second", "read_bps_device", "rbps", b.ThrottleReadBpsDevice},
		{"bytes written a second", "write_bps_device", "wbps", b.ThrottleWriteBpsDevice},
		{"reads a second", "read_iops_device", "riops", b.ThrottleReadIOPSDevice},
		{"writes a second", "write_iops_device", "wiops", b.ThrottleWriteIOPSDevice},
	} {
		for _, d := range t.devices {
			device := fmt.Sprintf("%d:%d", d.Major, d.Minor)
			request := fmt.Sprintf("%s of device %s at most %d", t.what, device, d.Rate)
			rate := strconv.FormatUint(d.Rate, 10)
			if err := needIO(p, version, request); err != nil {
				return err
			}
			if version == 1 {
				p.group(write{controller: "blkio", file: "blkio.throttle." + t.v1, value: device + " " + rate, request: request})
				continue
			}
			if d.Rate == 0 { // what v1 takes for no limit
				rate = "max"
			}
			p.group(write{controller: "io", file: "io.max", value: device + " " + t.v2 + "=" + rate, request: request})
		}
	}
	return nil
}

// needIO is plan.need for the controller that has two names.
func needIO(p *plan, version int, request string) error {
	name := "blkio"
	if version == 2 {
		name = "io"
	}
	_, err := p.need(name, request)
	return err
}

func planIOWeights(p *plan, version int, b *specs.LinuxBlockIO) error {
	add := func(device string, weight, leaf *uint16) error {
		if n := value(weight); n != 0 {
			request := "block io weight " + ioValue(device, uint64(n))
			if n < minIOWeight || n > maxIOWeight {
				return outside(request, minIOWeight, maxIOWeight)
			}
			if err := needIO(p, version, request); err != nil {
				return err
			}
			p.group(ioWeight(version, device, uint64(n), request))
		}
		if n := value(leaf); n != 0 {
			// A leaf weight was CFQ's, which Linux 5.0 removed.
			return lacks(max(version, 1), "block io leaf weight "+ioValue(device, uint64(n)))
		}
		return nil
	}
	if err := add("", b.Weight, b.LeafWeight); err != nil {
		return err
	}
	for _, d := range b.WeightDevice {
		if err := add(fmt.Sprintf("%d:%d", d.Major, d.Minor), d.Weight, d.LeafWeight); err != nil {
			return err
		}
	}
	return nil
}

func ioValue(device string, n uint64) string {
	if device == "" {
		return strconv.FormatUint(n, 10)
	}
	return device + " " + strconv.FormatUint(n, 10)
}

// ioWeight prefers BFQ's own file, which takes the value as it is; iocost's
// io.weight has another scale and a word for the default of all devices.
func ioWeight(version int, device string, n uint64, request string) write {
	if version == 1 {
		w := write{controller: "blkio", file: "blkio.bfq.weight", value: ioValue(device, n), request: request}
		if device != "" {
			w.file = "blkio.bfq.weight_device"
		}
		return w
	}
	scaled := 1 + (n-minIOWeight)*9999/(maxIOWeight-minIOWeight)
	other := device
	if other == "" {
		other = "default"
	}
	return write{
		controller: "io", file: "io.bfq.weight", value: ioValue(device, n), request: request,
		instead: &write{controller: "io", file: "io.weight", value: ioValue(other, scaled), request: request},
	}
}
