package cgroup

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// NoLimit is the value of a limit in Stats that is not set.
const NoLimit = math.MaxUint64

// Stats is a sample of what the processes in a Cgroup and below it use. What
// the kernel does not count is zero. Package runtime says what each field is.
type Stats struct {
	Time      time.Time
	Memory    MemoryStats
	CPU       CPUStats
	Pids      PidsStats
	IO        []IOStats
	Hugepages []HugepageStats
	Pressure  *PressureStats // nil: not counted
}

type MemoryStats struct {
	Usage, Limit, Peak  uint64
	InactiveFile        uint64
	Swap, SwapLimit     uint64
	LimitHits, OOMKills uint64
	Detail              map[string]uint64
}

type CPUStats struct {
	Usage, User, System time.Duration
	PerCPU              []time.Duration
	Periods, Throttled  uint64
	ThrottledTime       time.Duration
}

type PidsStats struct{ Current, Limit, LimitHits uint64 }

type IOStats struct {
	Major, Minor                        uint32
	ReadBytes, WriteBytes, DiscardBytes uint64
	Reads, Writes, Discards             uint64
}

type HugepageStats struct {
	Size                          string
	Usage, Limit, Peak, LimitHits uint64
}

type PressureStats struct{ CPU, Memory, IO Pressure }

type Pressure struct{ Some, Full Stall }

type Stall struct {
	Avg10, Avg60, Avg300 float64
	Total                time.Duration
}

// Stats takes a sample: some fifteen small reads. It is errdefs.ErrNotFound
// when the Cgroup is gone.
func (c *Cgroup) Stats() (*Stats, error) {
	there := false
	err := c.all(func(_ int, _ *hierarchy, parent int) error {
		there = there || unix.Faccessat(parent, c.name, unix.F_OK, 0) == nil
		return nil
	})
	if err != nil {
		return nil, err
	}
	if !there {
		return nil, kindf(errdefs.ErrNotFound, "cgroup %s: not found", c.path)
	}
	if err := c.use(); err != nil {
		return nil, err
	}
	defer c.parent.Close()
	r := sampler{Cgroup: c}
	s := &Stats{Time: time.Now(), Memory: r.memory(), CPU: r.cpu(), Pids: r.pids(), IO: r.io(), Hugepages: r.hugepages(), Pressure: r.pressure()}
	if r.err != nil {
		return nil, fmt.Errorf("statistics of cgroup %s: %w", c.path, r.err)
	}
	return s, nil
}

// A sampler reads files that may be missing, and keeps the first other error.
type sampler struct {
	*Cgroup
	err error
}

// text returns what a file says, or "" where there is no such file. The
// controller "cgroup" is v2's core.
func (r *sampler) text(controller, file string) string {
	i, ok := r.parent.host.hierarchyOf(controller)
	if !ok || !r.madeIn(i) {
		return ""
	}
	dir, err := r.parent.dir(i)
	var text string
	if err == nil {
		text, err = readAt(dir, r.name+"/"+file)
	}
	// Pressure that is not counted is EOPNOTSUPP.
	if err != nil && !gone(err) && err != unix.EOPNOTSUPP && r.err == nil {
		r.err = fmt.Errorf("read %s: %w", file, classify(err))
	}
	return text
}

func (r *sampler) number(controller, file string) uint64 {
	n, _ := strconv.ParseUint(strings.TrimSpace(r.text(controller, file)), 10, 64)
	return n
}

// limit is number for a limit: v2 says "max" where there is none, v1's memory
// the number of pages that fit into a long.
func (r *sampler) limit(controller, file string) uint64 {
	n, err := strconv.ParseUint(strings.TrimSpace(r.text(controller, file)), 10, 64)
	if err != nil || n >= math.MaxInt64-1<<20 {
		return NoLimit
	}
	return n
}

// flat reads a flat keyed file.
func flat(text string) map[string]uint64 {
	m := map[string]uint64{}
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			m[key] = n
		}
	}
	return m
}

