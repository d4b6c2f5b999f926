package engine

import (
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

func TestResourcesRefused(t *testing.T) {
	tests := []struct {
		r    Resources
		text string
	}{
		{Resources{Memory: 6<<20 - 1}, "memory 6291455 bytes: less than 6291456"},
		{Resources{Memory: -1}, "memory -1 bytes"},
		{Resources{MemorySwap: 1 << 30}, "memory is not limited"},
		{Resources{Memory: 64 << 20, MemorySwap: 32 << 20}, "less than memory, 67108864"},
		{Resources{Memory: 64 << 20, MemorySwap: -2}, "memory swap -2"},
		{Resources{CPUs: 0.001}, "cpus 0.001: not 0.01 to"},
		{Resources{CPUs: -1}, "cpus -1"},
		{Resources{CPUs: math.NaN()}, "cpus NaN"},
		{Resources{CPUs: float64(runtime.NumCPU()) + 0.5}, "to " + strconv.Itoa(runtime.NumCPU())},
		{Resources{CPUShares: 1}, "cpu shares 1: not 2 to 262144"},
		{Resources{CPUShares: 1 << 19}, "cpu shares 524288"},
		{Resources{CpusetCPUs: "0-"}, `cpuset cpus "0-"`},
		{Resources{CpusetCPUs: "1-0"}, `"1-0" is not a number or range`},
		{Resources{CpusetCPUs: "65000"}, "65000 is not online"},
		{Resources{CpusetCPUs: "0\n1"}, "cpuset cpus"},
		{Resources{CpusetMems: "4095"}, "cpuset mems"},
		{Resources{Pids: -2}, "pids -2: not 1 to 4194304"},
		{Resources{Pids: 1 << 30}, "pids 1073741824"},
		{Resources{MemoryReservation: 1 << 20}, "memory reservation 1048576 bytes: less than"},
		{Resources{MemoryReservation: -1}, "memory reservation -1"},
		{Resources{Memory: 64 << 20, MemoryReservation: 65 << 20}, "more than memory, 67108864"},
		{Resources{MemorySwappiness: pointer[int64](101)}, "memory swappiness 101: not 0 to 100"},
		{Resources{MemorySwappiness: pointer[int64](-1)}, "memory swappiness -1"},
		{Resources{KernelMemoryTCP: -5}, "kernel memory tcp -5"},
		{Resources{OOMKillDisable: true}, "oom killer disabled: memory is not limited"},
		{Resources{OOMScoreAdj: -1001}, "oom score adjustment -1001: not -1000 to 1000"},
		{Resources{OOMScoreAdj: 1001}, "oom score adjustment 1001"},
		{Resources{CPUs: 1, CPUQuota: 50000}, "cpus 1, and a cpu quota 50000"},
		{Resources{CPUs: 1, CPUPeriod: 50000}, "of period 50000"},
		{Resources{CPUQuota: 999}, "cpu quota 999: less than 1000"},
		{Resources{CPUQuota: -1}, "cpu quota -1"},
		{Resources{CPUPeriod: 999}, "cpu period 999: not 1000 to 1000000"},
		{Resources{CPUPeriod: 1000001}, "cpu period 1000001"},
		{Resources{CPURealtimeRuntime: 2000, CPURealtimePeriod: 1000}, "cpu realtime runtime 2000: not 0 to its period, 1000"},
		{Resources{CPURealtimeRuntime: 1000001}, "cpu realtime runtime 1000001"},
		{Resources{CPURealtimePeriod: -1}, "cpu realtime period -1"},
		{Resources{BlkioWeight: 9}, "blkio weight 9: not 10 to 1000"},
		{Resources{BlkioWeight: 1001}, "blkio weight 1001"},
		{Resources{BlkioWeightDevice: []DeviceWeight{{"/dev/null", 5}}}, "blkio weight 5 of device /dev/null"},
		{Resources{BlkioWeightDevice: []DeviceWeight{{"/dev/null", 500}}}, `blkio weight device "/dev/null": not a block device`},
		{Resources{BlkioDeviceReadBps: []DeviceRate{{"/dev/missing", 1}}}, `blkio device read bps "/dev/missing": there is none`},
		{Resources{BlkioDeviceWriteBps: []DeviceRate{{"/dev", 1}}}, `blkio device write bps "/dev": not a block device`},
		{Resources{BlkioDeviceReadIOps: []DeviceRate{{"", 1}}}, `blkio device read iops ""`},
		{Resources{BlkioDeviceWriteIOps: []DeviceRate{{"/dev/zero", 1}}}, `blkio device write iops "/dev/zero"`},
		{Resources{Hugepages: []HugepageLimit{{"2", 1}}}, `huge pages of "2"`},
		{Resources{Hugepages: []HugepageLimit{{"2MB", 1}, {"2MB", 2}}}, "given twice"},
		{Resources{RDMA: []RDMALimit{{Device: "mlx5_0"}}}, `rdma device "mlx5_0": no name, no limit`},
	}
	for _, test := range tests {
		_, err := linuxResources(test.r)
		if !errors.Is(err, ErrInvalidArgument) || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%+v: %v, want %q", test.r, err, test.text)
		}
	}
}

