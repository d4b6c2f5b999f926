package cgroup

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// versions answers as a host of one kind does that has every controller but
// those left out.
func versions(v int, without ...string) func(string) int {
	return func(c string) int {
		for _, w := range without {
			if c == w {
				return 0
			}
		}
		if v == 1 && c == "io" || v == 2 && (c == "blkio" || c == "devices" || strings.HasPrefix(c, "net_")) {
			return 0
		}
		return v
	}
}

// show gives a plan as text: a line for each group.
func show(p *plan) string {
	var lines []string
	for _, g := range p.groups {
		var writes []string
		for _, w := range g {
			s := w.file + "=" + w.value
			if w.check != nil {
				s = w.file + "?"
			}
			if w.merge != nil {
				s = w.file + "~" + w.merge("OLD 100000")
			}
			if w.optional {
				s = "[" + s + "]"
			}
			if w.instead != nil {
				s += " or " + w.instead.file + "=" + w.instead.value
			}
			writes = append(writes, s)
		}
		lines = append(lines, strings.Join(writes, " & "))
	}
	return strings.Join(lines, "; ")
}

func memory(m specs.LinuxMemory) *specs.LinuxResources { return &specs.LinuxResources{Memory: &m} }
func cpu(c specs.LinuxCPU) *specs.LinuxResources       { return &specs.LinuxResources{CPU: &c} }
func blockIO(b specs.LinuxBlockIO) *specs.LinuxResources {
	return &specs.LinuxResources{BlockIO: &b}
}
func pidsLimit(n int64) *specs.LinuxResources {
	return &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &n}}
}
func sda(rate uint64) []specs.LinuxThrottleDevice {
	d := specs.LinuxThrottleDevice{Rate: rate}
	d.Major, d.Minor = 8, 0
	return []specs.LinuxThrottleDevice{d}
}

const mb = 1 << 20

func sdbWeight(weight uint16) []specs.LinuxWeightDevice {
	d := specs.LinuxWeightDevice{Weight: &weight}
	d.Major, d.Minor = 8, 16
	return []specs.LinuxWeightDevice{d}
}