func (r *sampler) memory() (m MemoryStats) {
	m.Limit, m.SwapLimit = NoLimit, NoLimit
	const controller = "memory"
	switch r.parent.host.version(controller) {
	case 1:
		m.Usage, m.Limit = r.number(controller, "memory.usage_in_bytes"), r.limit(controller, "memory.limit_in_bytes")
		m.Peak = r.number(controller, "memory.max_usage_in_bytes")
		m.LimitHits = r.number(controller, "memory.failcnt") + r.number(controller, "memory.memsw.failcnt")
		m.Detail = flat(r.text(controller, "memory.stat"))
		m.InactiveFile, m.Swap = m.Detail["total_inactive_file"], m.Detail["total_swap"]
		if sum := r.limit(controller, "memory.memsw.limit_in_bytes"); sum != NoLimit && sum >= m.Limit {
			m.SwapLimit = sum - m.Limit
		}
		m.OOMKills, _ = field(r.text(controller, "memory.oom_control"), "oom_kill")
	case 2:
		m.Usage, m.Limit = r.number(controller, "memory.current"), r.limit(controller, "memory.max")
		m.Peak = r.number(controller, "memory.peak")
		m.Detail = flat(r.text(controller, "memory.stat"))
		m.InactiveFile, m.Swap = m.Detail["inactive_file"], r.number(controller, "memory.swap.current")
		m.SwapLimit = r.limit(controller, "memory.swap.max")
		events := flat(r.text(controller, "memory.events"))
		m.LimitHits, m.OOMKills = events["max"], events["oom_kill"]
	}
	return m
}

func (r *sampler) cpu() (c CPUStats) {
	if r.parent.host.version("cpuacct") == 1 {
		ns := func(file string) time.Duration { return time.Duration(r.number("cpuacct", file)) }
		c.Usage, c.User, c.System = ns("cpuacct.usage"), ns("cpuacct.usage_user"), ns("cpuacct.usage_sys")
		for n := range strings.FieldsSeq(r.text("cpuacct", "cpuacct.usage_percpu")) {
			used, _ := strconv.ParseInt(n, 10, 64)
			c.PerCPU = append(c.PerCPU, time.Duration(used))
		}
	}
	controller := "cpu"
	if r.parent.host.version(controller) != 1 {
		controller = "cgroup" // has cpu.stat without the controller too
	}
	stat := flat(r.text(controller, "cpu.stat"))
	c.Periods, c.Throttled = stat["nr_periods"], stat["nr_throttled"]
	if controller == "cpu" {
		c.ThrottledTime = time.Duration(stat["throttled_time"])
		return c
	}
	us := func(key string) time.Duration { return time.Duration(stat[key]) * time.Microsecond }
	c.ThrottledTime = us("throttled_usec")
	if r.parent.host.version("cpuacct") != 1 {
		c.Usage, c.User, c.System = us("usage_usec"), us("user_usec"), us("system_usec")
	}
	return c
}

func (r *sampler) pids() PidsStats {
	events := flat(r.text("pids", "pids.events"))
	return PidsStats{r.number("pids", "pids.current"), r.limit("pids", "pids.max"), events["max"]}
}

