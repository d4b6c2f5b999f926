package engine

import (
	"errors"
	"math"
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