// plans are requests and what is written for them, on v1 and on v2.
var plans = []struct {
	name   string
	r      *specs.LinuxResources
	v1, v2 string
}{
	{"nothing", &specs.LinuxResources{}, "", ""},
	{"memory", memory(specs.LinuxMemory{Limit: ptr[int64](mb)}),
		"memory.limit_in_bytes=1048576", "memory.max=1048576"},
	{"memory and swap", memory(specs.LinuxMemory{Limit: ptr[int64](mb), Swap: ptr[int64](3 * mb)}),
		"memory.limit_in_bytes=1048576 & memory.memsw.limit_in_bytes=3145728",
		"memory.swap.max=2097152; memory.max=1048576"},
	{"no swap", memory(specs.LinuxMemory{Limit: ptr[int64](mb), Swap: ptr[int64](mb)}),
		"memory.limit_in_bytes=1048576 & memory.memsw.limit_in_bytes=1048576",
		"memory.swap.max=0; memory.max=1048576"},
	{"endless swap", memory(specs.LinuxMemory{Limit: ptr[int64](mb), Swap: ptr[int64](-1)}),
		"memory.limit_in_bytes=1048576 & memory.memsw.limit_in_bytes=-1",
		"[memory.swap.max=max]; memory.max=1048576"},
	{"no limit", memory(specs.LinuxMemory{Limit: ptr[int64](-1)}),
		"memory.limit_in_bytes=-1 & [memory.memsw.limit_in_bytes=-1]",
		"[memory.swap.max=max]; memory.max=max"},
	{"zeros", memory(specs.LinuxMemory{Limit: ptr[int64](0), Swap: ptr[int64](0), Reservation: ptr[int64](0), DisableOOMKiller: ptr(false)}), "", ""},
	{"reservation", memory(specs.LinuxMemory{Limit: ptr[int64](2 * mb), Reservation: ptr[int64](mb), CheckBeforeUpdate: ptr(true)}),
		"memory.usage_in_bytes?; memory.limit_in_bytes=2097152; memory.soft_limit_in_bytes=1048576",
		"memory.current?; memory.max=2097152; memory.low=1048576"},
	{"shares", cpu(specs.LinuxCPU{Shares: ptr[uint64](1024)}), "cpu.shares=1024", "cpu.weight=100"},
	{"quota", cpu(specs.LinuxCPU{Quota: ptr[int64](50000)}), "cpu.cfs_quota_us=50000", "cpu.max=50000"},
	{"quota and period", cpu(specs.LinuxCPU{Quota: ptr[int64](-1), Period: ptr[uint64](20000), Burst: ptr[uint64](0)}),
		"cpu.cfs_period_us=20000 & cpu.cfs_quota_us=-1 & cpu.cfs_burst_us=0", "cpu.max=max 20000 & cpu.max.burst=0"},
	{"period", cpu(specs.LinuxCPU{Period: ptr[uint64](20000)}), "cpu.cfs_period_us=20000", "cpu.max~OLD 20000"},
	{"idle", cpu(specs.LinuxCPU{Shares: ptr[uint64](2), Idle: ptr[int64](1)}), "cpu.idle=1", "cpu.idle=1"},
	{"not idle", cpu(specs.LinuxCPU{Shares: ptr[uint64](2), Idle: ptr[int64](0)}), "cpu.idle=0; cpu.shares=2", "cpu.idle=0; cpu.weight=1"},
	{"cpuset", cpu(specs.LinuxCPU{Cpus: "0-1", Mems: "0"}),
		"cpuset.effective_cpus?; cpuset.cpus=0-1; cpuset.effective_mems?; cpuset.mems=0",
		"cpuset.cpus.effective?; cpuset.cpus=0-1; cpuset.mems.effective?; cpuset.mems=0"},
	{"pids", pidsLimit(100), "pids.max=100", "pids.max=100"},
	{"pids none", pidsLimit(-1), "pids.max=max", "pids.max=max"},
	{"pids zero", pidsLimit(0), "pids.max=1", "pids.max=1"},
	{"pids absent", &specs.LinuxResources{Pids: &specs.LinuxPids{}}, "", ""},
	{"io weight", blockIO(specs.LinuxBlockIO{Weight: ptr[uint16](100), WeightDevice: sdbWeight(500)}),
		"blkio.bfq.weight=100; blkio.bfq.weight_device=8:16 500",
		"io.bfq.weight=100 or io.weight=default 910; io.bfq.weight=8:16 500 or io.weight=8:16 4950"},
	{"io throttle", blockIO(specs.LinuxBlockIO{ThrottleReadBpsDevice: sda(mb), ThrottleWriteIOPSDevice: sda(0)}),
		"blkio.throttle.read_bps_device=8:0 1048576; blkio.throttle.write_iops_device=8:0 0",
		"io.max=8:0 rbps=1048576; io.max=8:0 wiops=max"},
	{"huge pages", &specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 * mb}}},
		"hugetlb.2MB.limit_in_bytes=4194304; [hugetlb.2MB.rsvd.limit_in_bytes=4194304]",
		"hugetlb.2MB.max=4194304; [hugetlb.2MB.rsvd.max=4194304]"},
	{"rdma", &specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{"mlx5_1": {HcaHandles: ptr[uint32](3)}, "a": {HcaObjects: ptr[uint32](4)}}},
		"rdma.max=a hca_object=4; rdma.max=mlx5_1 hca_handle=3", "rdma.max=a hca_object=4; rdma.max=mlx5_1 hca_handle=3"},
	{"network", &specs.LinuxResources{Network: &specs.LinuxNetwork{ClassID: ptr[uint32](7), Priorities: []specs.LinuxInterfacePriority{{Name: "eth0", Priority: 2}}}},
		"net_cls.classid=7; net_prio.ifpriomap=eth0 2", "!not implemented"},
	{"unified", &specs.LinuxResources{Unified: map[string]string{"io.max": "8:0 rbps=1\n8:16 rbps=2\n", "cgroup.max.depth": "3"}},
		"!not implemented", "cgroup.max.depth=3; io.max=8:0 rbps=1; io.max=8:16 rbps=2"},
	{"swappiness", memory(specs.LinuxMemory{Swappiness: ptr[uint64](0)}), "memory.swappiness=0", "!not implemented"},
	{"no oom killer", memory(specs.LinuxMemory{DisableOOMKiller: ptr(true)}), "memory.oom_control=1", "!not implemented"},
	{"tcp memory", memory(specs.LinuxMemory{KernelTCP: ptr[int64](mb)}), "memory.kmem.tcp.limit_in_bytes=1048576", "!not implemented"},
	{"realtime", cpu(specs.LinuxCPU{RealtimeRuntime: ptr[int64](950), RealtimePeriod: ptr[uint64](1000)}),
		"cpu.rt_period_us=1000 & cpu.rt_runtime_us=950", "!not implemented"},
	{"swap alone", memory(specs.LinuxMemory{Swap: ptr[int64](mb)}), "memory.memsw.limit_in_bytes=1048576", "!invalid argument"},
}