func TestResources(t *testing.T) {
	s, err := linuxResources(Resources{})
	if err != nil || s.Memory != nil || s.CPU != nil || s.Pids != nil {
		t.Errorf("no limits: %+v, %v", s, err)
	}
	s, err = linuxResources(Resources{Memory: 64 << 20, CPUs: 0.5, CPUShares: 512, CpusetCPUs: "0", CpusetMems: "0", Pids: 10})
	if err != nil {
		t.Fatal(err)
	}
	if *s.Memory.Limit != 64<<20 || *s.Memory.Swap != 128<<20 {
		t.Errorf("memory %d, swap %d: want twice as much", *s.Memory.Limit, *s.Memory.Swap)
	}
	if *s.CPU.Quota != 50_000 || *s.CPU.Period != 100_000 || *s.CPU.Shares != 512 || s.CPU.Cpus != "0" || s.CPU.Mems != "0" {
		t.Errorf("cpu: %+v", s.CPU)
	}
	if *s.Pids.Limit != 10 {
		t.Errorf("pids: %d", *s.Pids.Limit)
	}
	for _, r := range []Resources{{Memory: 64 << 20, MemorySwap: -1}, {Memory: 64 << 20, MemorySwap: 64 << 20}} {
		s, err := linuxResources(r)
		if err != nil || *s.Memory.Swap != r.MemorySwap {
			t.Errorf("%+v: %v", r, err)
		}
	}
	if s, err = linuxResources(Resources{Pids: -1}); err != nil || *s.Pids.Limit != -1 {
		t.Errorf("no limit of pids: %v", err)
	}
}

func pointer[T any](v T) *T { return &v }