// io reads v2's io.stat, and of v1 the throttling layer; devices that it does
// not know are those of BFQ.
func (r *sampler) io() []IOStats {
	devices := map[[2]uint32]*IOStats{}
	device := func(number string) *IOStats {
		major, minor, _ := strings.Cut(number, ":")
		a, err1 := strconv.ParseUint(major, 10, 32)
		b, err2 := strconv.ParseUint(minor, 10, 32)
		if err1 != nil || err2 != nil {
			return nil
		}
		key := [2]uint32{uint32(a), uint32(b)}
		if devices[key] == nil {
			devices[key] = &IOStats{Major: key[0], Minor: key[1]}
		}
		return devices[key]
	}
	add := func(number, what, value string) {
		d := device(number)
		n, err := strconv.ParseUint(value, 10, 64)
		if d == nil || err != nil {
			return
		}
		to := map[string]*uint64{
			"rbytes": &d.ReadBytes, "wbytes": &d.WriteBytes, "dbytes": &d.DiscardBytes,
			"rios": &d.Reads, "wios": &d.Writes, "dios": &d.Discards,
		}[what]
		if to != nil {
			*to += n
		}
	}
	v1 := map[string]string{"Read": "r", "Write": "w", "Discard": "d"}
	known := map[string]bool{}
	for _, layer := range []string{"throttle", "bfq"} {
		counted := maps.Clone(known)
		for file, unit := range map[string]string{"io_service_bytes": "bytes", "io_serviced": "ios"} {
			for line := range strings.Lines(r.text("blkio", "blkio."+layer+"."+file+"_recursive")) {
				if f := strings.Fields(line); len(f) == 3 && v1[f[1]] != "" && !counted[f[0]] {
					known[f[0]] = true
					add(f[0], v1[f[1]]+unit, f[2])
				}
			}
		}
	}
	for line := range strings.Lines(r.text("io", "io.stat")) {
		f := strings.Fields(line)
		for _, pair := range f[min(1, len(f)):] {
			key, value, _ := strings.Cut(pair, "=")
			add(f[0], key, value)
		}
	}
	var list []IOStats
	for _, d := range devices {
		list = append(list, *d)
	}
	slices.SortFunc(list, func(a, b IOStats) int {
		return cmp.Or(cmp.Compare(a.Major, b.Major), cmp.Compare(a.Minor, b.Minor))
	})
	return list
}

func (r *sampler) hugepages() (list []HugepageStats) {
	const controller = "hugetlb"
	version := r.parent.host.version(controller)
	if version == 0 {
		return nil
	}
	// As "hugepages-2048kB".
	sizes, _ := filepath.Glob("/sys/kernel/mm/hugepages/hugepages-*kB")
	for _, dir := range sizes {
		kb, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(dir), "hugepages-"), "kB"), 10, 64)
		if err != nil {
			continue
		}
		h := HugepageStats{Size: pageSizeName(kb)}
		name := "hugetlb." + h.Size + "."
		if version == 1 {
			h.Usage, h.Limit = r.number(controller, name+"usage_in_bytes"), r.limit(controller, name+"limit_in_bytes")
			h.Peak, h.LimitHits = r.number(controller, name+"max_usage_in_bytes"), r.number(controller, name+"failcnt")
		} else {
			h.Usage, h.Limit = r.number(controller, name+"current"), r.limit(controller, name+"max")
			h.LimitHits = flat(r.text(controller, name+"events"))["max"]
		}
		list = append(list, h)
	}
	return list
}

// pageSizeName is the kernel's (mem_fmt, mm/hugetlb_cgroup.c).
func pageSizeName(kb uint64) string {
	switch {
	case kb >= 1<<20:
		return strconv.FormatUint(kb>>20, 10) + "GB"
	case kb >= 1<<10:
		return strconv.FormatUint(kb>>10, 10) + "MB"
	}
	return strconv.FormatUint(kb, 10) + "KB"
}

// pressure reads the stalls (Documentation/accounting/psi.rst). On a hybrid
// host the v2 cgroup does not have the processes as a rule.
func (r *sampler) pressure() *PressureStats {
	if r.parent.host.mode != Unified {
		return nil
	}
	cpu, memory, io := r.text("cgroup", "cpu.pressure"), r.text("cgroup", "memory.pressure"), r.text("cgroup", "io.pressure")
	if cpu == "" && memory == "" && io == "" {
		return nil
	}
	return &PressureStats{CPU: parsePressure(cpu), Memory: parsePressure(memory), IO: parsePressure(io)}
}

// parsePressure reads lines as "some avg10=0.00 avg60=0.00 avg300=0.00 total=0",
// the total in microseconds.
func parsePressure(text string) (p Pressure) {
	for line := range strings.Lines(text) {
		kind, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		to := map[string]*Stall{"some": &p.Some, "full": &p.Full}[kind]
		if to == nil {
			continue
		}
		for pair := range strings.FieldsSeq(rest) {
			key, value, _ := strings.Cut(pair, "=")
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				continue
			}
			switch key {
			case "avg10":
				to.Avg10 = n
			case "avg60":
				to.Avg60 = n
			case "avg300":
				to.Avg300 = n
			case "total":
				to.Total = time.Duration(n) * time.Microsecond
			}
		}
	}
	return p
}