func TestPlan(t *testing.T) {
	for _, x := range plans {
		for v, want := range map[int]string{1: x.v1, 2: x.v2} {
			p, err := newPlan(versions(v), x.r)
			var got string
			switch {
			case errdefs.IsNotImplemented(err):
				got = "!not implemented"
			case errdefs.IsInvalidArgument(err):
				got = "!invalid argument"
			case err != nil:
				got = err.Error()
			default:
				got = show(p)
			}
			if got != want {
				t.Errorf("%s, v%d:\n got %s\nwant %s", x.name, v, got, want)
			}
		}
	}
}

func TestOutOfRange(t *testing.T) {
	for name, x := range map[string]struct {
		r    *specs.LinuxResources
		want string // in the error
	}{
		"memory":         {memory(specs.LinuxMemory{Limit: ptr[int64](-2)}), "-2"},
		"swap":           {memory(specs.LinuxMemory{Limit: ptr[int64](mb), Swap: ptr[int64](mb - 1)}), "1048575"},
		"swappiness":     {memory(specs.LinuxMemory{Swappiness: ptr[uint64](101)}), "between 0 and 100"},
		"shares":         {cpu(specs.LinuxCPU{Shares: ptr[uint64](1)}), "between 2 and 262144"},
		"many shares":    {cpu(specs.LinuxCPU{Shares: ptr[uint64](1 << 63)}), "between 2 and 262144"},
		"quota":          {cpu(specs.LinuxCPU{Quota: ptr[int64](999)}), "between 1000 and 17592186044415"},
		"negative quota": {cpu(specs.LinuxCPU{Quota: ptr[int64](-2)}), "between 1000 and"},
		"period":         {cpu(specs.LinuxCPU{Period: ptr[uint64](1000001)}), "between 1000 and 1000000"},
		"idle":           {cpu(specs.LinuxCPU{Idle: ptr[int64](2)}), "between 0 and 1"},
		"cpus":           {cpu(specs.LinuxCPU{Cpus: "1-0"}), `"1-0"`},
		"mems":           {cpu(specs.LinuxCPU{Mems: "a"}), `"a"`},
		"pids":           {pidsLimit(-2), "between -1 and 4194304"},
		"many pids":      {pidsLimit(1 << 40), "between -1 and 4194304"},
		"io weight":      {blockIO(specs.LinuxBlockIO{Weight: ptr[uint16](9)}), "between 10 and 1000"},
		"page size":      {&specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2/MB"}}}, "2/MB"},
		"rdma":           {&specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{"x": {}}}, "rdma limit x"},
		"interface":      {&specs.LinuxResources{Network: &specs.LinuxNetwork{Priorities: []specs.LinuxInterfacePriority{{Name: "a b"}}}}, `"a b"`},
		"unified path":   {&specs.LinuxResources{Unified: map[string]string{"../memory.max": "1"}}, "../memory.max"},
		"unified word":   {&specs.LinuxResources{Unified: map[string]string{"memory": "1"}}, "memory"},
		"unified procs":  {&specs.LinuxResources{Unified: map[string]string{"cgroup.procs": "1"}}, "cgroup.procs"},
	} {
		for v := 1; v <= 2; v++ {
			_, err := newPlan(versions(v), x.r)
			if name == "swappiness" && v == 2 || name == "interface" && v == 2 {
				continue
			}
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), x.want) {
				t.Errorf("%s, v%d: %v, want one with %q", name, v, err, x.want)
			}
		}
	}
}