// A container keeps nothing of the caller's.
func TestResourcesClone(t *testing.T) {
	r := Resources{
		MemorySwappiness: pointer[int64](1), BlkioWeightDevice: []DeviceWeight{{"a", 10}}, Hugepages: []HugepageLimit{{"2MB", 1}},
		BlkioDeviceReadBps: []DeviceRate{{"a", 1}}, BlkioDeviceWriteBps: []DeviceRate{{"a", 1}}, BlkioDeviceReadIOps: []DeviceRate{{"a", 1}},
		BlkioDeviceWriteIOps: []DeviceRate{{"a", 1}}, RDMA: []RDMALimit{{"a", pointer[uint32](1), pointer[uint32](1)}},
	}
	text := func(r Resources) string {
		data, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	c := r.clone()
	before := text(c)
	*r.MemorySwappiness, r.BlkioWeightDevice[0].Path, r.Hugepages[0].Limit, *r.RDMA[0].Handles, *r.RDMA[0].Objects = 2, "b", 2, 2, 2
	for _, list := range r.rates() {
		(*list.devices)[0].Rate = 2
	}
	if now := text(c); now != before || text(r) == before {
		t.Errorf("%s, was %s", now, before)
	}
}

// A change replaces what it names, and lifts what it says -1 of.
func TestResourcesMerge(t *testing.T) {
	sda := func(rate uint64) []DeviceRate { return []DeviceRate{{"/dev/sda", rate}} }
	old := Resources{
		Memory: 64 << 20, MemorySwap: 64 << 20, MemoryReservation: 32 << 20, CPUs: 1, CPUShares: 2, Pids: 5,
		BlkioDeviceReadBps: sda(1), Hugepages: []HugepageLimit{{"2MB", 1}}, ShmSize: 1 << 20,
	}
	for _, test := range []struct{ change, want Resources }{
		{Resources{}, old},
		{Resources{Memory: 128 << 20, MemorySwap: -1}, func() Resources { r := old; r.Memory, r.MemorySwap = 128<<20, -1; return r }()},
		{Resources{Memory: -1, MemoryReservation: -1}, func() Resources { r := old; r.Memory, r.MemorySwap, r.MemoryReservation = 0, 0, 0; return r }()},
		{Resources{CPUQuota: 5000, CPUPeriod: 10000}, func() Resources { r := old; r.CPUs, r.CPUQuota, r.CPUPeriod = 0, 5000, 10000; return r }()},
		{Resources{CPUQuota: -1}, func() Resources { r := old; r.CPUs = 0; return r }()},
		{Resources{CPUs: 0.5, Pids: -1}, func() Resources { r := old; r.CPUs, r.Pids = 0.5, -1; return r }()},
		{Resources{BlkioDeviceReadBps: append(sda(2), DeviceRate{"/dev/sdb", 3})}, func() Resources { r := old; r.BlkioDeviceReadBps = append(sda(2), DeviceRate{"/dev/sdb", 3}); return r }()},
	} {
		got, err := old.merge(test.change)
		if err != nil || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%+v: %+v, %v", test.change, got, err)
		}
	}
	for _, change := range []Resources{{ShmSize: 1}, {OOMScoreAdj: 1}, {CPUPeriod: 10000}} {
		if _, err := old.merge(change); !errors.Is(err, ErrInvalidArgument) {
			t.Errorf("%+v: %v", change, err)
		}
	}
	if old.BlkioDeviceReadBps[0].Rate != 1 {
		t.Error("merge changes what it is given")
	}
}

func FuzzParseSet(f *testing.F) {
	for _, s := range []string{"0", "0-3,5", "3-1", "-", "0-65535", "99999999999", ",", "0-1-2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		set, err := parseSet(s)
		if err == nil && (len(set) == 0 || len(set) > maxSet) {
			t.Errorf("%q: %d members", s, len(set))
		}
	})
}

func TestRlimits(t *testing.T) {
	for _, limits := range [][]Rlimit{
		{{Name: "files", Soft: 1, Hard: 1}},
		{{Name: "nofile", Soft: 2, Hard: 1}},
		{{Name: "nofile", Soft: 1, Hard: 1}, {Name: "RLIMIT_NOFILE", Soft: 1, Hard: 1}},
		{{Name: "", Soft: 1, Hard: 1}},
	} {
		if err := checkRlimits(limits); !errors.Is(err, ErrInvalidArgument) {
			t.Errorf("%v: %v", limits, err)
		}
	}
	if err := checkRlimits([]Rlimit{{Name: "nofile", Soft: 1, Hard: 2}, {Name: "RLIMIT_CORE"}}); err != nil {
		t.Error(err)
	}
}

func TestParseSignal(t *testing.T) {
	good := map[string]int{
		"SIGTERM": 15, "term": 15, "15": 15, "SIGKILL": 9, "RTMIN": 34, "SIGRTMIN+3": 37,
		"rtmax-1": 63, "SIGRTMAX": 64, "64": 64, "USR1": 10,
	}
	for s, want := range good {
		if sig, err := parseSignal(s); err != nil || int(sig) != want {
			t.Errorf("%q: %d, %v; want %d", s, int(sig), err, want)
		}
	}
	for _, s := range []string{"", "SIG", "0", "65", "-9", "SIGSIGTERM", "FOO", "RTMIN-1", "RTMIN+31", "RTMAX+1", "RTMIN+", "RTMIN++1", "9 "} {
		if sig, err := parseSignal(s); !errors.Is(err, ErrInvalidArgument) {
			t.Errorf("%q: %d, %v", s, int(sig), err)
		}
	}
}