// A limit without its controller names both; one that was not asked for is no matter.
func TestMissingController(t *testing.T) {
	for controller, x := range map[string]struct {
		r       *specs.LinuxResources
		request string
	}{
		"memory":  {memory(specs.LinuxMemory{Limit: ptr[int64](mb)}), "memory limit 1048576"},
		"cpu":     {cpu(specs.LinuxCPU{Quota: ptr[int64](5000)}), "cpu quota 5000"},
		"cpuset":  {cpu(specs.LinuxCPU{Cpus: "0"}), `cpus "0"`},
		"pids":    {pidsLimit(5), "pids limit 5"},
		"blkio":   {blockIO(specs.LinuxBlockIO{Weight: ptr[uint16](100)}), "io weight 100"},
		"hugetlb": {&specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 5}}}, "limit 5 of pages of 2MB"},
		"rdma":    {&specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{"x": {HcaHandles: ptr[uint32](5)}}}, "x hca_handle=5"},
		"net_cls": {&specs.LinuxResources{Network: &specs.LinuxNetwork{ClassID: ptr[uint32](5)}}, "network class 5"},
	} {
		_, err := newPlan(versions(1, controller), x.r)
		if !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "controller "+controller) || !strings.Contains(err.Error(), x.request) {
			t.Errorf("%s: %v", controller, err)
		}
		other := "cpu"
		if controller == "cpu" {
			other = "memory"
		}
		if _, err := newPlan(versions(1, other), x.r); err != nil {
			t.Errorf("%s without %s: %v", controller, other, err)
		}
	}
}

// The three points that the conversion has to meet, and that it never falls.
func TestWeight(t *testing.T) {
	for shares, want := range map[uint64]uint64{0: 1, 2: 1, 512: 59, 1024: 100, 2048: 174, 262144: 10000, 1 << 30: 10000} {
		if got := weight(shares); got != want {
			t.Errorf("weight(%d) = %d, want %d", shares, got, want)
		}
	}
	last := uint64(0)
	for shares := uint64(2); shares <= maxShares; shares++ {
		w := weight(shares)
		if w < last || w < 1 || w > 10000 {
			t.Fatalf("weight(%d) = %d after %d", shares, w, last)
		}
		last = w
	}
}

func TestParseList(t *testing.T) {
	for text, want := range map[string]string{
		"":             "map[]",
		"0":            "map[0:true]",
		"0-2,5\n":      "map[0:true 1:true 2:true 5:true]",
		"1,1":          "map[1:true]",
		"2-1":          "",
		"-1":           "",
		"0,":           "",
		"0-99999":      "",
		"a":            "",
		"0-1-2":        "",
		"0 1":          "",
		"4294967296":   "",
		"8191":         "map[8191:true]",
		"8192":         "",
		"+1":           "",
		"0x1":          "",
		"1,2,3,,4":     "",
		"0-1,\n2":      "",
		" 3 ":          "map[3:true]",
		"00":           "map[0:true]",
		"1-1":          "map[1:true]",
		"0-0,0-0, 0-0": "",
	} {
		got, err := parseList(text)
		if s := fmt.Sprint(got); (err == nil) != (want != "") || err == nil && s != want {
			t.Errorf("parseList(%q) = %s, %v; want %s", text, s, err, want)
		}
	}
}

func FuzzParseList(f *testing.F) {
	f.Add("0-3,7")
	f.Fuzz(func(t *testing.T, text string) {
		set, err := parseList(text)
		if err == nil && len(set) > maxCPU+1 {
			t.Errorf("%d numbers", len(set))
		}
	})
}

func TestClassify(t *testing.T) {
	for errno, is := range map[error]func(error) bool{
		unix.ENOENT: errdefs.IsNotImplemented, unix.EINVAL: errdefs.IsInvalidArgument,
		unix.EPERM: errdefs.IsPermissionDenied, unix.EBUSY: errdefs.IsFailedPrecondition,
		unix.ENODEV: errdefs.IsNotFound, unix.EEXIST: errdefs.IsAlreadyExists,
	} {
		err := classify(fmt.Errorf("step: %w", errno))
		if !is(err) || !errors.Is(err, errno) || err.Error() != "step: "+errno.Error() {
			t.Errorf("%v: %v", errno, err)
		}
	}
	if err := errors.New("x"); classify(err) != err {
		t.Error("changes what it does not know")
	}
}
